"""Putting result rows into input order that come shard by shard.

A shard has the rows of one model, so where models alternate, the rows of a shard lie between those of others. They
are kept on this machine's disk, divided by their ordinals into blocks small enough to be put in order in memory. So
however many shards there are, one is read at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from airflow_openai_batch.engine.errors import StoreError
from airflow_openai_batch.engine.requests.arrow import n_bytes_of, take_rows, without_views

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.encoding import Counts


_BLOCK_BYTES = 8 * 1024 * 1024

_MOST_ROWS = 16_384


class RowSorter:
    """Takes the rows from an ordinal to another in any order, and returns them in order.

    Args:
        schema: The schema of the rows.
        start: The ordinal of the first row.
        stop: The one after the ordinal of the last row.
        block_rows: Number of rows that are put in order at a time; None to choose it by the size of the first rows.
    """

    def __init__(self, schema: pa.Schema, start: int, stop: int, block_rows: int | None = None) -> None:
        self._schema, self._start, self._stop, self._block_rows = schema, start, stop, block_rows
        self._chunks: dict[int, list[tuple[int, int]]] = {}
        """For each block where its rows are in the file: offset and number of bytes."""

    def __enter__(self) -> Self:
        self._file = tempfile.TemporaryFile(prefix="openai-batch-")
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, ordinals: Counts, rows: pa.RecordBatch) -> None:
        """Add rows.

        Args:
            ordinals: Their ordinals: an array, ascending.
            rows: As many rows.
        """
        import numpy as np
        import pyarrow as pa

        if self._block_rows is None:
            self._block_rows = max(1, min(_MOST_ROWS, _BLOCK_BYTES * rows.num_rows // max(1, n_bytes_of(rows))))
        columns = [pa.array(ordinals), *map(without_views, rows.columns)]
        # Numbers instead of names, because an input column may have any name.
        stored = pa.RecordBatch.from_arrays(columns, names=list(map(str, range(len(columns)))))
        numbers = (ordinals - self._start) // self._block_rows
        starts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
        for start, stop in zip(starts, [*starts[1:], len(numbers)], strict=True):
            self._chunks.setdefault(int(numbers[start]), []).append(self._stored(stored.slice(start, stop - start)))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order.

        Raises:
            StoreError: A row was not added, or twice.
        """
        block_rows = self._block_rows or 1
        for number, start in enumerate(range(self._start, self._stop, block_rows)):
            stop = min(start + block_rows, self._stop)
            chunks = self._chunks.pop(number, [])
            if sum(n_bytes for _, n_bytes in chunks) > 4 * _BLOCK_BYTES and stop - start > 1:
                yield from self._divided(chunks, start, stop)
            else:
                yield self._sorted(chunks, start, stop)

    def _divided(self, chunks: list[tuple[int, int]], start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a block with much larger rows than the first ones, in smaller blocks."""
        with RowSorter(self._schema, start, stop, max(1, (stop - start) // 8)) as sorter:
            for chunk in self._read(chunks):
                sorter.add(chunk.column(0).to_numpy(), self._rows(chunk))
            yield from sorter.batches()

    def _sorted(self, chunks: list[tuple[int, int]], start: int, stop: int) -> pa.RecordBatch:
        import numpy as np
        import pyarrow as pa

        read = list(self._read(chunks))
        ordinals = np.concatenate([chunk.column(0).to_numpy() for chunk in read]) if read else np.empty(0)
        order = np.argsort(ordinals)
        if not np.array_equal(ordinals[order], np.arange(start, stop)):
            raise StoreError(f"Of the rows {start} to {stop - 1}, some are in no shard of the store, or in several.")
        return self._rows(take_rows(pa.Table.from_batches(read).combine_chunks().to_batches()[0], order))

    def _stored(self, rows: pa.RecordBatch) -> tuple[int, int]:
        """Append rows to the file. Returns offset and number of bytes."""
        import pyarrow as pa

        offset = self._file.tell()
        with pa.ipc.new_stream(self._file, rows.schema) as writer:
            writer.write_batch(rows)
        return offset, self._file.tell() - offset

    def _read(self, chunks: list[tuple[int, int]]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for offset, n_bytes in chunks:
            self._file.seek(offset)
            yield pa.ipc.open_stream(self._file.read(n_bytes)).read_next_batch()

    def _rows(self, stored: pa.RecordBatch) -> pa.RecordBatch:
        import pyarrow as pa

        columns = stored.columns[1:]
        arrays = [column.cast(field.type) for column, field in zip(columns, self._schema, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)
