"""Merging the outcome parts of a shard into one stream: for each row a success wins, else the last outcome.

Every part is in row order, so memory holds one window of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.answers.outcome_files import part_schema, read_part
from airflow_openai_batch.engine.errors import StoreError
from airflow_openai_batch.engine.model import Job, Shard, Status
from airflow_openai_batch.engine.requests.arrow import n_bytes_of
from airflow_openai_batch.engine.store.job_store import JobStore

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.encoding import Counts


_ANSWERED = [status.value for status in (Status.INVALID, Status.REFUSED, Status.TRUNCATED)]

_MOST_ROWS = 4096

_WINDOW_BYTES = 4 * 1024 * 1024


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
        columns = [name for name in part_schema(job).names if name != "digest"]
        self.superseded: list[bytes] = []
        self._parts = [_Part(read_part(store, name, columns)) for name in names]
        # As the first are in memory, and as all are stored: later ones may be larger.
        stored = sum(map(store.size, names)) // max(1, root.n_rows)
        n_bytes = max([stored, *(part.row_bytes() for part in self._parts)])
        self.most_rows = max(1, min(_MOST_ROWS, _WINDOW_BYTES // max(1, n_bytes)))

    def take(self, ordinals: Counts) -> pa.RecordBatch:
        """Return the outcomes of the shard's next rows.

        Args:
            ordinals: The ordinals of these rows: an array of length ``most_rows`` or less, ascending.

        Raises:
            StoreError: A row has none.
        """
        import numpy as np
        import pyarrow as pa

        tables = [rows for part in self._parts if (rows := part.before(int(ordinals[-1]) + 1)).num_rows]
        table = pa.concat_tables(tables) if tables else None
        if table is None or not np.array_equal(table.column("ordinal").to_numpy(), ordinals):
            table = self._chosen(tables, ordinals)
        batches: list[pa.RecordBatch] = table.combine_chunks().to_batches()
        return batches[0]

    def _chosen(self, tables: list[pa.Table], ordinals: Counts) -> pa.Table:
        import numpy as np
        import pyarrow as pa

        chosen = np.full(len(ordinals), -1, dtype=np.int64)
        is_good = np.zeros(len(ordinals), dtype=bool)
        offset = 0
        for table in tables:
            rows = self._places(table, ordinals)
            good = table.column("status").to_numpy(zero_copy_only=False) == Status.SUCCEEDED.value
            better = good | ~is_good[rows]
            chosen[rows[better]] = offset + np.flatnonzero(better)
            is_good[rows] |= good
            offset += table.num_rows
        n_missing = int((chosen < 0).sum())
        if n_missing:
            raise StoreError(f"Shard {self._shard}: {n_missing} rows have no outcome in its store.")
        everything = pa.concat_tables(tables)
        rows = self._places(everything, ordinals)
        is_last = chosen[rows] == np.arange(len(rows))
        is_answer = np.isin(everything.column("status").to_numpy(zero_copy_only=False), _ANSWERED)
        lines = everything.column("line").filter(pa.array(is_answer & ~is_last & ~is_good[rows]))
        self.superseded += lines.drop_null().to_pylist()
        return everything.take(pa.array(chosen))

    def _places(self, table: pa.Table, ordinals: Counts) -> Counts:
        """Return the place of each outcome's row among the ordinals."""
        import numpy as np

        own = table.column("ordinal").to_numpy()
        places: Counts = np.searchsorted(ordinals, own)
        if not np.array_equal(ordinals[places], own):
            raise StoreError(f"Shard {self._shard}: its store has outcomes of rows of other shards.")
        return places


class _Part:
    """An outcome part that is read up to the row that was requested."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._rest: pa.RecordBatch | None = next(batches, None)

    def row_bytes(self) -> int:
        """Return how many bytes an outcome takes in memory, about, before any was returned."""
        return 0 if self._rest is None else n_bytes_of(self._rest) // max(1, self._rest.num_rows)

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
