"""The check of an answer against its JSON Schema, and by a Pydantic class's own validators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import jsonschema_rs
import msgspec

from airflow_openai_batch.engine.errors import InputError

Read = tuple[tuple[Any, ...] | None, str | None]
"""The values of an answer's fields, if it has some, and what is wrong with it, if something is."""

Check = Callable[[str], str | None]
"""Says what is wrong with an answer's text, or None."""


class ResponseSchema:
    """A JSON Schema that answers must follow.

    Args:
        schema: The schema, as sent to OpenAI.
        name: Its name; OpenAI wants letters, digits, ``_`` and ``-``, at most 64.
    """

    def __init__(self, schema: dict[str, Any], name: str) -> None:
        self.schema = schema
        self.name = name
        try:
            # Its messages end up in XCom and logs, where no answer belongs.
            self._validator = jsonschema_rs.Draft202012Validator(schema, mask="the value")
        except (ValueError, jsonschema_rs.ValidationError) as error:
            raise InputError(f"response_model is not a valid JSON Schema: {error}") from None
        properties = schema.get("properties")
        self._names = list(properties) if isinstance(properties, dict) else []
        self._reader = reader_of(schema)
        self.fields = self._reader or self._checked_fields
        """Reads the fields of an answer, or raises an error, also for some answers that `read` finds good."""

    def _checked_fields(self, text: str) -> tuple[Any, ...] | None:
        fields, problem = self.read(text)
        if problem is not None:
            raise ValueError(problem)
        return fields

    def read(self, text: str) -> Read:
        """Read an answer into the values of the schema's properties, or say what is wrong with it."""
        if self._reader is not None:
            try:
                return self._reader(text), None
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                pass  # for the validator, which has the last word and says what is wrong
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError) as error:
            return None, f"not JSON: {error}"
        problem = self._problem(value)
        if problem is not None or not isinstance(value, dict):
            return None, problem
        return tuple(value.get(name) for name in self._names), None

    def _problem(self, value: Any) -> str | None:
        try:
            self._validator.validate(value)
        except (jsonschema_rs.ValidationError, ValueError) as error:
            where = "/".join(str(step) for step in getattr(error, "instance_path", ()))
            message = str(getattr(error, "message", error))
            keyword = str([*getattr(error, "schema_path", ()), ""][-2:][0])
            if keyword in ("additionalProperties", "unevaluatedProperties"):
                message = "it has properties that the schema does not know"  # their names are the answer's own
            return f"{where}: {message}" if where else message
        return None


def class_check(response_model: Any) -> Check | None:
    """Return the check by a Pydantic class's own validators, which know more than its schema says.

    Its messages name fields, never values: they end up in logs. None: it is not such a class.
    """
    if not is_pydantic(response_model):
        return None
    from pydantic import TypeAdapter, ValidationError

    # The validator itself: what `model_validate_json` adds costs more than half as much again.
    validate = TypeAdapter(response_model).validator.validate_json

    def check(text: str) -> str | None:
        try:
            validate(text)
        except Exception as error:  # a validator of the user's may raise anything, and must not stop a harvest
            if not isinstance(error, ValidationError):
                return f"a validator raised {type(error).__name__}"
            found = error.errors(include_input=False, include_url=False, include_context=False)
            return "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in found[:5])
        return None

    return check


def is_pydantic(response_model: Any) -> bool:
    """Return whether a response model is a Pydantic class."""
    return isinstance(response_model, type) and hasattr(response_model, "model_json_schema")


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
