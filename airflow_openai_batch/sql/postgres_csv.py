"""Arrow columns as PostgreSQL reads them in CSV: the texts of values that Arrow writes otherwise, or not at all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_openai_batch.engine.requests.arrow import is_json
from airflow_openai_batch.engine.requests.values import result_json

if TYPE_CHECKING:
    import pyarrow as pa

_REPLACED = "�"

_BAD_ESCAPE = re.compile(
    r"(?<!\\)((?:\\\\)*)\\u(?:0000"
    r"|[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u)[dD][c-fC-F][0-9a-fA-F]{2})"
)
"""What JSON can escape and ``jsonb`` cannot hold: NUL, and halves of a pair of surrogates."""


def csv_column(column: pa.Array, type_name: str) -> tuple[pa.Array, int]:
    """Return a column as Arrow can write it to CSV for a type of PostgreSQL, and how many texts were changed.

    Raises:
        ArrowInvalid: A value would lose something, such as the nanoseconds of a time.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    types = pa.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if is_json(column.type):
        column = column.storage
        if type_name == "jsonb":
            return _without_bad_escapes(column)
    elif types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pa.timestamp("us", column.type.tz))
    elif types.is_binary(column.type) or types.is_large_binary(column.type):
        values = [None if value is None else "\\x" + value.hex() for value in column.to_pylist()]
        return pa.array(values, pa.large_string()), 0
    elif types.is_nested(column.type) or types.is_duration(column.type):
        form = _array_literal if type_name.startswith("_") else _json_text
        column = pa.array([None if v is None else form(v) for v in column.to_pylist()], pa.large_string())
        if type_name == "jsonb":
            return _without_bad_escapes(column)
    if not (types.is_string(column.type) or types.is_large_string(column.type)):
        return column, 0
    if type_name == "jsonb":
        column, n_escapes = _without_bad_escapes(column)
    else:
        n_escapes = 0
    n = pc.sum(pc.match_substring(column, "\0")).as_py() or 0
    return (pc.replace_substring(column, "\0", _REPLACED) if n else column), n + n_escapes


def _without_bad_escapes(texts: pa.Array) -> tuple[pa.Array, int]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pc.any(pc.match_substring_regex(texts, r"\\u(0000|[dD][89a-fA-F])")).as_py():
        return texts, 0
    n = 0
    changed = []
    for text in texts.to_pylist():
        clean = None if text is None else _BAD_ESCAPE.sub(rf"\g<1>{_REPLACED}", text)
        n += clean != text
        changed.append(clean)
    return pa.array(changed, texts.type), n


def _json_text(value: Any) -> str:
    text = result_json(value).decode()
    # A duration is a string in JSON; the quotes are not part of the text.
    return msgspec.json.decode(text, type=str) if text[:1] == '"' else text


def _array_literal(values: Any) -> str:
    """Return a list as PostgreSQL writes arrays."""
    return "{" + ",".join(map(_array_entry, values)) + "}"


def _array_entry(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return _array_literal(value)
    if isinstance(value, bool | int | float):
        return str(value)
    text = value if isinstance(value, str) else str(value)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\0", _REPLACED) + '"'
