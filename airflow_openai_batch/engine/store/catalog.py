"""What is in a storage: the folders of its jobs, by Dag, run and task."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import msgspec

from airflow_openai_batch.engine.errors import EngineError, JobCleaned
from airflow_openai_batch.engine.identity import job_path
from airflow_openai_batch.engine.model import JobKey
from airflow_openai_batch.engine.store.snapshots import decode_job, snapshot_number

_log = logging.getLogger(__name__)


def job_folders(root: Any, dag_id: str | None = None, run_id: str | None = None) -> Iterator[Any]:
    """Yield the folders of jobs, also of those that were removed, in the order of their names.

    Args:
        root: The storage root.
        dag_id: Only this Dag; None for all.
        run_id: Only this run; None for all.

    Raises:
        Exception: Whatever the storage raises when it cannot be read.
    """
    probe = JobKey(dag_id=dag_id or "x", run_id=run_id or "x", task_id="x")
    dag_folder, run_folder, _ = job_path(probe)
    for dag in _folders(root) if dag_id is None else [root / dag_folder]:
        for run in _folders(dag) if run_id is None else [dag / run_folder]:
            yield from _folders(run)


def _folders(path: Any) -> list[Any]:
    try:
        # What begins with a tilde is of no Dag, run or task: ledgers, and what jobs leave to the next ones.
        return sorted((child for child in path.iterdir() if child.is_dir() and child.name[:1] != "~"), key=str)
    except (FileNotFoundError, NotADirectoryError):
        return []


def key_in(folder: Any) -> JobKey | None:
    """Return whose job is in a folder: folders' names are shortened, so the newest snapshot tells.

    Raises:
        JobCleaned: It was removed.
    """
    try:
        names = [path for path in (folder / "state").iterdir() if snapshot_number(path.name) is not None]
        newest = max(names, key=lambda path: snapshot_number(path.name) or 0, default=None)
        return decode_job(newest.read_bytes()).key if newest is not None else None
    except JobCleaned:
        raise
    except (OSError, EngineError, msgspec.MsgspecError) as error:
        _log.debug("%s is no job that can be read: %s", folder, error)
        return None
