"""What would be sent now, against what was planned: request by request, by digest. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.model import Job, Shard
from airflow_openai_batch.engine.requests.arrow import BATCH_ROWS, take_rows
from airflow_openai_batch.engine.requests.bodies import Bodies
from airflow_openai_batch.engine.requests.sharding import rendered
from airflow_openai_batch.engine.requests.sources import Source
from airflow_openai_batch.engine.store.index import Index, read_index
from airflow_openai_batch.engine.store.parquet import read_parquet

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.encoding import Counts
    from airflow_openai_batch.engine.store.job_store import JobStore


class Difference(Enum):
    """How far requests are from those that were planned."""

    NONE = "none"
    IDS = "ids"
    """The same requests for the same rows, under other custom_ids."""
    REQUESTS = "requests"


def roots_of(job: Job) -> list[Shard]:
    """Return the first-round shards, in the order of their first rows."""
    return in_row_order(shard for shard in job.shards if shard.parent is None)


def in_row_order(shards: Iterable[Shard]) -> list[Shard]:
    """Return shards in the order of their first rows; those of several models overlap."""
    return sorted(shards, key=lambda shard: shard.first_row)


def planned_index(store: JobStore, root: Shard) -> Index:
    """Return the index of all rows of a first-round shard, also of those whose answer was carried over."""
    return read_index(store, root.carried.row_index if root.carried is not None else root.index)


def compare_requests(store: JobStore, job: Job, source: Source, bodies: Bodies, custom_id: str | None) -> Difference:
    """Render requests, and compare them with the job's. Ends at the first one that differs.

    Args:
        store: The job's store.
        job: The job.
        source: The rows.
        bodies: Makes requests of them.
        custom_id: The template of the custom_ids.

    Raises:
        InputError: A request cannot be made.
    """
    planned = _Planned(store, job)
    difference = Difference.NONE
    n_rows = 0
    for rows, requests in rendered(source, bodies, custom_id):
        n_rows += rows.num_rows
        ids, digests = planned.take(n_rows)
        if requests.digests != digests:
            return Difference.REQUESTS
        if requests.ids != ids:
            difference = Difference.IDS
    return difference if n_rows == job.n_rows else Difference.REQUESTS


def compare_shards(store: JobStore, job: Job, shards: tuple[Shard, ...]) -> Difference:
    """Compare shards that were written anew with the job's. Shards of another size count as other requests.

    Args:
        store: The job's store.
        job: The job.
        shards: First-round shards of the same or other rows.
    """
    roots = roots_of(job)
    if len(roots) != len(shards):
        return Difference.REQUESTS
    difference = Difference.NONE
    for old, new in zip(roots, in_row_order(shards), strict=True):
        planned, index = planned_index(store, old), read_index(store, new.index)
        if (planned.ordinals, planned.digests) != (index.ordinals, index.digests):
            return Difference.REQUESTS
        if planned.custom_ids != index.custom_ids:
            difference = Difference.IDS
    return difference


class _Planned:
    """The ids and digests of a job's requests in row order. Memory holds the indexes of shards that are not past."""

    def __init__(self, store: JobStore, job: Job) -> None:
        self._store = store
        self._waiting = roots_of(job)
        self._open: list[Iterator[tuple[int, str, bytes]]] = []
        self._next: list[tuple[int, str, bytes]] = []

    def take(self, end: int) -> tuple[list[str], list[bytes]]:
        """Return the ids and digests of the rows before the ordinal `end` that were not returned before."""
        while self._waiting and self._waiting[0].first_row < end:
            self._begin(self._waiting.pop(0))
        taken: list[tuple[int, str, bytes]] = []
        for i in range(len(self._open)):
            while self._next[i][0] < end:
                taken.append(self._next[i])
                self._next[i] = next(self._open[i], _PAST)
        left = [i for i, row in enumerate(self._next) if row is not _PAST]
        self._open, self._next = [self._open[i] for i in left], [self._next[i] for i in left]
        taken.sort()  # shards may interleave
        return [row[1] for row in taken], [row[2] for row in taken]

    def _begin(self, root: Shard) -> None:
        rows = zip(*planned_index(self._store, root), strict=True)
        self._open.append(rows)
        self._next.append(next(rows, _PAST))


_PAST = (2**63, "", b"")


class FrozenRows:
    """The rows as they were planned, from the store: for a source that has no version, or is gone.

    Args:
        store: The job's store.
        job: The job.
    """

    version = None
    is_repeatable = True

    def __init__(self, store: JobStore, job: Job) -> None:
        self._store, self._job = store, job

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in their order; memory holds a window of those of the shards that overlap there."""
        import numpy as np

        waiting = roots_of(self._job)
        begun: list[_ShardRows] = []
        for end in range(BATCH_ROWS, self._job.n_rows + BATCH_ROWS, BATCH_ROWS):
            while waiting and waiting[0].first_row < end:
                begun.append(_ShardRows(self._store, waiting.pop(0)))
            taken = [part for shard in begun for part in shard.before(end)]
            begun = [shard for shard in begun if not shard.is_past]
            ordinals = np.concatenate([at for at, _ in taken])
            if (np.diff(ordinals) > 0).all():
                yield from (rows for _, rows in taken)
                continue
            yield from _in_order(ordinals, [rows for _, rows in taken])


def _in_order(ordinals: Counts, parts: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield rows of several shards by their ordinals; as they are, so that those of two types stay in two batches.

    Args:
        ordinals: The ordinals of the rows of all parts, one after another.
        parts: The rows.
    """
    import numpy as np
    import pyarrow as pa

    if all(part.schema.equals(parts[0].schema) for part in parts):
        rows = pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
        yield take_rows(rows, np.argsort(ordinals))
        return
    ends = np.cumsum([part.num_rows for part in parts])
    for place in np.argsort(ordinals).tolist():
        number = int(np.searchsorted(ends, place, side="right"))
        yield parts[number].slice(place - (int(ends[number]) - parts[number].num_rows), 1)


class _ShardRows:
    """The input rows of a first-round shard with their ordinals, taken little by little."""

    def __init__(self, store: JobStore, root: Shard) -> None:
        import numpy as np

        self._ordinals = np.asarray(planned_index(store, root).ordinals)
        self._n_read = 0
        self._batches = _read_parts(store, root.row_parts)
        self._rest: pa.RecordBatch | None = next(self._batches, None)

    @property
    def is_past(self) -> bool:
        """Whether all rows were taken."""
        return self._rest is None

    def before(self, end: int) -> Iterator[tuple[Any, pa.RecordBatch]]:
        """Yield the ordinals and rows before an ordinal that were not taken yet."""
        import numpy as np

        while self._rest is not None:
            left = self._ordinals[self._n_read : self._n_read + self._rest.num_rows]
            n = int(np.searchsorted(left, end))
            if n:
                yield left[:n], self._rest.slice(0, n)
                self._n_read += n
            if n < self._rest.num_rows:
                self._rest = self._rest.slice(n)
                return
            self._rest = next(self._batches, None)


def _read_parts(store: JobStore, names: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    for name in names:
        with store.open(name) as file:
            yield from read_parquet(file)


def frozen_rows(store: JobStore, job: Job) -> FrozenRows | None:
    """Return the rows as they were planned; None for ready-made request lines, of which no columns are kept.

    None too if there were none: nothing was asked of them, so there may be some now.
    """
    return FrozenRows(store, job) if job.n_rows and all(root.row_parts for root in roots_of(job)) else None
