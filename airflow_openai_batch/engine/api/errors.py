"""Error codes and their meaning: which errors a retry may cure, and what effect a failed call may have had."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.api.rate_limits import exhausted_s
from airflow_openai_batch.engine.api.text import MAX_MESSAGE, clean, decoded, number_of, page_text, text_of
from airflow_openai_batch.engine.redaction import remember_headers, scrubbed

MAX_RETRY_AFTER_S = 3600.0
"""The longest pause that a server may ask for. Seen: days, and `inf`."""

QUEUE_CODES = frozenset({"token_limit_exceeded"})
"""Seen as the error of a failed batch: the organization's queue for the model is full."""

ACCOUNT_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
"""OpenAI's error codes for an account that is out of money. None was seen in a batch so far."""

# Seen: "Enqueued token limit reached for <model> in organization <org>. Limit: 2,000,000 enqueued tokens.", and for
# embeddings "Enqueued request limit reached for <model> … Limit: 1,000,000 enqueued requests."
_QUEUE_MESSAGE = re.compile(r"enqueued (token|request limit)", re.IGNORECASE)

_LIMIT = re.compile(r"Limit:\s*(\d[\d,]{0,20})\s*enqueued (token|request)s", re.IGNORECASE)

# Seen: "Cannot find file <id>, or organization <org> does not have access to it.", also for a file that exists.
_FILE_MESSAGE = re.compile(r"cannot find file", re.IGNORECASE)

# Seen (Azure): "The input file is in 'pending' state. Only files with status 'Processed' are accepted for batch
# inferencing.", "The file is not ready".
_PENDING_MESSAGE = re.compile(
    r"\bfile\b.{0,80}\b(pending|not (yet )?(been )?(processed|ready)|(still )?being processed)\b"
    r"|status .?processed.? are accepted",
    re.IGNORECASE | re.DOTALL,
)


def is_queue_message(code: str | None, message: str) -> bool:
    """Return whether an error means that the queue is full."""
    return code in QUEUE_CODES or bool(_QUEUE_MESSAGE.search(message))


def is_file_message(message: str) -> bool:
    """Return whether an error means that OpenAI does not find the input file."""
    return bool(_FILE_MESSAGE.search(message))


def is_file_pending(message: str) -> bool:
    """Return whether an error means that the input file is still being processed."""
    return bool(_PENDING_MESSAGE.search(message))


class QueueLimit(NamedTuple):
    """How much may be in OpenAI's queue for a model at once."""

    n: int
    unit: Literal["tokens", "requests"]


def queue_limit(message: str) -> QueueLimit | None:
    """Return the limit of the queue that an error message states, or None."""
    match = _LIMIT.search(message)
    if match is None:
        return None
    return QueueLimit(int(match[1].replace(",", "")), "tokens" if match[2].lower() == "token" else "requests")


PASSING_CODES = frozenset(
    {"batch_expired", "batch_cancelled", "request_timeout", "server_error", "rate_limit_exceeded", "no_answer"}
)
"""Error codes after which the same request may succeed.

OpenAI's API reference: `batch_expired`, `batch_cancelled` and `request_timeout` of a line. Seen in the body of a line:
`server_error`, `rate_limit_exceeded`. `no_answer` is this package's own code, for a line without a response.
"""

PASSING_STATUSES = frozenset({0, 408, 409, 429})
"""HTTP statuses, besides 500 and above, after which the same request may succeed. Seen: 0 in output files."""

FILTER_CODES = frozenset({"content_filter"})
"""Azure's error code of a request whose prompt its content filter refused: no answer, but the prompt is charged."""


class translated:
    """Context manager that raises exceptions of the SDK and its HTTP library as those of the engine."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, error_type: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, errors.EngineError) or not isinstance(error, Exception):
            return
        api_error = translate(error)
        if api_error is not None:
            # A traceback prints the cause too, which may quote the key; and what a server says, which may quote rows.
            is_told = str(api_error) == BAD_KEY or _is_of_server(error) or _quotes_secret(error)
            raise api_error from (None if is_told else error)


def _is_of_server(error: Exception) -> bool:
    import openai

    return isinstance(error, openai.APIStatusError)


def _address(error: Exception) -> str:
    """Return where a request went, as `` at host:port`` without its path and what it is signed with; else nothing."""
    import openai

    if not isinstance(error, openai.APIConnectionError):
        return ""
    return f" at {error.request.url.netloc.decode()}"


def translate(error: Exception) -> errors.ApiError | None:
    """Return the engine's exception for one of the SDK or its HTTP library; None for any other.

    Its texts are those of the server, cleaned and without what the request was signed with.
    """
    import httpx2
    import openai

    _remember_secrets(error)
    if isinstance(error, openai.APIStatusError):
        return _of_status(error)
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
    if isinstance(cause, errors.ApiError):  # raised inside the HTTP library, by the bounds of a call
        return cause
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return errors.Unavailable(f"No connection to OpenAI{_address(error)}: {clean(repr(cause), MAX_MESSAGE)}")
    if _is_bad_header(cause):
        return errors.Denied(BAD_KEY)
    if isinstance(error, openai.APIConnectionError | openai.APIResponseValidationError | httpx2.HTTPError):
        return errors.Unclear(f"The answer of OpenAI was lost: {clean(repr(cause), MAX_MESSAGE)}")
    if isinstance(error, openai.OpenAIError):  # raised before any request: missing key, failed token exchange
        return errors.Denied(f"The OpenAI client cannot sign in: {clean(str(error), MAX_MESSAGE)}")
    if isinstance(error, TimeoutError):
        return errors.Unclear("The answer of OpenAI took too long.")
    if isinstance(error, msgspec.MsgspecError | ValueError | RecursionError):
        return errors.Unclear(f"The answer of OpenAI was not the expected JSON: {clean(str(error), MAX_MESSAGE)}")
    return None


def _is_bad_header(error: BaseException | None) -> bool:
    """Return whether the HTTP library refused to send a header. Its message may quote the key."""
    import httpx2

    if isinstance(error, UnicodeEncodeError):
        return error.encoding == "ascii"  # bodies are UTF-8
    return isinstance(error, httpx2.LocalProtocolError) and "header" in str(error).lower()


BAD_KEY = (
    "The API key in the connection, or another of its values that is sent as a header, holds a space, a line end or "
    "another character that cannot be sent, perhaps copied along with it: enter it again without. Nothing was sent."
)

_REFUSING_STATUSES = frozenset({400, 405, 413, 415, 422})
"""Statuses with which OpenAI refuses a call itself, if it says so in its own form; 404 and 410 are apart."""


def _of_status(error: Any) -> errors.ApiError:
    status = int(error.status_code)
    envelope = _envelope(error.response)
    headers = error.response.headers
    code = None
    if envelope is None:
        message = f"not an answer of OpenAI itself: {_excerpt(error.response)}{_path_hint(status, error)}"
    else:
        code = text_of(envelope.get("code"))
        message = clean(str(envelope["message"]), MAX_MESSAGE)
    error_class = _error_class(status, code, message) if envelope is not None else _strange_class(status)
    return error_class(
        clean(f"HTTP {status}: {message}", MAX_MESSAGE),
        status=status,
        code=code,
        request_id=text_of(headers.get("x-request-id")),
        retry_after_s=_pause_s(status, headers),
        is_openais=envelope is not None,
    )


def _path_hint(status: int, error: Any) -> str:
    """Return what may be missing in the address of a server that has no such path."""
    path = error.request.url.path
    if status != 404 or not path.startswith(("/files", "/batches")):
        return ""
    return f". The connection's host has no path, so {path} was asked: most servers have their API under /v1"


def _pause_s(status: int, headers: Mapping[str, str]) -> float | None:
    """Return the pause that an error asks for: by its own word, else by the rate limit that is used up."""
    asked_s = retry_after_s(headers)
    return exhausted_s(headers) if asked_s is None and status == _TOO_MANY else asked_s


_TOO_MANY = 429


def _excerpt(response: Any) -> str:
    try:
        return page_text(response.content) if response.content else "it is empty"
    except RuntimeError:  # not read
        return "it was not read"


_PASSING_REFUSALS = frozenset({408, 409, 413, 425, 429, 499})
"""Statuses of 400 and above that tell of this one call, whoever answers it."""


def _strange_class(status: int) -> type[errors.ApiError]:
    """Return what an error that is not in OpenAI's own form means."""
    return errors.Stranger if 300 <= status < 500 and status not in _PASSING_REFUSALS else errors.Unclear


def _envelope(response: Any) -> Mapping[str, Any] | None:
    """Return the error in OpenAI's form: an object with an object ``error`` that holds a message.

    Only with it is an answer OpenAI's own, or of a server that speaks for itself; a proxy, a firewall or a broken
    route answers with HTML, nothing, or JSON of another form, and knows nothing of what the call did.
    """
    try:
        body = decoded(response.content)
    except (errors.Unclear, RuntimeError):  # not JSON, or not read
        return None
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) and text_of(error.get("message")) is not None else None


def _error_class(status: int, code: str | None, message: str) -> type[errors.ApiError]:
    """Return what an error in OpenAI's own form means."""
    if status in (400, 429) and is_queue_message(code, message):  # both statuses were seen
        return errors.QueueFull
    if status in (401, 403) or code in ACCOUNT_CODES or (code or "").endswith("_spend_limit_exceeded"):
        return errors.Denied
    if status < 500 and is_file_pending(message):
        return errors.FilePending
    if status in (404, 410):  # RFC 9110: 410 is a 404 that is known to last
        return errors.NotFound
    if status == 429:
        return errors.Unavailable
    return errors.Refused if status in _REFUSING_STATUSES else errors.Unclear


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the pause that a response asks for in seconds, 0 to 3600; None if it asks for none that can be read.

    RFC 9110: a number of seconds, or a date. The date is compared with the server's own clock, if the response has it.
    """
    value = headers.get("retry-after", "")
    seconds = number_of(value)
    if seconds is None:
        until = _http_date(value)
        now = _http_date(headers.get("date", "")) or _http_date(email.utils.formatdate())
        seconds = until - now if until is not None and now is not None else None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S) if seconds is not None else None


def _http_date(value: str) -> float | None:
    """Return a date of HTTP as epoch seconds."""
    try:
        parts = email.utils.parsedate_tz(value)
        return float(email.utils.mktime_tz(parts)) if parts is not None else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _remember_secrets(error: Any) -> None:
    """Remember what the request of an error was signed with; requests of ``transport`` are known before."""
    try:
        headers = error.request.headers
    except (AttributeError, RuntimeError):  # there is none, or the HTTP library has not set it
        return
    remember_headers(headers)


def _quotes_secret(error: Exception) -> bool:
    texts = [f"{e!r} {e}" for e in (error, error.__cause__, error.__context__) if e is not None]
    return any(scrubbed(text) != text for text in texts)
