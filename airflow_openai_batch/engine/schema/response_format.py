"""Structured output: a response model becomes the strict response format of a request."""

from __future__ import annotations

import copy
import re
from typing import Any

import msgspec

from airflow_openai_batch.engine.encoding import canonical
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.schema.validation import ResponseSchema, is_pydantic

_INVALID_IN_NAME = re.compile(r"[^A-Za-z0-9_-]")

_FORMAT_KEYS = {"/v1/responses": "text.format", "/v1/chat/completions": "response_format"}


def response_schema(response_model: Any) -> ResponseSchema | None:
    """Read the ``response_model`` parameter: a Pydantic class, a JSON Schema, or None.

    Raises:
        InputError: It is neither, or OpenAI's strict mode would reject it.
    """
    if response_model is None:
        return None
    if isinstance(response_model, dict):
        schema = copy.deepcopy(response_model)
        name = str(schema.get("title") or "answer")
        _require_strict(schema, "response_model")
    elif is_pydantic(response_model):
        schema, name = strict_schema(response_model), response_model.__name__
        _require_strict(schema, response_model.__name__)
    else:
        raise InputError(
            f"response_model must be a Pydantic class or a JSON Schema (a dict), not {type(response_model).__name__}."
        )
    if schema.get("type") != "object":
        raise InputError("response_model: OpenAI's structured output needs an object at the top of the schema.")
    return ResponseSchema(schema, _INVALID_IN_NAME.sub("_", name)[:64])


def _require_strict(schema: Any, where: str) -> None:
    """Check a schema against the rules of strict mode (OpenAI's guide to structured outputs).

    A schema that breaks them would fail the request of every row, hours later.
    """
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
    """Return the body with the strict response format of its endpoint added.

    Args:
        body: The body of a request, or a template of bodies.
        endpoint: The endpoint of the job.
        schema: The schema that answers must follow.

    Raises:
        InputError: The endpoint has no structured output, or the body has a response format already.
    """
    # OpenAI's API reference: Responses has the format flat in `text.format`, Chat Completions nested in
    # `response_format.json_schema`.
    if endpoint not in _FORMAT_KEYS:
        raise InputError(f"response_model works with {' and '.join(_FORMAT_KEYS)}, not with {endpoint}.")
    # Raw: in a template, braces in a description or a pattern are not columns.
    inner = {"name": schema.name, "schema": msgspec.Raw(canonical(schema.schema)), "strict": True}
    if endpoint == "/v1/responses":
        text = dict(body.get("text") or {})
        if "format" in text:
            raise InputError("Give either response_model or body['text']['format'], not both.")
        return {**body, "text": {**text, "format": {"type": "json_schema", **inner}}}
    if "response_format" in body:
        raise InputError("Give either response_model or body['response_format'], not both.")
    return {**body, "response_format": {"type": "json_schema", "json_schema": inner}}


def strict_schema(model: type[Any]) -> dict[str, Any]:
    """Return the SDK's strict JSON Schema of a Pydantic class: every field required, no additional properties."""
    from openai import pydantic_function_tool  # the SDK's public way to its strict form

    function: Any = pydantic_function_tool(model)["function"]
    return dict(function["parameters"])
