"""The client of OpenAI's Files and Batches API: the calls that the engine makes, with the engine's errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.api.batch_json import BRIEF, BRIEF_PAGE, batch_of, id_of, json_object, parse_batch
from airflow_openai_batch.engine.api.errors import translated
from airflow_openai_batch.engine.model import Batch

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI


_PAGE = 100
"""OpenAI's API reference: the largest page of the listing."""


class Api:
    """The Files and Batches API, called with a client of the ``openai`` SDK.

    Every call is made once: the SDK would repeat a POST after a timeout, and create a second batch (seen in
    openai-python 3.54).

    Args:
        client: The client; its ``max_retries`` is ignored.
    """

    def __init__(self, client: OpenAI) -> None:
        self._client = client.with_options(max_retries=0)

    @property
    def host(self) -> str:
        """The host of the client's base URL."""
        return str(self._client.base_url.host)

    def upload(self, name: str, file: IO[bytes]) -> str:
        """Upload a batch input file as a stream, free of charge. Returns the file id.

        Args:
            name: The file's name. Seen: HTTP 400 if it does not end in ``.jsonl``.
            file: The open file.

        Raises:
            ApiError: The upload failed.
        """
        # The SDK streams a file in a tuple, and reads a path into memory.
        with translated():
            raw = self._client.files.with_raw_response.create(
                file=(name, file, "application/jsonl"), purpose="batch", timeout=600
            )
            return id_of(json_object(raw.content))

    def create(
        self, *, file_id: str, endpoint: str, completion_window: str, metadata: dict[str, str], timeout_s: float
    ) -> Batch:
        """Create a batch: the only call that costs money.

        Args:
            file_id: The id of the uploaded input file.
            endpoint: The endpoint of all its requests.
            completion_window: OpenAI's API reference: only ``24h``; compatible servers have others.
            metadata: At most 16 pairs of strings, with the nonce.
            timeout_s: Longest time to wait for the response, in seconds.

        Raises:
            Unclear: The batch may exist: look for its nonce before another call.
            QueueFull: The organization's queue for the model is full.
            ApiError: The batch was not created.
        """
        with translated():
            raw = self._client.with_options(timeout=timeout_s).batches.with_raw_response.create(
                input_file_id=file_id,
                endpoint=endpoint,  # type: ignore[arg-type] # the SDK's list of endpoints is only a type; any string is sent
                completion_window=completion_window,  # type: ignore[arg-type] # likewise
                metadata=metadata,
            )
            return batch_of(raw.content)

    def retrieve(self, batch_id: str) -> Batch:
        """Return the current batch object.

        Raises:
            NotFound: There is no such batch. Seen: old batches disappear.
            ApiError: The call failed.
        """
        with translated():
            return batch_of(self._client.batches.with_raw_response.retrieve(batch_id, timeout=60).content)

    def batches(self, since: float) -> Iterator[Batch]:
        """Yield the account's batches, newest first, down to those created before ``since`` (epoch seconds).

        OpenAI's API reference: the listing has a cursor and no filter. Seen: the newest batch comes first.

        Raises:
            ApiError: A call failed.
        """
        after: str | None = None
        seen: set[str] = set()
        while True:
            with translated():
                args: dict[str, Any] = {"limit": _PAGE} | ({"after": after} if after else {})
                page = json_object(self._client.batches.with_raw_response.list(**args, timeout=60).content)
            batches = [parse_batch(entry) for entry in page.get("data") or []]
            # Some compatible servers ignore the cursor and send the same page for ever: each batch is yielded once.
            fresh = [batch for batch in batches if batch.id not in seen]
            seen.update(batch.id for batch in fresh)
            yield from fresh
            is_past = bool(batches) and all(b.created_at is not None and b.created_at < since for b in batches)
            if not fresh or is_past or not page.get("has_more"):
                return
            after = batches[-1].id

    def cancel(self, batch_id: str) -> Batch | None:
        """Request the cancellation of a batch. Returns the batch, or None if it has ended or is unknown.

        Seen: HTTP 409 for a batch that has ended, 404 for an unknown one.

        Raises:
            ApiError: The call failed.
        """
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
            Unclear: The download broke: empty the target and start again.
            NotFound: There is no such file. OpenAI's guide: it is deleted 30 days after the batch completed.
            ApiError: The call failed.
        """
        n = 0
        with translated(), self._client.files.with_streaming_response.content(file_id, timeout=600) as response:
            for chunk in response.iter_bytes():  # the default size is the fastest: larger buffers need new memory pages
                n += target.write(chunk)
        return n

    def file_bytes(self, file_id: str) -> int | None:
        """Return the size of a file at OpenAI in bytes, or None if the server does not report it."""
        try:
            with translated():
                size = json_object(self._client.files.with_raw_response.retrieve(file_id, timeout=60).content).get(
                    "bytes"
                )
        except errors.ApiError:
            return None  # seen: compatible servers lack this route (404, 405), or answer 500 or 403 for a result file
        return size if isinstance(size, int) and size > 0 else None


class Page(NamedTuple):
    """One page of the account's batches."""

    batches: list[Batch]
    has_more: bool


async def retrieve_async(client: AsyncOpenAI, batch_id: str, timeout_s: float) -> Batch:
    """Return the current batch object, for event loops.

    Errors and metadata are left out, here and in ``list_async``: a failed batch may have tens of thousands of errors,
    and decoding them would block the loop.

    Args:
        client: A client without retries.
        batch_id: The batch.
        timeout_s: Longest time to wait for the response, in seconds.

    Raises:
        ApiError: The call failed.
    """
    with translated():
        raw = await client.batches.with_raw_response.retrieve(batch_id, timeout=timeout_s)
        return parse_batch(msgspec.structs.asdict(BRIEF.decode(raw.content)))


async def list_async(client: AsyncOpenAI, after: str | None, timeout_s: float) -> Page:
    """Return a page of up to 100 of the account's batches, newest first, for event loops.

    Args:
        client: A client without retries.
        after: The id of the last batch of the page before; None for the first page.
        timeout_s: Longest time to wait for the response, in seconds.

    Raises:
        ApiError: The call failed.
    """
    with translated():
        args: dict[str, Any] = {"limit": _PAGE} | ({"after": after} if after else {})
        raw = await client.batches.with_raw_response.list(**args, timeout=timeout_s)
        page = BRIEF_PAGE.decode(raw.content)
        return Page([parse_batch(msgspec.structs.asdict(brief)) for brief in page.data or []], bool(page.has_more))


async def cancel_async(client: AsyncOpenAI, batch_id: str) -> None:
    """Request the cancellation of a batch, for event loops. A batch that has ended or is unknown is not an error.

    Raises:
        ApiError: The call failed.
    """
    try:
        with translated():
            await client.batches.with_raw_response.cancel(batch_id, timeout=30)
    except errors.ApiError as error:
        if error.status not in (404, 409):
            raise
