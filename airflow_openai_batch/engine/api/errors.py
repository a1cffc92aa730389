"""Error codes and their meaning: which errors a retry may cure, and what effect a failed call may have had."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from airflow_openai_batch.engine import errors

QUEUE_CODES = frozenset({"token_limit_exceeded"})
"""Seen as the error of a failed batch: the organization's queue for the model is full."""

ACCOUNT_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
"""OpenAI's error codes for an account that is out of money. None was seen in a batch so far."""

# Seen: "Enqueued token limit reached for <model> in organization <org>. Limit: 2,000,000 enqueued tokens."
_QUEUE_MESSAGE = re.compile(r"enqueued token", re.IGNORECASE)

_LIMIT = re.compile(r"Limit:\s*([\d,]+)\s*enqueued tokens", re.IGNORECASE)

# Seen: "Cannot find file <id>, or organization <org> does not have access to it.", also for a file that exists.
_FILE_MESSAGE = re.compile(r"cannot find file", re.IGNORECASE)


def is_queue_message(code: str | None, message: str) -> bool:
    """Return whether an error means that the queue is full."""
    return code in QUEUE_CODES or bool(_QUEUE_MESSAGE.search(message))


def is_file_message(message: str) -> bool:
    """Return whether an error means that OpenAI does not find the input file."""
    return bool(_FILE_MESSAGE.search(message))


def queue_limit(message: str) -> int | None:
    """Return the limit of enqueued tokens that an error message states, or None."""
    match = _LIMIT.search(message)
    return int(match[1].replace(",", "")) if match else None


PASSING_CODES = frozenset(
    {"batch_expired", "batch_cancelled", "request_timeout", "server_error", "rate_limit_exceeded", "no_answer"}
)
"""Error codes after which the same request may succeed.

OpenAI's API reference: `batch_expired`, `batch_cancelled` and `request_timeout` of a line. Seen in the body of a line:
`server_error`, `rate_limit_exceeded`. `no_answer` is this package's own code, for a line without a response.
"""

PASSING_STATUSES = frozenset({0, 408, 409, 429})
"""HTTP statuses, besides 500 and above, after which the same request may succeed. Seen: 0 in output files."""


class translated:
    """Context manager that raises exceptions of the SDK and its HTTP library as those of the engine."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, error_type: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, errors.EngineError) or not isinstance(error, Exception):
            return
        api_error = translate(error)
        if api_error is not None:
            raise api_error from error


def translate(error: Exception) -> errors.ApiError | None:
    """Return the engine's exception for one of the SDK or its HTTP library; None for any other."""
    import httpx2
    import openai

    if isinstance(error, openai.APIStatusError):
        return _of_status(error)
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return errors.Unavailable(f"No connection to OpenAI: {cause!r}")
    if isinstance(error, openai.APIConnectionError | openai.APIResponseValidationError | httpx2.HTTPError):
        return errors.Unclear(f"The answer of OpenAI was lost: {cause!r}")
    if isinstance(error, openai.OpenAIError):  # raised before any request: missing key, failed token exchange
        return errors.Denied(f"The OpenAI client cannot sign in: {error}")
    if isinstance(error, msgspec.MsgspecError | ValueError):
        return errors.Unclear(f"The answer of OpenAI was not the expected JSON: {error}")
    return None


def _of_status(error: Any) -> errors.ApiError:
    status = int(error.status_code)
    body = error.body if isinstance(error.body, Mapping) else {}
    code = body.get("code") or getattr(error, "code", None)
    code = str(code) if code else None
    message = str(body.get("message") or "")[:2000] or f"HTTP {status}"
    return _error_class(status, code, message)(
        f"HTTP {status}: {message}" if not message.startswith("HTTP") else message,
        status=status,
        code=code,
        request_id=getattr(error, "request_id", None),
        retry_after_s=_retry_after(error.response.headers),
    )


def _error_class(status: int, code: str | None, message: str) -> type[errors.ApiError]:
    if status in (400, 429) and is_queue_message(code, message):  # both statuses were seen
        return errors.QueueFull
    if status in (401, 403) or code in ACCOUNT_CODES or (code or "").endswith("_spend_limit_exceeded"):
        return errors.Denied
    if status == 404:
        return errors.NotFound
    if status == 429:
        return errors.Unavailable
    if status in (408, 409) or status >= 500:
        return errors.Unclear
    return errors.Refused


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:
        return None
