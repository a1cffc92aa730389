"""Names and fingerprints: formatting and parsing side by side."""

from __future__ import annotations

import functools
import hashlib
import re
from typing import Any

from airflow_openai_batch.engine.encoding import canonical
from airflow_openai_batch.engine.model import JobKey, Spec

NONCE_KEY = "airflow_openai_batch"
"""The metadata key that proves a batch is ours. OpenAI: 16 pairs, key up to 64 and value up to 512 characters."""

FILE_PREFIX = "airflow-openai-batch"

DIGEST_BYTES = 16

_SAFE = re.compile(r"[^A-Za-z0-9_.=-]")


def digest(endpoint: str, body: bytes) -> bytes:
    """Return the billing identity of a request: 16 bytes over the endpoint and the canonical body."""
    state = endpoint_hash(endpoint).copy()
    state.update(body)
    return bytes(state.digest()[:DIGEST_BYTES])


@functools.cache
def endpoint_hash(endpoint: str) -> Any:
    """Return the state of a hash that has read the endpoint; copy it to go on."""
    # SHA-256 is what processors have instructions for: half the time of any other safe hash of Python's.
    return hashlib.sha256(endpoint.encode() + b"\0")


def spec_digest(spec: Spec) -> str:
    """Return the fingerprint of what is asked of every row."""
    return hashlib.blake2b(canonical(spec), digest_size=DIGEST_BYTES).hexdigest()


def job_path(key: JobKey) -> tuple[str, str, str]:
    """Return the folders of a job below the storage root: readable, safe on every store, and one per job."""
    # ``~m`` cannot be the start of a hash suffix, which is hexadecimal.
    mapped = "" if key.map_index < 0 else f"~m{key.map_index}"
    return _folder(key.dag_id), _folder(key.run_id), _folder(key.task_id) + mapped


def _folder(name: str) -> str:
    safe = _SAFE.sub("_", name)
    if safe == name and name not in ("", ".", ".."):
        return name
    # A short hash keeps two names apart that differ only in replaced characters.
    return f"{safe.strip('.')[:120]}~{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


def shard_id(epoch: int, number: int) -> str:
    """Name a first-round shard: ``0-00003`` is the fourth of epoch 0, and ``0-00003.1`` will be its child."""
    return f"{epoch}-{number:05d}"


def child_id(parent: str) -> str:
    """Name the child of a shard."""
    root, _, shard_round = parent.partition(".")
    return f"{root}.{int(shard_round or 0) + 1}"


def nonce(key: JobKey, epoch: int, shard: str, unique: str) -> str:
    """Return the metadata value that marks one intended batch, unique over all jobs and tries."""
    who = hashlib.blake2b(canonical(key), digest_size=8).hexdigest()
    return f"{who}/{epoch}/{shard}/{unique}"


def parse_nonce(text: str) -> tuple[str, int, str, str] | None:
    """Return job hash, epoch, shard id and unique part of a nonce, or None for any other text."""
    parts = text.split("/")
    if len(parts) != 4 or not parts[1].isdecimal():
        return None
    return parts[0], int(parts[1]), parts[2], parts[3]


def file_name(nonce_or_shard: str) -> str:
    """Name an uploaded input file. OpenAI refuses a name that does not end in ``.jsonl``."""
    return f"{FILE_PREFIX}-{_SAFE.sub('-', nonce_or_shard)}.jsonl"
