"""Validation of an answer: against its JSON Schema, and by a Pydantic class's own validators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import jsonschema_rs
import msgspec

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.schema.strict import is_pydantic

Read = tuple[tuple[Any, ...] | None, str | None]
"""The values of an answer's fields, or None if it has none; and what is wrong with the answer, or None."""

Check = Callable[[str], str | None]
"""Returns what is wrong with an answer's text, or None."""


class ResponseSchema:
    """A JSON Schema that answers must follow.

    Args:
        schema: The schema, as sent to OpenAI.
        name: Its name. OpenAI's API reference: letters, digits, ``_`` and ``-``, at most 64 characters.

    Raises:
        InputError: The schema is not valid.
    """

    def __init__(self, schema: dict[str, Any], name: str) -> None:
        self.schema = schema
        self.name = name
        try:
            # Masked, because its messages end up in XCom and logs, where no answer belongs.
            self._validator = jsonschema_rs.Draft202012Validator(schema, mask="the value", retriever=_fetch_nothing)
        except (ValueError, jsonschema_rs.ValidationError) as error:
            raise InputError(f"response_model is not a valid JSON Schema: {error}") from None
        properties = schema.get("properties")
        self._names = list(properties) if isinstance(properties, dict) else []
        self._reader = reader_of(schema)
        self.fields = self._reader or self._checked_fields
        """Reads the fields of an answer. Raises an error for an invalid answer, and for some that `read` accepts."""

    def _checked_fields(self, text: str) -> tuple[Any, ...] | None:
        fields, problem = self.read(text)
        if problem is not None:
            raise ValueError(problem)
        return fields

    def read(self, text: str) -> Read:
        """Return the values of the schema's properties in an answer, or what is wrong with it."""
        if self._reader is not None:
            try:
                return self._reader(text), None
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                pass  # the validator decides, and says what is wrong
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
                message = "it has properties that the schema does not know"  # their names are content of the answer
            return f"{where}: {message}" if where else message
        return None


def _fetch_nothing(uri: str) -> Any:
    """Refuse to fetch a schema that another one refers to: what a job checks must not depend on a server."""
    raise ValueError(f"`$ref` may only name a place in the schema itself, not {uri!r}; nothing is fetched")


def class_check(response_model: Any) -> Check | None:
    """Return a check by a Pydantic class's own validators, which may be stricter than its schema; None without a class.

    Its messages name fields, never values, because they end up in logs.
    """
    if not is_pydantic(response_model):
        return None
    from pydantic import TypeAdapter, ValidationError

    # The validator itself: `model_validate_json` takes more than half as long again.
    validate = TypeAdapter(response_model).validator.validate_json

    def check(text: str) -> str | None:
        try:
            validate(text)
        except Exception as error:  # a user's validator may raise anything, and must not stop a harvest
            if not isinstance(error, ValidationError):
                return f"a validator raised {type(error).__name__}"
            problems = error.errors(include_input=False, include_url=False, include_context=False)
            return "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in problems[:5])
        return None

    return check


_NEUTRAL = {"title", "description", "default", "examples", "$comment", "format", "$defs", "definitions", "deprecated"}
"""Keywords that forbid no value."""

_MAX_DEPTH = 16

_BOUNDS = {"minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt"}

_LENGTHS = {"minLength": "min_length", "maxLength": "max_length"}

_COUNTS = {"minItems": "min_length", "maxItems": "max_length"}


class _NotExpressible(Exception):
    """A Python type cannot express what the schema demands."""


def reader_of(schema: dict[str, Any]) -> Callable[[str], tuple[Any, ...]] | None:
    """Return a decoder of an answer into the values of its fields, in the order of the schema's properties.

    It raises ``msgspec.MsgspecError`` for an answer that it does not accept. None: the schema demands something that a
    Python type cannot express.
    """
    try:
        answer_type = _type_of(schema, schema, 0)
        decode = msgspec.json.Decoder(answer_type).decode
    except (_NotExpressible, TypeError, ValueError, OverflowError):
        return None
    if not (isinstance(answer_type, type) and issubclass(answer_type, msgspec.Struct)):
        return None
    as_tuple = msgspec.structs.astuple
    return lambda text: as_tuple(decode(text))


def _type_of(schema: Any, root: dict[str, Any], depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        raise _NotExpressible
    rules = {key: value for key, value in schema.items() if key not in _NEUTRAL}
    if "$ref" in rules:
        return _referred(rules, root, depth)
    if "anyOf" in rules:
        return _one_or_null(rules, root, depth)
    json_type = rules.pop("type", None)
    if isinstance(json_type, list):
        non_null = [entry for entry in json_type if entry != "null"]
        if len(non_null) != 1 or len(json_type) != 2 or "enum" in rules:
            raise _NotExpressible
        return _typed(non_null[0], rules, root, depth) | None
    return _typed(json_type, rules, root, depth)


def _referred(rules: dict[str, Any], root: dict[str, Any], depth: int) -> Any:
    place = str(rules.pop("$ref")).split("/")
    if rules or len(place) != 3 or place[0] != "#" or place[1] not in ("$defs", "definitions"):
        raise _NotExpressible
    return _type_of(root.get(place[1], {}).get(place[2]), root, depth + 1)


def _one_or_null(rules: dict[str, Any], root: dict[str, Any], depth: int) -> Any:
    options = rules.pop("anyOf")
    non_null = [option for option in options if option != {"type": "null"}]
    if rules or len(options) != 2 or len(non_null) != 1:
        raise _NotExpressible
    return _type_of(non_null[0], root, depth + 1) | None


def _typed(json_type: Any, rules: dict[str, Any], root: dict[str, Any], depth: int) -> Any:
    match json_type:
        case "object":
            return _struct(rules, root, depth)
        case "array":
            list_type = list.__class_getitem__(_type_of(rules.pop("items", None), root, depth + 1))
            return _limited(list_type, rules, _COUNTS)
        case "string" if "enum" in rules:
            return _chosen(rules)
        case "string":
            return _limited(str, rules, _LENGTHS)
        case "integer":
            return _limited(int, rules, _BOUNDS)
        case "number":
            return _limited(float, rules, _BOUNDS)
        case "boolean" if not rules:
            return bool
    raise _NotExpressible


def _chosen(rules: dict[str, Any]) -> Any:
    values = rules.pop("enum")
    if rules or not values or not all(isinstance(value, str) for value in values):
        raise _NotExpressible
    return Literal[tuple(values)]


def _limited(base: Any, rules: dict[str, Any], keywords: dict[str, str]) -> Any:
    if not rules:
        return base
    if not set(rules) <= set(keywords):
        raise _NotExpressible
    return Annotated[base, msgspec.Meta(**{keywords[keyword]: limit for keyword, limit in rules.items()})]


def _struct(rules: dict[str, Any], root: dict[str, Any], depth: int) -> Any:
    properties = rules.pop("properties", {})
    required = rules.pop("required", [])
    if rules != {"additionalProperties": False} or set(required) != set(properties):
        raise _NotExpressible
    # A property may have any name; an attribute may not.
    names = {f"f{i}": name for i, name in enumerate(properties)}
    fields = [(f"f{i}", _type_of(entry, root, depth + 1)) for i, entry in enumerate(properties.values())]
    return msgspec.defstruct("Answer", fields, rename=names, forbid_unknown_fields=True, gc=False)
