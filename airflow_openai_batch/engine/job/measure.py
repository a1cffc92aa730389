"""Measuring a job's requests by a sample of their files: how many tokens a byte has, and how long answers may be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from airflow_openai_batch.engine.model import Measure, Shard
from airflow_openai_batch.engine.money.tokens import body_of, most_output_tokens, token_counter
from airflow_openai_batch.engine.store.job_store import JobStore

_MAX_SHARDS = 8
_PLACES = 4
_WINDOW_BYTES = 32 * 1024
_WIDE_WINDOW_BYTES = 8 * 1024 * 1024


def measured(store: JobStore, shards: Sequence[Shard], endpoint: str) -> Measure | None:
    """Measure requests of a job that are in its store; None if there are none.

    Args:
        store: The job's store.
        shards: The shards, of which at most 8 are looked at, spread over the job.
        endpoint: The job's endpoint.
    """
    with_requests = [shard for shard in shards if shard.n_requests]
    step = max(1, len(with_requests) // _MAX_SHARDS)
    lines = [line for shard in with_requests[::step][:_MAX_SHARDS] for line in _sample(store, shard)]
    if not lines:
        return None
    bodies = [body_of(line) for line in lines]
    bounds = [most_output_tokens(body, endpoint) for body in bodies]
    known = [bound for bound in bounds if bound is not None]
    count = token_counter()
    return Measure(
        tokens_per_byte=sum(map(count, bodies)) / sum(map(len, lines)),
        max_output_tokens=max(known) if len(known) == len(bounds) else None,
        n_sampled=len(lines),
    )


def _sample(store: JobStore, shard: Shard) -> Iterator[bytes]:
    """Yield whole request lines from several places of a shard's file; at least one."""
    n_found = 0
    for place in range(_PLACES):
        start = shard.n_bytes * place // _PLACES
        for line in _whole_lines(store, shard, start, _WINDOW_BYTES):
            n_found += 1
            yield line
        if shard.n_bytes <= _WINDOW_BYTES:
            return
    if not n_found:  # each line is larger than a window, as pictures are
        yield from _whole_lines(store, shard, 0, _WIDE_WINDOW_BYTES)


def _whole_lines(store: JobStore, shard: Shard, start: int, n_bytes: int) -> Iterator[bytes]:
    stop = min(shard.n_bytes, start + n_bytes)
    block = store.read_range(shard.requests, start, stop)
    for line in block.split(b"\n")[bool(start) : -1]:  # without those that are cut at either end
        yield line + b"\n"
