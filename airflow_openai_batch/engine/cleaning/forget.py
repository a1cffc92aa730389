"""Forgetting a job as a person asks: at OpenAI, in its store, and in the ledgers. A tombstone with its name stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from airflow_openai_batch.engine.answers.outcome_files import read_part
from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.cleaning.at_openai import delete_all
from airflow_openai_batch.engine.cleaning.folders import bury_and_remove, remove_buried
from airflow_openai_batch.engine.cleaning.report import name_of
from airflow_openai_batch.engine.cleaning.rules import removed_with_job, tombstone_of, why_unfinished
from airflow_openai_batch.engine.errors import EngineError, JobCleaned
from airflow_openai_batch.engine.identity import job_path
from airflow_openai_batch.engine.job.history import forget_run
from airflow_openai_batch.engine.ledger.compaction import drop_entries
from airflow_openai_batch.engine.ledger.segments import Ledger, ledger_folders
from airflow_openai_batch.engine.model import Job, JobKey, Timing, Tombstone
from airflow_openai_batch.engine.store.catalog import job_folders, key_in
from airflow_openai_batch.engine.store.job_store import JobStore


@dataclass
class Forgotten:
    """What became of a job that was to be forgotten.

    Args:
        name: The job, as on the command line.
        refusal: Why nothing was removed; None if it was, or would be.
        n_files: Files in its store that were removed.
        n_bytes: Their bytes.
        n_at_openai: Its files at OpenAI that are deleted, or were before.
        n_ledger_entries: Its entries in ledgers that were removed.
        reused_by: The jobs that have copies of its answers, which stay.
        failures: What could not be removed. The same command tries again.
    """

    name: str
    refusal: str | None = None
    n_files: int = 0
    n_bytes: int = 0
    n_at_openai: int = 0
    n_ledger_entries: int = 0
    reused_by: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def forget(
    root: Any,
    key: JobKey,
    owner: str,
    now: float,
    *,
    api_of: Callable[[str], Api],
    is_dry_run: bool = False,
    timing: Timing | None = None,
) -> Forgotten:
    """Remove a job, or finish its removal: a second call repeats what failed in the first.

    Args:
        root: The storage root.
        key: The job.
        owner: The deployment.
        now: Epoch seconds.
        api_of: Returns the client of a connection.
        is_dry_run: Whether only to tell what would be removed.
        timing: Durations.

    Returns:
        What was removed, and what could not be.

    Raises:
        ForeignJob: It is another deployment's.
        StoreError: The store cannot be read or written.
    """
    store, report = JobStore(root, key, owner), Forgotten(name_of(key))
    try:
        snapshot = store.load()
    except JobCleaned as cleaned:
        number, tombstone, is_buried = cleaned.number, cleaned.tombstone, True
    else:
        if snapshot is None:
            report.refusal = f"There is no job in {store}."
            return report
        job = snapshot.job
        report.refusal = _refusal(store, job, now, timing or Timing())
        if report.refusal is not None:
            return report
        number, tombstone, is_buried = snapshot.number + 1, tombstone_of(job, "forgotten", now), False
    report.reused_by = list(_reusing(root, "/".join(job_path(key))))
    content = store.walk()
    gone = removed_with_job(content, tombstone.epoch)
    report.n_files, report.n_bytes = len(gone), sum(file.n_bytes for file in gone)
    report.n_at_openai = len(tombstone.file_ids)
    if is_dry_run:
        return report
    if is_buried:
        remove_buried(store, number, tombstone, content)
    elif not bury_and_remove(store, number, tombstone, content):
        report.refusal = "It was moved by another process at this moment. Ask again."
        return report
    forget_run(root, key)
    _forget_at_openai(tombstone, api_of, report)
    _forget_in_ledgers(root, key, tombstone.epoch, now, report)
    return report


def _refusal(store: JobStore, job: Job, now: float, timing: Timing) -> str | None:
    why = why_unfinished(job, store.standing_commands(job), store.commands(job.acknowledged), now, timing)
    if why is None:
        return None
    return (
        f"It is not finished: {why}. Nothing was removed. Cancel it first (`python -m airflow_openai_batch cancel "
        f"{name_of(job.key)}`), clear the waiting task, and forget it when `show` says that it has ended."
    )


def _forget_at_openai(tombstone: Tombstone, api_of: Callable[[str], Api], report: Forgotten) -> None:
    if not tombstone.file_ids:
        return
    try:
        failures = delete_all(api_of(tombstone.conn_id), tombstone.file_ids)
    except Exception as error:  # a missing connection, a database, a network
        failures = dict.fromkeys(tombstone.file_ids, str(error) or type(error).__name__)
    report.n_at_openai = len(tombstone.file_ids) - len(failures)
    report.failures += [f"{file_id} at OpenAI: {why}" for file_id, why in failures.items()]


def _forget_in_ledgers(root: Any, key: JobKey, epoch: int, now: float, report: Forgotten) -> None:
    job = "/".join(job_path(key))
    for folder in ledger_folders(root):
        n = drop_entries(Ledger(root, folder, folder), {job: epoch}, now)
        if n is None:
            report.failures.append(
                f"digests of its requests in the ledger {folder}, which another process compacts now: ask again in ten "
                "minutes. They point to nothing"
            )
        report.n_ledger_entries += n or 0


def _reusing(root: Any, job_folder: str) -> Iterator[str]:
    """Yield the jobs that have answers of a job, which they carried over."""
    for folder in job_folders(root):
        try:
            key = key_in(folder)
            if key is None or "/".join(job_path(key)) == job_folder:
                continue
            store = JobStore(root, key)
            snapshot = store.load()
            if snapshot is not None and snapshot.job.n_reused and _has_answers_of(store, snapshot.job, job_folder):
                yield name_of(key)
        except EngineError:  # one that cannot be read, or was removed too
            continue


def _has_answers_of(store: JobStore, job: Job, job_folder: str) -> bool:
    parts = [shard.carried.name for shard in job.shards if shard.carried is not None and shard.n_reused]
    return any(
        job_folder in batch.column("reused_from").to_pylist()
        for part in parts
        for batch in read_part(store, part, ["reused_from"])
    )
