"""The endpoints of the Batch API: required parameters of a request, limits of a batch, and the check of a body.

Every request is checked before upload, because one bad line makes OpenAI reject the whole batch, minutes later
(seen: `missing_required_parameter`, `invalid_request`, `streaming_unsupported`).
"""

from __future__ import annotations

from typing import Any

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import Value

REQUIRED: dict[str, tuple[str, ...]] = {
    "/v1/responses": ("model", "input"),
    "/v1/chat/completions": ("model", "messages"),
    "/v1/embeddings": ("model", "input"),
    "/v1/completions": ("model", "prompt"),
    "/v1/moderations": ("input",),
    "/v1/images/generations": ("prompt",),
    "/v1/images/edits": ("prompt", "images"),
    "/v1/videos": ("prompt",),
}
"""The endpoints that a batch may have (OpenAI's API reference, November 2026), with their required parameters.

Seen: a line without `model` or `messages` fails the whole batch. The rest is each endpoint's own API reference.
"""

EMBEDDINGS = "/v1/embeddings"

MAX_INPUTS_PER_REQUEST = 2048
"""OpenAI's API reference: the longest array of inputs in one embeddings request."""

_EMPTY = (None, "")


class Limits(Value, frozen=True, kw_only=True):
    """The limits of one batch."""

    max_requests: int = 50_000
    """OpenAI's guide: at most 50,000 requests."""
    max_bytes: int = 200_000_000
    """OpenAI's guide: an input file of at most 200 MB. Seen: the server refuses more than 209,715,200 bytes."""
    max_inputs: int = 50_000
    """OpenAI's API reference: at most 50,000 embedding inputs over all requests."""
    max_tokens: int | None = None
    """Estimated input tokens; set from the job's `max_enqueued_tokens`, so that every shard fits into the queue."""
    pilot_rows: int | None = None
    """Requests of the first batch of each model, if that is a pilot; set from the job's `pilot_rows`."""


def check_endpoint(endpoint: str) -> None:
    """Check that the Batch API has an endpoint.

    Raises:
        InputError: It does not; the message lists the endpoints.
    """
    if endpoint not in REQUIRED:
        raise InputError(f"Unknown endpoint {endpoint!r}. The Batch API has: {', '.join(REQUIRED)}.")


def check_body(body: Any, endpoint: str, where: str | int) -> None:
    """Check that OpenAI would not reject the whole batch because of a body.

    Args:
        body: The body of a request.
        endpoint: The endpoint of the job.
        where: The body's name in error messages, or the ordinal of its row.

    Raises:
        InputError: The body is not a dict, lacks a required parameter, or asks for streaming.
    """
    if not isinstance(body, dict):
        raise InputError(f"{_named(where)}: the body must be an object (a dict), not {type(body).__name__}.")
    for name in REQUIRED[endpoint]:
        if body.get(name) in _EMPTY:
            raise _lacking(body, endpoint, where)
    if body.get("stream"):  # OpenAI's batch FAQ; seen: `streaming_unsupported` fails the whole batch
        raise InputError(f'{_named(where)}: "stream": true is not possible in a batch; remove it.')


def _named(where: str | int) -> str:
    return where if isinstance(where, str) else f"row {where}"


def _lacking(body: dict[str, Any], endpoint: str, where: str | int) -> InputError:
    missing = ", ".join(repr(name) for name in REQUIRED[endpoint] if body.get(name) in _EMPTY)
    return InputError(
        f"{_named(where)}: the body lacks {missing}, which {endpoint} requires; OpenAI would refuse the whole batch."
    )


def count_inputs(value: Any, where: str | int) -> int:
    """Return the number of inputs of an embeddings request; a string or an array of token ids is one input.

    Args:
        value: The parameter `input`.
        where: The request's name in error messages, or the ordinal of its row.

    Raises:
        InputError: There are none, or more than `MAX_INPUTS_PER_REQUEST`.
    """
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
        return 1
    n = len(value) if isinstance(value, list) else 0
    if n == 0:
        raise InputError(f"{_named(where)}: `input` must be a text or a list of texts with at least one entry.")
    if n > MAX_INPUTS_PER_REQUEST:
        raise InputError(f"{_named(where)}: {n} inputs in one request; OpenAI takes at most {MAX_INPUTS_PER_REQUEST}.")
    return n
