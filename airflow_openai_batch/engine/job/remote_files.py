"""The files of a job at OpenAI, and deleting them once nothing of them is needed any more (``delete_files``).

A file is deleted only after the outcomes of its shard are in the store, so nothing that was paid for depends on it.
That it was deleted is stored; until then deleting it again does no harm, so that a process may die at any moment.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import msgspec

from airflow_openai_batch.engine.errors import (
    ApiError,
    CommitRefused,
    NotFound,
    StoreError,
    Unavailable,
    Unclear,
    Unfetchable,
)
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.failures import problem_of
from airflow_openai_batch.engine.job.summary import counted
from airflow_openai_batch.engine.model import Job, Shard, State

_TRIES, _PAUSE_S, _MAX_PAUSE_S = 3, 2.0, 30.0
_AT_ONCE = 50
"""Shards whose files are deleted before that is stored."""
_OUTAGE_AFTER = 4
"""Files in a row that could not be deleted, after which the others are not tried: the API is down, or the key wrong."""
_MAX_REFUSALS = 20
_MAX_LOGGED = 5


class Deletion(NamedTuple):
    """What became of the files of a job at OpenAI."""

    n_deleted: int
    """Files that are not there any more, by this or an earlier deletion."""
    left: dict[str, str]
    """The files that are still there, by id, and why."""


def file_ids_of(shard: Shard) -> tuple[str, ...]:
    """Return the ids of all files at OpenAI that are known to belong to a shard: input, output and error files."""
    ids = [*shard.upload.file_ids]
    if shard.batch is not None:
        ids += [
            file_id
            for file_id in (shard.batch.input_file_id, shard.batch.output_file_id, shard.batch.error_file_id)
            if file_id
        ]
    return tuple(dict.fromkeys(ids))


def remote_files(job: Job) -> Iterator[str]:
    """Yield the ids of all files at OpenAI that a job knows to be its own and has not deleted."""
    yield from job.dropped_files
    for shard in job.all_shards:
        if not shard.are_files_deleted:
            yield from file_ids_of(shard)


def files_of_dropped(job: Job, kept: Iterable[Shard]) -> tuple[str, ...]:
    """Return the ids of files that an epoch which follows has to remember without their shards.

    Args:
        job: The job before it.
        kept: The shards of it that the epoch remembers.
    """
    kept_ids = {shard.id for shard in kept}
    dropped = (shard for shard in job.all_shards if shard.id not in kept_ids and not shard.are_files_deleted)
    return tuple(dict.fromkeys((*job.dropped_files, *(id_ for shard in dropped for id_ in file_ids_of(shard)))))


def delete_files(engine: Engine) -> Deletion:
    """Delete the files at OpenAI of all that a job has in its store; a failure is told, and never raised.

    Call it when the results are written. Whoever calls it again tries again what was left.

    Args:
        engine: The engine, with the job's store.
    """
    try:
        snapshot = engine.store.load()
        if snapshot is None:
            return Deletion(0, {})
        with engine.observer.acting("delete_files") as act:
            deletion = _delete_all(engine, snapshot.job)
            act.tell(deleted=deletion.n_deleted, left=len(deletion.left))
    except StoreError as error:
        engine.log.warning("The files of this job at OpenAI were not all deleted, as its store failed: %s", error)
        return Deletion(0, {"?": str(error)})
    _log(engine, deletion)
    return deletion


def _delete_all(engine: Engine, job: Job) -> Deletion:
    deleter = _Deleter(engine, job)
    n_deleted = sum(len(file_ids_of(shard)) for shard in job.all_shards if shard.are_files_deleted)
    left: dict[str, str] = {}
    due: list[tuple[str, ...]] = [(file_id,) for file_id in job.dropped_files]
    for shard in job.all_shards:
        file_ids = () if shard.are_files_deleted else file_ids_of(shard)
        if file_ids and (reason := _why_needed(engine, shard)) is not None:
            left |= dict.fromkeys(file_ids, reason)
        elif file_ids:
            due.append(file_ids)
    for start in range(0, len(due), _AT_ONCE):
        file_ids = tuple(itertools.chain.from_iterable(due[start : start + _AT_ONCE]))
        reasons = deleter.delete(file_ids)
        left |= reasons
        n_deleted += len(file_ids) - len(reasons)
        _record(engine, {file_id for file_id in file_ids if file_id not in reasons})
    return Deletion(n_deleted, left)


def _why_needed(engine: Engine, shard: Shard) -> str | None:
    """Return why the files of a shard must stay; None if all that came of them is in the store."""
    if shard.state is not State.SETTLED:
        return "its batch has not ended, or was not fetched"
    if shard.outcomes is None:
        return "its batch was given up, and no outcome of it is in the store"
    return None if engine.store.exists(shard.outcomes.name) else f"the store lacks {shard.outcomes.name}"


_DELETED, _ABSENT = "deleted", "absent"


def _delete(engine: Engine, file_id: str) -> str:
    """Delete one file, boundedly often. Returns ``deleted``, ``absent``, or why it is still there."""
    is_absent = is_lost = False
    problem = ""
    for n_left in range(_TRIES - 1, -1, -1):
        try:
            engine.api.delete_file(file_id)
        except Unfetchable as error:
            return problem_of(error)
        except NotFound:
            if is_lost or is_absent:
                return _DELETED if is_lost else _ABSENT  # by the call whose answer was lost
            is_absent = True  # the first time it may be a replica that lags
        except (Unavailable, Unclear) as error:
            problem, is_lost = problem_of(error), is_lost or isinstance(error, Unclear)
            pause_s = error.retry_after_s or _PAUSE_S
            if not n_left or pause_s > _MAX_PAUSE_S:
                return problem
            engine.sleep(pause_s)
        except ApiError as error:
            return problem_of(error)
        else:
            return _DELETED
    return _ABSENT if is_absent else problem


class _Deleter:
    """Deletes files a few at a time, and no more of them while none can be."""

    def __init__(self, engine: Engine, job: Job) -> None:
        self._engine = engine
        self._job = job
        self._n_failed = 0  # in a row
        self._is_key_of_job: bool | None = None

    def delete(self, file_ids: Sequence[str]) -> dict[str, str]:
        """Delete files. Returns why those that are left are."""
        reasons: dict[str, str] = {}
        n_at_once = self._engine.parallel
        with ThreadPoolExecutor(n_at_once, "openai-batch-delete") as pool:
            for start in range(0, len(file_ids), n_at_once):
                if self._n_failed >= _OUTAGE_AFTER:
                    return reasons | dict.fromkeys(file_ids[start:], "not tried, as those before could not be deleted")
                group = file_ids[start : start + n_at_once]
                for file_id, result in zip(group, pool.map(partial(_delete, self._engine), group), strict=True):
                    if (reason := self._why_left(result)) is not None:
                        reasons[file_id] = reason
                    self._n_failed = 0 if reason is None else self._n_failed + 1
        return reasons

    def _why_left(self, result: str) -> str | None:
        if result == _DELETED or (result == _ABSENT and self._knows_job()):
            return None
        if result == _ABSENT:
            return "not found, and neither is the job's batch: the key is of another project, or no batch is shown"
        return result

    def _knows_job(self) -> bool:
        """Return whether a batch of the job is known to the key: to that of another project, every file is absent."""
        batch_ids = [shard.batch.id for shard in self._job.all_shards if shard.batch is not None]
        if self._is_key_of_job is None and batch_ids:
            try:
                self._engine.api.retrieve(batch_ids[-1])
            except ApiError:
                self._is_key_of_job = False
            else:
                self._is_key_of_job = True
        return self._is_key_of_job is not False


def _record(engine: Engine, gone: set[str]) -> None:
    """Store which files were deleted, whoever moves the job meanwhile.

    Raises:
        StoreError: The store cannot be used.
    """
    for _ in range(_MAX_REFUSALS):
        snapshot = engine.store.load()
        if snapshot is None:
            return
        job = snapshot.job
        after = msgspec.structs.replace(
            job,
            shards=tuple(_marked(shard, gone) for shard in job.shards),
            earlier=tuple(_marked(shard, gone) for shard in job.earlier),
            dropped_files=tuple(file_id for file_id in job.dropped_files if file_id not in gone),
        )
        if after == job:
            return
        try:
            engine.store.commit(snapshot.number + 1, after, engine.clock())
        except CommitRefused:
            continue
        return
    raise StoreError(f"{_MAX_REFUSALS} commits in a row were refused by {engine.store}.")


def _marked(shard: Shard, gone: set[str]) -> Shard:
    file_ids = file_ids_of(shard)
    is_gone = shard.state is State.SETTLED and bool(file_ids) and gone.issuperset(file_ids)
    return msgspec.structs.replace(shard, are_files_deleted=True) if is_gone else shard


def _log(engine: Engine, deletion: Deletion) -> None:
    if deletion.n_deleted:
        engine.log.info("delete_files: %s of this job deleted at OpenAI.", counted(deletion.n_deleted, "file"))
    if not deletion.left:
        return
    shown = "; ".join(f"{file_id}: {reason}" for file_id, reason in list(deletion.left.items())[:_MAX_LOGGED])
    engine.log.warning(
        "delete_files: %s of this job still at OpenAI (%s%s). Nothing else depends on that; clearing this task tries "
        "again, and OpenAI deletes them when they expire.",
        counted(len(deletion.left), "file"),
        shown,
        "; …" if len(deletion.left) > _MAX_LOGGED else "",
    )
