"""Writing the result table: rows and outcomes are merged shard by shard, and written in input order.

Memory holds a few record batches of rows and their outcomes. If models alternate, so that a shard's rows lie between
those of others, result rows are put in order on this machine's disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import msgspec

from airflow_openai_batch.engine.concurrency import prefetch
from airflow_openai_batch.engine.errors import JobNotReady, StoreError
from airflow_openai_batch.engine.job.summary import Summary, money_of, summarize
from airflow_openai_batch.engine.model import Job, Shard, State, Value
from airflow_openai_batch.engine.results.error_counts import ErrorCount as ErrorCount
from airflow_openai_batch.engine.results.error_counts import ErrorCounter
from airflow_openai_batch.engine.results.layout import Layout, layout_of
from airflow_openai_batch.engine.results.merge import OutcomeStream
from airflow_openai_batch.engine.results.row_sorter import RowSorter
from airflow_openai_batch.engine.results.sinks import Sink
from airflow_openai_batch.engine.store.index import read_index_table
from airflow_openai_batch.engine.store.job_store import JobStore
from airflow_openai_batch.engine.store.parquet import read_parquet

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.encoding import Counts


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


def write_results(store: JobStore, job: Job, sink: Sink, drop_columns: Sequence[str] = ()) -> Written:
    """Write the result table of a finished job.

    Args:
        store: The job's store.
        job: The job.
        sink: The destination.
        drop_columns: The columns that are left out.

    Raises:
        JobNotReady: The job is not finished.
        StoreError: The store lacks a row, or the table cannot be written: nothing was published.
        InputError: The sink refuses the rows, or there is no such column to drop.
    """
    unsettled = [shard.id for shard in job.shards if shard.state is not State.SETTLED]
    if unsettled:
        raise JobNotReady(
            f"{len(unsettled)} of {len(job.shards)} shards have no outcome yet ({', '.join(unsettled[:5])}). Wait for "
            "the job first, for example with OpenAIBatchSensor."
        )
    layout = layout_of(store, job).without(drop_columns)
    errors = ErrorCounter()
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
    store: JobStore, job: Job, group: list[Shard], layout: Layout, sink: Sink, errors: ErrorCounter
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
    store: JobStore, job: Job, root: Shard, ordinals: Counts, layout: Layout, sink: Sink, errors: ErrorCounter
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
        errors.add(batch, lambda row, rows=rows: [column[row].as_py() for column in rows.columns])  # type: ignore[misc]
        for line in [*batch.column("line").drop_null().to_pylist(), *outcomes.superseded]:
            sink.dead_letter(line)
        outcomes.superseded.clear()
        yield here, layout.arrange(rows, batch)
    if n_rows != root.n_rows:
        raise StoreError(f"Shard {root.id} has {root.n_rows} rows, its row parts {n_rows} or more.")


def _ordinals(store: JobStore, root: Shard) -> Counts:
    """Return the ordinals of all rows of a shard, ascending."""
    index = root.carried.row_index if root.carried is not None else root.index
    ordinals: Counts = read_index_table(store, index, ["ordinal"]).column("ordinal").to_numpy()
    return ordinals


def _rows(store: JobStore, root: Shard, most: int) -> Iterator[pa.RecordBatch]:
    """Yield the input columns of a shard, at most `most` rows at a time; ready-made request lines have no columns."""
    import pyarrow as pa

    if not root.row_parts:
        for start in range(0, root.n_rows, most):
            n = min(most, root.n_rows - start)
            yield pa.RecordBatch.from_struct_array(pa.array([{}] * n, pa.struct([])))
    for name in root.row_parts:
        with store.open(name) as file:
            yield from read_parquet(file, most_rows=most)


def _copy_unmatched(store: JobStore, name: str, sink: Sink) -> None:
    file: IO[bytes]
    with store.open(name) as file:
        for line in file:
            sink.dead_letter(line.rstrip(b"\n"))


def manifest(written: Written) -> dict[str, Any]:
    """Return the manifest for downstream tasks: where the rows are, their counts and tokens. Small, JSON types only."""
    summary = written.summary
    # Through JSON, because Airflow's API and UI show a tuple in XCom as a wrapped class.
    data = msgspec.json.encode(
        {
            "output": written.output,
            "dead_letter": written.dead_letter,
            "dead_letter_lines": written.n_dead_letter,
            "rows": written.n_rows,
            "by_status": summary.by_status,
            "tokens": {name: getattr(summary.usage, name) for name in summary.usage.__struct_fields__},
            **money_of(summary),
            "batches": summary.batch_ids[:1000],
            "rounds": summary.rounds,
            "carried_over": summary.n_carried,
            "columns": written.columns,
            "errors": written.errors,
        }
    )
    plain: dict[str, Any] = msgspec.json.decode(data)
    return plain
