"""OpenAI's Files and Batches API as nine verbs. The engine's only importer of ``openai``.

The SDK's own retries are off for every call: they would repeat ``POST /batches``, which has no idempotency key.
Answers are read from the raw bytes, because the SDK's models accept anything and compatible servers vary.
Every exception becomes one of ``Refused``, ``NotFound``, ``QueueFull``, ``Unavailable``, ``Unclear``, ``Denied``.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.identity import NONCE_KEY
from airflow_openai_batch.engine.model import Batch, LineError
from airflow_openai_batch.engine.queue import ACCOUNT_CODES, is_queue_message

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

_STATUS_NAMES = {"canceled": "cancelled", "success": "completed", "succeeded": "completed", "done": "completed"}
_PAGE = 100
_MAX_ERROR_GROUPS = 50


class Api:
    """The verbs, on one client.

    Args:
        client: A client of the ``openai`` SDK; its ``max_retries`` is ignored.
    """

    def __init__(self, client: OpenAI) -> None:
        self._client = client.with_options(max_retries=0)

    @property
    def host(self) -> str:
        """The host that the client talks to."""
        return str(self._client.base_url.host)

    def upload(self, name: str, file: IO[bytes]) -> str:
        """Upload a batch input file as a stream. Returns the file id. Costs nothing."""
        # The server refuses names that do not end in .jsonl; a tuple with an open file is streamed by the SDK.
        with translated():
            raw = self._client.files.with_raw_response.create(
                file=(name, file, "application/jsonl"), purpose="batch", timeout=600
            )
            return _id_of(_object(raw.content))

    def create(
        self, *, file_id: str, endpoint: str, completion_window: str, metadata: dict[str, str], timeout_s: float
    ) -> Batch:
        """Create a batch: the one call that costs money. Never repeated here.

        Raises:
            Unclear: The batch may exist. Look for its nonce before anything else.
        """
        with translated():
            raw = self._client.with_options(timeout=timeout_s).batches.with_raw_response.create(
                input_file_id=file_id,
                endpoint=endpoint,  # type: ignore[arg-type] # the SDK's list of endpoints is a hint; any string is sent
                completion_window=completion_window,  # type: ignore[arg-type] # compatible servers have other windows
                metadata=metadata,
            )
            return batch_of(raw.content)

    def retrieve(self, batch_id: str) -> Batch:
        """Return what OpenAI knows of a batch now."""
        with translated():
            return batch_of(self._client.batches.with_raw_response.retrieve(batch_id, timeout=60).content)

    def batches(self, since: float) -> Iterator[Batch]:
        """Yield the account's batches, newest first, down to those created before ``since`` (epoch seconds).

        The API filters by nothing and pages by cursor, 100 at a time.
        """
        after: str | None = None
        seen: set[str] = set()
        while True:
            with translated():
                args: dict[str, Any] = {"limit": _PAGE} | ({"after": after} if after else {})
                page = _object(self._client.batches.with_raw_response.list(**args, timeout=60).content)
            found = [_batch(entry) for entry in page.get("data") or []]
            # Some servers ignore the cursor and send the same page for ever: each batch is told once.
            fresh = [batch for batch in found if batch.id not in seen]
            seen.update(batch.id for batch in fresh)
            yield from fresh
            is_past = bool(found) and all(b.created_at is not None and b.created_at < since for b in found)
            if not fresh or is_past or not page.get("has_more"):
                return
            after = found[-1].id

    def cancel(self, batch_id: str) -> Batch | None:
        """Ask for a batch to be cancelled. Returns it, or None if it had ended already (HTTP 409) or is unknown."""
        try:
            with translated():
                return batch_of(self._client.batches.with_raw_response.cancel(batch_id, timeout=60).content)
        except errors.ApiError as error:
            if error.status in (404, 409):
                return None
            raise

    def download(self, file_id: str, target: IO[bytes]) -> int:
        """Write the content of a file to ``target`` as a stream. Returns the number of bytes.

        Raises:
            Unclear: The download broke or is shorter than the file: start again, with an emptied target.
        """
        n = 0
        with translated(), self._client.files.with_streaming_response.content(file_id, timeout=600) as response:
            for chunk in response.iter_bytes():  # the default chunk is the fastest: larger buffers fault in new pages
                n += target.write(chunk)
        expected = self.file_bytes(file_id)
        if expected is not None and n != expected:
            raise errors.Unclear(f"File {file_id} has {expected} bytes, {n} arrived.")
        return n

    def file_bytes(self, file_id: str) -> int | None:
        """Return the size of a file at OpenAI, or None where the server does not say."""
        try:
            with translated():
                size = _object(self._client.files.with_raw_response.retrieve(file_id, timeout=60).content).get("bytes")
        except errors.NotFound:
            return None  # some compatible servers lack the route
        return size if isinstance(size, int) and size > 0 else None


def strict_schema(model: type[Any]) -> dict[str, Any]:
    """Return the SDK's strict JSON Schema of a Pydantic class: every field required, nothing else allowed."""
    from openai import pydantic_function_tool  # the SDK's public way to its strict form

    function: Any = pydantic_function_tool(model)["function"]
    return dict(function["parameters"])


class Page(NamedTuple):
    """One page of the account's batches."""

    batches: list[Batch]
    has_more: bool


async def retrieve_async(client: AsyncOpenAI, batch_id: str, timeout_s: float) -> Batch:
    """Return how a batch stands now; for event loops. ``client`` should have its retries off.

    What can be long is left out, here and in ``list_async``: errors, of which a failed batch may have tens of
    thousands, and metadata. Reading them would hold up the loop.
    """
    with translated():
        raw = await client.batches.with_raw_response.retrieve(batch_id, timeout=timeout_s)
        return _batch(msgspec.structs.asdict(_BRIEF.decode(raw.content)))


async def list_async(client: AsyncOpenAI, after: str | None, timeout_s: float) -> Page:
    """Return up to 100 of the account's batches, newest first; for event loops.

    Args:
        client: A client with its retries off.
        after: The last batch of the page before; None for the first page.
        timeout_s: Longest time to wait for an answer.
    """
    with translated():
        args: dict[str, Any] = {"limit": _PAGE} | ({"after": after} if after else {})
        raw = await client.batches.with_raw_response.list(**args, timeout=timeout_s)
        page = _BRIEF_PAGE.decode(raw.content)
        return Page([_batch(msgspec.structs.asdict(brief)) for brief in page.data or []], bool(page.has_more))


async def cancel_async(client: AsyncOpenAI, batch_id: str) -> None:
    """Ask for a batch to be cancelled; one that has ended or is unknown is no error."""
    try:
        with translated():
            await client.batches.with_raw_response.cancel(batch_id, timeout=30)
    except errors.ApiError as error:
        if error.status not in (404, 409):
            raise


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


def _object(content: bytes) -> dict[str, Any]:
    value = msgspec.json.decode(content)
    if not isinstance(value, dict):
        raise errors.Unclear("The answer of OpenAI was not a JSON object.")
    return value


def _id_of(value: Mapping[str, Any]) -> str:
    found = value.get("id")
    if not isinstance(found, str) or not found:
        raise errors.Unclear("The answer of OpenAI carries no id.")
    return found


def batch_of(content: bytes) -> Batch:
    """Read a batch object, tolerating what compatible servers do: case, dates, empty ids, shapes of errors."""
    return _batch(_object(content))


def _batch(value: Mapping[str, Any]) -> Batch:
    status = str(value.get("status") or "unknown").lower()
    status = _STATUS_NAMES.get(status, status)
    counts = value.get("request_counts")
    counts = counts if isinstance(counts, Mapping) else {}
    metadata = value.get("metadata")
    nonce = metadata.get(NONCE_KEY) if isinstance(metadata, Mapping) else None
    return Batch(
        id=_id_of(value),
        status=status,
        created_at=_epoch(value.get("created_at")),
        expires_at=_epoch(value.get("expires_at")),
        ended_at=_epoch(value.get(f"{status}_at")),
        input_file_id=value.get("input_file_id") or None,
        output_file_id=value.get("output_file_id") or None,
        error_file_id=value.get("error_file_id") or None,
        n_total=int(counts.get("total") or 0),
        n_completed=int(counts.get("completed") or 0),
        n_failed=int(counts.get("failed") or 0),
        nonce=nonce if isinstance(nonce, str) else None,
        errors=_errors(value.get("errors")),
    )


class _Brief(msgspec.Struct, gc=False):
    """The fields of a batch object that say how it stands. Any others are skipped unread, which is ten times faster."""

    id: Any = None
    status: Any = None
    created_at: Any = None
    expires_at: Any = None
    completed_at: Any = None
    failed_at: Any = None
    expired_at: Any = None
    cancelled_at: Any = None
    input_file_id: Any = None
    output_file_id: Any = None
    error_file_id: Any = None
    request_counts: Any = None


class _BriefPage(msgspec.Struct, gc=False):
    data: list[_Brief] | None = None
    has_more: Any = None


_BRIEF = msgspec.json.Decoder(_Brief)
_BRIEF_PAGE = msgspec.json.Decoder(_BriefPage)


def _epoch(value: Any) -> float | None:
    """Read a time: seconds, milliseconds (a compatible server sends them) or ISO 8601 (Azure)."""
    if isinstance(value, str):
        try:
            moment = datetime.datetime.fromisoformat(value)
        except ValueError:
            return None
        return moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value / 1000 if value > 1e11 else float(value)
    return None


def _errors(value: Any) -> tuple[LineError, ...]:
    """Group a batch's errors by code and message: there can be one for each of 50,000 lines."""
    entries = value.get("data") if isinstance(value, Mapping) else value
    if isinstance(entries, str):
        entries = [{"code": "error", "message": entries}]
    groups: dict[tuple[str, str], LineError] = {}
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, Mapping):
            entry = {"message": str(entry)}
        code, message = str(entry.get("code") or "error"), str(entry.get("message") or "")[:1000]
        known = groups.get((code, message))
        if known is not None:
            groups[code, message] = msgspec.structs.replace(known, n=known.n + 1)
        elif len(groups) < _MAX_ERROR_GROUPS:
            line = entry.get("line")
            groups[code, message] = LineError(
                code=code,
                message=message,
                line=line if isinstance(line, int) else None,
                param=str(entry["param"]) if entry.get("param") else None,
            )
    return tuple(groups.values())
