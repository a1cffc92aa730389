"""The watcher: polls for all subscriptions of a connection on an event loop, with one schedule and one back-off.

A trigger subscribes to batches (``watch``) and gets an update when something has changed or its time has come. Logging
is left to the trigger, because Airflow binds a trigger's log to its task. The watcher exists from the first
subscription to the last.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import time
import weakref
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from math import inf

from airflow_openai_batch.engine.errors import Denied, NotFound
from airflow_openai_batch.engine.model import ENDED_STATUSES, Batch
from airflow_openai_batch.polling.listing import Awaited
from airflow_openai_batch.polling.poller import Connection, Counted, Poller, uncounted
from airflow_openai_batch.polling.schedule import EARLY, backoff_s, follow, is_logged, pause_s
from airflow_openai_batch.polling.subscription import Failure, Subscription

_TICK_S, _LONGEST_TICK_S = 0.05, 60.0

_CONNECTION_TRIES = 5

BELIEVED_AFTER_S = 300.0
"""How long 401, 403 or 404 must be all that OpenAI answers before that is believed: platforms and proxies have such
minutes, and a key that is being replaced does."""

_BELIEVED_LOOKS = 3

_DENIED_BATCHES = 3
"""Batches in a row that are denied, after which it is taken for the matter of the connection."""

_WOKEN_AT_ONCE = 8

_log = logging.getLogger(__name__)


class Doubted(Exception):
    """OpenAI refuses to answer, which is not believed yet."""


_watchers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Watcher]] = weakref.WeakKeyDictionary()


def watch(
    connection: Connection,
    batch_ids: Collection[str],
    *,
    longest_s: float,
    delay_s: float = 0.0,
    counted: Counted = uncounted,
) -> Subscription:
    """Subscribe to batches. The subscription lasts as long as its ``async with``.

    Args:
        connection: The connection's hook.
        batch_ids: The ids of the batches to await; may be empty.
        longest_s: The longest pause between two polls of a batch, in seconds.
        delay_s: Time without updates at the beginning, in seconds.
        counted: Receives the number of requests; that of the connection's first subscription is used.
    """
    return _watcher_of(connection, counted).join(batch_ids, longest_s, delay_s)


def _watcher_of(connection: Connection, counted: Counted) -> Watcher:
    loop = asyncio.get_running_loop()
    if loop not in _watchers:
        for closed in [other for other in _watchers if other.is_closed()]:
            del _watchers[closed]
    watchers = _watchers.setdefault(loop, {})
    if connection.conn_id not in watchers:
        watchers[connection.conn_id] = Watcher(connection, counted)
    return watchers[connection.conn_id]


class Watcher:
    """Polls the batches of all subscriptions of a connection, and updates them.

    Args:
        connection: The connection's hook.
        counted: Receives the number of requests.
    """

    def __init__(self, connection: Connection, counted: Counted = uncounted) -> None:
        self.conn_id = connection.conn_id
        self._poller = Poller(connection, self, counted)
        self._awaited: dict[str, Awaited] = {}
        self._watches: set[Subscription] = set()
        self._waking: dict[Subscription, None] = {}
        self._denied: set[str] = set()
        self._denied_at = -inf
        self._n_polls = 0
        self._next_look_at, self._next_wake_at = inf, inf
        self._poked = asyncio.Event()
        # In a context of its own: in that of the first trigger, it would write into that trigger's log.
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name=f"watch {self.conn_id}", context=contextvars.Context())

    # -- who waits

    def join(self, batch_ids: Collection[str], longest_s: float, delay_s: float) -> Subscription:
        """Add a subscription.

        Args:
            batch_ids: The ids of the batches to await; may be empty.
            longest_s: The longest pause between two polls of a batch, in seconds.
            delay_s: Time without updates at the beginning, in seconds.
        """
        now, longest_s = time.monotonic(), max(longest_s, _TICK_S)
        joined = Subscription(self, batch_ids, longest_s, time.time() + delay_s)
        self._watches.add(joined)
        for batch_id in joined.batch_ids:
            awaited = self._awaited.get(batch_id)
            if awaited is None:
                due_at = now + delay_s
                awaited = self._awaited[batch_id] = Awaited(batch_id, longest_s, due_at, due_at - delay_s * EARLY)
            elif awaited.track is not None:
                joined.changed(awaited.track.batch)
            awaited.watches = (*awaited.watches, joined)
            awaited.longest_s = min(awaited.longest_s, longest_s)
            awaited.due_at = min(awaited.due_at, now + max(longest_s, delay_s))
            awaited.early_at = min(awaited.early_at, awaited.due_at)
            self._look_by(awaited.due_at)
        return joined

    async def leave(self, watch: Subscription) -> None:
        """End a subscription, and with the last one the watcher."""
        self._watches.discard(watch)
        self._waking.pop(watch, None)
        for batch_id in watch.batch_ids:
            awaited = self._awaited.get(batch_id)
            if awaited is None or watch not in awaited.watches:
                continue
            awaited.watches = tuple(other for other in awaited.watches if other is not watch)
            if awaited.watches:
                awaited.longest_s = min(other.longest_s for other in awaited.watches)
            else:
                del self._awaited[batch_id]
        if not self._watches:
            self._forget()
            self._task.cancel()
            await asyncio.wait([self._task])  # a loop that is closed now finds nothing pending

    def _forget(self) -> None:
        """Make the next subscription begin with another watcher."""
        watchers = _watchers.get(self._loop, {})
        if watchers.get(self.conn_id) is self:
            del watchers[self.conn_id]

    def wake_by(self, at: float) -> None:
        """Wake the subscriptions whose time has come at a time, in epoch seconds."""
        if at < self._next_wake_at:
            self._next_wake_at = at
            self._poked.set()

    def _look_by(self, at: float) -> None:
        if at < self._next_look_at:
            self._next_look_at = at
            self._poked.set()

    # -- the schedule

    async def _run(self) -> None:
        error: Exception = RuntimeError("it was cancelled")
        try:
            async with asyncio.TaskGroup() as polls:
                while True:
                    self._poked.clear()
                    self._wake_due()
                    self._start_poll(polls)
                    await self._wake()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._pause_s()):
                            await self._poked.wait()
        except Exception as caught:
            _log.exception("The watcher of %s stopped; its waits begin anew.", self.conn_id)
            error = caught
        finally:
            self._forget()
            for watch in self._watches:  # none of them would ever get an update
                watch.stopped(error)

    def _pause_s(self) -> float:
        look_at = inf if self._is_probing() else max(self._next_look_at, self._poller.outage.until)
        pause_s = min(look_at - time.monotonic(), self._next_wake_at - time.time())
        return min(max(pause_s, _TICK_S), _LONGEST_TICK_S)

    def _is_probing(self) -> bool:
        """Return whether the single request of an outage is running."""
        return self._poller.outage.n > 0 and self._n_polls > 0

    def _wake_due(self) -> None:
        now = time.time()
        if now < self._next_wake_at:
            return
        self._next_wake_at = inf
        for watch in self._watches:
            if watch.wake_at <= now:
                watch.wake_at = inf
                self._waking[watch] = None
            self._next_wake_at = min(self._next_wake_at, watch.wake_at)

    async def _wake(self) -> None:
        """Wake subscriptions a few at a time: each does some work, and others use the event loop too."""
        while self._waking:
            for watch in list(islice(self._waking, _WOKEN_AT_ONCE)):
                del self._waking[watch]
                watch.wake()
            await asyncio.sleep(0)

    def _start_poll(self, polls: asyncio.TaskGroup) -> None:
        now = time.monotonic()
        if now < max(self._next_look_at, self._poller.outage.until) or self._is_probing():
            return
        free = [awaited for awaited in self._awaited.values() if not awaited.is_asked]
        self._next_look_at = min((awaited.due_at for awaited in free), default=inf)
        if now < self._next_look_at:
            return
        due = [awaited for awaited in free if awaited.early_at <= now]
        if self._poller.outage.n:
            due = [min(due, key=lambda awaited: awaited.due_at)]
        for awaited in due:
            awaited.is_asked = True
        self._n_polls += 1
        self._next_look_at = min((awaited.due_at for awaited in free if not awaited.is_asked), default=inf)
        polls.create_task(self._poll(due))

    async def _poll(self, due: Sequence[Awaited]) -> None:
        await self._poller.poll(due)
        for awaited in due:
            awaited.is_asked = False
        self._n_polls -= 1
        self._look_by(-inf)

    # -- results of polls

    def saw(self, batches: Sequence[Batch], page: str | None = None) -> None:
        """Process current batch objects, of one retrieve or of a page of the listing."""
        now, wall = time.monotonic(), time.time()
        self._poller.outage.succeeded()
        self._denied.clear()
        for batch in batches:
            awaited = self._awaited.get(batch.id)
            if awaited is not None:
                awaited.page = awaited.page if page is None else page
                self._see(awaited, batch, now, wall)

    def _see(self, awaited: Awaited, batch: Batch, now: float, wall: float) -> None:
        awaited.n_failures = awaited.n_refused = 0
        before, awaited.track = awaited.track, follow(awaited.track, batch, wall)
        if batch.status in ENDED_STATUSES:
            del self._awaited[awaited.id]
        else:
            pause = pause_s(awaited.track, wall, awaited.longest_s)
            awaited.due_at, awaited.early_at = now + pause, now + pause * (1 - EARLY)
        for watch in awaited.watches:
            if awaited.track is not before:
                watch.changed(batch)
            elif not watch.is_troubled:
                continue
            if watch.is_troubled:
                watch.recovered()
            self._waking[watch] = None
        self._poked.set()

    def missed(self, target: Awaited | str, error: Exception) -> None:
        """Process a failed request: the fate of a batch is never concluded from anything but OpenAI's response."""
        if isinstance(target, Awaited) and isinstance(error, Denied | NotFound):
            self._refused(target, error)
            return
        outage = self._poller.outage
        longest_s = min((watch.longest_s for watch in self._watches), default=inf)
        n_needed = 1 if target == "connection" else len(self._awaited)
        asked_s: float | None = getattr(error, "retry_after_s", None)
        has_failed = outage.failed(
            target.id if isinstance(target, Awaited) else target,
            n_needed,
            time.monotonic(),
            _jittered(backoff_s(outage.n + 1, longest_s)),
            asked_s,
        )
        if isinstance(target, Awaited):
            target.n_failures += 1
            target.postpone(max(_jittered(backoff_s(target.n_failures, target.longest_s)), asked_s or 0.0))
            if not outage.n and is_logged(target.n_failures):
                self._tell(target.watches, Failure(target.n_failures, error))
        if has_failed and target == "connection" and outage.n >= _CONNECTION_TRIES:
            self._tell(self._watches, "the connection cannot be read")
        elif has_failed and is_logged(outage.n):
            self._tell(self._watches, Failure(outage.n, error))

    def _refused(self, awaited: Awaited, error: Exception) -> None:
        """Believe a refusal only when minutes of looks agree, with the connection read anew."""
        now = time.monotonic()
        awaited.n_refused += 1
        if awaited.n_refused == 1:
            awaited.refused_at = now
        awaited.postpone(_jittered(backoff_s(awaited.n_refused, awaited.longest_s)))
        is_renewed = self._poller.renew()
        if isinstance(error, NotFound):
            self._poller.outage.succeeded()  # the connection works
        elif is_renewed:
            awaited.postpone(0.0)  # perhaps the key was changed
        elif self._is_locked_out(awaited, now):
            self._locked_out(error, now)
            return
        self._doubt(awaited.watches, awaited.n_refused, awaited.refused_at, error, now)

    def _is_locked_out(self, awaited: Awaited, now: float) -> bool:
        """Record that a batch was denied. Returns whether so many were that the connection must be the reason."""
        if not self._denied:
            self._denied_at = now
        self._denied.add(awaited.id)
        if len(self._denied) >= _DENIED_BATCHES:
            return True
        self._poller.outage.succeeded()  # there was a response
        return False

    def _locked_out(self, error: Exception, now: float) -> None:
        """Look with one request at a time while everything is denied, and ever less often."""
        outage = self._poller.outage
        longest_s = min((watch.longest_s for watch in self._watches), default=inf)
        if outage.failed("connection", 1, now, _jittered(backoff_s(outage.n + 1, longest_s)), None):
            self._doubt(self._watches, outage.n, self._denied_at, error, now)

    def _doubt(self, watches: Iterable[Subscription], n: int, since: float, error: Exception, now: float) -> None:
        """Tell subscriptions of a refusal: that it is believed, or as a failure that may pass."""
        has_lasted = now - since >= BELIEVED_AFTER_S and self._poller.renewed_at >= since
        if n >= _BELIEVED_LOOKS and has_lasted:
            self._tell(watches, "OpenAI refuses to answer")
        elif is_logged(n):
            minutes = f"{BELIEVED_AFTER_S / 60:.0f} minutes"
            self._tell(watches, Failure(n, Doubted(f"{error} This is believed if it lasts for {minutes}.")))

    def _tell(self, watches: Iterable[Subscription], trouble: Failure | str) -> None:
        for watch in watches:
            if watch.batch_ids:
                watch.failed(trouble) if isinstance(trouble, Failure) else watch.refused(trouble)
                self._waking[watch] = None
        self._poked.set()


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 - spreads requests, guards nothing
