"""Subscriptions: how a trigger waits for updates of the batches that it awaits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from math import inf
from typing import NamedTuple, Protocol, Self

from airflow_openai_batch.engine.model import Batch


class SubscriptionFailed(Exception):
    """The shared watcher has stopped because of an unexpected error: subscribe again."""


class Failure(NamedTuple):
    """Polls fail; the batches keep running.

    Attributes:
        n: Number of consecutive failures.
        error: The last error.
    """

    n: int
    error: Exception


class Update(NamedTuple):
    """What has changed since a trigger's last update; nothing if only its time has come.

    Attributes:
        changed: The batches that have changed, as they are now.
        failure: The newest failure of polls, if there is one.
        is_well_again: Whether polls succeed again that have failed.
        refusal: Why polling again would not help, if it would not.
    """

    changed: tuple[Batch, ...]
    failure: Failure | None
    is_well_again: bool
    refusal: str | None


class Hub(Protocol):
    """The watcher that subscriptions belong to."""

    def wake_by(self, at: float) -> None:
        """Call ``wake`` at a time, in epoch seconds."""

    async def leave(self, watch: Subscription) -> None:
        """End a subscription."""


class Subscription:
    """The batches that one trigger awaits, and its pending update. It ends with its ``async with``.

    Args:
        hub: The watcher.
        batch_ids: The ids of the batches.
        longest_s: The longest pause between two polls, in seconds.
        opens_at: The time before which there is no update, in epoch seconds.

    Attributes:
        wake_at: The time at which it is woken whatever happens, in epoch seconds.
        is_troubled: Whether its last update about failures reported one, and no recovery since.
    """

    __slots__ = (
        "_changed",
        "_error",
        "_failure",
        "_hub",
        "_is_well_again",
        "_refusal",
        "_waiter",
        "batch_ids",
        "is_troubled",
        "longest_s",
        "opens_at",
        "wake_at",
    )

    def __init__(self, hub: Hub, batch_ids: Collection[str], longest_s: float, opens_at: float) -> None:
        self.batch_ids = tuple(dict.fromkeys(batch_ids))
        self.longest_s = longest_s
        self.opens_at = opens_at
        self.wake_at = inf
        self.is_troubled = False
        self._hub = hub
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
        await self._hub.leave(self)

    async def next_update(self, until: float | None = None) -> Update:
        """Wait until something changes, or until a time (epoch seconds), and return what has changed.

        Raises:
            SubscriptionFailed: There will be no more updates.
        """
        until = max(inf if until is None else until, self.opens_at)
        while self._error is None and time.time() < (self.opens_at if self._has_any() else until):
            self.wake_at = self.opens_at if self._has_any() else until
            self._hub.wake_by(self.wake_at)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._error is not None:
            raise SubscriptionFailed(f"The watcher stopped: {self._error!r}") from self._error
        update = Update(tuple(self._changed.values()), self._failure, self._is_well_again, self._refusal)
        self._changed, self._failure, self._is_well_again = {}, None, False
        return update

    def _has_any(self) -> bool:
        return bool(self._changed or self._failure or self._is_well_again or self._refusal)

    # -- the watcher's side

    def changed(self, batch: Batch) -> None:
        """Add the current object of a batch to the pending update."""
        self._changed[batch.id] = batch

    def failed(self, failure: Failure) -> None:
        """Add to the pending update that polls fail."""
        self._failure, self._is_well_again, self.is_troubled = failure, False, True

    def recovered(self) -> None:
        """Add to the pending update that polls succeed again."""
        self._is_well_again, self.is_troubled = True, False

    def refused(self, reason: str) -> None:
        """Add to the pending update why polling again would not help."""
        self._refusal = reason

    def stopped(self, error: Exception) -> None:
        """End the subscription with an error: there will be no more updates."""
        self._error = error
        self.wake()

    def wake(self) -> None:
        """Wake the trigger, to check whether there is an update or its time has come."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
