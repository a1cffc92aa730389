"""What must not be sent yet although OpenAI's queue has room: the rest while a pilot runs, and what exceeds the cap."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from airflow_openai_batch.engine.job.planner import Action, deserves_another_round
from airflow_openai_batch.engine.job.summary import check_thresholds, counted, summarize
from airflow_openai_batch.engine.model import UNSENT, Cost, Job, State, root_id
from airflow_openai_batch.engine.money.budget import Unpriced, expected_cost, over_budget, spent_by
from airflow_openai_batch.engine.money.prices import Prices, cost_text, format_dollars, parse_prices


def held_back(job: Job, actions: Sequence[Action]) -> dict[str, str]:
    """Return why shards must not be sent, by id.

    Args:
        job: The newest snapshot's job.
        actions: What the plan names.
    """
    policy = job.policy
    if policy.max_cost is None and policy.pilot_rows is None:
        return {}
    sent = {action.shard for action in actions if action.verb in ("upload", "create")}
    shards = [shard for shard in job.shards if shard.id in sent]
    prices = Prices(parse_prices(policy.prices, "prices"))
    reasons = {shard.id: over_budget(job, shard, prices) for shard in shards}
    if (reason := _pilot_reason(job, prices)) is not None:
        pilot = {shard.id for shard in job.shards if shard.is_pilot}
        # Where the pilot itself does not fit, that is all there is to say.
        reason = next((told for told in (reasons.get(name) for name in pilot) if told is not None), reason)
        reasons |= {shard.id: reason for shard in shards if root_id(shard.id) not in pilot}
    return {shard: reason for shard, reason in reasons.items() if reason is not None}


def _pilot_reason(job: Job, prices: Prices) -> str | None:
    """Return why the rows after the pilot must not be sent; None if the pilot holds, or there is none."""
    roots = [shard for shard in job.shards if shard.is_pilot]
    if job.policy.pilot_rows is None or not roots:
        return None
    ids = {shard.id for shard in roots}
    if any(shard.n_creates and root_id(shard.id) not in ids for shard in job.shards):
        return None  # the pilot held, and the rest is being sent: each batch is held against the cap by itself
    family = tuple(shard for shard in job.shards if root_id(shard.id) in ids)
    if any(shard.state is not State.SETTLED or deserves_another_round(job, shard) for shard in family):
        return "The pilot has not ended."
    n_rows = sum(shard.n_rows for shard in roots)
    summary = summarize(msgspec.structs.replace(job, shards=family, n_rows=n_rows))
    if (problem := check_thresholds(summary, job.policy)) is not None:
        return (
            f"The pilot of {counted(n_rows, 'row')} is not good enough, so nothing else was sent: {problem} "
            f"It cost {cost_text(sum((shard.cost for shard in family), Cost()))}. "
            f"Its errors are told by `python -m airflow_openai_batch errors {job.key.dag_id} {job.key.run_id} "
            f"{job.key.task_id}`. Change the body, or the thresholds, and clear the submitting task; with "
            "pilot_rows=None the rest is sent as it is."
        )
    return _unaffordable_rest(job, prices)


def _unaffordable_rest(job: Job, prices: Prices) -> str | None:
    """Return why the rest of a job, by what its pilot cost, does not fit under the cap."""
    cap, rest = job.policy.max_cost, [shard for shard in job.shards if shard.state in UNSENT]
    if cap is None or not rest:
        return None
    try:
        spent, expected = spent_by(job), sum(expected_cost(job, shard, prices) for shard in rest)
    except Unpriced as unpriced:
        return f"max_cost is {format_dollars(cap)}, and {unpriced}"
    if spent + expected <= cap:
        return None
    return (
        f"By its pilot, the rest of the job would cost about {format_dollars(expected)}; {format_dollars(spent)} are "
        f"spent so far, and max_cost is {format_dollars(cap)}. Nothing else was sent. Raise max_cost and clear the "
        "submitting task to go on."
    )
