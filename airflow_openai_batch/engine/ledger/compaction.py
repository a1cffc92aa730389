"""Keeping a ledger short: small segments that are neighbours in time become one, and those that are too old go.

Two processes that merge the same segments would only keep every entry twice, and readers that meet a segment which has
just gone list the ledger again. So nothing depends on compaction, and a kill at any point loses nothing: a merged
segment is there before those that it replaces go.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airflow_openai_batch.engine.ledger.lookup import read_segment
from airflow_openai_batch.engine.ledger.segments import (
    SEGMENT_ENTRIES,
    Ledger,
    Pointers,
    Segment,
    decode_segment,
    joined,
    no_pointers,
    taken,
)

_MIN_MERGED = 16
"""How many neighbours are worth being merged."""

_CLAIMS = "claims"
_CLAIM_S = 600
"""One process compacts a ledger at a time, and if it dies, another may after this time."""


def compact(ledger: Ledger, now: float, keep_s: float, *, is_claimed: bool = False) -> int:
    """Merge small segments, and remove those whose entries are all too old.

    Args:
        ledger: The ledger.
        now: Epoch seconds.
        keep_s: How long an entry is kept, in seconds.
        is_claimed: Whether this process has claimed the ledger already, by `drop_entries`.

    Returns:
        How many segments are gone.

    Raises:
        StoreError: The storage cannot be read or written. Nothing is lost.
    """
    segments = [segment for segment in ledger.segments() if segment.name not in ledger.damaged]
    old = [segment for segment in segments if segment.newest < now - keep_s]
    groups = list(_groups([segment for segment in segments if segment.newest >= now - keep_s]))
    if not (old or groups) or not (is_claimed or _claim(ledger, now)):
        return 0
    for segment in old:
        ledger.files.remove(segment.name)
    n_merged = sum(_merge(ledger, group, now - keep_s) for group in groups)
    return len(old) + n_merged


def drop_entries(ledger: Ledger, jobs: Mapping[str, int], now: float) -> int | None:
    """Remove the entries that point into jobs which were removed, with the digests of their requests.

    Args:
        ledger: The ledger.
        jobs: The last epochs of the jobs, by their folders relative to the storage root: what was asked later, in a job
            that began anew in the same place, stays.
        now: Epoch seconds.

    Returns:
        How many entries are gone: if any, this process has claimed the ledger. None if another one compacts it now, so
        that nothing was done.

    Raises:
        StoreError: The storage cannot be read or written. Entries that stay count for nothing, as their part is gone.
    """
    concerned = [segment for segment in ledger.segments() if _gone_in(_pointers(ledger, segment), jobs).any()]
    if concerned and not _claim(ledger, now):
        return None
    n_gone = 0
    for segment in concerned:
        pointers = _pointers(ledger, segment)
        is_gone = _gone_in(pointers, jobs)
        kept = taken(pointers, ~is_gone)
        if len(kept.row):
            ledger.add(kept, segment.oldest, segment.newest, of=f"{segment.name} without {' '.join(sorted(jobs))}")
        ledger.files.remove(segment.name)
        n_gone += int(is_gone.sum())
    return n_gone


def _pointers(ledger: Ledger, segment: Segment) -> Pointers:
    content = read_segment(ledger, segment.name)
    if content is None:
        return no_pointers()
    try:
        return decode_segment(content)
    except Exception:  # whatever Arrow raises over bytes that are no segment
        ledger.damaged.add(segment.name)
        return no_pointers()


def _gone_in(pointers: Pointers, jobs: Mapping[str, int]) -> Any:
    """Return of each entry whether it points into one of these jobs."""
    import numpy as np

    return np.array([_is_of(part, jobs) for part in pointers.parts], bool)[pointers.part]


def _is_of(part: str, jobs: Mapping[str, int]) -> bool:
    """Return whether an outcome part is of one of these jobs, and of no later epoch than the given one."""
    *job, epoch, _, _ = part.split("/")
    return int(epoch.removeprefix("e")) <= jobs.get("/".join(job), -1)


def _groups(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Yield neighbours in time that fit into one segment, if they are many enough.

    The last ones wait until there are more of them, or each night would write the same entries once more.
    """
    group: list[Segment] = []
    n_entries = 0
    for segment in segments:
        is_full = n_entries + segment.n_entries > SEGMENT_ENTRIES
        if is_full:
            if len(group) > 1:
                yield group
            group, n_entries = [], 0
        group.append(segment)
        n_entries += segment.n_entries
    if len(group) >= _MIN_MERGED:
        yield group


def _claim(ledger: Ledger, now: float) -> bool:
    """Return whether this process may compact now. Claims of earlier times are removed."""
    slot = int(now) // _CLAIM_S
    if not ledger.files.create(f"{_CLAIMS}/{slot}", uuid.uuid4().hex.encode()):
        return False
    for name in ledger.files.names_in(_CLAIMS):
        if name.isdecimal() and int(name) < slot - 1:
            ledger.files.remove(f"{_CLAIMS}/{name}")
    return True


def _merge(ledger: Ledger, group: Sequence[Segment], since: float) -> int:
    contents = [read_segment(ledger, segment.name) for segment in group]
    if any(content is None for content in contents):
        return 0  # another process merges them
    pointers: list[Pointers] = []
    for segment, content in zip(group, contents, strict=True):
        try:
            pointers.append(decode_segment(content or b""))
        except Exception:  # whatever Arrow raises over bytes that are no segment
            ledger.damaged.add(segment.name)
            return 0
    merged = _newest_of_each(joined(pointers), since)
    if len(merged.row):
        # Named after what it is made of: where old segments cannot be removed, it is not written again and again.
        names = " ".join(segment.name for segment in group)
        ledger.add(merged, group[0].oldest, max(segment.newest for segment in group), of=names)
    for segment in group:
        ledger.files.remove(segment.name)
    return len(group) - 1


def _newest_of_each(pointers: Pointers, since: float) -> Pointers:
    """Return for each digest its newest answer, of equal age the one recorded last, if it is not too old."""
    import numpy as np

    pointers = taken(pointers, pointers.asked_at >= since)
    recorded = np.arange(len(pointers.row))
    order = np.lexsort((recorded, pointers.asked_at, pointers.digests.low, pointers.digests.high))
    digests = pointers.digests[order]
    is_last = np.ones(len(order), bool)
    is_last[:-1] = ~digests[1:].equal(digests[:-1])
    return taken(pointers, order[is_last])
