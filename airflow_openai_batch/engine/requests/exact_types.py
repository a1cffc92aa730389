"""Which Arrow type holds the values of two types without loss, and the cast to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.requests.arrow import is_json, json_column, json_type
from airflow_openai_batch.engine.requests.values import (
    contains,
    finite,
    holds_infinity,
    json_as_given,
    python_values,
    result_values,
    text_of,
)

if TYPE_CHECKING:
    import pyarrow as pa


DAY = 86_400 * 10**9
"""Nanoseconds of a day."""

_TICKS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
"""Nanoseconds of each unit of time."""

_EXACT_IN_FLOATS = 2**53


def ticks_of(arrow_type: pa.DataType) -> int | None:
    """Return the nanoseconds of a type's unit, 1 for whole numbers, None for any other type."""
    import pyarrow as pa

    if pa.types.is_integer(arrow_type):
        return 1
    if pa.types.is_date32(arrow_type):
        return DAY
    if pa.types.is_date64(arrow_type):
        return 10**6
    is_time = pa.types.is_timestamp(arrow_type) or pa.types.is_time(arrow_type) or pa.types.is_duration(arrow_type)
    return _TICKS[arrow_type.unit] if is_time else None


def common_type(a: pa.DataType, b: pa.DataType, extremes: Iterable[int]) -> pa.DataType | None:
    """Return a type that holds the values of two columns exactly; None if there is none.

    Args:
        a: The type of one column.
        b: The type of the other.
        extremes: Their least and largest values, if they are whole numbers or times: these in nanoseconds.
    """
    one, other = _plain(a), _plain(b)
    for candidate in (*types_by_extremes(one, other), exact_type(one, other)):
        if candidate is not None and all(_holds(candidate, value) for value in extremes):
            return candidate
    if not (_is_json_like(one) and _is_json_like(other)):
        return None
    # Text beside a list: only JSON can be both, and says which is which.
    return json_type() if _is_compound(one) or _is_compound(other) else None


def _plain(arrow_type: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type


def types_by_extremes(a: pa.DataType, b: pa.DataType) -> list[pa.DataType]:
    """Return the types that two types of numbers or times may become, if their values allow it."""
    import pyarrow as pa

    types = pa.types
    if types.is_integer(a) and types.is_integer(b):
        return [exact_type(a, b), pa.int64(), pa.uint64()]
    if (types.is_integer(a) and types.is_floating(b)) or (types.is_floating(a) and types.is_integer(b)):
        return [pa.float64()]
    for is_kind in (types.is_timestamp, types.is_duration, types.is_time):
        if is_kind(a) and is_kind(b) and getattr(a, "tz", None) == getattr(b, "tz", None):
            return [min(a, b, key=lambda t: _TICKS[t.unit])]
    return []


def _holds(arrow_type: pa.DataType, value: int) -> bool:
    import pyarrow as pa

    if pa.types.is_floating(arrow_type):
        return abs(value) <= _EXACT_IN_FLOATS
    if pa.types.is_unsigned_integer(arrow_type):
        return bool(0 <= value < 2**arrow_type.bit_width)
    ticks = ticks_of(arrow_type)
    return ticks is None or bool(abs(value) < 2 ** (arrow_type.bit_width - 1) * ticks)


def _is_compound(arrow_type: pa.DataType) -> bool:
    import pyarrow as pa

    return is_json(arrow_type) or bool(pa.types.is_nested(arrow_type))


def _is_json_like(arrow_type: pa.DataType) -> bool:
    """Return whether JSON says the values of a type as they are."""
    import pyarrow as pa

    types = pa.types
    plain = (types.is_integer, types.is_floating, types.is_boolean, types.is_null, is_text, is_json, types.is_nested)
    return not contains(arrow_type, lambda inner: not any(is_kind(inner) for is_kind in plain))


def is_text(arrow_type: pa.DataType) -> bool:
    """Return whether a type is one of Arrow's string types."""
    import pyarrow as pa

    types = pa.types
    return bool(types.is_string(arrow_type) or types.is_large_string(arrow_type) or types.is_string_view(arrow_type))


def exact_type(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """Return a type that holds whatever two types hold, whatever the values; None if there is none."""
    import pyarrow as pa

    types = pa.types
    if a == b or types.is_null(b):
        return a
    if types.is_null(a):
        return b
    rules: list[tuple[Callable[[Any], bool], Callable[[Any, Any], Any]]] = [
        (types.is_integer, _exact_integers),
        (types.is_floating, lambda a, b: max(a, b, key=lambda t: t.bit_width)),
        (lambda t: types.is_decimal(t) or types.is_integer(t), _exact_decimals),
        (types.is_date, lambda a, b: pa.date32()),
        (is_text, lambda a, b: pa.large_string()),
        (_is_binary, lambda a, b: pa.large_binary()),
        (types.is_struct, _exact_structs),
        (_is_list, _exact_lists),
    ]
    return next((rule(a, b) for is_kind, rule in rules if is_kind(a) and is_kind(b)), None)


def _exact_integers(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    import pyarrow as pa

    if pa.types.is_signed_integer(a) == pa.types.is_signed_integer(b):
        return max(a, b, key=lambda t: t.bit_width)
    unsigned = a if pa.types.is_unsigned_integer(a) else b
    return None if unsigned.bit_width == 64 else pa.int64()


def _exact_decimals(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """Return a decimal type that holds those of two, of which one may be a whole number."""
    import pyarrow as pa

    places = [(t.precision - t.scale, t.scale) if pa.types.is_decimal(t) else (20, 0) for t in (a, b)]
    scale = max(n for _, n in places)
    precision = max(n for n, _ in places) + scale
    if precision > 76:
        return None
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _exact_structs(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    import pyarrow as pa

    fields = {field.name: field.type for field in a}
    for field in b:
        both = exact_type(fields[field.name], field.type) if field.name in fields else field.type
        if both is None:
            return None
        fields[field.name] = both
    return pa.struct(list(fields.items()))


def _exact_lists(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    import pyarrow as pa

    value_type = exact_type(a.value_type, b.value_type)
    return value_type if value_type is None else pa.large_list(value_type)


def _is_binary(arrow_type: pa.DataType) -> bool:
    import pyarrow as pa

    types = pa.types
    is_kind = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(check(arrow_type) for check in is_kind)


def _is_list(arrow_type: pa.DataType) -> bool:
    import pyarrow as pa

    types = pa.types
    kinds = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    return any(is_kind(arrow_type) for is_kind in kinds)


def cast_exactly(column: pa.Array, arrow_type: pa.DataType) -> pa.Array:
    """Return a column as the type that `ColumnTypes` found for it and others.

    Raises:
        pyarrow.ArrowException: The type is another one, which does not hold its values.
    """
    import pyarrow as pa

    if column.type == arrow_type:
        return column
    if column.null_count == len(column):
        return pa.nulls(len(column), arrow_type)
    if pa.types.is_dictionary(column.type):
        return cast_exactly(column.dictionary_decode(), arrow_type)
    if is_json(arrow_type):
        values = result_values(column)
        if holds_infinity(column):
            values = list(map(finite, values))
        return json_column(None if value is None else json_as_given(value).decode() for value in values)
    if pa.types.is_large_string(arrow_type) and not is_text(column.type):
        if is_json(column.type):
            return column.storage.cast(arrow_type)
        return pa.array([None if value is None else text_of(value) for value in result_values(column)], arrow_type)
    if pa.types.is_float64(arrow_type) and pa.types.is_floating(column.type):
        return pa.array(python_values(column), arrow_type)  # 0.1 stays 0.1
    try:
        return column.cast(arrow_type)
    except pa.ArrowException:
        return pa.array(column.to_pylist(), arrow_type)  # older versions do not cast a struct that lacks a field
