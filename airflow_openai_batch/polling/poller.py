"""Polling many batches of one connection with few requests: pages of the listing, and retrieves for the rest."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from typing import TYPE_CHECKING, Protocol

import msgspec

from airflow_openai_batch.engine.errors import Denied, Refused
from airflow_openai_batch.polling.listing import HARD_TIMEOUT_S, TIMEOUT_S, Awaited, Listener, ListingFailed, Reading
from airflow_openai_batch.polling.schedule import Outage, Pages, backoff_s

if TYPE_CHECKING:
    from openai import AsyncOpenAI


_CONNECT_TIMEOUT_S = 60.0

_PARALLEL, _PARALLEL_PAGES = 32, 2

_RENEW_AFTER_S = 60.0

_log = logging.getLogger(__name__)

Counted = Callable[[int, int], None]
"""Called with the number of a poll's requests, and of those that failed. Must not block the event loop."""


def uncounted(n_requests: int, n_failed: int) -> None:
    """Do nothing with the counts."""


class Connection(Protocol):
    """The part of ``OpenAIBatchHook`` that polling needs."""

    conn_id: str

    async def get_async_conn(self) -> AsyncOpenAI:
        """Return the connection's shared client."""

    def forget_async_conn(self) -> None:
        """Forget the shared client, so that the next one is built from the current connection."""


class Poller:
    """Makes the requests of one connection on one event loop.

    Args:
        connection: The connection's hook.
        listener: Receives batches and failures.
        counted: Receives the number of requests.

    Attributes:
        outage: Whether the connection is down.
        pages: Decides which pages of the listing to read.
        renewed_at: When the connection was last to be read anew; monotonic clock.
    """

    def __init__(self, connection: Connection, listener: Listener, counted: Counted = uncounted) -> None:
        self.outage = Outage()
        self.pages = Pages()
        self._connection = connection
        self._listener = listener
        self._client: AsyncOpenAI | None = None
        self.renewed_at = -inf
        self._gate = asyncio.Semaphore(_PARALLEL)
        self._n_listing_failures = 0
        self._listing_from = -inf
        self._counted = counted
        self._n_requests = self._n_failed = 0

    async def poll(self, wanted: Iterable[Awaited]) -> None:
        """Poll each batch once. Stops early when the connection fails or has to be read again."""
        try:
            await self._poll(wanted)
        finally:
            n_requests, n_failed = self._n_requests, self._n_failed
            self._n_requests = self._n_failed = 0
            self._counted(n_requests, n_failed)

    async def _poll(self, wanted: Iterable[Awaited]) -> None:
        remaining = {awaited.id: awaited for awaited in wanted}
        n_wanted, n_failed = len(remaining), self.outage.n
        client = await self._connect()
        if client is None:
            return
        n_listing_failures = self._n_listing_failures
        n_pages = await self._read_pages(client, remaining) if n_wanted > 1 else 0
        n_asked = len(remaining)
        waiting = deque(remaining.values())
        if self._n_listing_failures > n_listing_failures and waiting and self._is_free(client, n_failed):
            # One request shows whether the connection is down or only the listing.
            has_answered = await self._look(client, waiting.popleft())
            if has_answered:
                self._avoid_listing()
        await self._ask(client, waiting, n_failed)
        _log.debug("%s: %d batches, %d pages, %d retrieves.", self._connection.conn_id, n_wanted, n_pages, n_asked)

    def renew(self) -> bool:
        """Read the connection again before the next request, as its key may have changed; at most once a minute.

        Returns:
            Whether it will be read again.
        """
        now = time.monotonic()
        if now - self.renewed_at < _RENEW_AFTER_S:
            return False
        self.renewed_at = now
        self._client = None
        self._listing_from, self._n_listing_failures = -inf, 0
        self._connection.forget_async_conn()
        return True

    async def _connect(self) -> AsyncOpenAI | None:
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                self._client = await self._connection.get_async_conn()
        except Exception as error:  # the back end of connections may be unavailable for a moment
            self._n_failed += 1
            self._listener.missed("connection", error)
            return None
        return self._client

    # -- pages of the listing

    async def _read_pages(self, client: AsyncOpenAI, remaining: dict[str, Awaited]) -> int:
        """Read the pages that save requests, and remove their batches from ``remaining``. Returns their number."""
        if time.monotonic() < self._listing_from:
            return 0
        n_new = sum(awaited.track is None for awaited in remaining.values())
        chosen = deque(self.pages.choose((awaited.page for awaited in remaining.values()), n_new))
        reading = Reading(client, self.pages, self._listener, remaining)

        async def read() -> None:
            while chosen:
                try:
                    await reading.read(chosen.popleft())
                except ListingFailed as failed:
                    chosen.clear()
                    self._n_requests += 1
                    self._n_failed += 1
                    self._without_listing(failed.reason)
                    return
            if reading.n_pages:
                self._n_listing_failures = 0

        async with asyncio.TaskGroup() as readers:
            for _ in range(min(len(chosen), _PARALLEL_PAGES)):
                readers.create_task(read())
        self._n_requests += reading.n_pages
        return reading.n_pages

    def _without_listing(self, error: Exception) -> None:
        """Retrieve each batch for now, without the listing; for good if the server has no listing."""
        self._n_listing_failures += 1
        if isinstance(error, Refused | Denied):
            self._listing_from = inf
            _log.info("The batches of %s cannot be listed, each is asked for: %s", self._connection.conn_id, error)
            return
        if self._n_listing_failures > 1:
            self._avoid_listing()
        asked_s: float = getattr(error, "retry_after_s", None) or 0.0
        self._listing_from = max(self._listing_from, time.monotonic() + asked_s)
        self._listener.missed("listing", error)

    def _avoid_listing(self) -> None:
        pause_s = backoff_s(self._n_listing_failures, inf)
        self._listing_from = max(self._listing_from, time.monotonic() + pause_s)

    # -- one by one

    async def _ask(self, client: AsyncOpenAI, waiting: deque[Awaited], n_failed: int) -> None:
        self.pages.asked(len(waiting))

        async def work() -> None:
            while waiting:
                async with self._gate:
                    if not waiting or not self._is_free(client, n_failed):
                        return
                    await self._look(client, waiting.popleft())

        async with asyncio.TaskGroup() as workers:
            for _ in range(min(len(waiting), _PARALLEL)):
                workers.create_task(work())

    def _is_free(self, client: AsyncOpenAI, n_failed: int) -> bool:
        """Return whether to go on: the connection has not changed or failed, and the server asked for no pause."""
        return client is self._client and self.outage.n <= n_failed and time.monotonic() >= self.outage.until

    async def _look(self, client: AsyncOpenAI, awaited: Awaited) -> bool:
        """Retrieve one batch. Returns whether there was a response."""
        from airflow_openai_batch.engine.api.client import retrieve_async

        if not awaited.watches:
            return False  # no subscription awaits it any more
        self._n_requests += 1
        try:
            async with asyncio.timeout(HARD_TIMEOUT_S):
                batch = await retrieve_async(client, awaited.id, TIMEOUT_S)
        except Exception as error:  # classified by the listener
            self._n_failed += 1
            if client is self._client or not isinstance(error, Denied):
                self._listener.missed(awaited, error)
            return False
        # Some proxies respond with an id of their own.
        self._listener.saw([msgspec.structs.replace(batch, id=awaited.id)])
        return True
