"""From a request line to a synchronous request, and from its answer to a line as in a batch's output file."""

from __future__ import annotations

from typing import Any

import msgspec

from airflow_openai_batch.engine.api.client import Reply
from airflow_openai_batch.engine.endpoints import WITH_SERVICE_TIER
from airflow_openai_batch.engine.errors import ApiError
from airflow_openai_batch.engine.model import ServiceTier

LOST = "answer_lost"
"""The error code of a request whose answers were all lost: it may have been billed, and is not asked any more."""


class DirectRequest(msgspec.Struct):
    """A request that is asked synchronously, and how it went so far."""

    custom_id: str
    body: dict[str, Any]
    n_bytes: int = 0
    most_picodollars: int = 0
    """What it costs at most; 0 if that is not known."""
    n_refused: int = 0
    """Times that it was refused for a passing reason, or failed without being billed."""
    n_lost: int = 0
    """Times that its answer was lost, and may have been billed."""
    n_answers_then: int = 0
    """How many other requests had been answered when it was first refused."""
    mark: int = 0
    """See ``Pacer.mark``."""


class _RequestLine(msgspec.Struct):
    custom_id: str
    body: dict[str, Any]


_decode_request = msgspec.json.Decoder(_RequestLine).decode


def request_of(line: bytes) -> DirectRequest:
    """Return the request of a line of a batch input file."""
    decoded = _decode_request(line)
    return DirectRequest(decoded.custom_id, decoded.body, len(line))


def body_to_send(body: dict[str, Any], endpoint: str, tier: ServiceTier) -> dict[str, Any]:
    """Return the body of a synchronous request: that of the batch, in the service tier that its price is known for.

    Args:
        body: The request's body.
        endpoint: The endpoint of the job.
        tier: The service tier that the user chose.
    """
    return {**body, "service_tier": tier} if endpoint in WITH_SERVICE_TIER else body


def line_of_reply(custom_id: str, reply: Reply) -> bytes:
    """Return the line of an answer.

    Raises:
        MsgspecError: Its body is not JSON.
    """
    body = msgspec.json.format(reply.body, indent=-1)  # one line, whatever line ends it had
    response = {"status_code": 200, "request_id": reply.request_id, "body": msgspec.Raw(body)}
    return msgspec.json.encode({"id": "direct", "custom_id": custom_id, "response": response, "error": None}) + b"\n"


def line_of_error(custom_id: str, error: ApiError, code: str | None = None) -> bytes:
    """Return the line of a request that has failed for good.

    Args:
        custom_id: The request's id.
        error: The last error.
        code: The error's code, if it is not the server's own.
    """
    problem = {"code": code or error.code, "message": str(error)}
    response = None
    if error.status is not None and code is None:
        response = {"status_code": error.status, "request_id": error.request_id, "body": {"error": problem}}
    line = {"id": "direct", "custom_id": custom_id, "response": response, "error": None if response else problem}
    return msgspec.json.encode(line) + b"\n"
