"""Reading pages of the account's listing, to find the status of many awaited batches with few requests."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from airflow_openai_batch.engine.errors import Refused
from airflow_openai_batch.polling.schedule import TOP, Pages, Track

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from airflow_openai_batch.engine.model import Batch
    from airflow_openai_batch.polling.subscription import Subscription


TIMEOUT_S, HARD_TIMEOUT_S = 30.0, 45.0
"""Timeouts of a request in seconds: between two reads of its response, and in total."""


@dataclass(slots=True, eq=False)
class Awaited:
    """A batch that is polled, because at least one subscription awaits it.

    Attributes:
        id: Its id.
        longest_s: The longest pause between two polls, in seconds.
        due_at: The time of the next poll; monotonic clock.
        early_at: The time from which on it may be polled along with others; monotonic clock.
        watches: The subscriptions that await it.
        track: Its status and speed; None before the first poll.
        page: The page of the listing on which it was last.
        is_asked: Whether a poll of it is running.
        n_failures: Number of consecutive polls that failed.
        n_refused: Number of consecutive polls that were denied or found no such batch.
        refused_at: The time of the first of them; monotonic clock.
    """

    id: str
    longest_s: float
    due_at: float
    early_at: float
    watches: tuple[Subscription, ...] = ()
    track: Track | None = None
    page: str | None = None
    is_asked: bool = False
    n_failures: int = 0
    n_refused: int = 0
    refused_at: float = 0.0

    @property
    def created_at(self) -> float | None:
        """When it was created, in epoch seconds; None if that is not known."""
        return None if self.track is None else self.track.batch.created_at

    def postpone(self, seconds: float) -> None:
        """Poll it again after so many seconds, and not earlier."""
        self.due_at = self.early_at = time.monotonic() + seconds


class ListingFailed(Exception):
    """A page of the listing cannot be read.

    Args:
        reason: The error of the request.
    """

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Listener(Protocol):
    """Receives the results of polling."""

    def saw(self, batches: Sequence[Batch], page: str | None = None) -> None:
        """Process current batch objects; those of a page of the listing include some that nobody awaits."""

    def missed(self, target: Awaited | str, error: Exception) -> None:
        """Process the failure of a request, for a batch or for `connection` or `listing`."""


class Reading:
    """Reads the listing for one poll.

    Args:
        client: The client.
        pages: Decides which pages to read.
        listener: Receives the batches.
        remaining: The batches to find, by id; those that were found are removed.
    """

    def __init__(self, client: AsyncOpenAI, pages: Pages, listener: Listener, remaining: dict[str, Awaited]) -> None:
        self.n_pages = 0
        self._client = client
        self._pages = pages
        self._listener = listener
        self._remaining = remaining
        self._expected: defaultdict[str | None, list[Awaited]] = defaultdict(list)
        for awaited in remaining.values():
            self._expected[awaited.page].append(awaited)
        self._unknown: dict[str, float | None] = {a.id: a.created_at for a in self._expected[None]}
        self._done: set[str] = set()

    async def read(self, page: str) -> None:
        """Read a page and those that follow it, as long as that saves requests.

        Raises:
            ListingFailed: A page cannot be read.
        """
        following: str | None = page
        while following is not None and self._is_worth_it(following):
            following = await self._read(following)

    def _is_worth_it(self, page: str) -> bool:
        """Return whether reading a page may still save requests: other pages may have shown the same batches."""
        if page in self._done:
            return False
        if page not in self._expected:
            return len(self._unknown) > 1
        n_left = sum(awaited.id in self._remaining for awaited in self._expected[page])
        return n_left >= min(2, len(self._expected[page])) or (page == TOP and len(self._unknown) > 1)

    async def _read(self, page: str) -> str | None:
        """Read one page. Returns the page to read next, or None."""
        from airflow_openai_batch.engine.api.client import list_async

        self._done.add(page)
        try:
            async with asyncio.timeout(HARD_TIMEOUT_S):
                batches, has_more = await list_async(self._client, page or None, TIMEOUT_S)
        except Exception as error:  # classified by the poller
            if page == TOP or not isinstance(error, Refused):
                raise ListingFailed(error) from error
            self._pages.can_page = False
            return None
        self.n_pages += 1
        shown = {batch.id for batch in batches}
        if page in shown:  # the page after a batch does not contain it: the server ignores the cursor
            self._pages.can_page = False
            page = TOP
        found_ids = [batch_id for batch_id in shown if self._remaining.pop(batch_id, None) is not None]
        n_unknown_found = sum(self._unknown.pop(batch_id, self) is not self for batch_id in found_ids)
        n_pushed = self._push_down(page)
        self._listener.saw(batches, page)
        is_past = not batches or self._is_older_than_unknown(batches[-1].created_at)
        goes_on = self._pages.goes_on(
            len(self._unknown), n_found=len(found_ids), n_unknown_found=n_unknown_found + n_pushed, is_past=is_past
        )
        return batches[-1].id if goes_on and has_more else None

    def _push_down(self, page: str) -> int:
        """Record that batches are no longer on the page where they were. Returns their number."""
        pushed = [awaited for awaited in self._expected.pop(page, ()) if awaited.id in self._remaining]
        for awaited in pushed:
            awaited.page = None
            self._unknown[awaited.id] = awaited.created_at
        return len(pushed)

    def _is_older_than_unknown(self, created_at: float | None) -> bool:
        ages = self._unknown.values()
        return created_at is not None and all(age is not None and created_at < age for age in ages)
