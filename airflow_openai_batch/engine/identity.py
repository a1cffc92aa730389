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
    return _folder(key.dag_id), _folder(key.run_id), _folder(key.task_id) + mapped


def _folder(name: str) -> str:
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
    job_hash = hashlib.blake2b(canonical(key) + owner.encode(), digest_size=8).hexdigest()
    return f"{job_hash}/{epoch}/{shard}/{unique}" + (f"/{content}" if content else "")


def parse_nonce(text: str) -> Nonce | None:
    """Return what a nonce says, also one in upper case, as some gateways write it; None for any other text."""
    parts = text.lower().split("/")
    if len(parts) not in (4, 5) or not parts[1].isdecimal():
        return None
    return Nonce(parts[0], int(parts[1]), parts[2], parts[3], parts[4] if len(parts) == 5 else "")


def file_name(nonce_or_shard: str) -> str:
    """Return the name of an uploaded input file (seen: HTTP 400 for a name that does not end in ``.jsonl``)."""
    return f"{FILE_PREFIX}-{_SAFE.sub('-', nonce_or_shard)}.jsonl"
