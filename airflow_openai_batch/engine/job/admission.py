"""What must not be sent although OpenAI's queue has room: after a refused probe, while a pilot runs, beyond the cap."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.planner import Action, deserves_another_round
from airflow_openai_batch.engine.job.probe import refusal
from airflow_openai_batch.engine.job.summary import check_thresholds, counted, summarize
from airflow_openai_batch.engine.model import UNSENT, Cost, Job, Limit, Shard, State, root_id
from airflow_openai_batch.engine.money.budget import over_budget, warning_before
from airflow_openai_batch.engine.money.dollars import cost_text, format_dollars
from airflow_openai_batch.engine.money.estimate import Estimator, Unpriced
from airflow_openai_batch.engine.money.prices import prices_of


def held_back(job: Job, actions: Sequence[Action]) -> dict[str, Limit]:
    """Return why shards must not be sent, by id.

    Args:
        job: The newest snapshot's job.
        actions: What the plan names.
    """
    policy = job.policy
    asked = {action.shard for action in actions if action.verb == "ask"}
    sent = asked | {action.shard for action in actions if action.verb in ("upload", "create")}
    if (reason := refusal(job)) is not None:
        return dict.fromkeys(sent, Limit(by="probe", reason=reason))
    if policy.max_cost is None and policy.pilot_rows is None:
        return {}
    shards = [shard for shard in job.shards if shard.id in sent]
    estimator = Estimator(job, prices_of(policy), is_finishing=bool(asked))
    # What is asked synchronously is held against the cap request by request.
    reasons = {shard.id: over_budget(estimator, shard) for shard in shards if shard.id not in asked}
    limits = {name: Limit(by="cap", reason=reason) for name, reason in reasons.items() if reason is not None}
    if (limit := _pilot_limit(job, estimator)) is not None:
        pilot = {shard.id for shard in job.shards if shard.is_pilot}
        # Where the pilot itself does not fit, that is all there is to say.
        limit = next((limits[name] for name in pilot if name in limits), limit)
        limits |= {shard.id: limit for shard in shards if root_id(shard.id) not in pilot}
    return limits


def warn_of_cap(engine: Engine, job: Job, shard: Shard) -> None:
    """Log if a batch that is about to be created may pass the cap by its answers, although it should not.

    Args:
        engine: The engine.
        job: The newest snapshot's job.
        shard: The batch's shard.
    """
    if job.policy.max_cost is None:
        return
    warning = warning_before(Estimator(job, prices_of(job.policy)), shard)
    if warning is not None:
        engine.log.warning("%s", warning)


def _pilot_limit(job: Job, estimator: Estimator) -> Limit | None:
    """Return why the rows after the pilot must not be sent; None if the pilot holds, or there is none."""
    roots = [shard for shard in job.shards if shard.is_pilot]
    if job.policy.pilot_rows is None or not roots:
        return None
    ids = {shard.id for shard in roots}
    if any((shard.n_creates or shard.direct) and root_id(shard.id) not in ids for shard in job.shards):
        return None  # the pilot held, and the rest is being sent: each batch is held against the cap by itself
    family = tuple(shard for shard in job.shards if root_id(shard.id) in ids)
    if any(shard.state is not State.SETTLED or deserves_another_round(job, shard) for shard in family):
        return Limit(by="pilot", reason="The pilot has not ended.")
    n_rows = sum(shard.n_rows for shard in roots)
    summary = summarize(msgspec.structs.replace(job, shards=family, n_rows=n_rows))
    if (problem := check_thresholds(summary, job.policy)) is not None:
        reason = (
            f"The pilot of {counted(n_rows, 'row')} is not good enough, so nothing else was sent: {problem} "
            f"It cost {cost_text(sum((shard.cost for shard in family), Cost()))}. "
            f"Its errors are told by `python -m airflow_openai_batch errors {job.key.dag_id} {job.key.run_id} "
            f"{job.key.task_id}`. Change the body, or the thresholds, and clear the submitting task; with "
            "pilot_rows=None the rest is sent as it is."
        )
        return Limit(by="pilot", reason=reason)
    unaffordable = _unaffordable_rest(job, estimator)
    return None if unaffordable is None else Limit(by="cap", reason=unaffordable)


def _unaffordable_rest(job: Job, estimator: Estimator) -> str | None:
    """Return why the rest of a job, by what its pilot cost, does not fit under the cap."""
    cap, rest = job.policy.max_cost, [s for s in job.shards if s.state in UNSENT and s.n_requests]
    if cap is None or not rest:
        return None
    try:
        spent, expected = estimator.spent, sum(estimator.of(shard).safe for shard in rest)
    except Unpriced as unpriced:
        return f"max_cost is {format_dollars(cap)}, and {unpriced}"
    if spent + expected <= cap:
        return None
    return (
        f"By its pilot, the rest of the job would cost about {format_dollars(expected)}; {format_dollars(spent)} are "
        f"spent so far, and max_cost is {format_dollars(cap)}. Nothing else was sent. Raise max_cost and clear the "
        "submitting task to go on."
    )
