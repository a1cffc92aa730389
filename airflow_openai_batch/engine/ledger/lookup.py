"""Looking digests up in a ledger: segments are streamed past them, so memory holds the digests and a few segments."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from airflow_openai_batch.engine.errors import StoreError
from airflow_openai_batch.engine.ledger.segments import Ledger, Pointers, Segment, decode_segment

if TYPE_CHECKING:
    from airflow_openai_batch.engine.ledger.segments import Digests, Numbers

_AHEAD = 2
"""Segments that are fetched while others are searched: a storage far away answers late."""

_LISTINGS = 10


class Hits(NamedTuple):
    """For each digest its newest answer: arrays of the same length as the digests."""

    part: Numbers
    """The place of the answer's outcome part in `parts`; -1 for a digest that is not known."""
    row: Numbers
    asked_at: Numbers
    recorded_at: Numbers
    parts: tuple[str, ...]


def look_up(ledger: Ledger, digests: Digests, since: float, without: Collection[str] = ()) -> Hits:
    """Find answers to requests.

    Args:
        ledger: The ledger.
        digests: The digests of the requests, sorted and each once.
        since: The oldest answer that counts, in epoch seconds.
        without: Outcome parts that do not count, because they are gone.

    Raises:
        StoreError: The storage cannot be read.
    """
    import numpy as np

    n = len(digests)
    # Half as large as numbers usually are: there are as many as a job has rows. As times they last until 2106.
    hits = _Best(np.full(n, -1, np.int32), np.zeros(n, np.int32), np.zeros(n, np.uint32), np.zeros(n, np.uint32))
    parts: dict[str, int] = {}
    seen: set[str] = set()
    for _ in range(_LISTINGS):
        # An entry is never older than its answer, so a segment whose entries are too old has no answer that counts.
        segments = [s for s in ledger.segments() if s.name not in seen and s.newest >= since] if n else []
        is_whole = True
        for segment, data in _read_ahead(ledger, segments):
            seen.add(segment.name)
            if data is None:
                is_whole = False  # it was merged with others while we read: the merged one is listed now
                continue
            try:
                _match(hits, digests, decode_segment(data), segment, since, without, parts)
            except Exception:  # whatever Arrow and NumPy raise over bytes that are no segment
                ledger.damaged.add(segment.name)
        if is_whole:
            break
    return Hits(hits.part, hits.row, hits.asked_at, hits.recorded_at, tuple(parts))


class _Best(NamedTuple):
    part: Numbers
    row: Numbers
    asked_at: Numbers
    recorded_at: Numbers


def _match(
    best: _Best,
    digests: Digests,
    entries: Pointers,
    segment: Segment,
    since: float,
    without: Collection[str],
    parts: dict[str, int],
) -> None:
    """Take over the entries of a segment that are newer than what is known; of equal age the one recorded last."""
    import numpy as np

    # The segment's digests in ours, not the other way round: both are sorted, and the processor's cache is used well.
    at = np.minimum(np.searchsorted(digests.high, entries.digests.high), len(digests) - 1)
    is_hit = digests[at].equal(entries.digests)
    is_hit &= entries.asked_at >= since
    if without:
        is_hit &= ~np.array([name in without for name in entries.parts], bool)[entries.part]
    at, places = at[is_hit], np.flatnonzero(is_hit)
    age, known = entries.asked_at[places], best.asked_at[at]
    is_newer = (best.part[at] < 0) | (age > known) | ((age == known) & (segment.newest >= best.recorded_at[at]))
    at, places = at[is_newer], places[is_newer]
    codes = np.array([parts.setdefault(name, len(parts)) for name in entries.parts], np.int64)
    best.part[at] = codes[entries.part[places]] if len(places) else 0
    best.row[at] = entries.row[places]
    best.asked_at[at] = entries.asked_at[places]
    best.recorded_at[at] = segment.newest


def _read_ahead(ledger: Ledger, segments: Sequence[Segment]) -> Iterator[tuple[Segment, bytes | None]]:
    """Yield the content of segments in their order; None for one that is there no more."""
    with ThreadPoolExecutor(_AHEAD, "ledger") as pool:
        coming: deque[tuple[Segment, Future[bytes | None]]] = deque()
        for segment in segments:
            coming.append((segment, pool.submit(read_segment, ledger, segment.name)))
            if len(coming) > _AHEAD:
                first, data = coming.popleft()
                yield first, data.result()
        while coming:
            first, data = coming.popleft()
            yield first, data.result()


def read_segment(ledger: Ledger, name: str) -> bytes | None:
    """Return the content of a segment, or None if it is there no more.

    Raises:
        StoreError: The storage cannot be read.
    """
    try:
        return ledger.files.read(name)
    except StoreError:
        if ledger.files.exists(name):
            raise
        return None
