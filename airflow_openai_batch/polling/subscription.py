"""What a waiting trigger is told, and how it waits for that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from math import inf
from typing import NamedTuple, Protocol, Self

from airflow_openai_batch.engine.model import Batch


class SubscriptionFailed(Exception):
    """The shared watcher has stopped for a reason that nobody foresaw: watch again."""


class Failure(NamedTuple):
    """Looks fail. The batches run on all the same."""

    n: int
    """How many in a row."""
    error: Exception


class Update(NamedTuple):
    """What a trigger has not been told yet; nothing if only its time has come."""

    changed: tuple[Batch, ...]
    failure: Failure | None
    is_well_again: bool
    """Whether looks succeed that have failed before."""
    refusal: str | None
    """Why looking again would not help."""


class Hub(Protocol):
    """The watcher that a wait belongs to."""

    def wake_by(self, at: float) -> None:
        """Call ``wake`` at a time, epoch seconds."""

    async def leave(self, watch: Subscription) -> None:
        """End the wait."""


class Subscription:
    """One wait: what a trigger awaits, and what it has yet to be told. It ends with its ``async with``.

    Args:
        host: The watcher.
        batch_ids: What it awaits.
        longest_s: The longest pause between two looks.
        opens_at: Nothing is told before this time, epoch seconds.

    Attributes:
        wake_at: When it wants to be woken whatever happens, epoch seconds.
        is_troubled: Whether it was told of a failure, and not yet that all is well.
    """

    __slots__ = (
        "_changed",
        "_error",
        "_failure",
        "_host",
        "_is_well_again",
        "_refusal",
        "_waiter",
        "batch_ids",
        "is_troubled",
        "longest_s",
        "opens_at",
        "wake_at",
    )

    def __init__(self, host: Hub, batch_ids: Collection[str], longest_s: float, opens_at: float) -> None:
        self.batch_ids = tuple(dict.fromkeys(batch_ids))
        self.longest_s = longest_s
        self.opens_at = opens_at
        self.wake_at = inf
        self.is_troubled = False
        self._host = host
        self._changed: dict[str, Batch] = {}
        self._failure: Failure | None = None
        self._is_well_again = False
        self._refusal: str | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    # -- the trigger's side

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._host.leave(self)

    async def next_update(self, until: float | None = None) -> Update:
        """Wait until there is something to tell, or until a time (epoch seconds), and return what there is.

        Raises:
            SubscriptionFailed: There will be no news any more.
        """
        until = max(inf if until is None else until, self.opens_at)
        while self._error is None and time.time() < (self.opens_at if self._has_any() else until):
            self.wake_at = self.opens_at if self._has_any() else until
            self._host.wake_by(self.wake_at)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._error is not None:
            raise SubscriptionFailed(f"The watcher stopped: {self._error!r}") from self._error
        told = Update(tuple(self._changed.values()), self._failure, self._is_well_again, self._refusal)
        self._changed, self._failure, self._is_well_again = {}, None, False
        return told

    def _has_any(self) -> bool:
        return bool(self._changed or self._failure or self._is_well_again or self._refusal)

    # -- the watcher's side

    def changed(self, batch: Batch) -> None:
        """Tell how a batch stands now."""
        self._changed[batch.id] = batch

    def failed(self, failure: Failure) -> None:
        """Tell that looks fail."""
        self._failure, self._is_well_again, self.is_troubled = failure, False, True

    def recovered(self) -> None:
        """Tell that looks succeed again."""
        self._is_well_again, self.is_troubled = True, False

    def refused(self, reason: str) -> None:
        """Tell that looking again would not help."""
        self._refusal = reason

    def stopped(self, error: Exception) -> None:
        """Tell that there will be no news any more."""
        self._error = error
        self.wake()

    def wake(self) -> None:
        """Let the trigger see whether there is something to tell, or its time has come."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
