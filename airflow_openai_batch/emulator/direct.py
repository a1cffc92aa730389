"""Requests that are answered synchronously: the same answers as in a batch, at synchronous prices."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field

from airflow_openai_batch.emulator.answers import HttpError, LineError, Malformed, Raw
from airflow_openai_batch.emulator.api_error import ApiError
from airflow_openai_batch.emulator.backend import Backend
from airflow_openai_batch.emulator.bodies import BatchRequest, respond
from airflow_openai_batch.emulator.faults import Event, Rule
from airflow_openai_batch.emulator.ledger import body_hash
from airflow_openai_batch.emulator.model import JsonObject
from airflow_openai_batch.emulator.row_faults import answer_with_fault, delivery_status
from airflow_openai_batch.emulator.validate import check_body, strict_json
from airflow_openai_batch.emulator.worker import billed_tokens, price_list

ENDPOINTS = ("/v1/responses", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/moderations")


@dataclass(frozen=True, slots=True)
class DirectReply:
    """What a synchronous call is answered with: a status, and bytes that are JSON unless a fault made them."""

    status: int
    body: JsonObject | bytes
    headers: dict[str, str] = field(default_factory=dict)


def ask(backend: Backend, endpoint: str, raw: bytes) -> DirectReply:
    """Answer a request, and bill it unless it failed. May call the user's answer function: not for the event loop.

    Faults of rows apply, with an empty custom_id.

    Args:
        backend: The emulator.
        endpoint: The path of the call.
        raw: Its body.

    Raises:
        ApiError: OpenAI would refuse the request, or a rate limit is used up.
    """
    try:
        body = strict_json(raw)
    except ValueError:
        raise ApiError(400, "We could not parse the JSON body of your request.") from None
    if error := check_body(body, endpoint, backend.settings.limits):
        is_model = error.code == "model_not_found"
        raise ApiError(404 if is_model else 400, error.message, code=error.code, param=error.param)
    headers = backend.rate_limiter.take(len(raw) // 4 + 1)
    tier = "flex" if body.get("service_tier") == "flex" else "standard"
    asked = {name: value for name, value in body.items() if name != "service_tier"}  # as it would be in a batch
    rule = backend.faults.for_row(Event(body=raw, endpoint=endpoint)) if backend.faults.has_row_rules else None
    request = BatchRequest(endpoint, body, secrets.token_hex(16), int(backend.clock.now()))
    answered = answer_with_fault(request, rule, backend.settings.answer)
    reply = respond(request, answered)
    if isinstance(reply, HttpError):
        raise ApiError(reply.status or 500, reply.message, code=reply.code)
    if isinstance(reply, Raw) and reply.status != 200:
        return DirectReply(reply.status, reply.body, headers)
    if isinstance(reply, Raw | Malformed):
        content = backend.settings.dialect.body(reply.body) if isinstance(reply, Raw) else {}
        usage = content.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        cost = price_list().cost(content.get("model"), usage, tier)
        backend.ledger.record_direct(body_hash(asked), billed_tokens(usage), delivery_status(answered, rule), cost)
        return DirectReply(200, _spoilt(content, rule) if isinstance(reply, Raw) else reply.data, headers)
    message = reply.message if isinstance(reply, LineError) else "The server had an error."
    raise ApiError(500, message, code="server_error")


def _spoilt(body: JsonObject, rule: Rule | None) -> JsonObject | bytes:
    """Return the body of an answer; only half of it where a fault makes lines end in their middle."""
    if rule is None or rule.name != "malformed":
        return body
    data = json.dumps(body).encode()
    return data[: len(data) // 2]
