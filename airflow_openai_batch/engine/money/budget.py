"""Whether what a job is about to spend fits under its cap. Pure."""

from __future__ import annotations

from airflow_openai_batch.engine.model import Shard
from airflow_openai_batch.engine.money.dollars import format_dollars
from airflow_openai_batch.engine.money.estimate import Estimator, ShardEstimate, Unpriced

_GROWTH = 4
"""How many requests may run at once for each answer that tells what they cost, where at most they cost too much."""


def over_budget(estimator: Estimator, shard: Shard) -> str | None:
    """Return why a shard must not be sent now; None if its batch fits under the job's cap, or there is no cap.

    Args:
        estimator: Estimates the shards of the job's newest snapshot.
        shard: The shard whose batch would be created.
    """
    cap = estimator.job.policy.max_cost
    if cap is None:
        return None
    estimate = estimator.of(shard)
    try:
        spent, running, following = estimator.spent, estimator.running, estimate.safe
    except Unpriced as unpriced:
        return f"max_cost is {format_dollars(cap)}, and {unpriced}"
    if spent + running + following <= cap:
        most = _at_most(estimator, estimate)
        return None if most is not None and most <= cap else _too_many_at_once(estimator, shard)
    return (
        f"max_cost is {format_dollars(cap)}: {format_dollars(spent)} are spent, what runs costs about "
        f"{format_dollars(running)}, and the next batch ({shard.n_requests:,} requests of shard {shard.id}) about "
        f"{format_dollars(following)}. Nothing more is sent. Raise max_cost and clear the submitting task to go on; "
        "answers so far are kept."
    )


def _at_most(estimator: Estimator, following: ShardEstimate) -> int | None:
    """Return what the job costs with a shard, if every answer is as long as its body allows; None if that is open."""
    running = estimator.upper_running
    return None if running is None or following.upper is None else estimator.spent + running + following.upper


def _too_many_at_once(estimator: Estimator, shard: Shard) -> str | None:
    """Return why a batch that fits only if its answers are like those so far has to wait for others that run."""
    n_running, n_answers = estimator.n_running, estimator.n_answers(shard)
    if not n_running or n_running + shard.n_requests <= _GROWTH * n_answers:
        return None
    return (
        f"The next batch fits under max_cost only if its answers are about as long as the {n_answers:,} so far: it is "
        f"created when what runs ({n_running:,} requests) has told more."
    )


def warning_before(estimator: Estimator, shard: Shard) -> str | None:
    """Return what to tell of a batch that may pass the cap by its answers; None if it cannot, or there is no cap.

    Args:
        estimator: Estimates the shards of the job's newest snapshot.
        shard: The shard whose batch is about to be created.
    """
    cap, estimate = estimator.job.policy.max_cost, estimator.of(shard)
    if cap is None or estimate.expected is None:
        return None
    most = _at_most(estimator, estimate)
    if most is not None and most <= cap:
        return None
    at_most = f"may cost {format_dollars(most)}" if most is not None else "may cost any amount"
    return (
        f"Shard {shard.id}: its {shard.n_requests:,} requests cost about {format_dollars(estimate.expected)} if their "
        f"answers are as long as the {estimator.n_answers(shard):,} so far. If they and all that run are as long as "
        f"the bodies allow, the job {at_most}, more than max_cost ({format_dollars(cap)})."
    )
