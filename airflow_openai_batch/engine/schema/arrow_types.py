"""Arrow types and columns for the fields of structured answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import pyarrow as pa


_TYPES = {"string": "large_string", "integer": "int64", "number": "float64", "boolean": "bool_"}


def field_types(schema: dict[str, Any] | None) -> dict[str, Any]:
    """Return the Arrow type of each top-level property of a JSON Schema; string (of JSON) where none fits better."""
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
    json_type = schema.get("type")
    if isinstance(json_type, list):
        non_null = [entry for entry in json_type if entry != "null"]
        json_type = non_null[0] if len(non_null) == 1 else None
    if json_type == "array":
        return pa.list_(_arrow_type(schema.get("items"), root, depth + 1))
    return getattr(pa, _TYPES[json_type])() if json_type in _TYPES else text


def _resolved(ref: Any, root: dict[str, Any]) -> Any:
    value: Any = root
    for step in str(ref).removeprefix("#/").split("/"):
        value = value.get(step, {}) if isinstance(value, dict) else {}
    return value


def field_columns(answers: Sequence[tuple[Any, ...] | None], types: Sequence[Any]) -> list[pa.Array]:
    """Return one column for each field.

    Args:
        answers: For each row the values of the fields, or None for a row without a good answer.
        types: The Arrow type of each field.
    """
    if not types:
        return []
    nulls = (None,) * len(types)
    columns = zip(*[nulls if answer is None else answer for answer in answers], strict=True)
    return [_column(values, arrow_type) for values, arrow_type in zip(columns, types, strict=True)]


def _column(values: tuple[Any, ...], arrow_type: Any) -> pa.Array:
    """Return an Arrow column. A value that its type cannot hold becomes null; the column `output` still has it."""
    import pyarrow as pa

    for attempt in (lambda: values, lambda: [_fit(value, arrow_type) for value in values]):
        try:
            return pa.array(attempt(), arrow_type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue
    fitted = (_fit(value, arrow_type) for value in values)
    return pa.array([value if _holds(value, arrow_type) else None for value in fitted], arrow_type)


def _holds(value: Any, arrow_type: Any) -> bool:
    import pyarrow as pa

    try:
        pa.array([value], arrow_type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True


def _fit(value: Any, arrow_type: Any) -> Any:
    """Convert a value to the type of its column: to JSON where the column is a string and the value is not."""
    import pyarrow as pa

    if value is None:
        return None
    if pa.types.is_large_string(arrow_type):
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if pa.types.is_list(arrow_type):
        return [_fit(entry, arrow_type.value_type) for entry in value]
    if pa.types.is_float64(arrow_type) and isinstance(value, int):
        return float(value) if abs(value) < 10**300 else None
    if pa.types.is_int64(arrow_type):
        # A JSON integer has no bounds; one beyond the column's becomes null, and `output` still has it.
        return int(value) if abs(value) < 2**63 else None
    return value
