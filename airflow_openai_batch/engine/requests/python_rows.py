"""Python rows, dicts and lines of JSON, as record batches: exactly, or with an error that names row and column.

Nested values become JSON columns, so that rows need not share one shape: an object keeps its keys and its nulls, ``{}``
is allowed, and ``1`` stays ``1``. Only lists of plain values of one type stay lists.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_openai_batch.engine.endpoints import long_form
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import LINE_BODY, LINE_ID, json_column
from airflow_openai_batch.engine.requests.values import json_as_given

if TYPE_CHECKING:
    import pyarrow as pa


_NESTED = (list, tuple, set, frozenset, Mapping)

_EXACT = frozenset((str, int, float, bool))
"""Types of which Arrow takes a column as it is, or refuses it; but for booleans among numbers."""

_MISSING = ("NoneType", "NaTType", "NAType")

_SHOWN_AS_TEXT = ("Period", "Interval")
"""Types of pandas for which Arrow has none: a month as `2026-01`, a bin of `pd.cut` as `(0, 1]`."""


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
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InputError(f"line {number + 1} is not JSON: {error}") from None


def n_bytes_of_value(value: Any) -> int:
    """Return about how many bytes a value takes: its texts, and a little for all else.

    Args:
        value: The value, such as a row. Of a list, what its first element is decides whether the others are looked at.
    """
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(n_bytes_of_value, value.values()))
    if isinstance(value, list | tuple):
        is_flat = not value or not isinstance(value[0], (str, bytes, *_NESTED))
        return 8 * len(value) if is_flat else sum(map(n_bytes_of_value, value))
    return 8


def python_batch(
    rows: Sequence[Any], first_row: int, endpoint: str, ready: bool, columns: Iterable[str] = ()
) -> pa.RecordBatch:
    """Return dicts as one record batch.

    Args:
        rows: The dicts.
        first_row: The ordinal of the first one, for error messages.
        endpoint: The endpoint, which ready-made request lines must name.
        ready: Whether the dicts are ready-made request lines.
        columns: The columns of earlier rows, which are null where these leave them out.

    Raises:
        InputError: A row is not a dict or not a valid request line, or no column type holds a value exactly.
    """
    for ordinal, row in enumerate(rows, first_row):
        if not isinstance(row, Mapping):
            raise InputError(f"row {ordinal} is no dict but {type(row).__name__}.")
    return _request_lines(rows, endpoint, first_row) if ready else _record_batch(rows, first_row, columns)


def _record_batch(rows: Sequence[Mapping[str, Any]], first_row: int, columns: Iterable[str]) -> pa.RecordBatch:
    import pyarrow as pa

    names = dict.fromkeys(columns)
    for i, row in enumerate(rows):
        for name in row:
            if not isinstance(name, str):
                raise InputError(f"row {first_row + i}: column names must be texts, found {name!r}.")
            if name not in names:
                _check_encodable(name, f"row {first_row + i}: the column name {name!r}")
                names[name] = None
    if not names:
        raise InputError(f"row {first_row} has no columns.")
    return pa.record_batch({name: column_of(name, [row.get(name) for row in rows], first_row) for name in names})


def column_of(name: str, values: list[Any], first_row: int) -> pa.Array:
    """Return Python values as a column that holds each of them exactly.

    Args:
        name: The column's name, for error messages.
        values: The values; None and NaN are null.
        first_row: The ordinal of the first one, for error messages.

    Raises:
        InputError: No column type holds them; the message names a row.
    """
    import numpy as np
    import pyarrow as pa

    kinds = {kind for kind in set(map(type, values)) if kind.__name__ not in _MISSING}
    if any(issubclass(kind, (*_NESTED, np.ndarray)) for kind in kinds):
        return _nested_column(name, values, first_row)
    if any(kind.__name__ in _SHOWN_AS_TEXT for kind in kinds):
        values = [None if _is_missing(value) else value for value in values]
        if len(set(map(type, values)) - {type(None)}) == 1:
            return pa.array([value if value is None else str(value) for value in values], pa.large_string())
    try:
        column = _inferred(values, kinds)
        is_exact = kinds <= _EXACT and (len(kinds) < 2 or bool not in kinds)
        return column if is_exact else _checked(name, values, column, first_row)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        raise _no_column(name, values, kinds, first_row) from None


def _inferred(values: list[Any], kinds: set[type]) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values, from_pandas=True)
    except OverflowError:
        if kinds != {int}:
            raise
        return pa.array(values, pa.uint64())  # as hashes are


def _checked(name: str, values: list[Any], column: pa.Array, first_row: int) -> pa.Array:
    """Return a column that Arrow has made, once it is known to hold what it was made of.

    Arrow itself says nothing where it drops nanoseconds, the zone of a time, or the time of a date.
    """
    import pyarrow as pa

    for unit in (None, "ns"):
        if unit == "ns" and pa.types.is_timestamp(column.type):
            column = pa.array(values, pa.timestamp("ns", column.type.tz), from_pandas=True)
        elif unit == "ns" and pa.types.is_duration(column.type):
            column = pa.array(values, pa.duration("ns"), from_pandas=True)
        made = column.to_pylist()
        wrong = [i for i, (value, became) in enumerate(zip(values, made, strict=True)) if not _is_same(value, became)]
        if not wrong:
            return column
    row = first_row + wrong[0]
    raise InputError(
        f"row {row}, column {name!r}: this {type(values[wrong[0]]).__name__} would be changed, because a column has "
        f"one type and one time zone, here {column.type}. Give every row the same, for example as text."
    )


def _is_same(value: Any, became: Any) -> bool:
    if became is None:
        return _is_missing(value) or bool(value != value)
    if isinstance(value, bool) and not isinstance(became, bool):
        return False  # true among floats
    # Times by their texts too: moments in two zones are equal and are not shown alike.
    is_time = isinstance(value, datetime.date | datetime.time)
    return bool(value == became) and (not is_time or str(value) == str(became))


def _is_missing(value: Any) -> bool:
    """Return whether a value is None or one of pandas' words for a missing value."""
    return value is None or (value != value if isinstance(value, float) else type(value).__name__ in _MISSING)


def _no_column(name: str, values: list[Any], kinds: set[type], first_row: int) -> InputError:
    """Return an error that names the first value that cannot be stored, or else the types that cannot go together."""
    import pyarrow as pa

    for row, value in enumerate(values, first_row):
        if isinstance(value, str):
            _check_encodable(value, f"row {row}, column {name!r}: the text")
        try:
            pa.array([value], from_pandas=True)
        except OverflowError:
            return InputError(
                f"row {row}, column {name!r}: a whole number of {len(str(value))} digits is too large for a column. "
                "Give every row the column as text."
            )
        except (pa.ArrowException, TypeError, ValueError):
            return InputError(
                f"row {row}, column {name!r}: a value of the type {type(value).__name__} cannot be stored. Give it as "
                "text, for example str()."
            )
    if (
        float in kinds
        and (large := next((i for i, value in enumerate(values) if _is_no_float(value)), None)) is not None
    ):
        return InputError(
            f"row {first_row + large}, column {name!r}: a column with decimal fractions holds no whole number of "
            f"{len(str(abs(values[large])))} digits exactly. Give every row the column as text. Nothing was uploaded."
        )
    seen: dict[str, int] = {}
    for row, value in enumerate(values, first_row):
        if type(value) in kinds:
            seen.setdefault(type(value).__name__, row)
    types = ", ".join(f"{kind} (row {row})" for kind, row in seen.items())
    return InputError(
        f"Column {name!r} cannot be stored as one type: it holds {types}. "
        "Give every row the same type, for example str()."
    )


def _is_no_float(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and int(float(value)) != value


def _check_encodable(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} holds half of a surrogate pair ({text[error.start]!r} at character {error.start}), which is no "
            "character and cannot be sent. Cut texts between characters, or repair with "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')."
        ) from None


def _nested_column(name: str, values: list[Any], first_row: int) -> pa.Array:
    values = [None if _is_missing(value) else value for value in values]
    column = _flat_lists(values)
    return column if column is not None else json_column(_json_texts(name, values, first_row))


def _flat_lists(values: list[Any]) -> pa.Array | None:
    """Return lists of plain values of one type as a column of lists; None if they are something else."""
    import numpy as np
    import pyarrow as pa

    kinds: set[type] = set()
    for value in values:
        if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1):
            kinds.update(map(type, value))
        elif value is not None:
            return None
    kinds.discard(type(None))
    if len(kinds) > 1 or not all(kind in _EXACT or issubclass(kind, np.number | np.bool_) for kind in kinds):
        return None
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None  # whole numbers beyond 64 bits: JSON has no bounds


def _json_texts(name: str, values: list[Any], first_row: int) -> Iterator[str | None]:
    for row, value in enumerate(values, first_row):
        try:
            yield None if value is None else json_as_given(value).decode()
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            raise InputError(f"row {row}, column {name!r}: cannot be written as JSON: {error}.") from None


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
        if long_form(line.url) != endpoint or line.method != "POST":
            raise InputError(f"row {ordinal}: must be POST {endpoint}, is {line.method} {line.url}.")
        lines.append(line)
    return pa.record_batch(
        {
            LINE_ID: pa.array([line.custom_id for line in lines], pa.string()),
            LINE_BODY: pa.array([msgspec.json.encode(line.body) for line in lines], pa.binary()),
        }
    )
