"""What a job's requests are like: told when it is planned.

They are measured while they are written. Those of a job that an earlier version stored are measured by a sample of its
request files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from airflow_openai_batch.engine.job.subset import request_lines
from airflow_openai_batch.engine.model import Job, Measure, Shard, State
from airflow_openai_batch.engine.money.estimate import estimate_of, estimate_text
from airflow_openai_batch.engine.money.prices import prices_of
from airflow_openai_batch.engine.money.token_sample import TokenSample
from airflow_openai_batch.engine.money.tokens import UNBOUNDED, body_of, bound_of_json
from airflow_openai_batch.engine.store.job_store import JobStore

_MAX_SHARDS = 8
_PLACES = 4
_WINDOW_BYTES = 32 * 1024
_WIDE_WINDOW_BYTES = 8 * 1024 * 1024


def estimate_line(job: Job) -> str:
    """Return what a job that was just planned will use and cost, as a line for the log."""
    estimate = estimate_of(job, prices_of(job.policy))
    if not estimate.n_requests:
        return "Nothing has to be sent."
    is_drafted = any(shard.state is State.DRAFTED for shard in job.shards)
    reservation = ", less what answers that are used again save" if is_drafted else ""
    return f"Estimate: {estimate_text(estimate)}{reservation}."


def measured(store: JobStore, shards: Sequence[Shard], endpoint: str) -> Measure | None:
    """Measure requests of a job that are in its store; None if there are none.

    Args:
        store: The job's store.
        shards: The shards. Tokens are counted in at most 8 of them, spread over the job; each body tells its bound.
        endpoint: The job's endpoint.
    """
    import numpy as np

    # Of shards that nothing more is asked of, the request files may have been cleaned away.
    with_requests = [s for s in shards if s.n_requests and (s.state is not State.SETTLED or store.exists(s.requests))]
    step = max(1, len(with_requests) // _MAX_SHARDS)
    sample = TokenSample(endpoint)
    n_bytes = n_tokens = 0
    for shard in with_requests[::step][:_MAX_SHARDS]:
        lines = list(_sample(store, shard))
        bodies = [body_of(line) for line in lines]
        sizes = np.array([len(body) for body in bodies], dtype=np.int64)
        n_tokens += int(sample.weigh(sizes, bodies.__getitem__, shard.model).expected.sum())
        n_bytes += sum(map(len, lines))
    measure = sample.measure(_bound(store, with_requests, endpoint))
    return msgspec.structs.replace(measure, tokens_per_byte=n_tokens / n_bytes) if measure is not None else None


def _bound(store: JobStore, shards: Sequence[Shard], endpoint: str) -> int | None:
    """Return how many tokens an answer may have at most; None if a body does not say."""
    most = 0
    for shard in shards:
        for line in request_lines(store, shard.requests):
            bound = bound_of_json(body_of(line), endpoint)
            if bound == UNBOUNDED:
                return None
            most = max(most, bound)
    return most


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
