"""What a person commands outside of the job's tasks: to cancel, and to take that back."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from airflow_openai_batch.engine.errors import CommitRefused, StoreError
from airflow_openai_batch.engine.job.advance import advance, load
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.status import Done, Held, Wait
from airflow_openai_batch.engine.store.job_store import JobStore

_TRIES = 20


def cancel(engine: Engine) -> Wait | Done | Held:
    """Cancel what runs and call off what was never sent, at once; finished answers are kept.

    The command stays in the store: whoever moves the job obeys it, until it is taken back or the job starts over.

    Raises:
        StoreError: There is no such job, or its store cannot be used.
    """
    if not engine.store.standing_commands(load(engine).job).cancel:
        engine.store.command("cancel")
    return advance(engine)


def resume(store: JobStore, clock: Callable[[], float] = time.time) -> bool:
    """Take cancel commands back. Rows that were cancelled or called off are asked again as the policy allows.

    Args:
        store: The job's store.
        clock: Returns epoch seconds.

    Returns:
        Whether there was anything to take back.

    Raises:
        StoreError: The store cannot be used.
    """
    for _ in range(_TRIES):
        snapshot = store.load()
        if snapshot is None:
            return False
        job = snapshot.job
        standing = tuple(name for name in store.commands(job.acknowledged) if name.startswith("cancel-"))
        if not standing:
            return False
        try:
            acknowledged = (*job.acknowledged, *standing)
            store.commit(snapshot.number + 1, msgspec.structs.replace(job, acknowledged=acknowledged), clock())
        except CommitRefused:
            continue
        return True
    raise StoreError(f"Other processes keep moving the job in {store}; try again.")
