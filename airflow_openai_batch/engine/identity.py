"""Names and fingerprints: formatting and parsing side by side."""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from typing import Any

import msgspec

from airflow_openai_batch.engine.model import JobKey, Spec
from airflow_openai_batch.engine.pieces import Pieces, streams_of

NONCE_KEY = "airflow_openai_batch"
"""The metadata key that proves a batch is ours. OpenAI: 16 pairs, key up to 64 and value up to 512 characters."""

FILE_PREFIX = "airflow-openai-batch"
DIGEST_BYTES = 16

_SAFE = re.compile(r"[^A-Za-z0-9_.=-]")


canonical = msgspec.json.Encoder(order="sorted").encode
"""Encodes a value as JSON with sorted keys and no spaces, so that equal values give equal bytes."""


def digest(endpoint: str, body: bytes) -> bytes:
    """Return the billing identity of a request: 16 bytes over the endpoint and the canonical body."""
    state = _digest_of(endpoint).copy()
    state.update(body)
    return bytes(state.digest()[:DIGEST_BYTES])


def digests(endpoint: str, bodies: Pieces, n_rows: int) -> list[bytes]:
    """Return the digests of many bodies. What they begin with in common is hashed once."""
    common = _digest_of(endpoint).copy()
    n_common = sum(1 for _ in itertools.takewhile(lambda piece: isinstance(piece, bytes), bodies))
    for piece in bodies[:n_common]:
        common.update(piece)
    if n_common == len(bodies):
        return [bytes(common.digest()[:DIGEST_BYTES])] * n_rows
    found: list[bytes] = []
    copy, append = common.copy, found.append
    for row in zip(*streams_of(bodies[n_common:], n_rows), strict=True):
        state = copy()
        update = state.update
        for piece in row:
            update(piece)
        append(state.digest()[:DIGEST_BYTES])
    return found


@functools.cache
def _digest_of(endpoint: str) -> Any:
    # SHA-256 is what processors have instructions for: half the time of any other safe hash of Python's.
    return hashlib.sha256(endpoint.encode() + b"\0")


def default_custom_ids(first_row: int, row_digests: list[bytes]) -> list[str]:
    """Name requests by their rows and what they ask: ``r0000012-9f86d081``."""
    text = b"".join(row_digests).hex()
    places = range(0, len(text), 2 * DIGEST_BYTES)
    return [f"r{ordinal:07d}-{text[at : at + 8]}" for ordinal, at in enumerate(places, first_row)]


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
