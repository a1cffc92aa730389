"""The fields of structured answers as typed columns of Arrow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import pyarrow as pa


_TYPES = {"string": "large_string", "integer": "int64", "number": "float64", "boolean": "bool_"}


def field_types(schema: dict[str, Any] | None) -> dict[str, Any]:
    """Return the Arrow type of each top-level property of a schema; what has no simple one is kept as JSON text."""
    properties = schema.get("properties") if schema is not None else None
    if not isinstance(properties, dict):
        return {}
    return {name: _arrow_type(entry, schema or {}) for name, entry in properties.items()}


def _arrow_type(schema: Any, root: dict[str, Any], depth: int = 0) -> Any:
    import pyarrow as pa

    text = pa.large_string()
    if not isinstance(schema, dict) or depth > 20:
        return text
    if "$ref" in schema:
        return _arrow_type(_resolved(schema["$ref"], root), root, depth + 1)
    if "anyOf" in schema:
        options = [
            option for option in schema["anyOf"] if not (isinstance(option, dict) and option.get("type") == "null")
        ]
        return _arrow_type(options[0], root, depth + 1) if len(options) == 1 else text
    kind = schema.get("type")
    if isinstance(kind, list):
        kinds = [entry for entry in kind if entry != "null"]
        kind = kinds[0] if len(kinds) == 1 else None
    if kind == "array":
        return pa.list_(_arrow_type(schema.get("items"), root, depth + 1))
    return getattr(pa, _TYPES[kind])() if kind in _TYPES else text


def _resolved(ref: Any, root: dict[str, Any]) -> Any:
    value: Any = root
    for step in str(ref).removeprefix("#/").split("/"):
        value = value.get(step, {}) if isinstance(value, dict) else {}
    return value


def field_columns(answers: Sequence[tuple[Any, ...] | None], kinds: Sequence[Any]) -> list[pa.Array]:
    """Return one column a field. ``answers`` holds the values of the fields, or None for a row without an answer."""
    if not kinds:
        return []
    nothing = (None,) * len(kinds)
    columns = zip(*[nothing if answer is None else answer for answer in answers], strict=True)
    return [_column(values, kind) for values, kind in zip(columns, kinds, strict=True)]


def _column(values: tuple[Any, ...], kind: Any) -> pa.Array:
    """Return an Arrow column. A value that its type cannot hold stays in the output alone, and costs no other row."""
    import pyarrow as pa

    for attempt in (lambda: values, lambda: [_fit(value, kind) for value in values]):
        try:
            return pa.array(attempt(), kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue
    return pa.array([fit if _holds(fit, kind) else None for fit in (_fit(value, kind) for value in values)], kind)


def _holds(value: Any, kind: Any) -> bool:
    import pyarrow as pa

    try:
        pa.array([value], kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True


def _fit(value: Any, kind: Any) -> Any:
    """Write a value as its column wants it: JSON text where the column is text and the value is not."""
    import pyarrow as pa

    if value is None:
        return None
    if pa.types.is_large_string(kind):
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if pa.types.is_list(kind):
        return [_fit(entry, kind.value_type) for entry in value]
    if pa.types.is_float64(kind) and isinstance(value, int):
        return float(value) if abs(value) < 10**300 else None
    if pa.types.is_int64(kind):
        # A JSON integer has no bounds; one beyond the column's stays in the output alone.
        return int(value) if abs(value) < 2**63 else None
    return value
