"""Reading Parquet a few rows at a time: as many as are small in memory, however large a row is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

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

    # pre_buffer would keep the raw columns of the whole file in memory.
    parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=buffer_size)
    metadata, wanted = parquet.metadata, None if columns is None else list(columns)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = map(group.column, range(group.num_columns))
        n_bytes = sum(
            chunk.total_uncompressed_size
            for chunk in chunks
            if wanted is None or chunk.path_in_schema in wanted or chunk.path_in_schema.partition(".")[0] in wanted
        )
        n_rows = max(1, min(most_rows, _MOST_BYTES * group.num_rows // max(1, n_bytes)))
        yield from parquet.iter_batches(batch_size=n_rows, row_groups=[number], columns=wanted)
