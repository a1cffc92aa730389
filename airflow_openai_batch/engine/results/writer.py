"""Writing the result table: rows and outcomes are merged shard by shard, and written in input order.

Memory holds a few record batches of rows and their outcomes. If models alternate, so that a shard's rows lie between
those of others, result rows are put in order on this machine's disk.
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
from airflow_openai_batch.engine.results.row_sorter import RowSorter
from airflow_openai_batch.engine.results.sinks import Sink
from airflow_openai_batch.engine.store.index import read_index_table
from airflow_openai_batch.engine.store.job_store import JobStore

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.encoding import Counts


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
        for group in _groups(job):
            for batch in _batches(store, job, group, layout, sink, errors):
                sink.write(batch)
                n_rows += batch.num_rows
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


def _groups(job: Job) -> Iterator[list[Shard]]:
    """Divide the first-round shards, by their first rows, into groups with consecutive rows.

    A shard is alone in its group unless its rows lie between those of others, because models alternate.
    """
    group: list[Shard] = []
    n_rows = 0
    for root in sorted((shard for shard in job.shards if shard.parent is None), key=lambda shard: shard.first_row):
        if group and root.first_row >= n_rows:  # the shards before hold all the rows before
            yield group
            group = []
        group.append(root)
        n_rows += root.n_rows
    if group:
        yield group


def _batches(
    store: JobStore, job: Job, group: list[Shard], layout: Layout, sink: Sink, errors: _Errors
) -> Iterator[pa.RecordBatch]:
    """Yield the result rows of shards, in input order."""
    import numpy as np

    start, stop = group[0].first_row, group[0].first_row + sum(root.n_rows for root in group)
    if len(group) == 1:
        for _, rows in _joined(store, job, group[0], np.arange(start, stop), layout, sink, errors):
            yield rows
        return
    with RowSorter(layout.schema, start, stop) as sorter:
        for root in group:
            for ordinals, rows in _joined(store, job, root, _ordinals(store, root), layout, sink, errors):
                sorter.add(ordinals, rows)
        yield from sorter.batches()


def _joined(
    store: JobStore, job: Job, root: Shard, ordinals: Counts, layout: Layout, sink: Sink, errors: _Errors
) -> Iterator[tuple[Counts, pa.RecordBatch]]:
    """Yield the result rows of a shard, and their ordinals."""
    outcomes = OutcomeStream(store, job, root)
    n_rows = 0
    for rows in prefetch(_rows(store, root, outcomes.most_rows)):
        here = ordinals[n_rows : n_rows + rows.num_rows]
        n_rows += rows.num_rows
        if n_rows > len(ordinals):
            break
        batch = outcomes.take(here)
        errors.add(batch)
        for line in [*batch.column("line").drop_null().to_pylist(), *outcomes.superseded]:
            sink.dead_letter(line)
        outcomes.superseded.clear()
        yield here, layout.arrange(rows, batch)
    if n_rows != root.n_rows:
        raise StoreError(f"Shard {root.id} has {root.n_rows} rows, its row parts {n_rows} or more.")


def _ordinals(store: JobStore, root: Shard) -> Counts:
    """Return the ordinals of all rows of a shard, ascending."""
    index = root.carried.row_index if root.carried is not None else root.index
    ordinals: Counts = read_index_table(store, index).column("ordinal").to_numpy()
    return ordinals


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
        """Count the rows of a record batch that were asked and have no good answer."""
        import pyarrow as pa
        import pyarrow.compute as pc

        fine = pa.array([Status.SUCCEEDED.value, Status.SKIPPED.value])
        is_bad = pc.invert(pc.is_in(batch.column("status"), value_set=fine))
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
