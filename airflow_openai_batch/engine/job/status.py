"""Where a job rests after it was moved as far as it can go, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.finishing import leased_until, was_cut_short
from airflow_openai_batch.engine.job.planner import (
    deadline_at,
    deserves_another_round,
    is_done,
    not_awaited_at,
    probed_at,
)
from airflow_openai_batch.engine.job.state_machine import is_quiet
from airflow_openai_batch.engine.job.summary import Summary, summarize
from airflow_openai_batch.engine.model import ENDED_STATUSES, QUEUED, UNSENT, Job, Limit, Shard, State, Timing, Value


class Wait(Value, frozen=True, kw_only=True):
    """Nothing can be done before one of these batches changes, or this time comes."""

    batch_ids: tuple[str, ...]
    """Those of earlier epochs first."""
    n_earlier: int = 0
    """How many of them are of earlier epochs."""
    wake_at: float
    """Epoch seconds; at the latest the job's deadline."""
    is_queued: bool
    """Whether more work waits for room at OpenAI."""
    limit: Limit | None = None
    """What keeps the rest back, if it is not OpenAI."""
    summary: Summary
    job: Job


class Done(Value, frozen=True, kw_only=True):
    """Every row has its outcome."""

    summary: Summary
    job: Job


class Held(Value, frozen=True, kw_only=True):
    """The job needs manual intervention. Nothing is lost, and clearing the task goes on from here."""

    reason: str
    limit: Limit | None = None
    """What keeps the rest back, if it is the job's own cap or pilot."""
    is_plan: bool = False
    """Whether all that it lacks is a task that sends it: it was only planned."""
    is_late: bool = False
    """Whether its deadline has passed."""
    summary: Summary
    job: Job


def rest(
    engine: Engine, job: Job, now: float, stuck: dict[str, str], limits: Mapping[str, Limit] = MappingProxyType({})
) -> Wait | Done | Held:
    """Return where the job rests: waiting, done or held.

    Args:
        engine: The engine.
        job: The newest snapshot's job, of which the plan named nothing to do.
        now: Epoch seconds at which that plan was made; what has fallen due since is waited for no longer than that.
        stuck: Why shards cannot go on, by id. They hold the job only when nothing else can be waited for.
        limits: What keeps shards back that could go on otherwise, by id; they hold the job in the same way.
    """
    stuck = stuck | {shard_id: limit.reason for shard_id, limit in limits.items()}
    limit = next(iter(limits.values()), None)
    summary = summarize(job)
    if is_done(job, engine.store.standing_commands(job), now, engine.timing):
        if unfinished := [s.batch.id for s in job.earlier if not is_quiet(s) and s.batch is not None]:
            engine.log.warning(
                "Batches from before starting over have not ended and are waited for no longer: %s. What they answer "
                "may be billed.",
                ", ".join(unfinished),
            )
        return Done(summary=summary, job=job)
    deadline = deadline_at(job, engine.timing)
    if now >= deadline and not job.is_plan_only:
        late = " ".join(dict.fromkeys((_late(job), *stuck.values())))
        return Held(reason=late, is_late=True, summary=summary, job=job)
    able = [s for s in job.all_shards if s.id not in stuck]
    watched = [s for s in able if _is_watched(s, now)]
    times = [s.not_before for s in able if s.not_before > now and s.state is not State.SETTLED]
    times += [not_awaited_at(job, s, engine.timing) for s in job.earlier if not is_quiet(s)]
    times += [probed_at(job, engine.timing), leased_until(job, engine.timing)]
    times.append(0.0 if job.finish_at is None or job.is_plan_only else job.finish_at)
    times += [cut_at + engine.timing.cancelling_s for cut_at in _cut_at(job)]
    times = [at for at in times if at > now]
    if not times and any(s.state is State.RUNNING and s not in watched for s in able):
        times = [now]  # the process was slow: a batch that nobody watches, as it has ended, is due for its next look
    is_queued = any(s.state in QUEUED and s.id not in stuck for s in job.shards)
    is_probing = any(s.state is State.UPLOADED and s.backoff.n_full for s in job.shards)
    if is_probing:  # once a batch is admitted, the next may try; one that is stuck is looked at ever less often
        validating = [s.batch for s in watched if s.batch is not None and s.batch.status == "validating"]
        times += [now + max(engine.timing.probe_s, (now - (b.created_at or now)) / 2) for b in validating]
    if (endless := _never_cancelled(job, able, now, engine.timing)) is not None:
        return Held(reason=" ".join(dict.fromkeys([*stuck.values(), endless])), summary=summary, job=job)
    if not times and job.is_plan_only:
        return Held(reason=_PLAN_ONLY, is_plan=True, summary=summary, job=job)
    if not watched and not times:
        waiting = ", ".join(f"{s.id} {s.state}" for s in job.shards if s.state is not State.SETTLED)
        reason = (
            " ".join(dict.fromkeys(stuck.values()))
            or f"Nothing runs and nothing can be done ({waiting}): please report it."
        )
        return Held(reason=reason, limit=limit, summary=summary, job=job)
    earlier = {s.id for s in job.earlier}
    return Wait(
        batch_ids=tuple(s.batch.id for s in watched if s.batch is not None),
        n_earlier=sum(s.id in earlier for s in watched),
        wake_at=min(times if job.is_plan_only else [deadline, *times]),
        is_queued=is_queued,
        limit=limit,
        summary=summary,
        job=job,
    )


def _cut_at(job: Job) -> list[float]:
    """Return when batches that still run were asked to end, as the moment of ``finish_by`` had come; epoch seconds."""
    return [
        shard.cancel_asked_at
        for shard in job.shards
        if shard.state is State.RUNNING and shard.cancel_asked_at is not None and was_cut_short(job, shard)
    ]


def _never_cancelled(job: Job, able: Sequence[Shard], now: float, timing: Timing) -> str | None:
    """Return why a job is held that waits only for batches which do not end although they were cancelled long ago."""
    current = {shard.id for shard in job.shards if shard.n_requests or not shard.is_repeat}
    waiting = [shard for shard in able if shard.state is not State.SETTLED and shard.id in current]
    late = [shard for shard in waiting if shard.state is State.RUNNING and was_cut_short(job, shard)]
    late = [shard for shard in late if now >= (shard.cancel_asked_at or now) + timing.cancelling_s]
    # A look that failed says nothing, and will be made again.
    late = [shard for shard in late if shard.not_before <= now]
    if not late or len(late) < len(waiting):
        return None
    ids = ", ".join(shard.batch.id for shard in late if shard.batch is not None)
    n_requests = sum(shard.n_requests for shard in late)
    problems = "".join(f" {problem}" for problem in dict.fromkeys(shard.problem for shard in late) if problem)
    return (
        f"The moment of finish_by has come, and OpenAI, asked to cancel {ids} {timing.cancelling_s / 3600:g} h ago, "
        f"has not ended that.{problems} {n_requests:,} requests may still be answered and billed, so they are not "
        "asked again; all others are done. Clear this task when nothing runs any more: what was answered is fetched, "
        "the rest asked."
    )


_PLAN_ONLY = (
    "The job is planned, and nothing of it is sent before a task that waits for it begins: clear the sensor to send it."
)


def _is_watched(shard: Shard, now: float) -> bool:
    """Return whether a change of the shard's batch is worth waking a worker: one that may look at it then."""
    if shard.state is not State.RUNNING or shard.batch is None or shard.not_before > now:
        return False
    return shard.batch.status not in ENDED_STATUSES


def _late(job: Job) -> str:
    hours = job.policy.deadline_s / 3600
    shards = job.all_shards
    running = [s.batch.id for s in shards if s.state is State.RUNNING and s.batch is not None]
    facts = [f"Batches still at OpenAI: {', '.join(running)}."] if running else []
    if doubtful := [s.id for s in shards if s.state is State.CREATING or (s.n_absent and s.state in UNSENT)]:
        facts.append(f"It is not known whether a batch runs for {', '.join(doubtful)}.")
    if unfetched := [s.batch.id for s in shards if s.state is State.ENDED and s.batch is not None]:
        facts.append(f"Ended and not fetched: {', '.join(unfetched)}.")
    n_open = sum(s.n_requests for s in job.shards if s.state is not State.SETTLED)
    n_open += sum(sum(s.asked_again.values()) for s in job.shards if deserves_another_round(job, s))
    problem = next((f" Last problem: {s.problem}" for s in job.shards if s.problem), "")
    return (
        f"The deadline of {hours:g} h has passed with {n_open:,} requests open.{problem} "
        f"{' '.join(facts) or 'Nothing runs at OpenAI.'} "
        "Nothing is lost: answers so far are in the job store, and clearing this task waits for the rest without "
        "paying again."
    )
