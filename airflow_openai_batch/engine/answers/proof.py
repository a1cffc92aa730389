"""What proves that a row has no answer. Pure.

A result file that is not whole proves nothing: the answers of its missing rows were paid for, and asking again pays
twice. Rows without a line are missing only where the lines agree with OpenAI's own counts, or where OpenAI says that it
dropped the rest (a batch that expired or was cancelled).
"""

from __future__ import annotations

from typing import NamedTuple

from airflow_openai_batch.engine.model import Batch


class Harvest(NamedTuple):
    """What was found of a batch's rows.

    Attributes:
        n_rows: The rows that were asked.
        n_seen: Those with a line.
        n_answered: Those with an answer, good or not; failed requests have none.
        has_unmatched: Whether there are lines that belong to no row.
        is_size_wrong: Whether a file has another size than the files route says.
    """

    n_rows: int
    n_seen: int
    n_answered: int
    has_unmatched: bool
    is_size_wrong: bool


def why_unproven(batch: Batch, harvest: Harvest) -> str | None:
    """Return why rows without a line may have an answer all the same, or None if they certainly have none.

    OpenAI's guide: completed requests are in the output file, other requests in the error file. Seen: an expired batch
    of 10 rows counted 1 completed and 0 failed, so counts say how many lines there are at least, not how many rows.
    """
    if harvest.n_seen >= harvest.n_rows:
        return None
    n_absent = harvest.n_rows - harvest.n_seen
    rows = f"{n_absent:,} of {harvest.n_rows:,} rows have no line"
    if harvest.has_unmatched:
        return f"{rows}, and there are lines that name no row or cannot be read"
    if harvest.is_size_wrong:
        return f"{rows}, and a file has another size than OpenAI says"
    n_lines = batch.n_completed + batch.n_failed
    if harvest.n_seen < n_lines and harvest.n_answered < batch.n_completed:
        return f"{rows}, but OpenAI counts {batch.n_completed:,} completed and {batch.n_failed:,} failed requests"
    if batch.status not in ("expired", "cancelled") and not n_lines:
        return f"{rows}, and OpenAI gives no counts that agree with it"
    return None
