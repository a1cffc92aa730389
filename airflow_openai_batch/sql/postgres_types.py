"""PostgreSQL's types as columns: the text of each value becomes one of Arrow, exactly, or is refused by its place."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import json_column, json_type

if TYPE_CHECKING:
    import pyarrow as pa

    _Texts = list[str | None]
    _Reading = Callable[[_Texts, pa.DataType], pa.Array]

_MOST_DIGITS = 76
"""Of Arrow's decimals; a numeric with more, or without a precision, stays the text that the server gives."""


class PostgresColumn(NamedTuple):
    """A column of a query."""

    name: str
    type_name: str
    arrow_type: pa.DataType
    read: _Reading
    is_json_made: bool = False
    """Whether the server is to make JSON of it: arrays, records, ranges."""

    def array(self, texts: _Texts, first_row: int) -> pa.Array:
        """Return values as the server writes them as an array.

        Args:
            texts: The values.
            first_row: The ordinal of the first one's row, for error messages.

        Raises:
            InputError: A value does not fit, such as a date before Christ.
        """
        import pyarrow as pa

        try:
            return self.read(texts, self.arrow_type)
        except (pa.ArrowException, ValueError, OverflowError):
            pass
        for i, text in enumerate(texts):
            try:
                self.read([text], self.arrow_type)
            except (pa.ArrowException, ValueError, OverflowError):
                raise InputError(
                    f"rows: row {first_row + i}, column {self.name!r}: this {self.type_name} has no exact form in "
                    f"{self.arrow_type} (infinity, NaN, a year before 1 or after 9999). Cast the column to text in the "
                    "query, or leave the row out."
                ) from None
        raise InputError(f"rows: column {self.name!r} of the type {self.type_name} cannot be read.")


def column_of(name: str, type_name: str, precision: int | None, scale: int | None) -> PostgresColumn:
    """Return how a column is read.

    Args:
        name: Its name.
        type_name: Its type's name in ``pg_type``.
        precision: Digits of a numeric; None or out of range if it has no limit.
        scale: Digits of it after the point.
    """
    import pyarrow as pa

    if type_name == "numeric":
        digits, after = precision or 0, scale or 0
        if 0 < digits <= _MOST_DIGITS and 0 <= after <= digits:
            made = pa.decimal128(digits, after) if digits <= 38 else pa.decimal256(digits, after)
            return PostgresColumn(name, type_name, made, _cast)
        return PostgresColumn(name, type_name, pa.large_string(), _texts)
    if type_name in ("json", "jsonb", *_JSON_LIKE):
        return PostgresColumn(name, type_name, json_type(), _json)
    if type_name in _TEXT_LIKE:
        return PostgresColumn(name, type_name, pa.large_string(), _texts)
    if type_name in _READINGS:
        make, read = _READINGS[type_name]
        return PostgresColumn(name, type_name, make(), read)
    if type_name.startswith("_") or type_name.endswith("range") or type_name == "record":
        return PostgresColumn(name, type_name, json_type(), _json, is_json_made=True)
    # An enum, or a type of an extension: what a person sees of it.
    return PostgresColumn(name, type_name, pa.large_string(), _texts)


_TEXT_LIKE = frozenset({"text", "varchar", "bpchar", "name", "uuid", "xml", "citext", "interval", "timetz", "money"})

_JSON_LIKE = frozenset({"vector", "halfvec"})
"""Types of pgvector, whose texts are lists of numbers as JSON writes them."""


def _texts(texts: _Texts, arrow_type: pa.DataType) -> pa.Array:
    import pyarrow as pa

    return pa.array(texts, arrow_type)


def _json(texts: _Texts, _: pa.DataType) -> pa.Array:
    return json_column(texts)


def _cast(texts: _Texts, arrow_type: pa.DataType) -> pa.Array:
    import pyarrow as pa

    return pa.array(texts, pa.string()).cast(arrow_type)


def _booleans(texts: _Texts, _: pa.DataType) -> pa.Array:
    import pyarrow as pa

    return pa.array([None if text is None else text == "t" for text in texts], pa.bool_())


def _bytes(texts: _Texts, _: pa.DataType) -> pa.Array:
    import pyarrow as pa

    return pa.array([None if text is None else bytes.fromhex(text.removeprefix("\\x")) for text in texts], pa.binary())


def _times(texts: _Texts, arrow_type: pa.DataType) -> pa.Array:
    import pyarrow as pa

    return pa.array([None if text is None else datetime.time.fromisoformat(text) for text in texts], arrow_type)


def _instants(texts: _Texts, arrow_type: pa.DataType) -> pa.Array:
    """Return timestamps with a zone, which the session has in UTC."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pa.array(texts, pa.string())
    if not pc.all(pc.ends_with(column, "+00")).as_py() and column.null_count < len(column):
        raise ValueError("not in UTC")
    return pc.utf8_slice_codeunits(column, 0, -3).cast(pa.timestamp("us")).cast(arrow_type)


def _readings() -> dict[str, tuple[Callable[[], Any], _Reading]]:
    import pyarrow as pa

    return {
        "bool": (pa.bool_, _booleans),
        "int2": (pa.int16, _cast),
        "int4": (pa.int32, _cast),
        "int8": (pa.int64, _cast),
        "oid": (pa.int64, _cast),
        "float4": (pa.float32, _cast),
        "float8": (pa.float64, _cast),
        "date": (pa.date32, _cast),
        "time": (lambda: pa.time64("us"), _times),
        "timestamp": (lambda: pa.timestamp("us"), _cast),
        "timestamptz": (lambda: pa.timestamp("us", "UTC"), _instants),
        "bytea": (pa.binary, _bytes),
    }


_READINGS = _readings()
