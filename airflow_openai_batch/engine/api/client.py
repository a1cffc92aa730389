"""The client of OpenAI's Files and Batches API, and of one request at once: the engine's calls, with its errors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import inf
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.api.batch_json import (
    FilePage,
    ListedFile,
    Page,
    UploadedFile,
    batch_of,
    file_page_of,
    is_of_another,
    json_object,
    page_of,
    uploaded_file_of,
)
from airflow_openai_batch.engine.api.bounds import OBJECT_BYTES, PAGE_BYTES, bounds_of_call, within
from airflow_openai_batch.engine.api.brief_json import brief_batch_of, brief_page_of
from airflow_openai_batch.engine.api.errors import translated
from airflow_openai_batch.engine.api.rate_limits import RateLimits, rate_limits_of
from airflow_openai_batch.engine.api.text import clean, number_of, text_of
from airflow_openai_batch.engine.model import Batch

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI


_PAGE = 100
"""OpenAI's API reference: the largest page of the listing."""

_MAX_PAGES = 50

_FILE_PAGE = 1000
"""Files in a page of their listing; OpenAI allows ten times as many, other servers fewer."""

_SMALL_PAGE = 20
"""OpenAI's API reference: the size of a page if none is asked for. A shorter page that comes again and again is all."""

_FRUITLESS_PAGES = 2
"""Pages in a row without a new batch after which a listing is over."""

_NOTHING_AFTER = frozenset({400, 404, 405, 422})
"""Statuses of the page after the last, which is asked for although there should be none."""

_PAST_S = 86_400.0
"""How much older than what is searched for a page must be to end the search: clocks may disagree."""

CALL_S, _CANCEL_S = 60.0, 45.0
"""Longest duration of a call in seconds, and of a cancel that a trigger makes."""

_UPLOAD_S, _FILE_S = 3600.0, 120.0
"""Longest duration of an upload (200 MB at half a megabit per second), and until a download begins, in seconds."""


class Reply(NamedTuple):
    """The answer to a synchronous request.

    Attributes:
        body: The bytes of its body.
        request_id: OpenAI's id of the request, for a support ticket.
        rate_limits: What its headers say of the account's rate limits.
    """

    body: bytes
    request_id: str | None = None
    rate_limits: RateLimits = RateLimits()


class Api:
    """The Files and Batches API, called with a client of the ``openai`` SDK.

    Every call is made once: the SDK would repeat a POST after a timeout, and create a second batch (seen in
    openai-python 3.54).

    Args:
        client: The client; its ``max_retries`` is ignored.
    """

    def __init__(self, client: OpenAI) -> None:
        from airflow_openai_batch.engine.api.transport import bounded

        self._client: OpenAI = bounded(client)

    @property
    def host(self) -> str:
        """The host of the client's base URL."""
        return str(self._client.base_url.host)

    @property
    def address(self) -> str:
        """The client's base URL, without user and password."""
        return str(self._client.base_url.copy_with(userinfo=b"", query=None)).rstrip("/")

    @property
    def has_openais_prices(self) -> bool:
        """Whether models at the client's address have OpenAI's names, so that the prices that are shipped are theirs.

        Not at Azure, whose v1 API is under ``/openai/v1``: there requests name deployments. Groq and Novita, which use
        the same path, have models and prices of their own.
        """
        return not str(self._client.base_url.path).startswith("/openai/")

    def is_spoken(self) -> bool:
        """Return whether the API is spoken at the client's address at all, by asking for a batch that does not exist.

        False: what answers is a login page, a firewall, or another service. If nothing answers, it is not known: True.
        """
        try:
            self.retrieve("batch_connection_test")
        except errors.Stranger:
            return False
        except errors.ApiError:
            return True
        return True

    def upload(self, name: str, file: IO[bytes], expires_after_s: int | None = None) -> UploadedFile:
        """Upload a batch input file as a stream, free of charge.

        Args:
            name: The file's name. Seen: HTTP 400 if it does not end in ``.jsonl``.
            file: The open file.
            expires_after_s: Seconds until OpenAI deletes it; None for its own 30 days.

        Raises:
            ApiError: The upload failed.
        """
        # The SDK streams a file in a tuple, and reads a path into memory.
        with translated():
            return within(
                _UPLOAD_S,
                lambda: uploaded_file_of(
                    self._client.files.with_raw_response.create(
                        file=(name, file, "application/jsonl"),
                        purpose="batch",
                        timeout=600,
                        **_lifetime("expires_after", expires_after_s),
                    ).content
                ),
            )

    def create(
        self,
        *,
        file_id: str,
        endpoint: str,
        completion_window: str,
        metadata: dict[str, str],
        timeout_s: float,
        output_expires_after_s: int | None = None,
    ) -> Batch:
        """Create a batch: the only call that costs money.

        Args:
            file_id: The id of the uploaded input file.
            endpoint: The endpoint of all its requests.
            completion_window: OpenAI's API reference: only ``24h``; compatible servers have others.
            metadata: At most 16 pairs of strings, with the nonce.
            timeout_s: Longest duration of the whole call, in seconds.
            output_expires_after_s: Seconds until OpenAI deletes each result file, counted from the creation of that
                file; None for its own 30 days.

        Raises:
            Accepted: The batch exists, most likely, but its id cannot be read.
            Unclear: The batch may exist: look for it before another call.
            QueueFull: The organization's queue for the model is full.
            FilePending: The input file is still being processed.
            ApiError: The batch was not created.
        """
        with translated():
            return within(
                timeout_s,
                lambda: _created(
                    self._client.batches.with_raw_response.create(
                        input_file_id=file_id,
                        endpoint=endpoint,  # type: ignore[arg-type] # the SDK's list of endpoints is only a type; any string is sent
                        completion_window=completion_window,  # type: ignore[arg-type] # likewise
                        metadata=metadata,
                        timeout=step_timeout(timeout_s),
                        **_lifetime("output_expires_after", output_expires_after_s),
                    ).content
                ),
            )

    def ask(self, endpoint: str, body: Mapping[str, Any], timeout_s: float) -> Reply:
        """Ask one request synchronously, at synchronous prices.

        Args:
            endpoint: The endpoint, as in a batch: ``/v1/responses``.
            body: The request's body.
            timeout_s: Longest duration of the whole call, in seconds.

        Raises:
            Unclear: It may have been answered, and billed.
            ApiError: It was not.
        """
        import httpx2

        def call() -> Reply:
            response = self._client.post(
                endpoint.removeprefix("/v1"),
                cast_to=httpx2.Response,
                body=body,
                options={"timeout": step_timeout(timeout_s)},
            )
            headers = response.headers
            return Reply(response.content, text_of(headers.get("x-request-id")), rate_limits_of(headers))

        with translated():
            return within(timeout_s, call)

    def retrieve(self, batch_id: str) -> Batch:
        """Return the current batch object.

        Raises:
            NotFound: There is no such batch. Seen: old batches disappear.
            ApiError: The call failed.
        """
        with translated():
            return within(
                CALL_S,
                lambda: batch_of(
                    self._client.batches.with_raw_response.retrieve(batch_id, timeout=step_timeout(CALL_S)).content
                ),
            )

    def batches(self, since: float) -> Iterator[Batch]:
        """Yield the account's batches, each once, at least those created after ``since`` (epoch seconds).

        OpenAI's API reference: the listing has a cursor and no filter. Seen: the newest batch comes first. Other
        servers list in another order, ignore the cursor, repeat pages or tell ``has_more`` wrongly. So a search ends
        early only where the server's own times show that the newest come first, and that a page is a day older than
        what is searched for. At most 50 pages are read.

        Raises:
            Unclear: The listing was not read to its end: what it did not show may exist all the same.
            ApiError: A call failed.
        """
        order = _Order(since)
        after: str | None = None
        has_more = True
        seen: set[str] = set()
        n_fruitless = 0
        for _ in range(_MAX_PAGES):
            try:
                page = self._page(after)
            except errors.ApiError as error:
                if has_more or error.status not in _NOTHING_AFTER:
                    raise
                return
            fresh = [batch for batch in page.batches if batch.id not in seen]
            seen.update(batch.id for batch in fresh)
            yield from fresh
            order.add(fresh)
            n_fruitless = 0 if fresh else n_fruitless + 1
            is_over = not page.batches or (n_fruitless > 0 and not page.has_more)
            if is_over or order.is_past or (n_fruitless and len(page.batches) < _SMALL_PAGE):
                return
            if n_fruitless == _FRUITLESS_PAGES:
                break
            after, has_more = page.batches[-1].id, page.has_more
        if not order.is_old_enough:
            raise errors.Unclear(f"The listing of batches could not be read to its end; {len(seen)} were read.")

    def _page(self, after: str | None) -> Page:
        args: dict[str, Any] = {"limit": _PAGE} | ({"after": after} if after else {})
        with translated():
            return within(
                CALL_S,
                lambda: page_of(
                    self._client.batches.with_raw_response.list(**args, timeout=step_timeout(CALL_S)).content
                ),
                max_bytes=PAGE_BYTES,
            )

    def cancel(self, batch_id: str) -> Batch | None:
        """Request the cancellation of a batch. Returns the batch, or None if it has ended or is unknown.

        Seen: HTTP 409 for a batch that has ended, 404 for an unknown one.

        Raises:
            ApiError: The call failed.
        """
        try:
            with translated():
                return within(
                    CALL_S,
                    lambda: batch_of(
                        self._client.batches.with_raw_response.cancel(batch_id, timeout=step_timeout(CALL_S)).content
                    ),
                )
        except errors.ApiError as error:
            if isinstance(error, errors.NotFound) or error.status == 409:
                return None
            raise

    def download(self, file_id: str, target: IO[bytes]) -> int:
        """Write the content of a file to ``target`` as a stream. Returns the number of bytes.

        A file may have any size; one of more than 1 GB that unpacks to over 200 times what was transferred is not a
        result file and is stopped, and so is a transfer of less than 10 kB per second after its first 10 minutes.

        Raises:
            Unclear: The download broke: empty the target and start again.
            NotFound: There is no such file. OpenAI's guide: it is deleted 30 days after the batch completed.
            Unfetchable: The id is an address or a path.
            ApiError: The call failed.
        """
        _check_file_id(file_id)
        n = 0
        with translated():
            manager = self._client.files.with_streaming_response.content(file_id, timeout=600)
            response = within(
                _FILE_S, manager.__enter__, is_file=True, undo=lambda _: manager.__exit__(None, None, None)
            )
            try:
                # The default size is the fastest: larger buffers need new memory pages.
                for chunk in response.iter_bytes():
                    n += target.write(chunk)
            finally:
                manager.__exit__(None, None, None)
        return n

    def file_bytes(self, file_id: str) -> int | None:
        """Return the size of a file at OpenAI in bytes, or None if the server does not report it."""
        try:
            _check_file_id(file_id)
            with translated():
                size = within(
                    CALL_S,
                    lambda: json_object(
                        self._client.files.with_raw_response.retrieve(file_id, timeout=step_timeout(CALL_S)).content
                    ).get("bytes"),
                )
        except errors.ApiError:
            return None  # seen: compatible servers lack this route (404, 405), or answer 500 or 403 for a result file
        size = number_of(size)
        return int(size) if size is not None and 0 < size < _MAX_FILE_BYTES else None

    def files(self, purpose: str) -> Iterator[ListedFile]:
        """Yield the account's files of a purpose, each once, as far as the server lists them.

        OpenAI's API reference: the listing has a cursor and pages of up to 10,000.

        Args:
            purpose: ``batch`` for input files, ``batch_output`` for result files.

        Raises:
            ApiError: A call failed.
        """
        after: str | None = None
        seen: set[str] = set()
        for _ in range(_MAX_PAGES):
            page = self._file_page(purpose, after)
            fresh = [file for file in page.files if file.id not in seen]
            seen.update(file.id for file in fresh)
            yield from fresh
            if not fresh or not page.has_more:
                return
            after = page.files[-1].id

    def _file_page(self, purpose: str, after: str | None) -> FilePage:
        args: dict[str, Any] = {"purpose": purpose, "limit": _FILE_PAGE} | ({"after": after} if after else {})
        with translated():
            return within(
                CALL_S,
                lambda: file_page_of(
                    self._client.files.with_raw_response.list(**args, timeout=step_timeout(CALL_S)).content
                ),
                max_bytes=PAGE_BYTES,
            )

    def delete_file(self, file_id: str) -> None:
        """Delete a file, input or result. OpenAI's API reference: the batch object stays as it is.

        Raises:
            NotFound: There is no such file, at least not for this key.
            Unfetchable: The id is an address or a path.
            Refused: The server keeps the file.
            ApiError: The call failed.
        """
        _check_file_id(file_id)
        with translated():
            content = within(
                CALL_S,
                lambda: self._client.files.with_raw_response.delete(file_id, timeout=step_timeout(CALL_S)).content,
            )
        # Azure's documentation: 204 without content.
        if content.strip() and json_object(content).get("deleted") is False:
            raise errors.Refused(f"The server did not delete the file {clean(file_id, 200)}.")


_MAX_FILE_BYTES = 2**53


def _lifetime(name: str, seconds: int | None) -> dict[str, Any]:
    """Return the argument that limits the life of files. OpenAI's API reference: `created_at` is the only anchor."""
    return {} if seconds is None else {name: {"anchor": "created_at", "seconds": seconds}}


def _created(content: bytes) -> Batch:
    try:
        return batch_of(content)
    except (errors.Unclear, msgspec.MsgspecError, ValueError) as error:
        if is_of_another(content):
            raise
        raise errors.Accepted(f"The batch was created, but the answer cannot be read: {error}") from error


_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://|[/\\.]|[A-Za-z]:[/\\]")


def _check_file_id(file_id: str) -> None:
    """Refuse what is not the id of a file.

    Azure's documentation: a batch whose files are in blob storage has addresses in place of ids.

    Raises:
        Unfetchable: It is an address or a path.
    """
    if _ADDRESS.match(file_id):
        raise errors.Unfetchable(
            f"The server names {clean(file_id, 200)!r} as a file of the batch. That is an address or a path, not the "
            "id of a file that can be fetched with the connection's key: fetch it by other means. Nothing is lost."
        )


def step_timeout(seconds: float) -> Any:
    """Return the timeouts of one step each: connecting is given half, so that its failure is told as such."""
    import httpx2

    return httpx2.Timeout(seconds, connect=seconds / 2)


class _Order:
    """Whether a listing is sorted by the server's own times, the newest first, and how far it was read.

    Args:
        since: Creation time of the oldest batch that is searched for, in epoch seconds.
    """

    def __init__(self, since: float) -> None:
        self._since = since
        self._is_sorted = True
        self._newest = self._page_newest = self._oldest = -inf

    def add(self, batches: list[Batch]) -> None:
        """Record the batches that a page shows and none before it did."""
        times = [-inf if batch.created_at is None or batch.is_local_time else batch.created_at for batch in batches]
        if not times:
            return
        before = [] if self._newest == -inf else [self._oldest]
        in_order = [*before, *times]
        self._is_sorted = self._is_sorted and -inf not in times and all(a >= b for a, b in pairwise(in_order))
        self._newest, self._page_newest, self._oldest = in_order[0] if not before else self._newest, times[0], times[-1]

    @property
    def is_past(self) -> bool:
        """Whether the last page is older by a day than what is searched for, also if the server's clock is slow."""
        return self._is_newest_first and self._page_newest < min(self._since, self._newest) - _PAST_S

    @property
    def is_old_enough(self) -> bool:
        """Whether what is searched for must have been shown, if the server's clock is right."""
        return self._is_newest_first and self._oldest < self._since

    @property
    def _is_newest_first(self) -> bool:
        return self._is_sorted and self._newest > self._oldest


async def retrieve_async(client: AsyncOpenAI, batch_id: str, timeout_s: float) -> Batch:
    """Return the current batch object, for event loops.

    Errors and metadata are left out, here and in ``list_async``: a failed batch may have tens of thousands of errors,
    and decoding them would block the loop.

    Args:
        client: A client without retries.
        batch_id: The batch.
        timeout_s: Longest time between two reads of the response, in seconds; ``asyncio.timeout`` bounds the whole.

    Raises:
        ApiError: The call failed.
    """
    with translated(), bounds_of_call(OBJECT_BYTES):
        raw = await client.batches.with_raw_response.retrieve(batch_id, timeout=timeout_s)
        return brief_batch_of(raw.content)


async def list_async(client: AsyncOpenAI, after: str | None, timeout_s: float) -> Page:
    """Return a page of up to 100 of the account's batches, newest first, for event loops.

    Args:
        client: A client without retries.
        after: The id of the last batch of the page before; None for the first page.
        timeout_s: Longest time between two reads of the response, in seconds; ``asyncio.timeout`` bounds the whole.

    Raises:
        ApiError: The call failed.
    """
    args: dict[str, Any] = {"limit": _PAGE} | ({"after": after} if after else {})
    with translated(), bounds_of_call(PAGE_BYTES):
        raw = await client.batches.with_raw_response.list(**args, timeout=timeout_s)
        return brief_page_of(raw.content)


async def cancel_async(client: AsyncOpenAI, batch_id: str) -> bool:
    """Request the cancellation of a batch, for event loops. Returns False if it is said to have ended or be unknown.

    Raises:
        ApiError: The call failed.
    """
    try:
        with translated():
            async with asyncio.timeout(_CANCEL_S):
                await client.batches.with_raw_response.cancel(batch_id, timeout=30)
    except errors.ApiError as error:
        if not isinstance(error, errors.NotFound) and error.status != 409:
            raise
        return False
    return True
