"""Record batches of rows: how JSON columns are marked, rows taken by place, and bytes counted."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.encoding import Counts


T = TypeVar("T")

LINE_ID = "_request_line_custom_id"

LINE_BODY = "_request_line_body"
"""Columns of a record batch of ready-made request lines: the custom_id, and the body as JSON bytes."""

BATCH_ROWS = 4096
"""The most rows of a record batch."""

BATCH_BYTES = 8 * 1024 * 1024
"""About how large a record batch is at most: rows may be whole documents."""


def in_batches(rows: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Divide rows into lists for one record batch each: of 4,096 rows, or fewer where rows are large.

    Args:
        rows: The rows.
        size: Returns about how many bytes a row takes.
    """
    batch: list[T] = []
    n_bytes = 0
    for row in rows:
        batch.append(row)
        n_bytes += size(row)
        if len(batch) >= BATCH_ROWS or n_bytes >= BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


def json_type() -> pa.DataType:
    """Return the type of a JSON column: each value is the text of a JSON value of any shape, marked as JSON.

    It is Arrow's canonical extension type ``arrow.json``.
    """
    import pyarrow as pa

    return pa.json_(pa.large_string())


def is_json(arrow_type: pa.DataType) -> bool:
    """Return whether a type is that of a JSON column."""
    import pyarrow as pa

    return isinstance(arrow_type, pa.JsonType)


def json_column(texts: Iterable[str | None]) -> pa.Array:
    """Return JSON texts, or None for null, as a JSON column."""
    import pyarrow as pa

    return pa.ExtensionArray.from_storage(json_type(), pa.array(list(texts), pa.large_string()))


def normal_form(name: str) -> str:
    """Return the form of a column name by which it is compared: an accent may be one character with its letter or two.

    Editors and file systems write either (Unicode's NFC and NFD), and a person cannot tell them apart.
    """
    return unicodedata.normalize("NFC", name)


def column_index(schema: pa.Schema, name: str) -> int:
    """Return the place of a column, by its very name or else by its normal form; -1 if there is none."""
    index: int = schema.get_field_index(name)
    if index >= 0 or name.isascii():
        return index
    return next((i for i, other in enumerate(schema.names) if normal_form(other) == normal_form(name)), -1)


def with_columns(batch: pa.RecordBatch, values: Mapping[str, str | None]) -> pa.RecordBatch:
    """Return rows with more columns, of texts that are the same in each row; a column that is there stays as it is."""
    import pyarrow as pa

    for name, value in values.items():
        if name not in batch.schema.names:
            texts = pa.repeat(pa.scalar(value, pa.large_string()), batch.num_rows)
            batch = batch.append_column(name, texts)
    return batch


def empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    """Return a record batch without rows, which tells what columns there would be."""
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def take_rows(batch: pa.RecordBatch, places: Sequence[int] | Counts) -> pa.RecordBatch:
    """Return some rows of a record batch.

    Args:
        batch: The rows.
        places: The places of those to return, counted from the first row, in the order to return them in.
    """
    import pyarrow as pa

    indices = pa.array(places, pa.int64())
    columns = [_taken(column, indices) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _taken(column: pa.Array, indices: pa.Array) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        return without_views(column).take(indices).cast(column.type)
    try:
        return column.take(indices)
    except pa.ArrowNotImplementedError:  # views inside of structs
        return pa.concat_arrays([column.slice(i, 1) for i in indices.to_pylist()])


def n_bytes_of(rows: pa.RecordBatch) -> int:
    """Return about how many bytes rows take, without what their buffers hold of others.

    Args:
        rows: The rows.
    """
    import pyarrow as pa

    try:
        return int(rows.nbytes)
    except pa.ArrowTypeError:  # versions up to 21 cannot count those of views
        return sum(map(_n_bytes, rows.columns))


def _n_bytes(column: pa.Array) -> int:
    import pyarrow as pa

    try:
        return int(without_views(column).nbytes)
    except pa.ArrowTypeError:  # views inside of structs
        return int(column.get_total_buffer_size())


def without_views(column: pa.Array) -> pa.Array:
    """Return a column of views as strings or bytes: Arrow cannot reorder views, and stores all they are part of."""
    import pyarrow as pa

    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    return column.cast(pa.large_binary()) if pa.types.is_binary_view(column.type) else column
