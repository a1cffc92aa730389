"""Writing the result table: rows and outcomes are merged shard by shard, in input order.

Memory holds a few record batches of rows and their outcomes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import msgspec

from airflow_openai_batch.engine.concurrency import prefetch
from airflow_openai_batch.engine.errors import JobNotReady, StoreError
from airflow_openai_batch.engine.job.summary import Summary, summarize
from airflow_openai_batch.engine.model import Job, Shard, State, Status, Value
from airflow_openai_batch.engine.results.layout import Layout, layout_of
from airflow_openai_batch.engine.results.merge import OutcomeStream
from airflow_openai_batch.engine.results.sinks import Sink
from airflow_openai_batch.engine.store.job_store import JobStore

if TYPE_CHECKING:
    import pyarrow as pa


_MAX_CODES = 50

_EXAMPLES = 3


class ErrorCount(Value, frozen=True, kw_only=True):
    """The number of rows that ended with an error code, with examples."""

    status: str
    code: str
    n: int
    message: str | None = None
    custom_ids: tuple[str, ...] = ()


class Written(Value, frozen=True, kw_only=True):
    """The result of writing: where the table is, and what it holds."""

    summary: Summary
    output: str | None
    """Where the table is, or None if it went through XCom."""
    n_rows: int
    columns: tuple[str, ...]
    errors: tuple[ErrorCount, ...] = ()
    dead_letter: str | None = None
    n_dead_letter: int = 0
    """Lines in the dead letter: the raw answers of rows given up, and unmatched lines."""


def write_results(store: JobStore, job: Job, sink: Sink) -> Written:
    """Write the result table of a finished job.

    Args:
        store: The job's store.
        job: The job.
        sink: The destination.

    Raises:
        JobNotReady: The job is not finished.
        StoreError: The store lacks a row, or the table cannot be written: nothing was published.
        InputError: The sink refuses the rows.
    """
    unsettled = [shard.id for shard in job.shards if shard.state is not State.SETTLED]
    if unsettled:
        raise JobNotReady(
            f"{len(unsettled)} of {len(job.shards)} shards have no outcome yet ({', '.join(unsettled[:5])}). Wait for "
            "the job first, for example with OpenAIBatchSensor."
        )
    layout = layout_of(store, job)
    errors = _Errors()
    n_rows = 0
    with sink:
        sink.begin(layout.schema)
        for root in (shard for shard in job.shards if shard.parent is None):
            n_rows += _write_shard(store, job, root, layout, sink, errors)
        if n_rows != job.n_rows:
            raise StoreError(f"The job has {job.n_rows} rows, its store {n_rows}: files are missing in {store}.")
        for shard in job.shards:
            if shard.outcomes is not None and shard.outcomes.unmatched is not None:
                _copy_unmatched(store, shard.outcomes.unmatched, sink)
        sink.finish()
    return Written(
        summary=summarize(job),
        output=sink.uri,
        n_rows=n_rows,
        columns=tuple(layout.schema.names),
        errors=errors.counts(),
        dead_letter=sink.dead_letter_uri,
        n_dead_letter=sink.n_dead_letter,
    )


def _write_shard(store: JobStore, job: Job, root: Shard, layout: Layout, sink: Sink, errors: _Errors) -> int:
    outcomes = OutcomeStream(store, job, root)
    n_rows = 0
    for rows in prefetch(_rows(store, root, outcomes.most_rows)):
        n_rows += rows.num_rows
        if n_rows > root.n_rows:
            break
        batch = outcomes.take(rows.num_rows)
        errors.add(batch)
        for line in [*batch.column("line").drop_null().to_pylist(), *outcomes.superseded]:
            sink.dead_letter(line)
        outcomes.superseded.clear()
        sink.write(layout.arrange(rows, batch))
    if n_rows != root.n_rows:
        raise StoreError(f"Shard {root.id} has {root.n_rows} rows, its row parts {n_rows} or more.")
    return n_rows


def _rows(store: JobStore, root: Shard, most: int) -> Iterator[pa.RecordBatch]:
    """Yield the input columns of a shard, at most `most` rows at a time; ready-made request lines have no columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not root.row_parts:
        for start in range(0, root.n_rows, most):
            n = min(most, root.n_rows - start)
            yield pa.RecordBatch.from_struct_array(pa.array([{}] * n, pa.struct([])))
    for name in root.row_parts:
        with store.open(name) as file:
            yield from pq.ParquetFile(file, pre_buffer=False).iter_batches(batch_size=most)


def _copy_unmatched(store: JobStore, name: str, sink: Sink) -> None:
    file: IO[bytes]
    with store.open(name) as file:
        for line in file:
            sink.dead_letter(line.rstrip(b"\n"))


class _Errors:
    """Counts error codes over all rows, with a few examples each."""

    def __init__(self) -> None:
        self._n: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], tuple[str | None, list[str]]] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the rows of a record batch that have no good answer."""
        import pyarrow.compute as pc

        is_bad = pc.not_equal(batch.column("status"), Status.SUCCEEDED.value)
        if not pc.any(is_bad).as_py():
            return
        bad = batch.select(["status", "error_code", "custom_id", "error_message"]).filter(is_bad)
        columns = (column.to_pylist() for column in bad.columns)
        for status, code, custom_id, message in zip(*columns, strict=True):
            key = (status, code or "unknown")
            self._n[key] += 1
            _, examples = self._examples.setdefault(key, (message, []))
            if len(examples) < _EXAMPLES:
                examples.append(custom_id)

    def counts(self) -> tuple[ErrorCount, ...]:
        """Return the most frequent codes."""
        return tuple(
            ErrorCount(
                status=status,
                code=code,
                n=n,
                # Only OpenAI's messages: the content of answers does not belong in XCom.
                message=(self._examples[status, code][0] or "")[:300] or None if status == Status.FAILED else None,
                custom_ids=tuple(self._examples[status, code][1]),
            )
            for (status, code), n in self._n.most_common(_MAX_CODES)
        )


def manifest(written: Written) -> dict[str, Any]:
    """Return the manifest for downstream tasks: where the rows are, their counts and tokens. Small, JSON types only."""
    summary = written.summary
    # Through JSON, because Airflow's API and UI show a tuple in XCom as a wrapped class.
    data = msgspec.json.encode(
        {
            "output": written.output,
            "dead_letter": written.dead_letter,
            "rows": written.n_rows,
            "by_status": summary.by_status,
            "tokens": {name: getattr(summary.usage, name) for name in summary.usage.__struct_fields__},
            "batches": summary.batch_ids[:1000],
            "rounds": summary.rounds,
            "carried_over": summary.n_carried,
            "columns": written.columns,
            "errors": written.errors,
        }
    )
    plain: dict[str, Any] = msgspec.json.decode(data)
    return plain
