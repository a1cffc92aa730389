"""Arrow tables and pandas' data frames as record batches whose columns are of types that prompts and results can show.

A type without a text of its own becomes what a person sees of it: pandas' periods and intervals, UUIDs. What cannot be
shown or stored is refused by name, before anything is paid for.
"""

from __future__ import annotations

import datetime
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import (
    BATCH_ROWS,
    LINE_BODY,
    empty_batch,
    in_batches,
    is_json,
    json_type,
)
from airflow_openai_batch.engine.requests.column_types import check_names
from airflow_openai_batch.engine.requests.exact_types import cast_exactly, is_text
from airflow_openai_batch.engine.requests.python_rows import column_of, n_bytes_of_value, python_batch
from airflow_openai_batch.engine.requests.values import contains

if TYPE_CHECKING:
    import pyarrow as pa

    _Change = Callable[[pa.Array], pa.Array]


def from_python(rows: Any, *, endpoint: str, ready: bool) -> Iterator[pa.RecordBatch]:
    """Yield rows as record batches.

    Args:
        rows: A table that exports an Arrow stream, or an iterable of dicts or of such tables.
        endpoint: The endpoint, which ready-made request lines must name.
        ready: Whether rows are ready-made request lines.

    Raises:
        InputError: A row is neither a dict nor a table, is not a valid request line, or no column type holds a value.
    """
    if hasattr(rows, "__arrow_c_stream__"):
        yield from from_arrow(rows, ready)
        return
    first_row = 0
    types: dict[str, pa.DataType] = {}
    iterator = iter(rows)
    for first in iterator:
        if hasattr(first, "__arrow_c_stream__"):  # one at a time: a table may be large
            for batch in from_arrow(first, ready, first_row):
                yield batch
                first_row += batch.num_rows
            continue
        for chunk in in_batches(itertools.chain([first], iterator), n_bytes_of_value):
            made = python_batch(chunk, first_row, endpoint, ready, types)
            yield from shown([_typed_as_before(made, types)], first_row)
            first_row += len(chunk)


def _typed_as_before(batch: pa.RecordBatch, types: dict[str, pa.DataType]) -> pa.RecordBatch:
    """Return rows in which a column without any value has the type that it had before: each new schema is a new file.

    Args:
        batch: The rows.
        types: The types of earlier columns, to which those of these rows are added.
    """
    import pyarrow as pa

    columns = []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if not pa.types.is_null(field.type) or field.name not in types:
            types[field.name] = field.type
        columns.append(_nulls(batch.num_rows, types[field.name]) if pa.types.is_null(field.type) else column)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _nulls(n: int, arrow_type: pa.DataType) -> pa.Array:
    import pyarrow as pa

    if isinstance(arrow_type, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(arrow_type, pa.nulls(n, arrow_type.storage_type))
    return pa.nulls(n, arrow_type)


def from_arrow(rows: Any, ready: bool, first_row: int = 0) -> Iterator[pa.RecordBatch]:
    """Yield a table that exports an Arrow stream as record batches.

    Args:
        rows: The table.
        ready: Whether rows are ready-made request lines, which do not come as a table.
        first_row: The ordinal of the first row, for error messages.

    Raises:
        InputError: The table cannot be read, or `ready` is set.
    """
    if ready:
        raise InputError("Ready-made request lines (body=None) are dicts or a .jsonl file, not a table.")
    yield from shown(_batches(rows, first_row), first_row)


def _batches(rows: Any, first_row: int) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(rows, pandas.DataFrame):
        whole = _frame_batch(rows, first_row)
        yield from (whole.slice(start, BATCH_ROWS) for start in range(0, max(1, whole.num_rows), BATCH_ROWS))
        return
    try:
        reader = pa.RecordBatchReader.from_stream(rows)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise InputError(f"The table of rows cannot be read: {error}") from None
    # A table made of a data frame has the unnamed index as a column of its own.
    kept = [i for i, name in enumerate(reader.schema.names) if not name.startswith("__index_level_")]
    n_rows = 0
    for batch in reader:
        n_rows += batch.num_rows
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.select(kept).slice(start, BATCH_ROWS)
    if not n_rows and kept:
        yield empty_batch(pa.schema([reader.schema.field(i) for i in kept]))


# -- pandas ------------------------------------------------------------------------------------------------------------


def _frame_batch(frame: Any, first_row: int) -> pa.RecordBatch:
    """Return a data frame as one record batch; levels of its index that have a name are columns, after the others."""
    import pyarrow as pa

    columns = [(str(name), frame.iloc[:, i]) for i, name in enumerate(frame.columns)]
    for i, name in enumerate(frame.index.names):
        if name is not None:
            columns.append((str(name), frame.index.get_level_values(i).to_series()))
    check_names([name for name, _ in columns])
    arrays = [_series_column(name, series, first_row) for name, series in columns]
    return pa.RecordBatch.from_arrays(arrays, names=[name for name, _ in columns])


def _series_column(name: str, series: Any, first_row: int) -> pa.Array:
    import pandas as pd
    import pyarrow as pa

    dtype = series.dtype
    if isinstance(dtype, pd.SparseDtype):
        return _series_column(name, series.sparse.to_dense(), first_row)
    if isinstance(dtype, pd.CategoricalDtype) and not isinstance(dtype.categories.dtype, pd.StringDtype):
        return column_of(name, series.tolist(), first_row)
    if dtype.kind == "O" and not isinstance(dtype, pd.api.extensions.ExtensionDtype):
        return column_of(name, series.tolist(), first_row)
    if isinstance(dtype, pd.PeriodDtype | pd.IntervalDtype):
        return column_of(name, series.tolist(), first_row)
    try:
        column = pa.array(series, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError):
        raise InputError(
            f"Column {name!r} of the data frame has the type {dtype}, which cannot be stored. Convert it, for example "
            "with astype(str)."
        ) from None
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


# -- types -------------------------------------------------------------------------------------------------------------


def shown(batches: Iterable[pa.RecordBatch], first_row: int = 0) -> Iterator[pa.RecordBatch]:
    """Yield record batches with each column as a type that prompts and results can show.

    Args:
        batches: The rows as they were read.
        first_row: The ordinal of the first row, for error messages.

    Raises:
        InputError: A column has a type that cannot be shown or stored, or a text is not valid.
    """
    import pyarrow as pa

    schema: pa.Schema | None = None
    changes: list[_Change | None] = []
    for batch in batches:
        if schema is None or not batch.schema.equals(schema, check_metadata=True):
            schema = batch.schema
            check_names(schema.names)
            changes = [_change_of(field) for field in schema]
        _check_texts(batch, first_row)
        if any(changes):
            columns = [
                _changed(column, change, field.name, first_row) if change else column
                for column, change, field in zip(batch.columns, changes, schema, strict=True)
            ]
            batch = pa.RecordBatch.from_arrays(columns, names=schema.names)
        yield batch
        first_row += batch.num_rows


def _changed(column: pa.Array, change: _Change, name: str, first_row: int) -> pa.Array:
    import pyarrow as pa

    try:
        return change(column)
    except (pa.ArrowException, TypeError, ValueError, msgspec.MsgspecError):
        pass
    for i in range(len(column)):  # slow, once: find the row to name
        try:
            change(column.slice(i, 1))
        except (pa.ArrowException, TypeError, ValueError, msgspec.MsgspecError) as error:
            raise InputError(
                f"row {first_row + i}, column {name!r}: cannot be read as {column.type}: {error}"
            ) from None
    raise AssertionError("a value failed once and not twice")


def _check_texts(batch: pa.RecordBatch, first_row: int) -> None:
    """Reject texts that are not UTF-8, which reading a file does not check. Costs 0.2 s for a gigabyte."""
    import pyarrow as pa

    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name == LINE_BODY or not contains(column.type, is_text):
            continue
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            row = next((i for i in range(len(column)) if not _is_valid(column.slice(i, 1))), 0)
            raise InputError(
                f"row {first_row + row}, column {name!r}: holds bytes that are no text (not valid UTF-8). Write the "
                "file anew with its texts decoded, or give the column as bytes."
            ) from None


def _is_valid(column: pa.Array) -> bool:
    try:
        column.to_pylist()
    except UnicodeDecodeError:
        return False
    return True


def _change_of(field: pa.Field) -> _Change | None:
    """Return the function that makes a column showable; None for a column that is.

    Raises:
        InputError: There is none for the type.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    arrow_type, types = field.type, pa.types
    extension = _extension_of(field)
    if extension is not None:
        return _extension_change(field.name, *extension)
    if types.is_dictionary(arrow_type) and not is_text(arrow_type.value_type):
        inner = _change_of(pa.field(field.name, arrow_type.value_type))
        return lambda column: inner(column.dictionary_decode()) if inner else column.dictionary_decode()
    if types.is_run_end_encoded(arrow_type):
        return pc.run_end_decode  # type: ignore[no-any-return] # pyarrow has no types
    if contains(arrow_type, lambda t: _is_unknown(t) or (t != arrow_type and isinstance(t, pa.BaseExtensionType))):
        raise _unknown_type(field.name, arrow_type)
    if contains(arrow_type, lambda t: types.is_struct(t) and not t.num_fields):
        return lambda column: cast_exactly(column, json_type())  # Parquet has no struct without fields
    return None


def _is_unknown(arrow_type: pa.DataType) -> bool:
    import pyarrow as pa

    types = pa.types
    is_encoded = types.is_run_end_encoded(arrow_type)  # Parquet does not store it inside of others
    return bool(types.is_union(arrow_type) or types.is_interval(arrow_type) or is_encoded)


def _unknown_type(name: str, shown_type: Any) -> InputError:
    return InputError(
        f"Column {name!r} has the type {shown_type}, which has no form for prompts and results. Leave it out, or "
        "convert it first, for example to text."
    )


def _extension_of(field: pa.Field) -> tuple[str, bytes, pa.DataType] | None:
    """Return name, metadata and storage type of an extension type, whether or not this process knows it."""
    import pyarrow as pa

    if isinstance(field.type, pa.BaseExtensionType):
        is_of_pandas = isinstance(field.type, pa.ExtensionType)  # others say nothing of themselves
        metadata = field.type.__arrow_ext_serialize__() if is_of_pandas else b""
        return field.type.extension_name, metadata, field.type.storage_type
    metadata = field.metadata or {}
    if b"ARROW:extension:name" not in metadata:
        return None
    name = metadata[b"ARROW:extension:name"].decode(errors="replace")
    return name, metadata.get(b"ARROW:extension:metadata", b""), field.type


def _extension_change(name: str, extension: str, metadata: bytes, storage_type: pa.DataType) -> _Change | None:
    import pyarrow as pa

    if extension == "arrow.json":
        return _json_column
    if extension == "arrow.bool8":
        return lambda column: _storage(column).cast(pa.bool_())
    if extension == "arrow.uuid":
        return lambda column: pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.large_string())
    if extension == "pandas.period":
        frequency = json.loads(metadata)["freq"]
        return lambda column: _periods(_storage(column), frequency)
    if extension == "pandas.interval":
        closed = json.loads(metadata)["closed"]
        return lambda column: _intervals(_storage(column), closed)
    raise _unknown_type(name, f"{extension} ({storage_type})")


def _storage(column: pa.Array) -> pa.Array:
    return getattr(column, "storage", column)


def _json_column(column: pa.Array) -> pa.Array:
    import pyarrow as pa

    texts = _storage(column).cast(pa.large_string())
    for text in texts.to_pylist():
        if text is not None:
            msgspec.json.decode(text)
    return texts.cast(json_type()) if not is_json(column.type) else pa.ExtensionArray.from_storage(json_type(), texts)


def _periods(ordinals: pa.Array, frequency: str) -> pa.Array:
    import pandas as pd
    import pyarrow as pa

    periods = [None if n is None else str(pd.Period(ordinal=n, freq=frequency)) for n in ordinals.to_pylist()]
    return pa.array(periods, pa.large_string())


def _intervals(bounds: pa.Array, closed: Any) -> pa.Array:
    import pandas as pd
    import pyarrow as pa

    def text(bound: dict[str, Any] | None) -> str | None:
        ends = None if bound is None else (bound["left"], bound["right"])
        if ends is None or pd.isna(ends[0]):
            return None
        if isinstance(ends[0], datetime.datetime):
            ends = pd.Timestamp(ends[0]), pd.Timestamp(ends[1])
        elif isinstance(ends[0], datetime.timedelta):
            ends = pd.Timedelta(ends[0]), pd.Timedelta(ends[1])
        left, right = ends
        return str(pd.Interval(left, right, closed=closed))

    return pa.array(map(text, bounds.to_pylist()), pa.large_string())
