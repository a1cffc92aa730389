"""Cleaning a storage: old jobs, files that nobody needs, in the storage and at OpenAI, and what killed workers left.

Jobs that run, are held, or cannot be read are left. Any number of cleanings, and of jobs, may run at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.cleaning.at_openai import Needed, clean_at_openai
from airflow_openai_batch.engine.cleaning.folders import (
    bury_and_remove,
    empty_snapshot,
    fence,
    newest_number,
    remove_buried,
    remove_files,
)
from airflow_openai_batch.engine.cleaning.ledgers import clean_ledgers
from airflow_openai_batch.engine.cleaning.report import (
    GARBAGE,
    JOBS,
    LEFTOVERS,
    REQUESTS,
    SNAPSHOTS,
    CleaningReport,
    name_of,
)
from airflow_openai_batch.engine.cleaning.rules import (
    UNUSED_AFTER_S,
    epoch_in,
    finished_at,
    garbage_in,
    is_older,
    leftovers_in,
    old_snapshots_in,
    removed_with_job,
    texts_of,
    tombstone_of,
    unneeded_requests,
    why_unfinished,
)
from airflow_openai_batch.engine.errors import ForeignJob, JobCleaned, StoreError, UnknownFormat
from airflow_openai_batch.engine.identity import job_hash, place_hash
from airflow_openai_batch.engine.model import TOMBSTONE_FORMAT, Job, Timing, Tombstone
from airflow_openai_batch.engine.store.catalog import job_folders
from airflow_openai_batch.engine.store.files import Files, StoredFile
from airflow_openai_batch.engine.store.job_store import JobStore, Snapshot
from airflow_openai_batch.engine.store.snapshots import decode_job, snapshot_name
from airflow_openai_batch.engine.store.temporary import remove_leftovers

_NO_OWNER = (
    "Files at OpenAI are left: this deployment has no name to tell its files by. Set [api] base_url or [openai_batch] "
    "deployment."
)


def clean(
    root: Any,
    owner: str,
    now: float,
    *,
    older_than_s: float,
    api_of: Callable[[str], Api] | None,
    conn_ids: tuple[str, ...] = (),
    is_dry_run: bool = False,
    timing: Timing | None = None,
    unused_after_s: float = UNUSED_AFTER_S,
) -> CleaningReport:
    """Clean a storage.

    Args:
        root: The storage root.
        owner: The deployment: only its jobs and files are cleaned.
        now: Epoch seconds.
        older_than_s: How long ago a finished job was last changed that is removed as a whole, in seconds.
        api_of: Returns the client of a connection; None to leave the files at OpenAI.
        conn_ids: Connections to look at besides those of the jobs in the storage.
        is_dry_run: Whether only to tell what would be removed.
        timing: Durations.
        unused_after_s: Age of files from which nobody can be about to use them, in seconds.

    Returns:
        What was removed, and what was left and why.

    Raises:
        Exception: Whatever a storage raises that cannot be read at all.
    """
    cleaning = _Cleaning(root, owner, now, older_than_s, timing or Timing(), unused_after_s, is_dry_run=is_dry_run)
    for folder in job_folders(root):
        cleaning.visit(folder)
    report = cleaning.report
    if api_of is not None and owner:
        clean_at_openai(api_of, sorted({*cleaning.conn_ids, *conn_ids} - {""}), cleaning.needed, now, report)
    elif api_of is not None:
        report.problems.append(_NO_OWNER)
    try:
        clean_ledgers(root, cleaning.removed, cleaning.max_ages_s, now, report)
    except StoreError as error:
        report.problems.append(f"Ledgers: {error}")
    report.count(LEFTOVERS, *remove_leftovers(is_dry_run=is_dry_run))
    return report


class _Cleaning:
    """One cleaning, folder by folder; what it learns of all jobs decides about files at OpenAI and ledgers."""

    def __init__(
        self,
        root: Any,
        owner: str,
        now: float,
        older_than_s: float,
        timing: Timing,
        unused_after_s: float,
        *,
        is_dry_run: bool,
    ) -> None:
        self._root, self._owner, self._now, self._timing = root, owner, now, timing
        self._older_than_s, self._unused_after_s, self._is_dry_run = older_than_s, unused_after_s, is_dry_run
        self.report = CleaningReport(is_dry_run=is_dry_run)
        self.needed = Needed(place=place_hash(owner, str(root)))
        self.conn_ids: set[str] = set()
        self.removed: dict[str, int] = {}
        self.max_ages_s: dict[str, float] = {}

    def visit(self, folder: Any) -> None:
        """Clean the folder of a job. What cannot be read is left, and told."""
        files = Files(folder)
        path = "/".join(folder.parts[-3:])
        try:
            content = files.walk()
            leftovers = leftovers_in(content, self._now)
            self._remove(files, LEFTOVERS, leftovers)
            content = [file for file in content if file not in leftovers]
            number = newest_number(content)
            if number is None:
                self._unfinished_plan(files, content, path)
                return
            self._job(files, content, number, path)
        except (UnknownFormat, ForeignJob, StoreError) as error:
            self.needed.is_whole = self.needed.is_whole and isinstance(error, ForeignJob)
            self.report.keep(_REASONS.get(type(error), "it cannot be read"), f"{path} ({error})")

    def _job(self, files: Files, content: list[StoredFile], number: int, path: str) -> None:
        try:
            store = JobStore(self._root, decode_job(files.read(snapshot_name(number))).key, self._owner)
            snapshot = store.load()
        except JobCleaned as cleaned:
            self._buried(files, content, number, cleaned.tombstone, path)
            return
        if snapshot is None:
            return  # another process removes its Dag's folder
        job = snapshot.job
        if job.owner and not self._owner:
            raise ForeignJob(f"it belongs to the deployment {job.owner!r}, and this one has no name")
        self.conn_ids.add(job.conn_id)
        self._note_ledger(job)
        why = why_unfinished(
            job, store.standing_commands(job), store.commands(job.acknowledged), self._now, self._timing
        )
        if why is not None:
            self._keep(job, why)
        elif self._now - finished_at(job) >= self._older_than_s:
            self._old_job(files, content, snapshot, path)
        else:
            self.needed.ids |= texts_of(job)
            self._finished_job(store, content, snapshot)

    def _keep(self, job: Job, why: str) -> None:
        self.needed.ids |= texts_of(job)
        self.needed.running.add(job_hash(job.key, job.owner))
        self.report.keep(why, name_of(job.key))

    def _note_ledger(self, job: Job) -> None:
        name = job.policy.reuse
        if name is not None:
            self.max_ages_s[name] = max(self.max_ages_s.get(name, 0.0), job.policy.reuse_max_age_s)

    def _old_job(self, files: Files, content: list[StoredFile], snapshot: Snapshot, path: str) -> None:
        job = snapshot.job
        tombstone = tombstone_of(job, "cleaned", self._now)
        if not self._is_dry_run and not bury_and_remove(files, snapshot.number + 1, tombstone, content):
            self._keep(job, "it was moved meanwhile")
            return
        self._note_removed(tombstone, path)
        self.report.jobs.append(name_of(job.key))
        self.report.count_files(JOBS, removed_with_job(content, job.epoch))

    def _buried(self, files: Files, content: list[StoredFile], number: int, tombstone: Tombstone, path: str) -> None:
        """Finish what a cleaning that was killed has begun; and remove what a job in its place left unfinished."""
        if tombstone.owner and tombstone.owner != self._owner:
            return
        self.needed.removed |= {*tombstone.file_ids}
        self.conn_ids.add(tombstone.conn_id)
        later = [file for file in content if epoch_in(file) > tombstone.epoch]
        if later and all(is_older(file, self._now, self._unused_after_s) for file in later):
            epoch = max(map(epoch_in, later))
            tombstone, number = _with_epoch(tombstone, epoch), number + 1
            self.report.count_files(GARBAGE, later)
            if not self._is_dry_run and not bury_and_remove(files, number, tombstone, content):
                return
        left = [*removed_with_job(content, tombstone.epoch), *old_snapshots_in(content, number, n_kept=1)]
        left = [file for file in left if file not in later]
        if not left:
            return
        if not self._is_dry_run:
            remove_buried(files, number, tombstone, content)
        self._note_removed(tombstone, path)
        self.report.count_files(JOBS, left)

    def _note_removed(self, tombstone: Tombstone, path: str) -> None:
        self.removed[path] = tombstone.epoch
        self.needed.removed |= {*tombstone.file_ids}

    def _finished_job(self, store: JobStore, content: list[StoredFile], snapshot: Snapshot) -> None:
        """Remove what no round can need, and what no snapshot names, of a job that stays."""
        job, now, age_s = snapshot.job, self._now, self._unused_after_s
        if now - finished_at(job) >= age_s:
            unneeded = unneeded_requests(job)
            self._remove(store, REQUESTS, [file for file in content if file.name in unneeded])
        garbage = garbage_in(content, texts_of(job), now, age_s)
        if garbage and (self._is_dry_run or fence(store, snapshot) is not None):
            self._remove(store, GARBAGE, garbage)
        old = old_snapshots_in(content, snapshot.number)
        self.report.count_files(SNAPSHOTS, old)
        for file in () if self._is_dry_run else old:
            empty_snapshot(store, file.name)

    def _unfinished_plan(self, files: Files, content: list[StoredFile], path: str) -> None:
        """Remove the files of a job that was killed before its first snapshot: nothing of it was sent."""
        ours = garbage_in(content, (), self._now, self._unused_after_s)
        if not content or len(ours) < len(content):
            return  # a submit may be at work; or this is no folder of a job
        epoch = max(map(epoch_in, ours))
        tombstone = Tombstone(
            format_version=TOMBSTONE_FORMAT,
            removed_at=self._now,
            reason="abandoned",
            owner=self._owner,
            epoch=epoch,
            is_unsent=True,
        )
        if self._is_dry_run or bury_and_remove(files, 0, tombstone, content):
            self.report.count_files(GARBAGE, ours)

    def _remove(self, files: Files, what: str, which: list[StoredFile]) -> None:
        if not self._is_dry_run:
            remove_files(files, which)
        self.report.count_files(what, which)


_REASONS: dict[type[Exception], str] = {
    UnknownFormat: "a newer version wrote it",
    ForeignJob: "it is not of this deployment",
}


def _with_epoch(tombstone: Tombstone, epoch: int) -> Tombstone:
    from msgspec.structs import replace

    return replace(tombstone, epoch=epoch)
