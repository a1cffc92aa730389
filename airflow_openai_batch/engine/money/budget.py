"""What a job has spent, what it is about to spend, and whether that fits under its cap. Pure."""

from __future__ import annotations

from typing import NamedTuple

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import AT_OPENAI, BILLED, Job, Shard, State, Usage
from airflow_openai_batch.engine.money.prices import PICODOLLARS, Prices, format_dollars

_ENOUGH_ROWS = 20
"""Answers after which the job's own tell more than the bound in the body; fewer if its pilot has fewer rows."""


class Unpriced(Exception):
    """What a job spends cannot be told.

    Args:
        reason: Why, and what to do.
    """


class _Means(NamedTuple):
    """What the answers that are there say of those to come: tokens of the input a byte, of the output an answer."""

    input_per_byte: float
    output: float


def over_budget(job: Job, shard: Shard, prices: Prices) -> str | None:
    """Return why a shard must not be sent; None if its batch fits under the job's cap, or there is no cap.

    Args:
        job: The newest snapshot's job.
        shard: The shard whose batch would be created.
        prices: What models cost.
    """
    cap = job.policy.max_cost
    if cap is None:
        return None
    try:
        spent = spent_by(job)
        running = sum(expected_cost(job, other, prices) for other in job.all_shards if _is_committed(other))
        following = expected_cost(job, shard, prices)
    except Unpriced as unpriced:
        return f"max_cost is {format_dollars(cap)}, and {unpriced}"
    if spent + running + following <= cap:
        return None
    return (
        f"max_cost is {format_dollars(cap)}: {format_dollars(spent)} are spent, what runs costs about "
        f"{format_dollars(running)}, and the next batch ({shard.n_requests:,} requests of shard {shard.id}) about "
        f"{format_dollars(following)}. Nothing more is sent. Raise max_cost and clear the submitting task to go on; "
        "answers so far are kept."
    )


def spent_by(job: Job) -> int:
    """Return what all answers of a job cost so far, in picodollars.

    Raises:
        Unpriced: It is not known of some.
    """
    cost = job.cost
    if cost.n_unknown:
        raise Unpriced(f"the cost of {cost.n_unknown:,} answers is not known. Give the model's price (`prices`).")
    return cost.picodollars


def expected_cost(job: Job, shard: Shard, prices: Prices) -> int:
    """Return what the requests of a shard will cost, in picodollars: by the answers so far, or at most.

    Args:
        job: The job, whose settled shards of the same model tell how long answers are.
        shard: The shard.
        prices: What models cost.

    Raises:
        Unpriced: The price of its model, or the length of its answers, is not known.
    """
    tariff = prices.tariff(shard.model)
    if tariff is None:
        raise Unpriced(f"the price of {shard.model!r} is not known. Give it (`prices`).")
    means = _means(job, shard.model)
    n = max(1, shard.n_requests)
    if means is None:
        if job.measure is None or job.measure.max_output_tokens is None:
            raise Unpriced("the body sets no bound of the answers. Set max_output_tokens in it.")
        means = _Means(job.measure.tokens_per_byte, job.measure.max_output_tokens)
    # A request of the mean size stands for all: where prices have a tier, it decides.
    mean = Usage(input_tokens=round(means.input_per_byte * shard.n_bytes / n), output_tokens=round(means.output))
    cost = tariff.cost(mean)
    if cost is None:
        raise Unpriced(f"the price of {shard.model!r} for output is not known. Give it (`prices`).")
    return cost * n


def _is_committed(shard: Shard) -> bool:
    return shard.state in AT_OPENAI or (shard.state is State.ENDED and shard.outcomes is None)


def _means(job: Job, model: str | None) -> _Means | None:
    """Return what the answers of a model were like; None if there are too few."""
    n_rows = n_input = n_output = 0
    n_bytes = 0.0
    for shard in job.all_shards:
        if shard.outcomes is None or shard.model != model or not shard.n_requests:
            continue
        n_billed = sum(shard.tally.get(status, 0) for status in BILLED)
        n_rows += n_billed
        n_bytes += shard.n_bytes * n_billed / shard.n_requests
        n_input += shard.usage.input_tokens
        n_output += shard.usage.output_tokens
    enough = min(_ENOUGH_ROWS, job.policy.pilot_rows or _ENOUGH_ROWS)
    return _Means(n_input / n_bytes, n_output / n_rows) if n_rows >= enough and n_bytes else None


def parse_dollars(amount: object, where: str) -> int:
    """Return an amount of dollars in picodollars.

    Args:
        amount: A number, or a text of one.
        where: The setting, for the error message.

    Raises:
        InputError: It is no amount.
    """
    from decimal import Decimal, InvalidOperation

    try:
        dollars = Decimal(str(amount))
    except InvalidOperation:
        dollars = Decimal("nan")
    if not dollars.is_finite() or dollars < 0 or isinstance(amount, bool):
        raise InputError(f"{where} must be an amount of US dollars, for example 25 or 0.5, not {amount!r}.")
    return int(dollars * PICODOLLARS)
