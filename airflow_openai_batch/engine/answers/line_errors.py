"""The error of a line, or of its body: what it says in any of its forms, and whether a retry may succeed. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from airflow_openai_batch.engine.api.errors import ACCOUNT_CODES, FILTER_CODES, PASSING_CODES, PASSING_STATUSES
from airflow_openai_batch.engine.model import Outcome, Status

_MAX_DEPTH = 4
_MAX_TEXT = 2000
"""Characters of a message that is not a text."""

_STATUS_IN_TEXT = re.compile(r"\b(?:error code|http(?: status)?|status(?: code)?)[:= ]+([1-5]\d\d)\b", re.IGNORECASE)
"""Seen: some compatible servers tell the status of a failed request in words only ("Error code: 429 - …")."""

_STATUS_IN_CODE = re.compile(r"(?<!\d)(4\d\d|50\d|529)(?!\d)")
"""As "HTTP_429" or "503 Service Unavailable"; a code that is the status itself was seen."""


class RowError(NamedTuple):
    """An error in one form.

    Attributes:
        code: Its code, or else its type.
        message: Its text.
        status: The HTTP status that it tells, if it does.
    """

    code: str | None = None
    message: str | None = None
    status: int | None = None


def error_of(raw: msgspec.Raw | bytes) -> RowError | None:
    """Return an error; None for null and what is empty.

    OpenAI's API reference: an object with `code` and `message`. Seen: a text, and vLLM nests it
    (``{"error": {"error": {"message": …}}}``).
    """
    try:
        return _error_in(msgspec.json.decode(raw), 0)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return RowError(message=bytes(raw).decode("utf-8", "replace")[:_MAX_TEXT])


def error_in_body(body: bytes) -> RowError | None:
    """Return the error that the body of a response holds or is; None if there is none.

    OpenAI's API reference: `body.error` of a status 4xx or 5xx. vLLM's API: the body is the error, and says so.
    """
    fields = msgspec.json.decode(body, type=_ErrorBody)
    return error_of(fields.error) or (error_of(body) if fields.object == "error" else None)


class _ErrorBody(msgspec.Struct):
    error: msgspec.Raw = msgspec.Raw(b"null")
    object: Any = None


def text_of_failure(body: bytes) -> RowError | None:
    """Return what the body of a response with the status of a failure says, whatever it is; None if it is empty."""
    return error_of(body) if body not in (b"{}", b"[]") else None


def _error_in(value: Any, depth: int) -> RowError | None:
    if not value:
        return None
    if isinstance(value, list):
        return _error_in(value[0], depth)
    if not isinstance(value, Mapping):
        return RowError(message=_text(value), status=_status_in(None, _text(value)))
    if value.get("error") and value.get("message") is None and depth < _MAX_DEPTH:
        return _error_in(value["error"], depth + 1)
    code = _text(value.get("code")) or _text(value.get("type"))
    message = _text(value.get("message", value.get("detail")))
    return RowError(code, message, _status_in(code, message))


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)[:_MAX_TEXT]


def _status_in(code: str | None, message: str | None) -> int | None:
    if code is not None and code.isascii() and code.isdecimal():
        return int(code[:9])
    match = _STATUS_IN_CODE.search(code or "") or _STATUS_IN_TEXT.search(message or "")
    return int(match[1]) if match is not None else None


def fail(outcome: Outcome, error: RowError | None, status: int | None = None, *, code: str = "failed") -> None:
    """Set the status of an outcome to failed, or what its error code says, and whether a retry may succeed.

    Args:
        outcome: The outcome to fill in.
        error: The error, if there is one.
        status: The HTTP status of the response; one below 400 says nothing of an error.
        code: The error code if neither the error nor the status gives one.
    """
    error = error or RowError()
    if status is None or 200 <= status < 400:
        status = error.status
    outcome.status = Status.FAILED
    outcome.error_code = error.code or (f"http_{status}" if status is not None else code)
    outcome.error_message = error.message or (f"HTTP {status}" if status is not None else None)
    # OpenAI's API reference: the codes of a line are batch_expired, batch_cancelled and request_timeout.
    if outcome.error_code in ("batch_expired", "batch_cancelled"):
        outcome.status = Status.EXPIRED if outcome.error_code == "batch_expired" else Status.CANCELLED
    if outcome.error_code in FILTER_CODES:
        outcome.status = Status.REFUSED
    outcome.retryable = outcome.error_code not in ACCOUNT_CODES and (
        outcome.error_code in PASSING_CODES or (status is not None and (status in PASSING_STATUSES or status >= 500))
    )
