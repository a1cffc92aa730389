"""A task begins to wait for a job: what was only planned may be sent, and a deadline that has passed runs anew."""

from __future__ import annotations

import msgspec

from airflow_openai_batch.engine.errors import CommitRefused
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.planner import deadline_at

_TRIES = 5


def begin_waiting(engine: Engine, task: str = "", max_tries: int | None = None) -> None:
    """Let a job that was only planned be sent; and let one whose deadline has passed wait again, from now.

    Only where the task begins, or a person has cleared it: a retry, or another look, changes nothing. A plan that was
    made anew in the meantime is thus not sent by a task that began before it.

    Args:
        engine: The job's engine.
        task: A text that names the task among those that wait for the job.
        max_tries: The task's ``max_tries``, which Airflow sets anew when a person clears it, and leaves when it
            retries or looks again. None: a person asks for it now.
    """
    for _ in range(_TRIES):
        snapshot = engine.store.load()
        if snapshot is None or (max_tries is not None and snapshot.job.waits.get(task) == max_tries):
            return
        job = snapshot.job
        now = engine.clock()
        is_due = job.is_plan_only or now >= deadline_at(job, engine.timing)
        is_past = job.is_plan_only and job.finish_at is not None and now >= job.finish_at
        after = msgspec.structs.replace(
            job,
            is_plan_only=False,
            # What was planned for a night that is over must not be asked at once, at synchronous prices.
            finish_at=None if is_past else job.finish_at,
            waits=job.waits if max_tries is None else {**job.waits, task: max_tries},
            deadline_from=now if is_due else job.deadline_from,
        )
        if after == job:
            return
        try:
            engine.store.commit(snapshot.number + 1, after, now)
        except CommitRefused:
            continue
        if is_past:
            engine.log.warning("The moment of finish_by has passed before the plan was sent: batches take their time.")
        if job.is_plan_only:
            engine.log.info("What was planned is sent from now on.")
            engine.observer.planned(after)
        return
