"""A JSON Schema as a type that is checked while an answer is read: faster than reading it alone.

Only a schema that the type says no less than exactly is translated: what the type accepts, the schema accepts. What
it does not accept may still follow the schema, and is for a whole validator to judge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

_SILENT = {"title", "description", "default", "examples", "$comment", "format", "$defs", "definitions", "deprecated"}
"""Keywords that forbid no value."""
_MOST_NESTED = 16
_BOUNDS = {"minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt"}
_LENGTHS = {"minLength": "min_length", "maxLength": "max_length"}
_COUNTS = {"minItems": "min_length", "maxItems": "max_length"}


class _NotTheSame(Exception):
    """A type cannot say what the schema says."""


def reader_of(schema: dict[str, Any]) -> Callable[[str], tuple[Any, ...]] | None:
    """Return what reads an answer into the values of its fields, in the order of the schema's properties.

    The reader raises ``msgspec.MsgspecError`` for an answer that it does not accept. None: the schema says something
    that a type cannot.
    """
    try:
        kind = _type_of(schema, schema, 0)
        decode = msgspec.json.Decoder(kind).decode
    except (_NotTheSame, TypeError, ValueError, OverflowError):
        return None
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return None
    as_tuple = msgspec.structs.astuple
    return lambda text: as_tuple(decode(text))


def _type_of(schema: Any, root: dict[str, Any], depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _MOST_NESTED:
        raise _NotTheSame
    said = {key: value for key, value in schema.items() if key not in _SILENT}
    if "$ref" in said:
        return _referred(said, root, depth)
    if "anyOf" in said:
        return _one_or_null(said, root, depth)
    kind = said.pop("type", None)
    if isinstance(kind, list):
        kinds = [entry for entry in kind if entry != "null"]
        if len(kinds) != 1 or len(kind) != 2 or "enum" in said:
            raise _NotTheSame
        return _typed(kinds[0], said, root, depth) | None
    return _typed(kind, said, root, depth)


def _referred(said: dict[str, Any], root: dict[str, Any], depth: int) -> Any:
    place = str(said.pop("$ref")).split("/")
    if said or len(place) != 3 or place[0] != "#" or place[1] not in ("$defs", "definitions"):
        raise _NotTheSame
    return _type_of(root.get(place[1], {}).get(place[2]), root, depth + 1)


def _one_or_null(said: dict[str, Any], root: dict[str, Any], depth: int) -> Any:
    options = said.pop("anyOf")
    others = [option for option in options if option != {"type": "null"}]
    if said or len(options) != 2 or len(others) != 1:
        raise _NotTheSame
    return _type_of(others[0], root, depth + 1) | None


def _typed(kind: Any, said: dict[str, Any], root: dict[str, Any], depth: int) -> Any:
    match kind:
        case "object":
            return _struct(said, root, depth)
        case "array":
            kind = list.__class_getitem__(_type_of(said.pop("items", None), root, depth + 1))
            return _limited(kind, said, _COUNTS)
        case "string" if "enum" in said:
            return _chosen(said)
        case "string":
            return _limited(str, said, _LENGTHS)
        case "integer":
            return _limited(int, said, _BOUNDS)
        case "number":
            return _limited(float, said, _BOUNDS)
        case "boolean" if not said:
            return bool
    raise _NotTheSame


def _chosen(said: dict[str, Any]) -> Any:
    values = said.pop("enum")
    if said or not values or not all(isinstance(value, str) for value in values):
        raise _NotTheSame
    return Literal[tuple(values)]


def _limited(kind: Any, said: dict[str, Any], words: dict[str, str]) -> Any:
    if not said:
        return kind
    if not set(said) <= set(words):
        raise _NotTheSame
    return Annotated[kind, msgspec.Meta(**{words[word]: limit for word, limit in said.items()})]


def _struct(said: dict[str, Any], root: dict[str, Any], depth: int) -> Any:
    properties = said.pop("properties", {})
    required = said.pop("required", [])
    if said != {"additionalProperties": False} or set(required) != set(properties):
        raise _NotTheSame
    # A property may have any name; an attribute may not.
    names = {f"f{i}": name for i, name in enumerate(properties)}
    fields = [(f"f{i}", _type_of(entry, root, depth + 1)) for i, entry in enumerate(properties.values())]
    return msgspec.defstruct("Answer", fields, rename=names, forbid_unknown_fields=True, gc=False)
