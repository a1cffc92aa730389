"""Identifiers: digests of requests and specs, ids of shards, nonces of batches, folders and file names."""

from __future__ import annotations

import functools
import hashlib
import re
from typing import Any, NamedTuple

from airflow_openai_batch.engine.encoding import canonical
from airflow_openai_batch.engine.model import JobKey, Spec

NONCE_KEY = "airflow_openai_batch"
"""The metadata key that holds a batch's nonce.

OpenAI's API reference: at most 16 pairs of strings; a key has up to 64 characters, a value up to 512.
"""

FILE_PREFIX = "airflow-openai-batch"

DIGEST_BYTES = 16

_SAFE = re.compile(r"[^A-Za-z0-9_.=-]")


def digest(endpoint: str, body: bytes) -> bytes:
    """Return the digest that identifies a request: 16 bytes over the endpoint and the canonical body."""
    state = endpoint_hash(endpoint).copy()
    state.update(body)
    return bytes(state.digest()[:DIGEST_BYTES])


@functools.cache
def endpoint_hash(endpoint: str) -> Any:
    """Return a hash object that was fed the endpoint; copy it before feeding it more."""
    # Processors have instructions for SHA-256: it takes half the time of any other secure hash of Python.
    return hashlib.sha256(endpoint.encode() + b"\0")


def spec_digest(spec: Spec) -> str:
    """Return the digest of a job's spec, in hexadecimal."""
    return hashlib.blake2b(canonical(spec), digest_size=DIGEST_BYTES).hexdigest()


def job_path(key: JobKey) -> tuple[str, str, str]:
    """Return the folders of a job below the storage root: readable, valid in every store, and unique to the job."""
    # A hash suffix is hexadecimal, so it cannot begin with ``~m``.
    mapped = "" if key.map_index < 0 else f"~m{key.map_index}"
    return folder_name(key.dag_id), folder_name(key.run_id), folder_name(key.task_id) + mapped


def folder_name(name: str) -> str:
    """Return a name as that of a folder: readable, and valid in every store."""
    safe = _SAFE.sub("_", name)
    if safe == name and name not in ("", ".", ".."):
        return name
    # A short hash keeps two names apart that differ only in replaced characters.
    return f"{safe.strip('.')[:120]}~{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


def shard_id(epoch: int, number: int) -> str:
    """Return the id of a first-round shard: ``0-00003`` is the fourth of epoch 0; its child is ``0-00003.1``."""
    return f"{epoch}-{number:05d}"


def child_id(parent: str) -> str:
    """Return the id of a shard's child, which sends its unanswered rows in the next round."""
    root, _, shard_round = parent.partition(".")
    return f"{root}.{int(shard_round or 0) + 1}"


class Nonce(NamedTuple):
    """What the metadata value of a batch says: whose it is."""

    job: str
    """A hash of the job's key."""
    epoch: int
    shard: str
    """The name of the shard's index file, which is unique over all builds of a job."""
    unique: str
    content: str
    """A digest of the shard's requests; empty in batches of older versions."""


def nonce(key: JobKey, epoch: int, shard: str, unique: str, content: str = "", owner: str = "") -> str:
    """Return the metadata value that identifies one intended batch, unique over all jobs and tries.

    Args:
        key: The job.
        epoch: The job's epoch.
        shard: What names the shard.
        unique: A text that is unique among the intended batches of the shard.
        content: A digest of the shard's requests.
        owner: The deployment that the job belongs to: two can have the same Dags, runs and tasks.
    """
    return f"{job_hash(key, owner)}/{epoch}/{shard}/{unique}" + (f"/{content}" if content else "")


def parse_nonce(text: str) -> Nonce | None:
    """Return what a nonce says, also one in upper case, as some gateways write it; None for any other text."""
    parts = text.lower().split("/")
    if len(parts) not in (4, 5) or not parts[1].isdecimal():
        return None
    return Nonce(parts[0], int(parts[1]), parts[2], parts[3], parts[4] if len(parts) == 5 else "")


class UploadName(NamedTuple):
    """What the name of an uploaded input file says: whose it is."""

    place: str
    """A hash of the deployment and its storage."""
    job: str
    """A hash of the job's key and the deployment, as in a nonce."""


def upload_name(key: JobKey, owner: str, storage: str, shard: str, unique: str) -> str:
    """Return the name of an input file (seen: HTTP 400 for a name that does not end in ``.jsonl``).

    OpenAI keeps no metadata of a file, so its name is all that tells whose it is once no job names its id.

    Args:
        key: The job.
        owner: The deployment that the job belongs to.
        storage: The root of the storage that the job is in: whoever cleans another one must leave the file.
        shard: The id of the shard whose requests the file holds.
        unique: A text that is unique among the uploads of the shard.
    """
    name = f"{place_hash(owner, storage)}-{job_hash(key, owner)}-{shard}-{unique}"
    return f"{FILE_PREFIX}-{_SAFE.sub('-', name)}.jsonl"


def parse_upload_name(name: str) -> UploadName | None:
    """Return whose file it is, by its name; None for a file that is not ours, or was named by an older version."""
    match = _UPLOAD.fullmatch(name)
    return UploadName(match[1], match[2]) if match is not None else None


def place_hash(owner: str, storage: str) -> str:
    """Return a hash of a deployment and the root of its storage."""
    return hashlib.blake2b(canonical([owner, storage.rstrip("/")]), digest_size=6).hexdigest()


def job_hash(key: JobKey, owner: str) -> str:
    """Return a hash of a job's key and the deployment that it belongs to: two can have the same Dags and runs."""
    return hashlib.blake2b(canonical(key) + owner.encode(), digest_size=8).hexdigest()


_UPLOAD = re.compile(rf"{FILE_PREFIX}-([0-9a-f]{{12}})-([0-9a-f]{{16}})-[A-Za-z0-9_.=-]+\.jsonl")
