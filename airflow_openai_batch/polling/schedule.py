"""When to look at a batch again, and how. Pure: no clock, no call, no sleep; times are arguments.

**When.** ``poll_interval`` is the longest pause between two looks at a batch, and so the latest that its end is seen.
Within it the pause follows the batch:

* a fifth of the time since its status last changed, or since its creation: what is young, or has just begun to write
  its files, may end soon, and what has not moved for long will hardly move in the next second;
* half of the time that its counts say is left, once they have been seen to move, and as long as they go on moving;
* never less than 5 s, as Airflow needs some seconds to wake a task anyway, or than ``poll_interval`` if that is less.

**How.** A page of the listing shows 100 batches for one request, newest first; a ``retrieve`` shows one. A page is
read if two batches or more that are due were found on it before, or to look for batches that no page has shown yet.
What such looking may cost has to be earned by retrieves (``Pages``).

**After trouble.** A look that fails is repeated after 5 s, then 10 s and so on up to 10 min. ``Outage`` tells the
trouble of one batch from that of the connection, which makes one look at a time and no other until it succeeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import inf

from airflow_openai_batch.engine.model import Batch, Value

SHORTEST_S = 5.0

TOP = ""
"""The first page of the listing."""

EARLY = 0.25
"""Part of a pause by which a look may come early, so that many batches are looked at together."""

_SHARE = 0.2

_BACKOFF_S, _MAX_BACKOFF_S = 5.0, 600.0

_FAILURES_OF_AN_OUTAGE = 2

_EARNED = 0.1

_MAX_ALLOWANCE = 50.0

_GRANTED = 0.02


class Track(Value, frozen=True, kw_only=True):
    """What the looks at a batch have told of its speed. Times are epoch seconds."""

    batch: Batch
    since: float
    """When its status was first seen; when it was created, if the first look found it so."""
    first_at: float
    first_done: int
    """The first look that found this status, and the requests done by then."""
    moved_at: float
    """When its counts were last seen to move."""


def follow(before: Track | None, batch: Batch, now: float) -> Track:
    """Return what is known after another look. The same object means that nothing has changed."""
    done = batch.n_completed + batch.n_failed
    if before is None:
        since = now if batch.created_at is None else min(batch.created_at, now)
        return Track(batch=batch, since=since, first_at=now, first_done=done, moved_at=now)
    if before.batch == batch:
        return before
    if before.batch.status != batch.status:
        return Track(batch=batch, since=now, first_at=now, first_done=done, moved_at=now)
    has_moved = done != before.batch.n_completed + before.batch.n_failed
    return Track(
        batch=batch,
        since=before.since,
        first_at=before.first_at,
        first_done=before.first_done,
        moved_at=now if has_moved else before.moved_at,
    )


def pause_s(track: Track, now: float, longest_s: float) -> float:
    """Return the seconds until the next look at a batch that has just been looked at."""
    wanted = min((now - track.since) * _SHARE, _near_its_end_s(track, now))
    return min(max(wanted, SHORTEST_S), longest_s)


def _near_its_end_s(track: Track, now: float) -> float:
    total, done = track.batch.n_total, track.batch.n_completed + track.batch.n_failed
    moved, still_s = done - track.first_done, (now - track.moved_at) * _SHARE
    if total <= 0:
        return inf
    if done >= total:
        return still_s  # all is done but the files; that may take a moment or hours
    if moved <= 0:
        return inf
    return max((total - done) / moved * (now - track.first_at) / 2, still_s)


def backoff_s(n: int, longest_s: float) -> float:
    """Return the pause after the n-th failure in a row, n from 1.

    A blip is over in seconds, so the first look after it comes soon, however long the pauses are otherwise.
    """
    return min(min(_BACKOFF_S, longest_s) * 2.0 ** min(n - 1, 16), _MAX_BACKOFF_S)


def is_told(n: int) -> bool:
    """Say whether the n-th failure in a row is worth a line in the log of every trigger: 1, 2, 4, 8 and so on."""
    return n & (n - 1) == 0


class Outage:
    """Whether the connection is down: no look succeeds, whichever batch it is for.

    Attributes:
        n: Failed attempts of the connection in a row; 0 while it works.
        until: No look before this time; the caller's monotonic clock.
    """

    def __init__(self) -> None:
        self.n = 0
        self.until = -inf
        self._failed: set[str] = set()

    def failed(self, what: str, n_awaited: int, now: float, pause_s: float, asked_s: float | None) -> bool:
        """Take note of a failed look. Returns whether the connection has failed once more.

        Args:
            what: What was looked at.
            n_awaited: How many batches there are to look at.
            now: The time.
            pause_s: The pause after the connection's next failure, with jitter.
            asked_s: The pause that the server asked for.
        """
        self._failed.add(what)
        is_late = self.n > 0 and now < self.until  # it began with the look that failed before
        if is_late or len(self._failed) < min(_FAILURES_OF_AN_OUTAGE, n_awaited):
            self.hold(now + (asked_s or 0.0))
            return False
        self.n += 1
        self.hold(now + max(pause_s, asked_s or 0.0))
        return True

    def hold(self, until: float) -> None:
        """Let nothing be looked at before a time."""
        self.until = max(self.until, until)

    def succeeded(self) -> None:
        """Take note of a look that was answered. A pause that the server asked for stands."""
        self.n = 0
        self._failed.clear()


class Pages:
    """Which pages of the listing to read.

    A page is named by its cursor, the id of the batch before it, as what follows a batch never changes. Only the first
    page, ``TOP``, does: what it showed is pushed down by newer batches. A batch is looked for on the page where it was
    found last.

    Attributes:
        can_page: Whether the server heeds the cursor.
    """

    def __init__(self) -> None:
        self.can_page = True
        self._allowance = 1.0
        """Pages that may be read in vain."""
        self._n_choices = 0

    def choose(self, found_on: Iterable[str | None], n_new: int) -> list[str]:
        """Return the pages worth reading, the most useful first.

        Args:
            found_on: For each batch to look at, the page where it was found last, or None.
            n_new: How many of them were never looked at.
        """
        self._allowance = min(self._allowance + n_new * _GRANTED, _MAX_ALLOWANCE)
        self._n_choices += 1
        n_of = Counter(found_on)
        n_unknown = n_of.pop(None, 0)
        ranked = [(page, n) for page, n in n_of.most_common() if page is not None and (self.can_page or page == TOP)]
        pages = [page for page, n in ranked if n > 1]
        lone = [page for page, n in ranked if n == 1]
        if len(lone) > 1:
            # It costs no more than to ask for its one batch, and may show others that were found on pages of their own.
            pages.append(lone[self._n_choices % len(lone)])
        if n_unknown > 1 and TOP not in pages and self._allowance >= 1:
            pages.append(TOP)
        return pages

    def goes_on(self, n_unknown: int, *, n_found: int, n_unknown_found: int, is_past: bool) -> bool:
        """Say whether to read the page that follows one that was read.

        Args:
            n_unknown: How many batches are still to be looked at whose page is not known.
            n_found: How many the page showed of those to be looked at.
            n_unknown_found: How many of these had no known page, or were pushed down from this one.
            is_past: Whether the page ends with a batch older than all of those.
        """
        if not n_found:
            self._allowance -= 1
        if n_unknown < 2 or is_past or not self.can_page:
            return False
        return n_unknown_found > 0 or self._allowance >= 1

    def asked(self, n: int) -> None:
        """Take note of retrieves: a tenth of them is what looking for a cheaper way may cost."""
        self._allowance = min(self._allowance + n * _EARNED, _MAX_ALLOWANCE)
