"""Columns as Python's own values."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def python_values(column: pa.Array) -> list[Any]:
    """Return the values of a column as ``to_pylist`` does: None for null."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.unit != "ns":
        return _datetimes(column)
    values: list[Any] = column.to_pylist()
    return values


def values_of(batch: pa.RecordBatch, column: str) -> list[Any]:
    """Return a column's values. A stream of dicts may lack an optional key for thousands of rows: that is null."""
    at = batch.schema.get_field_index(column)
    return python_values(batch.column(at)) if at >= 0 else [None] * batch.num_rows


def without_nulls(value: Any) -> Any:
    """Return a nested value without the keys that are null."""
    if isinstance(value, dict):
        return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
    return [without_nulls(entry) for entry in value] if isinstance(value, list) else value


def _datetimes(column: pa.Array) -> list[Any]:
    """Return points in time by way of NumPy, which makes them in a tenth of Arrow's time."""
    import pyarrow as pa

    values: list[Any] = column.to_numpy(zero_copy_only=False).astype("datetime64[us]").astype(object).tolist()
    if int in set(map(type, values)):  # a year that Python does not have: Arrow says so
        return list(column.to_pylist())
    if column.type.tz is None:
        return values
    zone, utc = pa.lib.string_to_tzinfo(column.type.tz), datetime.UTC
    if column.type.tz == "UTC":
        return [value and value.replace(tzinfo=zone) for value in values]
    return [value and value.replace(tzinfo=utc).astimezone(zone) for value in values]
