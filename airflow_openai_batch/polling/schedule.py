"""The polling schedule: when to poll a batch, by listing or retrieve. Pure: no clock, call or sleep; times are passed.

**When.** ``poll_interval`` is the longest pause between two polls of a batch, and so the longest delay until its end is
noticed. Within it the pause depends on the batch:

* a fifth of the time since its status last changed, or since its creation: a new batch, or one that has just begun to
  write its files, may end soon; one that has not changed for long is unlikely to change in the next second;
* half of the estimated remaining time by its counts, once they have changed, and as long as they keep changing;
* never less than 5 s, as Airflow needs some seconds to resume a task anyway, or than ``poll_interval`` if that is less.

**How.** A page of the listing shows up to 100 batches for one request (OpenAI's API reference), newest first (seen); a
retrieve shows one. A page is read if two or more batches that are due were on it before, or to search for batches that
no page has shown yet. The requests for such a search are limited to a share of the retrieves (``Pages``).

**After failures.** A failed poll is repeated after 5 s, then 10 s and so on up to 10 min. ``Outage`` distinguishes the
failures of one batch from those of the connection. While the connection is down, there is one request at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import inf

from airflow_openai_batch.engine.model import Batch, Value

SHORTEST_S = 5.0
"""The shortest pause between two polls of a batch."""

TOP = ""
"""The first page of the listing."""

EARLY = 0.25
"""Share of a pause by which a poll may come early, so that many batches are polled together."""

_SHARE = 0.2

_BACKOFF_S, _MAX_BACKOFF_S = 5.0, 600.0

_FAILURES_OF_AN_OUTAGE = 2

_MAX_SHARED_PAUSE_S = 300.0

_EARNED = 0.1

_MAX_ALLOWANCE = 50.0

_GRANTED = 0.02


class Track(Value, frozen=True, kw_only=True, gc=False):
    """The status of a batch and how fast it changes. Times are epoch seconds."""

    batch: Batch
    since: float
    """When its status was first seen; when it was created, if the first poll saw this status."""
    first_at: float
    """When this status was first seen."""
    first_done: int
    """The number of finished requests at that time."""
    moved_at: float
    """When its counts were last seen to change."""


def follow(before: Track | None, batch: Batch, now: float) -> Track:
    """Return the track of a batch after another poll; the same object if nothing has changed.

    Args:
        before: The track before; None at the first poll.
        batch: The current batch object.
        now: The time of the poll, in epoch seconds.
    """
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
    """Return the pause after a poll of a batch, in seconds.

    Args:
        track: The batch's track after the poll.
        now: The time of the poll, in epoch seconds.
        longest_s: The longest pause, in seconds.
    """
    wanted = min((now - track.since) * _SHARE, _near_its_end_s(track, now))
    return min(max(wanted, SHORTEST_S), longest_s)


def _near_its_end_s(track: Track, now: float) -> float:
    total, done = track.batch.n_total, track.batch.n_completed + track.batch.n_failed
    moved, still_s = done - track.first_done, (now - track.moved_at) * _SHARE
    if total <= 0:
        return inf
    if done >= total:
        return still_s  # only the files are missing (seen: `finalizing` takes from a moment to hours)
    if moved <= 0:
        return inf
    return max((total - done) / moved * (now - track.first_at) / 2, still_s)


def backoff_s(n: int, longest_s: float) -> float:
    """Return the pause in seconds after the n-th consecutive failure, n from 1.

    Short disturbances are over in seconds, so the first repetition is soon, however long the other pauses are.
    """
    return min(min(_BACKOFF_S, longest_s) * 2.0 ** min(n - 1, 16), _MAX_BACKOFF_S)


def is_logged(n: int) -> bool:
    """Return whether the n-th consecutive failure is logged by every trigger: 1, 2, 4, 8 and so on."""
    return n & (n - 1) == 0


class Outage:
    """Whether the connection is down: no request succeeds, whichever batch it is for.

    Attributes:
        n: Number of consecutive failed attempts of the connection; 0 while it works.
        until: The time before which no request is made; the caller's monotonic clock.
    """

    def __init__(self) -> None:
        self.n = 0
        self.until = -inf
        self._failed: set[str] = set()

    def failed(self, target: str, n_awaited: int, now: float, pause_s: float, asked_s: float | None) -> bool:
        """Record a failed request. Returns whether it counts as another failure of the connection.

        Args:
            target: The batch's id, `connection` or `listing`.
            n_awaited: Number of batches to poll.
            now: The time of the failure, on the caller's monotonic clock.
            pause_s: The pause after the connection's next failure in seconds, with jitter.
            asked_s: The pause in seconds that the server asked for, if it did. Those who were not asked keep 5 minutes
                of it at most: it may be the matter of a few batches.
        """
        self._failed.add(target)
        asked_s = min(asked_s or 0.0, _MAX_SHARED_PAUSE_S)
        is_late = self.n > 0 and now < self.until  # it was sent together with the request that failed before
        if is_late:
            self.hold(now + asked_s)
            return False
        if len(self._failed) < min(_FAILURES_OF_AN_OUTAGE, n_awaited):
            return False  # a pause that was asked for is that of the target alone, until another target fails too
        self.n += 1
        self.hold(now + max(pause_s, asked_s))
        return True

    def hold(self, until: float) -> None:
        """Make no request before a time, on the caller's monotonic clock."""
        self.until = max(self.until, until)

    def succeeded(self) -> None:
        """Record a request that was answered. A pause that the server asked for remains."""
        self.n = 0
        self._failed.clear()


class Pages:
    """Decides which pages of the listing to read.

    A page is identified by its cursor, the id of the batch before it, because what follows a batch never changes. Only
    the first page, ``TOP``, changes: newer batches push its batches down. A batch is searched on the page where it was
    found last.

    Attributes:
        can_page: Whether the server supports the cursor.
    """

    def __init__(self) -> None:
        self.can_page = True
        self._allowance = 1.0
        """Number of pages that may be read in vain."""
        self._n_choices = 0

    def choose(self, found_on: Iterable[str | None], n_new: int) -> list[str]:
        """Return the pages that may save requests, the most useful first.

        Args:
            found_on: For each batch to poll, the page where it was found last, or None.
            n_new: Number of them that were never polled.
        """
        self._allowance = min(self._allowance + n_new * _GRANTED, _MAX_ALLOWANCE)
        self._n_choices += 1
        n_of = Counter(found_on)
        n_unknown = n_of.pop(None, 0)
        ranked = [(page, n) for page, n in n_of.most_common() if page is not None and (self.can_page or page == TOP)]
        pages = [page for page, n in ranked if n > 1]
        lone = [page for page, n in ranked if n == 1]
        if len(lone) > 1:
            # It costs no more than retrieving its one batch, and may show others that were alone on their pages.
            pages.append(lone[self._n_choices % len(lone)])
        if n_unknown > 1 and TOP not in pages and self._allowance >= 1:
            pages.append(TOP)
        return pages

    def goes_on(self, n_unknown: int, *, n_found: int, n_unknown_found: int, is_past: bool) -> bool:
        """Return whether to read the page that follows one that was read.

        Args:
            n_unknown: Number of batches still to poll whose page is not known.
            n_found: Number of batches to poll that the page showed.
            n_unknown_found: Number of these whose page was not known, or that were pushed down from this page.
            is_past: Whether the page ends with a batch that is older than all those whose page is not known.
        """
        if not n_found:
            self._allowance -= 1
        if n_unknown < 2 or is_past or not self.can_page:
            return False
        return n_unknown_found > 0 or self._allowance >= 1

    def asked(self, n: int) -> None:
        """Record retrieves: searching for batches on pages may cost a tenth of their number."""
        self._allowance = min(self._allowance + n * _EARNED, _MAX_ALLOWANCE)
