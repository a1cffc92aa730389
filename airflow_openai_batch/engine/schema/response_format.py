"""Structured output: a response model becomes the strict response format of a request."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_openai_batch.engine.encoding import canonical
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.schema.strict import accepted_form, check_strict, is_pydantic

if TYPE_CHECKING:
    from airflow_openai_batch.engine.schema.validation import ResponseSchema

_INVALID_IN_NAME = re.compile(r"[^A-Za-z0-9_-]")

_FORMAT_KEYS = {"/v1/responses": "text.format", "/v1/chat/completions": "response_format"}


def response_schema(response_model: Any) -> ResponseSchema | None:
    """Read the ``response_model`` parameter: a Pydantic class, a JSON Schema, or None.

    Raises:
        InputError: It is neither, or OpenAI's strict mode would reject it.
    """
    if response_model is None:
        return None
    from airflow_openai_batch.engine.schema.validation import ResponseSchema

    check_response_model(response_model)
    if isinstance(response_model, dict):
        schema = copy.deepcopy(response_model)
        name = str(schema.get("title") or "answer")
    else:
        schema, name = strict_schema(response_model), response_model.__name__
        check_strict(schema, name)
    return ResponseSchema(schema, _INVALID_IN_NAME.sub("_", name)[:64])


def check_response_model(response_model: Any) -> None:
    """Check what can be told of a ``response_model`` without making a schema of a Pydantic class.

    Raises:
        InputError: It is no Pydantic class, JSON Schema or None, or OpenAI's strict mode would reject the JSON Schema.
    """
    if isinstance(response_model, dict):
        check_strict(response_model, "response_model")
    elif response_model is not None and not is_pydantic(response_model):
        kind = response_model if isinstance(response_model, type) else type(response_model)
        hint = " Give the class itself, not an instance of it." if is_pydantic(kind) else ""
        raise InputError(
            f"response_model must be a Pydantic class or a JSON Schema (a dict), not {kind.__name__}.{hint}"
        )


def check_format(body: dict[str, Any], endpoint: str) -> None:
    """Check the schema of a strict response format that a body brings along.

    Raises:
        InputError: OpenAI's strict mode would reject it.
    """
    text_format = (
        _entry(body, "text", "format")
        if endpoint == "/v1/responses"
        else _entry(body, "response_format", "json_schema")
    )
    schema = text_format.get("schema")
    if text_format.get("strict") is True and isinstance(schema, dict) and b"!json}" not in canonical(schema):
        check_strict(schema, "body: the schema of the response format")


def _entry(body: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        value = body.get(name)
        body = value if isinstance(value, dict) else {}
    return body


def with_response_format(body: dict[str, Any], endpoint: str, schema: ResponseSchema) -> dict[str, Any]:
    """Return the body with the strict response format of its endpoint added.

    Args:
        body: The body of a request, or a template of bodies.
        endpoint: The endpoint of the job.
        schema: The schema that answers must follow.

    Raises:
        InputError: The endpoint has no structured output, or the body has a response format already.
    """
    check_place(body, endpoint)
    # OpenAI's API reference: Responses has the format flat in `text.format`, Chat Completions nested in
    # `response_format.json_schema`.
    # Raw: in a template, braces in a description or a pattern are not columns.
    inner = {"name": schema.name, "schema": msgspec.Raw(canonical(schema.schema)), "strict": True}
    if endpoint == "/v1/responses":
        text = dict(body.get("text") or {})
        return {**body, "text": {**text, "format": {"type": "json_schema", **inner}}}
    return {**body, "response_format": {"type": "json_schema", "json_schema": inner}}


def check_place(body: dict[str, Any], endpoint: str) -> None:
    """Check that a body has a place for a response format, and that it is free.

    Raises:
        InputError: The endpoint has no structured output, or the body has a response format already.
    """
    if endpoint not in _FORMAT_KEYS:
        raise InputError(f"response_model works with {' and '.join(_FORMAT_KEYS)}, not with {endpoint}.")
    text = body.get("text")
    if endpoint == "/v1/responses" and isinstance(text, dict) and "format" in text:
        raise InputError("Give either response_model or body['text']['format'], not both.")
    if endpoint == "/v1/chat/completions" and "response_format" in body:
        raise InputError("Give either response_model or body['response_format'], not both.")


def strict_schema(model: type[Any]) -> dict[str, Any]:
    """Return the strict JSON Schema of a Pydantic class: every field required, no additional properties."""
    from openai import pydantic_function_tool  # the SDK's public way to its strict form

    function: Any = pydantic_function_tool(model)["function"]
    return accepted_form(function["parameters"])
