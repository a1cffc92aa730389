"""The endpoints of the Batch API: required parameters of a request, limits of a batch, and the check of a body.

Every request is checked before upload, because one bad line makes OpenAI reject the whole batch, minutes later
(seen: `missing_required_parameter`, `invalid_request`, `streaming_unsupported`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_openai_batch.engine.errors import InputError

# A Dag file imports this module, and needs none of the model's many classes.
if TYPE_CHECKING:
    from airflow_openai_batch.engine.model import ServiceTier

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

_DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
"""OpenAI's guide to embeddings: how many numbers a vector has, unless the body's `dimensions` says otherwise."""

DIRECT = ("/v1/responses", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/moderations")
"""The endpoints whose requests can be asked synchronously too, with the very body that they have in a batch."""

WITH_SERVICE_TIER = frozenset({"/v1/responses", "/v1/chat/completions"})
"""OpenAI's API reference: the endpoints whose bodies have `service_tier`."""

MAX_INPUTS_PER_REQUEST = 2048
"""OpenAI's API reference: the longest array of inputs in one embeddings request."""

_EMPTY = (None, "")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
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


ENDPOINTS_EXTRA = "batch_endpoints"
"""Key of a connection's extra: a list of endpoints that its server has besides those of OpenAI's Batch API."""


def check_endpoint(endpoint: str, others: Collection[str] = ()) -> None:
    """Check that the Batch API, or the server that is asked, has an endpoint.

    Args:
        endpoint: The endpoint.
        others: What the server has besides OpenAI's, as the connection says.

    Raises:
        InputError: It does not; the message lists the endpoints, and says where others are named.
    """
    if endpoint in REQUIRED or endpoint in others:
        return
    message = f"Unknown endpoint {endpoint!r}. The Batch API has: {', '.join([*REQUIRED, *others])}."
    if endpoint.startswith("/"):
        extra = f'{{"{ENDPOINTS_EXTRA}": ["{endpoint}"]}}'
        message += f" If your server has another, say so in the connection's extra: {extra}."
    raise InputError(message)


def required(endpoint: str) -> tuple[str, ...]:
    """Return the parameters that a body must have; of an endpoint that OpenAI does not have, none is known."""
    return REQUIRED.get(endpoint, ())


def long_form(url: str) -> str:
    """Return an endpoint as OpenAI names it. Azure's documentation: request lines may also leave out ``/v1``."""
    return f"/v1{url}" if f"/v1{url}" in REQUIRED else url


def check_direct(endpoint: str, tier: ServiceTier) -> None:
    """Check that requests to an endpoint can be asked synchronously, as ``finish_by`` does.

    Args:
        endpoint: One of the Batch API's endpoints.
        tier: The service tier.

    Raises:
        InputError: They cannot.
    """
    if endpoint not in DIRECT:
        raise InputError(
            f"finish_by asks requests synchronously, which is not possible for {endpoint}: only for "
            f"{', '.join(DIRECT)}. Leave finish_by out."
        )
    if tier == "flex" and endpoint not in WITH_SERVICE_TIER:
        raise InputError(
            f"finish_by: {endpoint} has no service tier 'flex', only {', '.join(sorted(WITH_SERVICE_TIER))} have. "
            "Leave tier out."
        )


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
    for name in required(endpoint):
        if body.get(name) in _EMPTY:
            raise _lacking(body, endpoint, where)
    if body.get("stream"):  # OpenAI's batch FAQ; seen: `streaming_unsupported` fails the whole batch
        raise InputError(f'{_named(where)}: "stream": true is not possible in a batch; remove it.')


def _named(where: str | int) -> str:
    return where if isinstance(where, str) else f"row {where}"


def _lacking(body: dict[str, Any], endpoint: str, where: str | int) -> InputError:
    missing = ", ".join(repr(name) for name in required(endpoint) if body.get(name) in _EMPTY)
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


def dimensions_of(body: Any) -> int | None:
    """Return how many numbers an embedding will have; None if nothing tells it before it is there.

    Args:
        body: The body of an embeddings request, or the template of it.
    """
    if not isinstance(body, dict):
        return None
    n = body["dimensions"] if "dimensions" in body else _DIMENSIONS.get(str(body.get("model")))
    return n if isinstance(n, int) and not isinstance(n, bool) else None
