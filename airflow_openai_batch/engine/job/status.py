"""Where a job rests after it was moved as far as it can go, and why."""

from __future__ import annotations

from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.planner import deadline_at, deserves_another_round, is_done
from airflow_openai_batch.engine.job.summary import Summary, summarize
from airflow_openai_batch.engine.model import AT_OPENAI, ENDED_STATUSES, QUEUED, Job, State, Value


class Wait(Value, frozen=True, kw_only=True):
    """Nothing can be done before one of these batches changes, or this time comes."""

    batch_ids: tuple[str, ...]
    wake_at: float
    """Epoch seconds; at the latest the job's deadline."""
    is_queued: bool
    """Whether more work waits for room at OpenAI."""
    summary: Summary
    job: Job


class Done(Value, frozen=True, kw_only=True):
    """Every row has its outcome."""

    summary: Summary
    job: Job


class Held(Value, frozen=True, kw_only=True):
    """The job needs manual intervention. Nothing is lost, and clearing the task goes on from here."""

    reason: str
    summary: Summary
    job: Job


def rest(engine: Engine, job: Job, now: float, stuck: dict[str, str]) -> Wait | Done | Held:
    """Return where the job rests: waiting, done or held.

    Args:
        engine: The engine.
        job: The newest snapshot's job, of which the plan named nothing to do.
        now: Epoch seconds at which that plan was made; what has fallen due since is waited for no longer than that.
        stuck: Why shards cannot go on, by id. They hold the job only when nothing else can be waited for.
    """
    summary = summarize(job)
    if is_done(job, engine.store.standing_commands(job)):
        return Done(summary=summary, job=job)
    deadline = deadline_at(job, engine.timing)
    able = [s for s in job.all_shards if s.id not in stuck]
    batches = [s.batch for s in able if s.state is State.RUNNING and s.batch is not None]
    running = tuple(batch.id for batch in batches if batch.status not in ENDED_STATUSES)
    if now >= deadline:
        return Held(reason=_late(job, running), summary=summary, job=job)
    times = [s.not_before for s in able if s.not_before > now and s.state is not State.SETTLED]
    if len(running) < len(batches) and not times:
        times = [now]  # the process was slow: a batch that nobody watches, as it has ended, is due for its next look
    is_queued = any(s.state in QUEUED for s in job.shards)
    is_probing = any(s.state is State.UPLOADED and s.backoff.n_waits for s in job.shards)
    if is_probing:  # once a batch is admitted, the next may try; one that is stuck is looked at ever less often
        ages = [now - (batch.created_at or now) for batch in batches if batch.status == "validating"]
        times += [now + max(engine.timing.probe_s, age / 2) for age in ages]
    if stuck and not running and not times:
        return Held(reason=" ".join(stuck.values()), summary=summary, job=job)
    if not running and not times:
        waiting = ", ".join(f"{s.id} {s.state}" for s in job.shards if s.state is not State.SETTLED)
        return Held(
            reason=f"Nothing runs and nothing can be done ({waiting}): a defect, please report it.",
            summary=summary,
            job=job,
        )
    return Wait(batch_ids=running, wake_at=min([deadline, *times]), is_queued=is_queued, summary=summary, job=job)


def _late(job: Job, running: tuple[str, ...]) -> str:
    hours = job.policy.deadline_s / 3600
    still = f"Batches still at OpenAI: {', '.join(running)}." if running else "Nothing runs at OpenAI."
    unsettled = sum(s.n_requests for s in job.shards if s.state in AT_OPENAI | QUEUED)
    unsettled += sum(s.n_retryable for s in job.shards if deserves_another_round(job, s))
    problem = next((f" Last problem: {s.problem}" for s in job.shards if s.problem), "")
    return (
        f"The deadline of {hours:g} h has passed with {unsettled:,} requests open.{problem} {still} "
        "Nothing is lost: answers so far are in the job store, and clearing this task waits for the rest without "
        "paying again."
    )
