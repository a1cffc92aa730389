"""Every error code and what it means: which errors pass, which need a person, and what a failed call has done."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_openai_batch.engine import errors

if TYPE_CHECKING:
    pass


QUEUE_CODES = frozenset({"token_limit_exceeded"})

ACCOUNT_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})

_QUEUE_WORDS = re.compile(r"enqueued token", re.IGNORECASE)

_FILE_WORDS = re.compile(r"cannot find file", re.IGNORECASE)

_LIMIT = re.compile(r"Limit:\s*([\d,]+)\s*enqueued tokens", re.IGNORECASE)


def is_queue_message(code: str | None, message: str) -> bool:
    """Say whether an error of the create call means that the queue is full (HTTP 400 and 429 were both seen)."""
    return code in QUEUE_CODES or bool(_QUEUE_WORDS.search(message))


def is_file_message(message: str) -> bool:
    """Say whether an error means that OpenAI does not see the input file."""
    return bool(_FILE_WORDS.search(message))


def queue_limit(message: str) -> int | None:
    """Return the limit of enqueued tokens that an error message states, if it does."""
    found = _LIMIT.search(message)
    return int(found[1].replace(",", "")) if found else None


PASSING_CODES = frozenset(
    {"batch_expired", "batch_cancelled", "request_timeout", "server_error", "rate_limit_exceeded", "no_answer"}
)
"""Error codes after which the same request may fare better."""

PASSING_STATUSES = frozenset({0, 408, 409, 429})  # 0 was seen in output files


class translated:
    """Context manager that turns exceptions of the SDK and its HTTP library into the engine's."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, errors.EngineError) or not isinstance(error, Exception):
            return
        known = translate(error)
        if known is not None:
            raise known from error


def translate(error: Exception) -> errors.ApiError | None:
    """Return the engine's word for an exception, or None if it does not come from a call."""
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
    kind = _kind(status, code, message)
    return kind(
        f"HTTP {status}: {message}" if not message.startswith("HTTP") else message,
        status=status,
        code=code,
        request_id=getattr(error, "request_id", None),
        retry_after_s=_retry_after(error.response.headers),
    )


def _kind(status: int, code: str | None, message: str) -> type[errors.ApiError]:
    if status in (400, 429) and is_queue_message(code, message):
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
