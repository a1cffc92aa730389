"""OpenAI's Files and Batches API: the calls that the engine makes."""

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
            return id_of(json_object(raw.content))

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
                page = json_object(self._client.batches.with_raw_response.list(**args, timeout=60).content)
            found = [parse_batch(entry) for entry in page.get("data") or []]
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
                size = json_object(self._client.files.with_raw_response.retrieve(file_id, timeout=60).content).get(
                    "bytes"
                )
        except errors.NotFound:
            return None  # some compatible servers lack the route
        return size if isinstance(size, int) and size > 0 else None


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
        return parse_batch(msgspec.structs.asdict(BRIEF.decode(raw.content)))


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
        page = BRIEF_PAGE.decode(raw.content)
        return Page([parse_batch(msgspec.structs.asdict(brief)) for brief in page.data or []], bool(page.has_more))


async def cancel_async(client: AsyncOpenAI, batch_id: str) -> None:
    """Ask for a batch to be cancelled; one that has ended or is unknown is no error."""
    try:
        with translated():
            await client.batches.with_raw_response.cancel(batch_id, timeout=30)
    except errors.ApiError as error:
        if error.status not in (404, 409):
            raise
