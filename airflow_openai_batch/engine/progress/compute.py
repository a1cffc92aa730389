"""How a job stands. Pure: no clock and no call; times are arguments.

A worker makes a ``Progress`` of the job it has just moved. While nobody moves the job, the trigger lays over it what
it sees of the batches that run. Both leave it where the UI finds it. How fast it goes is measured in ``rate``; there
is no rate while nothing runs or all batches are still validating.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from airflow_openai_batch.engine.job.planner import deadline_at
from airflow_openai_batch.engine.job.spans import EarlierDurations
from airflow_openai_batch.engine.job.summary import money_of, summarize
from airflow_openai_batch.engine.model import (
    ENDED_STATUSES,
    QUEUED,
    UNSENT,
    Batch,
    Job,
    Shard,
    State,
    Timing,
    Usage,
    model_of,
)
from airflow_openai_batch.engine.money.estimate import estimate_in_dollars, estimate_of
from airflow_openai_batch.engine.money.prices import prices_of
from airflow_openai_batch.engine.progress.forecast import as_of, forecast_of
from airflow_openai_batch.engine.progress.model import (
    MAX_BATCHES,
    MAX_ID,
    MAX_PROBLEM,
    OVER,
    Logged,
    Look,
    Owner,
    Phase,
    Progress,
    Seen,
    Tokens,
)
from airflow_openai_batch.engine.progress.rate import Moments, moved, rate_per_h

PHASE_OF_VERB = (
    {"upload": "upload", "create": "create", "look": "create"}
    | dict.fromkeys(("harvest", "reshard", "carry", "share"), "harvest")
    | {"ask": "ask"}
)
"""Which phase of a job an action's seconds belong to; those of any other are moments, and count as waiting."""


def progress_of(
    job: Job,
    now: float,
    timing: Timing,
    *,
    look: Look | None = None,
    results_s: float | None = None,
    earlier: EarlierDurations | None = None,
    **values: Any,
) -> Progress:
    """Return where a job stands.

    Args:
        job: The newest snapshot.
        now: Epoch seconds.
        timing: Durations.
        look: What is remembered of the last look, for the rate.
        results_s: Seconds that writing the results took.
        earlier: How long earlier jobs took, for the forecast.
        values: What only the caller knows: ``phase`` (by default waiting or queued), ``problem``, ``live``,
            ``host``, ``output``, ``errors``.
    """
    running = [s.batch for s in job.shards if _runs(s) and s.batch is not None]
    is_asking = job.lease is not None and any(shard.state is State.ASKING for shard in job.shards)
    phase = Phase.ASKING if is_asking else Phase.WAITING if running else Phase.QUEUED
    values = {"phase": phase, **values}
    phases = phases_s(job, max(job.committed_at, job.created_at) if values["phase"] in OVER else now)
    if results_s is not None:
        phases["results"] = round(results_s, 1)
    problem = next((s.problem for s in job.shards if s.problem and s.state is not State.SETTLED), None)
    values["problem"] = _cut(values.get("problem") or problem)
    is_going = values["phase"] in (Phase.WAITING, Phase.QUEUED)
    made = Progress(
        job=Owner(**msgspec.structs.asdict(job.key)),
        updated_at=now,
        created_at=job.created_at,
        deadline_at=deadline_at(job, timing),
        cancel_on_kill=job.policy.cancel_on_kill,
        expires_at=max((batch.expires_at for batch in running if batch.expires_at is not None), default=None),
        endpoint=job.spec.endpoint,
        model=(model_of(job.spec) or "")[:MAX_ID] or None,
        finish_at=job.finish_at,
        forecast=forecast_of(job, earlier, now) if is_going and earlier is not None else None,
        batches=_chosen(_seen(batch) for batch in running),
        n_running=len(running),
        phases_s=phases,
        **_counts(job),
        **values,
    )
    return _measured(made, look)


def _counts(job: Job) -> dict[str, Any]:
    summary = summarize(job)
    n_running_done = sum(_n_done(shard) for shard in job.shards if _runs(shard))
    n_ended_done = sum(_n_done(shard) for shard in job.shards if _has_batch(shard) and not _runs(shard))
    asked = [shard for shard in job.shards if shard.direct is not None and shard.outcomes is None]
    n_asked = sum(shard.direct.n_done for shard in asked if shard.direct is not None)
    return {
        "n_rows": job.n_rows,
        "n_done": min(sum(summary.by_status.values()) + n_running_done + n_ended_done + n_asked, job.n_rows),
        "n_asking": sum(shard.n_requests for shard in asked) - n_asked,
        "n_running_done": n_running_done,
        "by_status": {status.value: n for status, n in summary.by_status.items()},
        "n_shards": summary.n_shards,
        "n_settled": summary.n_settled,
        "n_unsent": sum(shard.state in UNSENT and shard.is_asked for shard in job.shards),
        "n_batches": len(summary.batch_ids),
        "round": summary.rounds,
        "usage": Tokens(**msgspec.structs.asdict(summary.usage)),
        **money_of(summary),
        **estimate_in_dollars(estimate_of(job, prices_of(job.policy))),
        **({"cost": None} if summary.usage == Usage() and not summary.n_succeeded else {}),  # nothing is known yet
    }


def with_batches(base: Progress, batches: Mapping[str, Batch], now: float, look: Look | None) -> Progress:
    """Return the progress of a job that nobody moves, with what is seen of its batches.

    Args:
        base: What the worker left.
        batches: The batches that ran then, as they are seen now, by id; without those not yet looked at.
        now: Epoch seconds.
        look: What is remembered of the last look, for the rate.
    """
    seen = {batch.id: _seen(batch) for batch in batches.values()}
    latest = {batch.id: batch for batch in base.batches} | seen
    n_running_done = sum(batch.n_done for batch in latest.values())
    if len(latest) < base.n_running:  # the others have done something too, as far as the worker could see
        n_running_done = max(n_running_done, base.n_running_done)
    waited_s = max(0.0, now - base.updated_at) if base.n_running else 0.0
    phases = {**base.phases_s, "wait": round(base.phases_s.get("wait", 0.0) + waited_s, 1)}
    made = msgspec.structs.replace(
        base,
        updated_at=now,
        n_done=min(base.n_done - base.n_running_done + n_running_done, base.n_rows),
        n_running_done=n_running_done,
        batches=_chosen(batch for batch in latest.values() if batch.status not in ENDED_STATUSES),
        forecast=as_of(base.forecast, now) if base.forecast is not None else None,
        n_running=max(0, base.n_running - sum(batch.status in ENDED_STATUSES for batch in seen.values())),
        phases_s=phases,
    )
    return _measured(made, look)


def phases_s(job: Job, until: float) -> dict[str, float]:
    """Return the seconds of own work by phase, and as ``wait`` those in which OpenAI had a batch of the job.

    Time in which nobody did anything, as while a held job waits for a person, is in no phase. Work beside a batch that
    runs is work.
    """
    own = dict.fromkeys(("build", "upload", "create", "wait", "harvest"), 0.0)
    for verb, seconds in job.work_s.items():
        phase = verb if verb == "build" else PHASE_OF_VERB.get(verb)
        if phase is not None:
            own[phase] = own.get(phase, 0.0) + seconds
    rest = until - job.created_at - sum(own.values()) + own["build"]
    own["wait"] = max(0.0, min(rest, _at_openai_s(job, until)))
    return {phase: round(seconds, 1) for phase, seconds in own.items()}


def _at_openai_s(job: Job, until: float) -> float:
    """Return the seconds, until a time, in which OpenAI had at least one batch of the job, or a place in its queue."""
    spans = sorted(span for shard in job.shards if (span := _span(shard, job, until)) is not None)
    total, end = 0.0, job.created_at
    for start, stop in spans:
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def _span(shard: Shard, job: Job, until: float) -> tuple[float, float] | None:
    """Return from when until when a shard was at OpenAI, by our clock where it is known; epoch seconds."""
    if shard.state in QUEUED and shard.backoff.n_waits:
        return job.created_at, until  # it would have gone long ago, if OpenAI had let it
    if shard.batch is None and shard.state is not State.CREATING:
        return None
    batch = shard.batch
    start = shard.intent.at if shard.intent is not None else batch.created_at if batch is not None else None
    stop = batch.ended_at if batch is not None and batch.status in ENDED_STATUSES else None
    return max(start or job.created_at, job.created_at), min(until, stop if stop is not None else until)


def _has_batch(shard: Shard) -> bool:
    return shard.batch is not None and shard.state in (State.RUNNING, State.ENDED)


def _runs(shard: Shard) -> bool:
    return shard.state is State.RUNNING and shard.batch is not None and shard.batch.status not in ENDED_STATUSES


def _n_done(shard: Shard) -> int:
    return min(_seen(shard.batch).n_done, shard.n_requests) if shard.batch is not None else 0


def _seen(batch: Batch) -> Seen:
    return Seen(
        id=batch.id,
        status=batch.status,
        n_total=batch.n_total,
        n_completed=batch.n_completed,
        n_failed=batch.n_failed,
        in_progress_at=batch.in_progress_at,
    )


def _chosen(batches: Iterable[Seen]) -> tuple[Seen, ...]:
    """Return as many batches as are shown, those that have begun first."""
    return tuple(sorted(batches, key=lambda batch: batch.status == "validating")[:MAX_BATCHES])


def _cut(problem: str | None) -> str | None:
    return problem if problem is None or len(problem) <= MAX_PROBLEM else problem[: MAX_PROBLEM - 1] + "…"


def look_after(look: Look | None, progress: Progress, logged: Logged | None = None) -> Look:
    """Return what to remember of a job that was looked at.

    Args:
        look: What was remembered before.
        progress: What was seen now.
        logged: What the log says of it, if it was logged.
    """
    moments = _moments(look, progress)
    return Look(n_done=progress.n_done, moments=moments, logged=logged or (look.logged if look is not None else None))


def _moments(look: Look | None, progress: Progress) -> Moments:
    return moved(look.moments, look.n_done, progress.n_done, progress.updated_at) if look is not None else ()


def _measured(made: Progress, look: Look | None) -> Progress:
    now = made.updated_at
    rate = rate_per_h(_moments(look, made), now) if _is_moving(made) else None
    left = made.n_rows - made.n_done
    eta_at = None if rate is None or not left else now + left / rate * 3600
    return msgspec.structs.replace(made, rate_per_h=rate, eta_at=eta_at)


def _is_moving(made: Progress) -> bool:
    return made.phase is Phase.WAITING and any(seen.status != "validating" for seen in made.batches)
