"""What OpenAI wants in a request of each endpoint, and the limits of a batch.

One bad line makes OpenAI refuse the whole batch, minutes later, so every line is checked before upload.
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
"""The endpoints that a batch may have, with the parameters without which a line fails its whole batch."""

EMBEDDINGS = "/v1/embeddings"

MAX_INPUTS_PER_REQUEST = 2048

_EMPTY = (None, "")


class Limits(Value, frozen=True, kw_only=True):
    """What one batch may hold. The defaults are OpenAI's; its file limit was seen as 209,715,200 bytes."""

    max_requests: int = 50_000
    max_bytes: int = 200_000_000
    max_inputs: int = 50_000
    """Embedding inputs over all requests of the batch."""
    max_tokens: int | None = None
    """Estimated input tokens; set from the job's budget so that a shard always fits into it."""


def check_endpoint(endpoint: str) -> None:
    """Refuse an endpoint that the Batch API does not have.

    Raises:
        InputError: With the endpoints there are.
    """
    if endpoint not in REQUIRED:
        raise InputError(f"Unknown endpoint {endpoint!r}. The Batch API has: {', '.join(REQUIRED)}.")


def check_body(body: Any, endpoint: str, where: str | int) -> None:
    """Refuse a body for which OpenAI would refuse the whole batch.

    Args:
        body: The body as an object.
        endpoint: The endpoint of the job.
        where: What the error message calls it, or the number of its row.

    Raises:
        InputError: It is no object, lacks a parameter or asks for streaming.
    """
    if not isinstance(body, dict):
        raise InputError(f"{_named(where)}: the body must be an object (a dict), not {type(body).__name__}.")
    for name in REQUIRED[endpoint]:
        if body.get(name) in _EMPTY:
            raise _lacking(body, endpoint, where)
    if body.get("stream"):
        raise InputError(f'{_named(where)}: "stream": true is not possible in a batch; remove it.')


def _named(where: str | int) -> str:
    return where if isinstance(where, str) else f"row {where}"


def _lacking(body: dict[str, Any], endpoint: str, where: str | int) -> InputError:
    missing = ", ".join(repr(name) for name in REQUIRED[endpoint] if body.get(name) in _EMPTY)
    return InputError(
        f"{_named(where)}: the body lacks {missing}, which {endpoint} requires; OpenAI would refuse the whole batch."
    )


def count_inputs(value: Any, where: str | int) -> int:
    """Count the inputs of an embeddings request: a text or an array of token numbers is one.

    Raises:
        InputError: There are none, or more than OpenAI takes in one request.
    """
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
        return 1
    n = len(value) if isinstance(value, list) else 0
    if n == 0:
        raise InputError(f"{_named(where)}: `input` must be a text or a list of texts with at least one entry.")
    if n > MAX_INPUTS_PER_REQUEST:
        raise InputError(f"{_named(where)}: {n} inputs in one request; OpenAI takes at most {MAX_INPUTS_PER_REQUEST}.")
    return n
