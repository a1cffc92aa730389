"""Snapshots as bytes: how they are named and read, and the tombstone that stands in place of one that was removed."""

from __future__ import annotations

import datetime
import re
import uuid
from typing import Any

import msgspec

from airflow_openai_batch.engine.errors import JobCleaned, StoreError, UnknownFormat
from airflow_openai_batch.engine.model import FORMAT_VERSION, TOMBSTONE_FORMAT, Job, Tombstone
from airflow_openai_batch.engine.store.files import ADVICE, Files
from airflow_openai_batch.engine.store.migrations import upgraded

_NAME = re.compile(r"(?:state/)?(\d{6,})\.json\Z")


def snapshot_name(number: int) -> str:
    """Return the name of a snapshot, relative to the job."""
    return f"state/{number:06d}.json"


def snapshot_number(name: str) -> int | None:
    """Return the number of a snapshot by its name, with its folder or without; None for another file."""
    match = _NAME.match(name)
    return int(match[1]) if match is not None else None


def bury(files: Files, number: int, tombstone: Tombstone) -> bool:
    """Put a tombstone where a job's next snapshot would be, so that no process can go on with the job.

    Args:
        files: The job's folder.
        number: One more than the number of its newest snapshot; 0 if there is none.
        tombstone: The tombstone.

    Returns:
        Whether it is there. False: another process has moved the job meanwhile, and nothing was changed.

    Raises:
        StoreError: The storage cannot be written.
    """
    unique = msgspec.structs.replace(tombstone, writer=uuid.uuid4().hex)
    return files.create(snapshot_name(number), msgspec.json.format(msgspec.json.encode(unique), indent=1))


def decode_job(data: bytes) -> Job:
    """Read a snapshot of this version's format or an older one; see ``decode_snapshot``."""
    return decode_snapshot(data)[1]


def decode_snapshot(data: bytes) -> tuple[int, Job]:
    """Read a snapshot. Returns the version of the format it was stored in, and the job.

    Raises:
        JobCleaned: It is a tombstone.
        UnknownFormat: It has a newer format, or one that nobody knows.
        StoreError: It is no snapshot.
    """
    try:
        version = _decode_version(data).format_version
    except msgspec.MsgspecError as error:
        raise StoreError(f"A snapshot of the job cannot be read: {error}. {ADVICE}") from error
    if version == TOMBSTONE_FORMAT:
        raise _cleaned(_decode_tombstone(data))
    if not 1 <= version <= FORMAT_VERSION:
        raise UnknownFormat(
            f"The job was written in state format {version}, this version reads up to {FORMAT_VERSION}. Nothing is "
            "lost: finish it with the version of airflow-openai-batch that began it, or a newer one."
        )
    try:
        return version, _decode_job(data) if version == FORMAT_VERSION else _convert_job(upgraded(data))
    except (msgspec.ValidationError, KeyError, TypeError) as error:
        raise UnknownFormat(
            f"The job was written by another version of airflow-openai-batch: {error}. Nothing is lost: finish it with "
            "the version that began it."
        ) from error


class _Versioned(msgspec.Struct):
    format_version: int


# Made here and not at the first use: msgspec 0.22 crashes the process if two threads decode a type for the first time.
_decode_version = msgspec.json.Decoder(_Versioned).decode
_decode_tombstone = msgspec.json.Decoder(Tombstone).decode
_decode_job = msgspec.json.Decoder(Job).decode


def _convert_job(state: dict[str, Any]) -> Job:
    return msgspec.convert(state, Job)


def _cleaned(tombstone: Tombstone) -> JobCleaned:
    key, removed_at = tombstone.key, datetime.datetime.fromtimestamp(tombstone.removed_at, datetime.UTC)
    day = f"{removed_at:%Y-%m-%d %H:%M} UTC"
    name = "The job" if key is None else f"The job of {key.dag_id} {key.run_id} {key.task_id}"
    if key is not None and key.map_index >= 0:
        name += f" (map index {key.map_index})"
    why = {
        "cleaned": f"was cleaned on {day}, as it was finished and old",
        "forgotten": f"was removed on {day}, as a person asked to forget it",
        "abandoned": f"was removed on {day}, as its plan was never finished",
    }[tombstone.reason]
    paid = "" if tombstone.is_unsent else ", which is paid for again"
    return JobCleaned(
        f"{name} {why}. Its rows and answers are no longer in the job store, and nothing is asked again by itself. "
        f"Clear the task that submitted it to ask all its rows anew{paid}.",
        tombstone,
    )
