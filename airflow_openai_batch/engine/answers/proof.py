"""What proves that a row has no answer. Pure.

A result file that is not whole proves nothing: the answers of its missing rows were paid for, and asking again pays
twice. Rows without a line are missing only where the lines agree with OpenAI's own counts, or where OpenAI says that it
dropped the rest (a batch that expired or was cancelled).
"""

from __future__ import annotations

from typing import NamedTuple

from airflow_openai_batch.engine.model import Batch


class Lines(NamedTuple):
    """What the result files hold of a batch's rows.

    Attributes:
        n_rows: The rows that were asked.
        n_seen: Those with a line.
        n_answered: Those with an answer, good or not; failed requests have none.
        n_unreadable: Lines that cannot be read.
        n_spoilt: Those of them that began as a JSON object, and are none.
        n_foreign: Lines that name a row which was not asked.
        is_cut: Whether a file ends in the middle of a line, so that the rest may still come.
        is_size_wrong: Whether a file has another size than the files route says.
    """

    n_rows: int
    n_seen: int
    n_answered: int
    n_unreadable: int
    n_spoilt: int
    n_foreign: int
    is_cut: bool
    is_size_wrong: bool


def are_damaged(batch: Batch, lines: Lines) -> bool:
    """Return whether the rows without a line are those of lines that cannot be read: answered, billed, and spoilt.

    So it is in a file that is whole by OpenAI's counts, and good for the most part.
    """
    n_counted = batch.n_completed + batch.n_failed
    is_whole = (
        n_counted > 0
        and lines.n_seen + lines.n_unreadable >= n_counted
        and not lines.is_size_wrong
        and not lines.is_cut
    )
    is_each_spoilt = 0 < lines.n_unreadable == lines.n_spoilt
    return is_whole and is_each_spoilt and not lines.n_foreign and 2 * lines.n_seen >= lines.n_rows


class Doubt(NamedTuple):
    """Why rows without a line may have an answer all the same.

    Attributes:
        reason: For a person.
        passes: Whether it ends by itself once the files have been the same for minutes: only a file or the counts may
            be late.
    """

    reason: str
    passes: bool


def doubt_of(batch: Batch, lines: Lines) -> Doubt | None:
    """Return why rows without a line may have an answer all the same, or None if they certainly have none.

    OpenAI's guide: completed requests are in the output file, other requests in the error file. Seen: an expired batch
    of 10 rows counted 1 completed and 0 failed, so the counts of a batch that ended early say how many lines there are
    at least.
    """
    if lines.n_seen >= lines.n_rows:
        return None
    n_absent = lines.n_rows - lines.n_seen
    rows = f"{n_absent:,} of {lines.n_rows:,} rows have no line"
    counts = f"OpenAI counts {batch.n_completed:,} completed and {batch.n_failed:,} failed requests"
    if lines.n_unreadable or lines.n_foreign:
        n_odd = lines.n_unreadable + lines.n_foreign
        return Doubt(f"{rows}, and {n_odd:,} lines name no row or cannot be read", passes=False)
    if lines.is_size_wrong:
        return Doubt(f"{rows}, and a file has another size than OpenAI says", passes=False)
    has_ended_early = batch.status in _ENDED_EARLY
    n_counted = batch.n_completed + batch.n_failed
    if lines.n_answered < batch.n_completed or (lines.n_answered > batch.n_completed and not has_ended_early):
        return Doubt(f"{rows}, but {counts}", passes=False)
    if not n_counted and not has_ended_early:
        return Doubt(f"{rows}, and OpenAI gives no counts that agree with it", passes=False)
    is_dropped = has_ended_early and lines.n_answered == batch.n_completed and not lines.is_cut
    if n_counted < lines.n_rows and not is_dropped:
        return Doubt(f"{rows}, and {counts}; more may come", passes=True)
    return None


_ENDED_EARLY = frozenset({"expired", "cancelled", "failed"})
"""Statuses with which OpenAI says that it dropped requests."""
