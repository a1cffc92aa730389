"""Strict structured output: what a response model becomes in a request, and the check of an answer against it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import msgspec

from airflow_openai_batch.engine.api import strict_schema
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.identity import canonical
from airflow_openai_batch.engine.typed import reader_of

_NAME = re.compile(r"[^A-Za-z0-9_-]")
_PLACES = {"/v1/responses": "text.format", "/v1/chat/completions": "response_format"}

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


def response_schema(response_model: Any) -> ResponseSchema | None:
    """Read the ``response_model`` parameter: a Pydantic class, a JSON Schema, or None.

    Raises:
        InputError: It is neither, or OpenAI's strict mode would refuse it.
    """
    if response_model is None:
        return None
    if isinstance(response_model, dict):
        schema = copy.deepcopy(response_model)
        name = str(schema.get("title") or "answer")
        _require_strict(schema, "response_model")
    elif _is_pydantic(response_model):
        schema, name = strict_schema(response_model), response_model.__name__
        _require_strict(schema, response_model.__name__)
    else:
        raise InputError(
            f"response_model must be a Pydantic class or a JSON Schema (a dict), not {type(response_model).__name__}."
        )
    if schema.get("type") != "object":
        raise InputError("response_model: OpenAI's structured output needs an object at the top of the schema.")
    return ResponseSchema(schema, _NAME.sub("_", name)[:64])


def class_check(response_model: Any) -> Check | None:
    """Return the check by a Pydantic class's own validators, which know more than its schema says.

    Its messages name fields, never values: they end up in logs. None: it is not such a class.
    """
    if not _is_pydantic(response_model):
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


def _is_pydantic(response_model: Any) -> bool:
    return isinstance(response_model, type) and hasattr(response_model, "model_json_schema")


def _require_strict(schema: Any, where: str) -> None:
    """Refuse what strict mode refuses: a request with such a schema fails for every row, after hours."""
    if isinstance(schema, list):
        for i, entry in enumerate(schema):
            _require_strict(entry, f"{where}[{i}]")
    if not isinstance(schema, dict):
        return
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, dict):
        names = set(properties or {})
        if schema.get("additionalProperties") is not False:
            raise InputError(f'{where}: strict structured output needs "additionalProperties": false on every object.')
        if missing := sorted(names - set(schema.get("required") or ())):
            raise InputError(
                f"{where}: strict structured output needs every property in `required`; add {', '.join(missing)} "
                "(make a field optional by allowing null)."
            )
    for key in ("properties", "$defs", "definitions"):
        for name, entry in (schema.get(key) or {}).items():
            _require_strict(entry, f"{where}.{name}")
    for key in ("items", "anyOf"):
        _require_strict(schema.get(key), f"{where}.{key}")


def with_response_format(body: dict[str, Any], endpoint: str, schema: ResponseSchema) -> dict[str, Any]:
    """Return the body with the strict response format of its endpoint.

    Raises:
        InputError: The endpoint has no structured output, or the body already asks for one.
    """
    # Responses nests the format flat under text.format, Chat Completions under response_format.json_schema.
    if endpoint not in _PLACES:
        raise InputError(f"response_model works with {' and '.join(_PLACES)}, not with {endpoint}.")
    # Raw: in a template, braces in a description or a pattern are no fields.
    inner = {"name": schema.name, "schema": msgspec.Raw(canonical(schema.schema)), "strict": True}
    if endpoint == "/v1/responses":
        text = dict(body.get("text") or {})
        if "format" in text:
            raise InputError("Give either response_model or body['text']['format'], not both.")
        return {**body, "text": {**text, "format": {"type": "json_schema", **inner}}}
    if "response_format" in body:
        raise InputError("Give either response_model or body['response_format'], not both.")
    return {**body, "response_format": {"type": "json_schema", "json_schema": inner}}
