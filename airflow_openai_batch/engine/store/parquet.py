"""Reading Parquet a few rows at a time: as many as are small in memory, however large a row is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_MOST_ROWS = 4096

_MOST_BYTES = 4 * 1024 * 1024
"""Of the values of a record batch, before compression. Whoever works on one holds it several times."""


def read_parquet(
    file: IO[bytes], columns: Sequence[str] | None = None, *, most_rows: int = _MOST_ROWS, buffer_size: int = 0
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file as record batches, of about 4 MB at most; nothing if there are none.

    Args:
        file: The file, open for reading.
        columns: The columns to read; None for all.
        most_rows: The most rows of a record batch.
        buffer_size: How many bytes of a column are read at a time; 0 for those of a whole row group.
    """
    import pyarrow.parquet as pq

    # pre_buffer would keep the raw columns of the whole file in memory. Decoding the columns in threads takes half as
    # much processor time again, and is no faster beside the threads that read ahead and write behind.
    parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=buffer_size)
    wanted = None if columns is None else list(columns)
    for numbers, n_rows in _groups(parquet.metadata, wanted, most_rows):
        yield from parquet.iter_batches(batch_size=n_rows, row_groups=numbers, columns=wanted, use_threads=False)


def _groups(metadata: pq.FileMetaData, wanted: Sequence[str] | None, most_rows: int) -> Iterator[tuple[list[int], int]]:
    """Yield row groups that are read together, because they are small, and the most rows of their record batches."""
    numbers: list[int] = []
    n_rows = n_bytes = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        own_bytes = _n_bytes(group, wanted)
        if numbers and n_bytes + own_bytes > _MOST_BYTES:
            yield numbers, _rows_at_once(n_rows, n_bytes, most_rows)
            numbers, n_rows, n_bytes = [], 0, 0
        numbers.append(number)
        n_rows, n_bytes = n_rows + group.num_rows, n_bytes + own_bytes
    if numbers:
        yield numbers, _rows_at_once(n_rows, n_bytes, most_rows)


def _rows_at_once(n_rows: int, n_bytes: int, most_rows: int) -> int:
    return max(1, min(most_rows, _MOST_BYTES * n_rows // max(1, n_bytes)))


def _n_bytes(group: pq.RowGroupMetaData, wanted: Sequence[str] | None) -> int:
    """Return how many bytes the wanted columns of a row group have before compression."""
    return sum(
        chunk.total_uncompressed_size
        for chunk in map(group.column, range(group.num_columns))
        if wanted is None or chunk.path_in_schema in wanted or chunk.path_in_schema.partition(".")[0] in wanted
    )
