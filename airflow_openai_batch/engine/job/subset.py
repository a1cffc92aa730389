"""A shard of some of another shard's requests: their lines are copied, so neither source nor template is needed."""

from __future__ import annotations

from collections.abc import Iterator

from airflow_openai_batch.engine.model import Shard, State
from airflow_openai_batch.engine.money.token_sample import BYTES_PER_TOKEN
from airflow_openai_batch.engine.store.index import Index, write_index
from airflow_openai_batch.engine.store.job_store import JobStore

_READ_BYTES = 256 * 1024


def write_subset(store: JobStore, whole: Shard, name: str, index: Index, lines: Iterator[tuple[int, bytes]]) -> Shard:
    """Write some requests of a shard as another one.

    Args:
        store: The job's store.
        whole: The shard.
        name: The id of the other one.
        index: The shard's index.
        lines: The requests, with their places in the index, ascending.

    Raises:
        StoreError: The store cannot be read or written.
    """
    requests = store.new_name("requests", name)
    kept: list[int] = []
    n_bytes = 0
    with store.writing(requests) as file:
        for i, line in lines:
            kept.append(i)
            n_bytes += file.write(line)
    ids = [index.custom_ids[i] for i in kept]
    digests = [index.digests[i] for i in kept]
    return Shard(
        id=name,
        state=State.PLANNED,
        n_rows=len(kept),
        n_requests=len(kept),
        n_bytes=n_bytes,
        # By the same measure as the whole, so that what fitted into a budget still fits.
        n_tokens=-(-whole.n_tokens * n_bytes // whole.n_bytes) if whole.n_bytes else n_bytes // BYTES_PER_TOKEN,
        max_output_tokens=whole.max_output_tokens,
        requests=requests,
        index=write_index(store, name, [index.ordinals[i] for i in kept], ids, digests),
    )


def request_lines(store: JobStore, name: str) -> Iterator[bytes]:
    """Yield the lines of a request file."""
    with store.open(name) as file:
        rest = b""
        while block := file.read(_READ_BYTES):
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                yield line + b"\n"
