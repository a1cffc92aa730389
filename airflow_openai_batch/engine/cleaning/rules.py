"""What of a job may be removed, and why not. Pure: no store, no client, no clock.

Nothing here may become wrong later: whoever removes may have been frozen for days since it asked.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from airflow_openai_batch.engine.job.planner import is_done
from airflow_openai_batch.engine.job.remote_files import remote_files
from airflow_openai_batch.engine.job.state_machine import is_quiet
from airflow_openai_batch.engine.model import (
    TOMBSTONE_FORMAT,
    UNSENT,
    Commands,
    Job,
    Shard,
    State,
    Timing,
    Tombstone,
    Usage,
)
from airflow_openai_batch.engine.store.files import StoredFile
from airflow_openai_batch.engine.store.job_store import FULL_SNAPSHOTS
from airflow_openai_batch.engine.store.snapshots import snapshot_number
from airflow_openai_batch.engine.store.temporary import KEEP_S, is_temporary

DAY_S = 24 * 3600.0

UNUSED_AFTER_S = 2 * DAY_S
"""Age of what no job names, and of requests that no round needs, from which it goes: longer than a batch runs."""

_WRITE_ONCE = re.compile(r"e(\d+)/(?:rows|index|requests|outcomes|unmatched)/")
_PROBE = re.compile(r"probe-[0-9a-f]{32}\Z")
_EPOCH = re.compile(r"e(\d+)/")


def why_unfinished(job: Job, commands: Commands, names: Collection[str], now: float, timing: Timing) -> str | None:
    """Return why nothing of a job may be removed, or None if it is finished.

    Args:
        job: The newest snapshot's job.
        commands: What a person asked for.
        names: The names of the commands that were not acknowledged.
        now: Epoch seconds.
        timing: Durations.
    """
    if any(name.startswith(("start_over-", "replay-")) for name in names):
        return "a person's command waits to be obeyed"
    if job.is_plan_only and is_unsent(job):
        return None
    if any(not is_quiet(shard) for shard in job.all_shards):
        return "it runs, or its answers are not fetched"
    if not is_done(job, commands, now, timing):
        return "it is held, or waits for more to be sent"
    return None


def is_unsent(job: Job) -> bool:
    """Return whether nothing of a job was ever sent, so that nothing of it can have been paid for."""
    return (
        all(shard.state in UNSENT or shard.state is State.SETTLED for shard in job.all_shards)
        and not any(shard.n_creates or shard.batch or shard.past_batches or shard.direct for shard in job.all_shards)
        and job.probe is None
        and job.dropped_usage == Usage()
        and job.usage == Usage()
        and not job.epoch
    )


def finished_at(job: Job) -> float:
    """Return when a finished job was last changed, in epoch seconds."""
    return max(job.committed_at, job.created_at)


def tombstone_of(job: Job, reason: Any, now: float) -> Tombstone:
    """Return what stands in place of a job that is removed.

    Args:
        job: The newest snapshot's job.
        reason: Why, as ``Tombstone.reason`` has it.
        now: Epoch seconds.
    """
    return Tombstone(
        format_version=TOMBSTONE_FORMAT,
        removed_at=now,
        reason=reason,
        key=job.key,
        owner=job.owner,
        conn_id=job.conn_id,
        epoch=job.epoch,
        compared_at=job.compared_at,
        is_unsent=is_unsent(job),
        file_ids=tuple(dict.fromkeys(remote_files(job))),
    )


def texts_of(job: Job) -> set[str]:
    """Return every text that a snapshot holds: among them the names of all files, and the ids of all files at OpenAI.

    Not those of certain fields: a field that is added later must not be forgotten here.
    """
    texts: set[str] = set()
    left: list[Any] = [msgspec.to_builtins(job)]
    while left:
        value = left.pop()
        if isinstance(value, str):
            texts.add(value)
        elif isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value
    return texts


def unneeded_requests(job: Job) -> set[str]:
    """Return the request files that no round can need any more.

    Their rows are answered, or a child asks the rest, or they are of an earlier epoch, of which nothing is asked again.
    A settled shard stays so, as do its good answers and its child; so what is true of a file once stays true.
    """
    needed = {shard.requests for shard in job.shards if not _is_answered(shard)}
    needed |= {shard.requests for shard in job.earlier if shard.state is not State.SETTLED}
    return {shard.requests for shard in job.all_shards if shard.requests} - needed


def _is_answered(shard: Shard) -> bool:
    return shard.state is State.SETTLED and (shard.child is not None or not shard.bad)


def garbage_in(files: Iterable[StoredFile], named: Collection[str], now: float, age_s: float) -> list[StoredFile]:
    """Return the write-once files of a job that its newest snapshot does not name.

    Args:
        files: What is in the job's folder.
        named: What the snapshot names.
        now: Epoch seconds.
        age_s: How old a file must be: a worker may be about to name it.
    """
    return [
        file
        for file in files
        if file.name not in named
        and (_WRITE_ONCE.match(file.name) or _PROBE.match(file.name))
        and not is_temporary(file.name.rpartition("/")[2])
        and is_older(file, now, age_s)
    ]


def leftovers_in(files: Iterable[StoredFile], now: float) -> list[StoredFile]:
    """Return what killed workers have left in a job's folder under temporary names."""
    return [file for file in files if is_temporary(file.name.rpartition("/")[2]) and is_older(file, now, KEEP_S)]


def old_snapshots_in(files: Iterable[StoredFile], newest: int, n_kept: int = FULL_SNAPSHOTS) -> list[StoredFile]:
    """Return the snapshots that still have content although many newer ones follow them.

    Args:
        files: What is in the job's folder.
        newest: The number of its newest snapshot.
        n_kept: How many of the newest keep their content.
    """
    return [
        file
        for file in files
        if (number := snapshot_number(file.name)) is not None and number <= newest - n_kept and file.n_bytes
    ]


def removed_with_job(files: Iterable[StoredFile], epoch: int) -> list[StoredFile]:
    """Return what goes of a job that was buried: all but its snapshots, and what a job in its place may have written.

    Args:
        files: What is in the job's folder.
        epoch: Its last epoch.
    """
    return [file for file in files if snapshot_number(file.name) is None and epoch_in(file) <= epoch]


def epoch_in(file: StoredFile) -> int:
    """Return the epoch that a file of a job belongs to; -1 for a file of all."""
    match = _EPOCH.match(file.name)
    return int(match[1]) if match is not None else -1


def is_older(file: StoredFile, now: float, age_s: float) -> bool:
    """Return whether a file is certainly old enough; where the storage tells no times, none is.

    Args:
        file: The file.
        now: Epoch seconds.
        age_s: How old it must be, in seconds.
    """
    return file.modified_at is not None and now - file.modified_at >= age_s
