"""What a user asks for: rows, and what to ask of each."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from airflow_openai_batch.engine.endpoints import Limits, check_endpoint
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import Spec
from airflow_openai_batch.engine.requests.bodies import Bodies, bodies_of
from airflow_openai_batch.engine.requests.nulls import ON_EMPTY, ON_NULL, OnEmpty, OnNull, check_choice
from airflow_openai_batch.engine.requests.sources import places_of, source_of
from airflow_openai_batch.engine.schema.response_format import check_format, response_schema, with_response_format


class Request:
    """What a user asks for: rows, and what to ask of each.

    Args:
        rows: See ``requests.sources.source_of``.
        endpoint: One of the Batch API's endpoints, or of `other_endpoints`.
        body: A template (dict), a callable ``row -> body``, or None for ready-made request lines.
        response_model: A Pydantic class or JSON Schema for strict structured output.
        custom_id: Template of the request ids; by default row ordinal and a short digest.
        limits: What one batch may hold.
        column_prefix: What stands in front of the names of the answers' fields in the result columns.
        on_null: What to do with rows whose prompt holds nothing of them; see ``requests.nulls``.
        on_empty: Whether to ``fail`` if there are no rows; anything else makes a job without rows, which is done.
        other_endpoints: Endpoints that the server has besides OpenAI's; answers to them are taken as they are.

    Raises:
        InputError: Something cannot be used. Nothing was read from the rows yet.
    """

    def __init__(
        self,
        rows: Any,
        *,
        endpoint: str,
        body: Any,
        response_model: Any = None,
        custom_id: str | None = None,
        limits: Limits | None = None,
        column_prefix: str | None = None,
        on_null: OnNull = "skip",
        on_empty: OnEmpty = "fail",
        other_endpoints: Collection[str] = (),
    ) -> None:
        check_endpoint(endpoint, other_endpoints)
        check_choice("on_null", on_null, ON_NULL)
        check_choice("on_empty", on_empty, ON_EMPTY)
        self.on_empty = on_empty
        schema = response_schema(response_model)
        if schema is not None:
            if not isinstance(body, dict):
                raise InputError(
                    "response_model needs body to be a template (a dict); a callable can set the format itself."
                )
            body = with_response_format(body, endpoint, schema)
        elif column_prefix:
            raise InputError("column_prefix is for the fields of a response_model, and there is none.")
        elif isinstance(body, dict):
            check_format(body, endpoint)
        self.bodies: Bodies = bodies_of(body, endpoint, on_null)
        self.parameters = tuple(body) if isinstance(body, dict) else ()
        self.source = source_of(rows, endpoint=endpoint, ready=body is None)
        self.sources = places_of(rows)
        self.limits = limits or Limits()
        self.spec = Spec(
            endpoint=endpoint,
            body=self.bodies.spec_body,
            custom_id=custom_id,
            schema=schema.schema if schema is not None else None,
            schema_name=schema.name if schema is not None else None,
            column_prefix=column_prefix or None,
            on_null=on_null,
        )
