"""Conversion of Python rows to Arrow record batches, with errors that name row and column, and of columns to values."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_openai_batch.engine.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.encoding import Counts


LINE_ID = "_request_line_custom_id"

LINE_BODY = "_request_line_body"
"""Columns of a record batch of ready-made request lines: the custom_id, and the body as JSON bytes."""

BATCH_ROWS = 4096
"""Number of rows in a record batch."""


def json_row(line: bytes, number: int) -> Any:
    """Decode a line of a JSONL file.

    Args:
        line: The line.
        number: Its number, from 0, for the error message.

    Raises:
        InputError: It is not JSON.
    """
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise InputError(f"line {number + 1} is not JSON: {error}") from None


def from_python(rows: Any, *, endpoint: str, ready: bool) -> Iterator[pa.RecordBatch]:
    """Yield rows as record batches.

    Args:
        rows: A table that exports an Arrow stream, or an iterable of dicts or of such tables.
        endpoint: The endpoint, which ready-made request lines must name.
        ready: Whether rows are ready-made request lines.

    Raises:
        InputError: A row is neither a dict nor a table, is not a valid request line, or a column mixes types.
    """
    if hasattr(rows, "__arrow_c_stream__"):
        yield from from_arrow(rows, ready)
        return
    first_row = 0
    iterator = iter(rows)
    for first in iterator:
        if hasattr(first, "__arrow_c_stream__"):  # one at a time: a table may be large
            yield from from_arrow(first, ready)
            continue
        chunk = (first, *itertools.islice(iterator, BATCH_ROWS - 1))
        yield python_batch(chunk, first_row, endpoint, ready)
        first_row += len(chunk)


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


def python_batch(rows: Sequence[Any], first_row: int, endpoint: str, ready: bool) -> pa.RecordBatch:
    """Return dicts as one record batch.

    Args:
        rows: The dicts.
        first_row: The ordinal of the first one, for error messages.
        endpoint: The endpoint, which ready-made request lines must name.
        ready: Whether the dicts are ready-made request lines.

    Raises:
        InputError: A row is not a dict or not a valid request line, or a column mixes types.
    """
    for ordinal, row in enumerate(rows, first_row):
        if not isinstance(row, Mapping):
            raise InputError(f"row {ordinal} is no dict but {type(row).__name__}.")
    return _request_lines(rows, endpoint, first_row) if ready else _record_batch(rows, first_row)


def from_arrow(rows: Any, ready: bool) -> Iterator[pa.RecordBatch]:
    """Yield a table that exports an Arrow stream as record batches.

    Raises:
        InputError: The table cannot be read, or `ready` is set: request lines do not come as a table.
    """
    import pyarrow as pa

    if ready:
        raise InputError("Ready-made request lines (body=None) are dicts or a .jsonl file, not a table.")

    try:
        reader = pa.RecordBatchReader.from_stream(rows)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise InputError(f"The table of rows cannot be read: {error}") from None
    n_rows = 0
    for batch in reader:
        n_rows += batch.num_rows
        # pandas exports an unnamed index as a column of its own.
        kept = [i for i, name in enumerate(batch.schema.names) if not name.startswith("__index_level_")]
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.select(kept).slice(start, BATCH_ROWS)
    if not n_rows:
        named = [field for field in reader.schema if not field.name.startswith("__index_level_")]
        yield from empty_batches(pa.schema(named))


def empty_batches(schema: pa.Schema) -> list[pa.RecordBatch]:
    """Return a record batch without rows, which tells what columns there would be; none if there are no columns."""
    import pyarrow as pa

    return [pa.RecordBatch.from_pylist([], schema=schema)] if len(schema) else []


def _record_batch(rows: Sequence[Mapping[str, Any]], first_row: int) -> pa.RecordBatch:
    import pyarrow as pa

    names: dict[str, None] = {}
    for i, row in enumerate(rows):
        for name in row:
            if not isinstance(name, str):
                raise InputError(f"row {first_row + i}: column names must be texts, found {name!r}.")
            names[name] = None
    if not names:
        raise InputError(f"row {first_row} has no columns.")
    return pa.record_batch({name: _column(name, [row.get(name) for row in rows], first_row) for name in names})


def _column(name: str, values: list[Any], first_row: int) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, UnicodeError):
        seen: dict[str, int] = {}
        for ordinal, value in enumerate(values, first_row):
            if value is not None:
                seen.setdefault(type(value).__name__, ordinal)
        types = ", ".join(f"{type_name} (row {ordinal})" for type_name, ordinal in seen.items())
        raise InputError(
            f"Column {name!r} cannot be stored as one type: it holds {types}. "
            "Give every row the same type, for example str()."
        ) from None


class _Line(msgspec.Struct):
    custom_id: str
    url: str
    body: dict[str, Any]
    method: str = "POST"


def _request_lines(rows: Sequence[Mapping[str, Any]], endpoint: str, first_row: int) -> pa.RecordBatch:
    import pyarrow as pa

    lines = []
    for ordinal, row in enumerate(rows, first_row):
        try:
            line = msgspec.convert(row, _Line)
        except msgspec.ValidationError as error:
            raise InputError(
                f"row {ordinal} is no request line (custom_id, method, url, body): {error}. "
                "With body=None rows must be ready-made request lines; otherwise give a body."
            ) from None
        # OpenAI's guide: every url must equal the batch's endpoint (seen: else `invalid_url` fails the whole batch).
        if line.url != endpoint or line.method != "POST":
            raise InputError(f"row {ordinal}: must be POST {endpoint}, is {line.method} {line.url}.")
        lines.append(line)
    return pa.record_batch(
        {
            LINE_ID: pa.array([line.custom_id for line in lines], pa.string()),
            LINE_BODY: pa.array([msgspec.json.encode(line.body) for line in lines], pa.binary()),
        }
    )


def python_values(column: pa.Array) -> list[Any]:
    """Return the values of a column as Python objects, None for null, as ``to_pylist`` does."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.unit != "ns":
        return _datetimes(column)
    values: list[Any] = column.to_pylist()
    return values


def values_of(batch: pa.RecordBatch, column: str) -> list[Any]:
    """Return a column's values; all None if the batch lacks the column, as of dicts that leave out an optional key."""
    index = batch.schema.get_field_index(column)
    return python_values(batch.column(index)) if index >= 0 else [None] * batch.num_rows


def without_nulls(value: Any) -> Any:
    """Return a nested value without the keys whose value is null."""
    if isinstance(value, dict):
        return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
    return [without_nulls(entry) for entry in value] if isinstance(value, list) else value


def _datetimes(column: pa.Array) -> list[Any]:
    """Convert timestamps with NumPy, which takes a tenth of Arrow's time."""
    import pyarrow as pa

    values: list[Any] = column.to_numpy(zero_copy_only=False).astype("datetime64[us]").astype(object).tolist()
    if int in set(map(type, values)):  # a year beyond Python's range: Arrow raises an error that says so
        return list(column.to_pylist())
    if column.type.tz is None:
        return values
    zone, utc = pa.lib.string_to_tzinfo(column.type.tz), datetime.UTC
    if column.type.tz == "UTC":
        return [value and value.replace(tzinfo=zone) for value in values]
    return [value and value.replace(tzinfo=utc).astimezone(zone) for value in values]
