"""Values of columns as Python objects, as texts and as JSON: what a person sees in a table is what is sent.

Arrow's own conversion loses some: the nanoseconds of a time of day, the short form of a 32-bit float, the keys of a
map, the meaning of a JSON column. `python_values` does not.
"""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_openai_batch.engine.requests.arrow import column_index, is_json

if TYPE_CHECKING:
    import pyarrow as pa


def python_values(column: pa.Array) -> list[Any]:
    """Return the values of a column as Python objects: None for null, a dict for a map, the value of a JSON text.

    Raises:
        ValueError: A map has a key twice.
        OverflowError: Python has no such date or time.
    """
    import pyarrow as pa

    arrow_type = column.type
    if is_json(arrow_type):
        return [text if text is None else msgspec.json.decode(text) for text in column.storage.to_pylist()]
    if pa.types.is_timestamp(arrow_type) and arrow_type.unit != "ns":
        return _datetimes(column)
    if pa.types.is_float32(arrow_type) or pa.types.is_float16(arrow_type):
        return _short_floats(column)
    if pa.types.is_time64(arrow_type) and arrow_type.unit == "ns":
        return _times(column)
    values: list[Any] = column.to_pylist()
    if contains(arrow_type, pa.types.is_map):
        return [_with_dicts(value, arrow_type) for value in values]
    return values


def values_of(batch: pa.RecordBatch, column: str) -> list[Any]:
    """Return a column's values; all None if the batch lacks the column, as of dicts that leave out an optional key."""
    index = column_index(batch.schema, column)
    return python_values(batch.column(index)) if index >= 0 else [None] * batch.num_rows


def without_nulls(value: Any) -> Any:
    """Return a nested value without the keys whose value is null."""
    if isinstance(value, dict):
        return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
    return [without_nulls(entry) for entry in value] if isinstance(value, list) else value


def has_typed_fields(arrow_type: pa.DataType) -> bool:
    """Return whether a type holds structs of Arrow, in which an absent key is a null, and not JSON."""
    import pyarrow as pa

    return bool(pa.types.is_nested(arrow_type))


def contains(arrow_type: pa.DataType, predicate: Callable[[pa.DataType], bool]) -> bool:
    """Return whether a predicate holds for a type or for one that it is made of."""
    return predicate(arrow_type) or any(contains(child, predicate) for child in children(arrow_type))


def children(arrow_type: pa.DataType) -> list[pa.DataType]:
    """Return the types that a nested type is made of; none for any other."""
    import pyarrow as pa

    if pa.types.is_dictionary(arrow_type):
        return [arrow_type.value_type]
    return [arrow_type.field(i).type for i in range(arrow_type.num_fields)]


def _with_dicts(value: Any, arrow_type: pa.DataType) -> Any:
    """Return a nested value with its maps, which Arrow gives as lists of pairs, as dicts."""
    import pyarrow as pa

    if value is None or not contains(arrow_type, pa.types.is_map):
        return value
    if pa.types.is_map(arrow_type):
        pairs = {text_of(key): _with_dicts(entry, arrow_type.item_type) for key, entry in value}
        if len(pairs) < len(value):
            raise ValueError("a map has the same key twice")
        return pairs
    if pa.types.is_struct(arrow_type):
        return {name: _with_dicts(entry, arrow_type.field(name).type) for name, entry in value.items()}
    return [_with_dicts(entry, arrow_type.value_type) for entry in value]


def _short_floats(column: pa.Array) -> list[Any]:
    """Return floats of fewer than 64 bits as they are shown: 0.1, not 0.10000000149011612."""
    import numpy as np

    floats = column.to_numpy(zero_copy_only=False)
    is_null = column.is_null().to_numpy(zero_copy_only=False)
    texts = map(str, floats.astype(np.float32, copy=False) if floats.dtype == object else floats)
    return [None if null else float(text) for text, null in zip(texts, is_null, strict=True)]


def _times(column: pa.Array) -> list[Any]:
    """Return times of day; as texts if Python's, which know microseconds only, would lose some of them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ticks = column.cast(pa.int64())
    is_exact = pc.all(pc.equal(ticks, pc.multiply(pc.divide(ticks, 1000), 1000))).as_py() is not False
    values: list[Any] = (column.cast(pa.time64("us")) if is_exact else column.cast(pa.string())).to_pylist()
    return values


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


# -- texts and JSON ----------------------------------------------------------------------------------------------------


def text_of(value: Any) -> str:
    """Return a value as text: empty for null, JSON for booleans, lists and objects.

    Raises:
        TypeError: It holds something that JSON cannot say.
        ValueError: It holds an infinite number inside of a list or object.
    """
    if isinstance(value, str):
        return value
    if value is None or value != value:  # null, and NaN
        return ""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    data = json_of(value)
    # Bytes and durations are strings in JSON; the quotes are not part of the text.
    return msgspec.json.decode(data, type=str) if data[:1] == b'"' else data.decode()


def json_of(value: Any) -> bytes:
    """Encode a value as JSON with sorted keys, which is canonical: equal values give equal bytes.

    Raises:
        TypeError: It holds something that JSON cannot say.
        ValueError: It holds an infinite number.
        UnicodeEncodeError: It holds half of a surrogate pair.
    """
    return _checked(_SORTED.encode(value), value)


def json_as_given(value: Any) -> bytes:
    """Encode a value as JSON with its keys in their order; raises as `json_of` does."""
    return _checked(_AS_GIVEN.encode(value), value)


def _checked(data: bytes, value: Any) -> bytes:
    if b"null" in data and has_infinity(value):  # msgspec writes null for it
        raise ValueError("an infinite number, for which JSON has no word")
    return data


def has_infinity(value: Any) -> bool:
    """Return whether a value is or holds an infinite number."""
    if isinstance(value, dict):
        return any(map(has_infinity, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(has_infinity, value))
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return has_infinity(value.tolist())
    return isinstance(value, float) and math.isinf(value)


def to_json(value: Any) -> Any:
    """Return a value that the JSON encoder does not know as one that it does: what pandas and NumPy have of their own.

    Raises:
        TypeError: It is none of these.
    """
    if type(value).__name__ == "NaTType":
        return None
    if isinstance(value, datetime.datetime):  # pandas' Timestamp; in UTC with a Z, as the encoder writes others
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, datetime.timedelta):
        return _iso_duration(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, str):
        return str(value)
    if hasattr(value, "items") and hasattr(value, "keys"):
        return dict(value.items())
    raise TypeError(f"{type(value).__name__} is nothing that JSON can say")


def _iso_duration(value: datetime.timedelta) -> str:
    """Return pandas' Timedelta as the encoder writes Python's, with its nanoseconds."""
    n_ns = int(getattr(value, "value", 0)) or value // datetime.timedelta(microseconds=1) * 1000
    seconds, ns = divmod(abs(n_ns), 10**9)
    days, seconds = divmod(seconds, 86_400)
    fraction = f".{ns:09d}".rstrip("0") if ns else ""
    time = f"T{seconds}{fraction}S" if seconds or ns else ""
    return f"{'-' if n_ns < 0 else ''}P{f'{days}D' if days or not time else ''}{time}"


_SORTED = msgspec.json.Encoder(enc_hook=to_json, order="sorted", decimal_format="number")

_AS_GIVEN = msgspec.json.Encoder(enc_hook=to_json, decimal_format="number")


# -- result rows -------------------------------------------------------------------------------------------------------


def _result(value: Any) -> Any:
    try:
        return to_json(value)
    except TypeError:
        return str(value)


result_json = msgspec.json.Encoder(enc_hook=_result).encode
"""Encode a value of a result column as JSON, whatever it is."""


def json_rows(batch: pa.RecordBatch) -> Iterator[bytes]:
    """Yield each row as a JSON object. JSON columns are written as they stand.

    Decimals are strings there, so that no reader makes them floats, and infinite numbers ``"inf"`` and ``"-inf"``.
    """
    names = batch.schema.names
    for values in zip(*map(_result_values, batch.columns), strict=True):
        yield result_json(dict(zip(names, values, strict=True)))


def _result_values(column: pa.Array) -> list[Any]:
    if is_json(column.type):
        return [text if text is None else msgspec.Raw(text.encode()) for text in column.storage.to_pylist()]
    import pyarrow as pa

    values = result_values(column)
    if pa.types.is_decimal(column.type):
        return [None if value is None else decimal_text(value) for value in values]
    return list(map(finite, values)) if holds_infinity(column) else values


def decimal_text(value: decimal.Decimal) -> str:
    """Return a decimal as people write it: never ``0E-12`` or ``1E-7``.

    Args:
        value: The decimal.
    """
    text = str(value)
    if "E" not in text:
        return text
    return f"{value:f}" if value else "0"


def result_values(column: pa.Array) -> list[Any]:
    """Return the values of a result column, whatever it holds: of jobs of older versions too, which took anything."""
    try:
        return python_values(column)
    except (ValueError, OverflowError):
        values: list[Any] = column.to_pylist() if not _is_time(column.type) else column.cast("string").to_pylist()
        return values


def _is_time(arrow_type: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_temporal(arrow_type))


def holds_infinity(column: pa.Array) -> bool:
    """Return whether a column holds an infinite number, at any depth."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(column.type):
        return bool(pc.any(pc.is_inf(column)).as_py())
    if not contains(column.type, pa.types.is_floating):
        return False
    return has_infinity(column.to_pylist())


def finite(value: Any) -> Any:
    """Return a value with ``"inf"`` and ``"-inf"`` for infinite numbers, for which JSON has no word."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return list(map(finite, value))
    return str(value) if isinstance(value, float) and math.isinf(value) else value
