"""Merging the outcome parts of a shard into one stream: for each row a success wins, else the last outcome.

Every part is in row order, so memory holds one window of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.answers.outcome_files import part_schema, read_part
from airflow_openai_batch.engine.errors import StoreError
from airflow_openai_batch.engine.model import Job, Shard, Status
from airflow_openai_batch.engine.store.job_store import JobStore

if TYPE_CHECKING:
    import pyarrow as pa


_ANSWERED = [status.value for status in (Status.INVALID, Status.REFUSED, Status.TRUNCATED)]

_MOST_ROWS = 4096

_WINDOW_BYTES = 4 * 1024 * 1024  # as stored; strings become three times as large in memory


class OutcomeStream:
    """The outcomes of a first-round shard, from all its rounds and from the part that was carried over.

    Args:
        store: The job's store.
        job: The job.
        root: The shard.

    Attributes:
        most_rows: Number of rows that may be taken at a time, by their size.
        superseded: Raw answers of earlier rounds to rows that were taken and have no good one: paid for, so kept.

    Raises:
        StoreError: A part cannot be read.
    """

    def __init__(self, store: JobStore, job: Job, root: Shard) -> None:
        self._shard = root.id
        names = list(_parts(job, root))
        n_bytes = sum(map(store.size, names)) // max(1, root.n_rows)
        self.most_rows = max(1, min(_MOST_ROWS, _WINDOW_BYTES // max(1, n_bytes)))
        columns = [name for name in part_schema(job).names if name != "digest"]
        self.superseded: list[bytes] = []
        self._parts = [_Part(read_part(store, name, columns)) for name in names]
        self._next = root.first_row

    def take(self, n_rows: int) -> pa.RecordBatch:
        """Return the outcomes of the next rows, at most ``most_rows``.

        Raises:
            StoreError: A row has none.
        """
        import pyarrow as pa

        first, self._next = self._next, self._next + n_rows
        tables = [rows for part in self._parts if (rows := part.before(self._next)).num_rows]
        table = pa.concat_tables(tables) if tables else None
        if table is None or len(tables) > 1 or table.num_rows != n_rows:
            table = self._chosen(tables, first, n_rows)
        batches: list[pa.RecordBatch] = table.combine_chunks().to_batches()
        return batches[0]

    def _chosen(self, tables: list[pa.Table], first: int, n_rows: int) -> pa.Table:
        import numpy as np
        import pyarrow as pa

        chosen = np.full(n_rows, -1, dtype=np.int64)
        is_good = np.zeros(n_rows, dtype=bool)
        offset = 0
        for table in tables:
            rows = table.column("ordinal").to_numpy() - first
            good = table.column("status").to_numpy(zero_copy_only=False) == Status.SUCCEEDED.value
            better = good | ~is_good[rows]
            chosen[rows[better]] = offset + np.flatnonzero(better)
            is_good[rows] |= good
            offset += table.num_rows
        n_missing = int((chosen < 0).sum())
        if n_missing:
            raise StoreError(f"Shard {self._shard}: {n_missing} rows have no outcome in its store.")
        everything = pa.concat_tables(tables)
        rows = everything.column("ordinal").to_numpy() - first
        is_last = chosen[rows] == np.arange(len(rows))
        is_answer = np.isin(everything.column("status").to_numpy(zero_copy_only=False), _ANSWERED)
        lines = everything.column("line").filter(pa.array(is_answer & ~is_last & ~is_good[rows]))
        self.superseded += lines.drop_null().to_pylist()
        return everything.take(pa.array(chosen))


class _Part:
    """An outcome part that is read up to the row that was requested."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._rest: pa.RecordBatch | None = next(batches, None)

    def before(self, ordinal: int) -> pa.Table:
        """Return the rows before an ordinal that were not returned before."""
        import numpy as np
        import pyarrow as pa

        batches: list[Any] = []
        while self._rest is not None:
            n = int(np.searchsorted(self._rest.column("ordinal").to_numpy(), ordinal))
            batches.append(self._rest.slice(0, n))
            if n < self._rest.num_rows:
                self._rest = self._rest.slice(n)
                break
            self._rest = next(self._batches, None)
        return pa.Table.from_batches(batches) if batches else pa.table({})


def _parts(job: Job, root: Shard) -> Iterator[str]:
    """Yield the names of a shard's outcome parts, oldest first."""
    by_id = {shard.id: shard for shard in job.shards}
    if root.carried is not None:
        yield root.carried.name
    shard: Shard | None = root
    while shard is not None:
        if shard.outcomes is not None:
            yield shard.outcomes.name
        shard = by_id.get(shard.child) if shard.child is not None else None
