"""Finding jobs in the job store: one by its task, or another task of its run; or all."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_openai_batch.cli.answer import NoJob
from airflow_openai_batch.engine.errors import JobCleaned
from airflow_openai_batch.engine.model import Job, JobKey
from airflow_openai_batch.engine.store.catalog import job_folders, key_in
from airflow_openai_batch.engine.store.job_store import JobStore

if TYPE_CHECKING:
    from airflow_openai_batch.engine.job.context import Engine

_log = logging.getLogger(__name__)

_MAX_OTHERS = 20


class Found(NamedTuple):
    """A job, and where it is."""

    store: JobStore
    number: int
    """Of its newest snapshot."""
    job: Job
    root: Any
    note: str = ""
    """Says so if the job is another task's than was asked for."""


def find(root: Any, key: JobKey) -> Found:
    """Return the job of a task; or the only job of its run, if the task submitted none, as a waiting task.

    Args:
        root: The storage root.
        key: The task.

    Raises:
        NoJob: There is none, or there are several.
        JobCleaned: It was removed.
        EngineError: The store cannot be read.
    """
    store = JobStore(root, key)
    snapshot = store.load()
    if snapshot is not None:
        return Found(store, snapshot.number, snapshot.job, root)
    cleaned: list[JobCleaned] = []
    others = list(keys_in(root, key.dag_id, key.run_id, cleaned))
    if len(cleaned) == 1 and not others:
        raise cleaned[0]
    # Of a mapped task's jobs, the one with the same index is meant.
    same = [other for other in others if other.map_index == key.map_index] or others
    if len(same) == 1:
        store = JobStore(root, same[0])
        snapshot = store.load()
        if snapshot is not None:
            note = f"{_task(key)} submitted no job; this is the one of {_task(same[0])}."
            return Found(store, snapshot.number, snapshot.job, root, note)
    names = ", ".join(_task(other) for other in others[:_MAX_OTHERS])
    hint = f" Jobs of this run: {names}." if others else " `list` names the jobs that there are."
    raise NoJob(f"There is no job in {store}.{hint}")


def keys_in(
    root: Any, dag_id: str | None = None, run_id: str | None = None, cleaned: list[JobCleaned] | None = None
) -> Iterator[JobKey]:
    """Yield whose jobs are in a storage, by Dag, run and task, without those that were removed.

    Args:
        root: The storage root.
        dag_id: Only this Dag; None for all.
        run_id: Only this run; None for all.
        cleaned: A list to which those are added that were removed.

    Raises:
        EngineError: The storage cannot be read.
    """
    for folder in job_folders(root, dag_id, run_id):
        try:
            key = key_in(folder)
        except JobCleaned as error:
            if cleaned is not None:
                cleaned.append(error)
            continue
        if key is not None:
            yield key


def _task(key: JobKey) -> str:
    return key.task_id if key.map_index < 0 else f"{key.task_id} (map index {key.map_index})"


def engine_of(found: Found, conn_id: str | None) -> Engine:
    """Return the engine of a job, which needs its connection.

    Args:
        found: The job.
        conn_id: The connection; by default the one that the job was submitted with.

    Raises:
        Exception: Whatever keeps us from OpenAI: a missing connection, a database, a network.
    """
    from airflow_openai_batch.hooks import OpenAIBatchHook
    from airflow_openai_batch.task.job import JobHandle, engine_for

    key = found.job.key
    handle = JobHandle(
        dag_id=key.dag_id,
        run_id=key.run_id,
        task_id=key.task_id,
        map_index=key.map_index,
        conn_id=conn_id or found.job.conn_id or OpenAIBatchHook.default_conn_name,
        storage=str(found.root),
    )
    return engine_for(handle, _log)
