"""Rows and outcomes, merged shard by shard, as one table in input order.

A shard's outcome parts are those of its rounds, and of answers carried over. For each row a success wins, else the
last word. Memory holds the outcomes of one shard and one record batch of its rows.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import msgspec

from airflow_openai_batch.engine.columns import Layout, layout_of
from airflow_openai_batch.engine.errors import JobNotReady, StoreError
from airflow_openai_batch.engine.model import Job, Shard, State, Status, Value
from airflow_openai_batch.engine.outcomes import read_index
from airflow_openai_batch.engine.report import Summary, summarize
from airflow_openai_batch.engine.sink import Sink
from airflow_openai_batch.engine.store import JobStore

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_SLICE_ROWS = 4096
_MAX_CODES = 50
_EXAMPLES = 3


class ErrorCount(Value, frozen=True, kw_only=True):
    """How often an error code ended a row, with examples."""

    status: str
    code: str
    n: int
    message: str | None = None
    custom_ids: tuple[str, ...] = ()


class Written(Value, frozen=True, kw_only=True):
    """What was written where."""

    summary: Summary
    output: str | None
    """Where the table is, or None if it went through XCom."""
    n_rows: int
    columns: tuple[str, ...]
    errors: tuple[ErrorCount, ...] = ()
    dead_letter: str | None = None
    n_dead_letter: int = 0
    """Lines in the dead letter: the raw answers of rows given up, and lines that belong to no row."""


def write_results(store: JobStore, job: Job, sink: Sink) -> Written:
    """Write the result table of a finished job.

    Raises:
        JobNotReady: The job still has work to do.
        StoreError: The store lacks a row: nothing was written.
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
            if shard.strays is not None:
                _copy_strays(store, shard.strays, sink)
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
    import pyarrow as pa

    index = read_index(store, root.row_index or root.index)
    outcomes = _merged(store, job, root, index.ordinals)
    start = 0
    for rows in _rows(store, root, len(index.ordinals)):
        part = outcomes.slice(start, rows.num_rows).combine_chunks()
        start += rows.num_rows
        batch = part.to_batches()[0] if part.num_rows else pa.RecordBatch.from_pylist([], schema=part.schema)
        errors.add(batch)
        for line in batch.column("line").to_pylist():
            if line is not None:
                sink.dead_letter(line)
        sink.write(layout.arrange(rows, batch))
    if start != len(index.ordinals):
        raise StoreError(f"Shard {root.id} has {len(index.ordinals)} rows, its row parts {start}.")
    return start


def _merged(store: JobStore, job: Job, root: Shard, ordinals: list[int]) -> pa.Table:
    """Return one outcome for each row of the shard, in row order."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for name in _parts(job, root):
        with store.open(name) as file:
            tables.append(pq.read_table(file))
    rows = np.asarray(ordinals, dtype=np.int64)
    chosen = np.full(len(rows), -1, dtype=np.int64)
    is_good = np.zeros(len(rows), dtype=bool)
    offset = 0
    for table in tables:
        at = np.searchsorted(rows, _int64(table, "ordinal"))
        good = np.asarray(table.column("status").to_numpy(zero_copy_only=False) == Status.SUCCEEDED.value)
        better = good | ~is_good[at]
        chosen[at[better]] = offset + np.flatnonzero(better)
        is_good[at] |= good
        offset += table.num_rows
    if (chosen < 0).any():
        raise StoreError(f"Shard {root.id}: {int((chosen < 0).sum())} rows have no outcome in {store}.")
    return pa.concat_tables(tables).take(pa.array(chosen))


def _int64(table: pa.Table, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    import numpy as np

    return np.asarray(table.column(name).to_numpy(), dtype=np.int64)


def _parts(job: Job, root: Shard) -> Iterator[str]:
    """Yield the outcome parts of a shard, oldest first."""
    by_id = {shard.id: shard for shard in job.shards}
    if root.carried is not None:
        yield root.carried
    shard: Shard | None = root
    while shard is not None:
        if shard.outcomes is not None:
            yield shard.outcomes
        shard = by_id.get(shard.child) if shard.child is not None else None


def _rows(store: JobStore, root: Shard, n_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the input columns of a shard; ready-made request lines have none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not root.row_parts:
        for start in range(0, n_rows, _SLICE_ROWS):
            n = min(_SLICE_ROWS, n_rows - start)
            yield pa.RecordBatch.from_struct_array(pa.array([{}] * n, pa.struct([])))
    for name in root.row_parts:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(store.open(name))
            yield from pq.ParquetFile(file, pre_buffer=False).iter_batches(batch_size=_SLICE_ROWS)


def _copy_strays(store: JobStore, name: str, sink: Sink) -> None:
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

        bad = batch.filter(pc.not_equal(batch.column("status"), Status.SUCCEEDED.value))
        columns = (bad.column(name).to_pylist() for name in ("status", "error_code", "custom_id", "error_message"))
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
                # Only what OpenAI says of an error: an answer's own words are no business of XCom.
                message=(self._examples[status, code][0] or "")[:300] or None if status == Status.FAILED else None,
                custom_ids=tuple(self._examples[status, code][1]),
            )
            for (status, code), n in self._n.most_common(_MAX_CODES)
        )


def manifest(written: Written) -> dict[str, Any]:
    """Return what is told to downstream tasks: where the rows are, and what they cost. JSON, small."""
    summary = written.summary
    # Through JSON: a tuple in XCom shows as a wrapped class in Airflow's API and UI.
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
    found: dict[str, Any] = msgspec.json.decode(data)
    return found
