"""Removing what is in the folder of a job, in an order in which a kill at any step leaves what the next cleaning ends.

Before anything goes that a process could still want to name, the job's next snapshot is made: a tombstone if all goes,
else the same state once more. So whoever was frozen, for however long, finds its number taken and loads again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from airflow_openai_batch.engine.cleaning.rules import old_snapshots_in, removed_with_job
from airflow_openai_batch.engine.errors import CommitRefused
from airflow_openai_batch.engine.model import Tombstone
from airflow_openai_batch.engine.store.files import Files, StoredFile
from airflow_openai_batch.engine.store.job_store import JobStore, Snapshot
from airflow_openai_batch.engine.store.snapshots import bury, snapshot_number


def remove_files(files: Files, which: Iterable[StoredFile]) -> None:
    """Remove files of a job.

    Raises:
        StoreError: The storage refuses; what is left is seen by the next cleaning.
    """
    for file in which:
        files.remove(file.name)


def fence(store: JobStore, snapshot: Snapshot) -> Snapshot | None:
    """Make the same state the next snapshot, so that no process that began before can commit what it has written.

    Args:
        store: The job's store.
        snapshot: The newest snapshot. Its time stays, as nothing has happened to the job.

    Returns:
        The new snapshot; None if another process has moved the job meanwhile.
    """
    try:
        return store.commit(snapshot.number + 1, snapshot.job, snapshot.job.committed_at)
    except CommitRefused:
        return None


def bury_and_remove(files: Files, number: int, tombstone: Tombstone, content: Iterable[StoredFile]) -> bool:
    """Remove a job, and leave a tombstone.

    Args:
        files: The job's folder.
        number: The number that the tombstone shall have among the snapshots.
        tombstone: The tombstone.
        content: What is in the folder.

    Returns:
        Whether it is gone; False if another process has moved the job meanwhile.
    """
    if not bury(files, number, tombstone):
        return False
    remove_buried(files, number, tombstone, content)
    return True


def remove_buried(files: Files, number: int, tombstone: Tombstone, content: Iterable[StoredFile]) -> None:
    """Remove what is left of a job that was buried; its snapshots are emptied and keep their names.

    Args:
        files: The job's folder.
        number: The number of the tombstone.
        tombstone: The tombstone.
        content: What is in the folder.
    """
    content = list(content)
    for snapshot in old_snapshots_in(content, number, n_kept=1):
        empty_snapshot(files, snapshot.name)
    gone = removed_with_job(content, tombstone.epoch)
    remove_files(files, gone)
    for folder in sorted({file.name.partition("/")[0] for file in gone if "/" in file.name}):
        files.remove_empty_folders(folder)


def empty_snapshot(files: Files, name: str) -> None:
    """Take away the content of an old snapshot. A bucket that lets nothing be overwritten keeps it."""
    with contextlib.suppress(Exception):
        files.empty(name)


def newest_number(content: Iterable[StoredFile]) -> int | None:
    """Return the number of the newest snapshot in a folder; None if there is none."""
    return max((n for file in content if (n := snapshot_number(file.name)) is not None), default=None)
