"""Why rows have no good answer: counts by error code, each with a message and examples of custom_ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.answers.outcome_files import read_part
from airflow_openai_batch.engine.model import GOOD, Job, Status, Value
from airflow_openai_batch.engine.redaction import without_values
from airflow_openai_batch.engine.store.job_store import JobStore

if TYPE_CHECKING:
    import pyarrow as pa


_MAX_CODES = 50

_EXAMPLES = 3

_MAX_MESSAGE = 300

_MAX_VERBATIM = 2000

_COLUMNS = ["status", "error_code", "custom_id", "error_message", "output"]

_REFUSAL = "The model, or a filter, refused to answer."


class ErrorCount(Value, frozen=True, kw_only=True):
    """The number of rows that ended with an error code, with examples."""

    status: str
    code: str
    n: int
    message: str | None = None
    """Of the first such row; without what it quotes of the row or of the answer, unless it was counted verbatim."""
    custom_ids: tuple[str, ...] = ()


class ErrorCounter:
    """Counts error codes over rows, with a few examples each.

    Args:
        is_verbatim: Whether messages are kept as they are: for a person who may read the rows, never for XCom or logs.
    """

    def __init__(self, *, is_verbatim: bool = False) -> None:
        self._is_verbatim = is_verbatim
        self._n: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], tuple[str | None, list[str]]] = {}

    def add(self, batch: pa.RecordBatch, values_of: Callable[[int], Sequence[Any]] = lambda row: ()) -> None:
        """Count the rows of a record batch of outcomes that have no good answer.

        Args:
            batch: The outcomes.
            values_of: Returns the input values of a row of the batch.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        is_bad = pc.invert(pc.is_in(batch.column("status"), pa.array(GOOD)))
        if not pc.any(is_bad).as_py():
            return
        rows = pc.indices_nonzero(is_bad)
        bad = batch.select(_COLUMNS[:3]).take(rows)
        for row, *found in zip(rows.to_pylist(), *(column.to_pylist() for column in bad.columns), strict=True):
            status, code, custom_id = found
            key = (status, code or "unknown")
            self._n[key] += 1
            if key not in self._examples:
                self._examples[key] = (self._message(batch, row, status, values_of), [])
            if len(self._examples[key][1]) < _EXAMPLES:
                self._examples[key][1].append(custom_id)

    def _message(
        self, batch: pa.RecordBatch, row: int, status: str, values_of: Callable[[int], Sequence[Any]]
    ) -> str | None:
        message = batch.column("error_message")[row].as_py() or ""
        if self._is_verbatim:
            return message[:_MAX_VERBATIM] or None
        if status == Status.REFUSED:
            return _REFUSAL
        values = (*values_of(row), batch.column("output")[row].as_py())
        texts = [text for value in values for text in _texts(value)]
        return without_values(message, texts)[:_MAX_MESSAGE] or None

    def counts(self) -> tuple[ErrorCount, ...]:
        """Return the most frequent codes."""
        return tuple(
            ErrorCount(
                status=status,
                code=code,
                n=n,
                message=self._examples[status, code][0],
                custom_ids=tuple(self._examples[status, code][1]),
            )
            for (status, code), n in self._n.most_common(_MAX_CODES)
        )


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value of a row, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple) and value and not isinstance(value[0], int | float):
        for inner in value:
            yield from _texts(inner)


def stored_errors(store: JobStore, job: Job, *, is_verbatim: bool = False) -> tuple[ErrorCount, ...]:
    """Count the errors of the rows that are settled so far, also of a job that is not finished.

    Args:
        store: The job's store.
        job: The job.
        is_verbatim: See ``ErrorCounter``.

    Raises:
        StoreError: The store cannot be read.
    """
    import pyarrow.compute as pc

    errors = ErrorCounter(is_verbatim=is_verbatim)
    for shard in job.shards:
        is_everything_asked_again = shard.is_replayed and shard.child is not None
        if shard.outcomes is None or not shard.bad or is_everything_asked_again:
            continue
        columns = [*(_COLUMNS[:-1] if is_verbatim else _COLUMNS), "retryable"]
        for batch in read_part(store, shard.outcomes.name, columns):
            errors.add(batch if shard.child is None else batch.filter(pc.invert(batch.column("retryable"))))
    return errors.counts()


def skipped_rows(store: JobStore, job: Job) -> ErrorCount | None:
    """Return how many rows were not sent, with why and examples; None if there are none.

    Args:
        store: The job's store.
        job: The job.

    Raises:
        StoreError: The store cannot be read.
    """
    parts = [shard.outcomes for shard in job.shards if shard.is_skipped and shard.outcomes is not None]
    if not parts:
        return None
    rows = next(iter(read_part(store, parts[0].name, _COLUMNS[:-1]))).slice(0, _EXAMPLES).to_pylist()
    return ErrorCount(
        status=Status.SKIPPED,
        code=rows[0]["error_code"],
        n=sum(part.tally[Status.SKIPPED] for part in parts),
        message=rows[0]["error_message"],
        custom_ids=tuple(row["custom_id"] for row in rows),
    )
