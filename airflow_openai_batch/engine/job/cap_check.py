"""Whether a job's cap can be kept, as far as something is still to be sent: checked before anything is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.state_machine import is_quiet
from airflow_openai_batch.engine.model import UNSENT, Job, Shard, State
from airflow_openai_batch.engine.money.estimate import estimate_of, uncounted_text
from airflow_openai_batch.engine.money.prices import Prices, Tariff, Tier, prices_of, tier_of
from airflow_openai_batch.engine.store.job_store import JobStore


def cap_problem(store: JobStore, job: Job) -> str | None:
    """Return why the cap of a job cannot be kept, and what to do; None if it can, or nothing is to be sent.

    What is at OpenAI already does not matter: it is paid for in any case.

    Args:
        store: The job's store.
        job: The job, with its measure and what a ledger knows of it.

    Raises:
        StoreError: The store cannot be read.
    """
    if job.policy.max_cost is None:
        return None
    prices = prices_of(job.policy)
    asked = list(_still_to_send(store, job))
    if unpriced := _unpriced(prices, job, asked, "batch"):
        return (
            f"max_cost needs to know what {_listed(unpriced)} costs: give the price, for example "
            f"prices={{{unpriced[0]!r}: {{'input': 0.05, 'output': 0.25}}}}, in dollars for a million tokens in a "
            "batch."
        )
    is_probed = job.policy.probe and (job.probe is None or job.probe.result == "refused")
    if is_probed and (unpriced := _unpriced(prices, job, asked, "standard")):
        return (
            f"With max_cost, the probe needs to know what {_listed(unpriced)} costs synchronously: give that price "
            f"too, for example prices={{{unpriced[0]!r}: {{'input': 0.05, 'output': 0.25, 'standard': "
            f"{{'input': 0.1, 'output': 0.5}}}}}}, or leave the probe out."
        )
    tier = tier_of(job.policy.finish_tier)
    if job.policy.finish_by is not None and (unpriced := _unpriced(prices, job, asked, tier)):
        return (
            f"With max_cost, finish_by needs to know what {_listed(unpriced)} costs synchronously: give that price "
            f"too, for example prices={{{unpriced[0]!r}: {{'input': 0.05, 'output': 0.25, {tier!r}: "
            f"{{'input': 0.1, 'output': 0.5}}}}}}, or leave finish_by out."
        )
    if any(_bound(job, shard) is None for shard in asked):
        return (
            "max_cost needs a bound of each answer: set max_output_tokens (Chat Completions: max_completion_tokens) "
            "in the body of every row, as a number."
        )
    return None


def is_anything_sent(job: Job) -> bool:
    """Return whether a batch was ever asked for, or an answer synchronously, for any of the job's requests."""
    return any(shard.n_creates or shard.batch is not None or shard.direct is not None for shard in job.all_shards)


def warn_of_uncounted(engine: Engine, job: Job) -> None:
    """Log that the cap of a job is kept by less than it will cost, if that is so.

    Args:
        engine: The engine.
        job: The job, with its measure.
    """
    if job.policy.max_cost is None or job.measure is None or not job.measure.n_uncounted:
        return
    estimate = estimate_of(job, prices_of(job.policy))
    if estimate.n_requests and estimate.n_uncounted:
        engine.log.warning(
            "Until answers tell what the input costs, max_cost is kept by an estimate %s.", uncounted_text(estimate)
        )


def _still_to_send(store: JobStore, job: Job) -> Iterator[Shard]:
    """Yield the shards of which requests are left to be sent, as far as that is known."""
    may_carry = any(not shard.is_unwanted and (shard.outcomes or not is_quiet(shard)) for shard in job.earlier)
    for shard in job.shards:
        if shard.state not in UNSENT or not shard.n_requests:
            continue
        if shard.state is State.DRAFTED:
            # Of what may be carried over, nobody knows yet what is left: that is held against the cap when it is sent.
            n_known = _n_rows(store, shard.known) if shard.known is not None else 0
            if may_carry or n_known >= shard.n_requests:
                continue
        yield shard


def _n_rows(store: JobStore, name: str) -> int:
    import pyarrow.parquet as pq

    with store.open(name) as file:
        return int(pq.read_metadata(file).num_rows)


def _unpriced(prices: Prices, job: Job, asked: Sequence[Shard], tier: Tier) -> list[str]:
    """Return the models whose price is not known by one way of asking."""
    return sorted({shard.model or "" for shard in asked if not _has_price(prices, job, shard, tier)})


def _has_price(prices: Prices, job: Job, shard: Shard, tier: Tier) -> bool:
    tariff = prices.tariff(shard.model, tier=tier)
    return tariff is not None and (_bound(job, shard) == 0 or _prices_output(tariff))


def _prices_output(tariff: Tariff) -> bool:
    return all(rates is None or rates.output is not None for rates in (tariff.rates, tariff.long_rates))


def _bound(job: Job, shard: Shard) -> int | None:
    """Return how many tokens an answer may have at most; of jobs of earlier versions, the measure tells."""
    if shard.max_output_tokens is None and job.measure is not None:
        return job.measure.max_output_tokens
    return shard.max_output_tokens


def _listed(models: Sequence[str]) -> str:
    return ", ".join(map(repr, models))
