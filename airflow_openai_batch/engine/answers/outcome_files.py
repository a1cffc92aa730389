"""Outcome parts: Parquet files in the store with the outcome of each row of a shard, in row order."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from airflow_openai_batch.engine.answers.fast_parser import COLUMNS, FastRow, row_of
from airflow_openai_batch.engine.concurrency import SerialExecutor
from airflow_openai_batch.engine.endpoints import EMBEDDINGS
from airflow_openai_batch.engine.model import BILLED, RESULT_COLUMNS, Cost, Job, Outcome, Shard, Status, Usage
from airflow_openai_batch.engine.money.costs import TokenCounts, cost_type, costs_of, total_cost
from airflow_openai_batch.engine.money.prices import Prices, Tier, tier_of
from airflow_openai_batch.engine.schema.arrow_types import field_columns, field_types
from airflow_openai_batch.engine.store.parquet import read_parquet

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from airflow_openai_batch.engine.answers.classify import Reader
    from airflow_openai_batch.engine.store.files import Files


ROW_GROUP_ROWS = 4096

_GROUP_BYTES = 4 * 1024 * 1024
"""About what a row group has at most: whoever reads a row of it holds the whole, some of it twice."""

REPEATING = ["status", "error_code", "error_message", "finish_reason", "model", "via", "batch_id", "round"]
"""Columns whose values repeat, for which Parquet keeps a dictionary."""

FIELD = "answer."
"""Prefix of the names of the columns that hold the fields of structured answers."""


def output_type(job: Job) -> pa.DataType:
    """Return the Arrow type of the output column: string, or list of float32 for an embeddings job."""
    import pyarrow as pa

    if job.spec.endpoint != EMBEDDINGS:
        return pa.large_string()
    vector = pa.list_(pa.float32())
    return pa.list_(vector) if job.embeds_many else vector


def fits_output(arrow_type: pa.DataType, job: Job) -> bool:
    """Return whether answers of a type can be answers of a job: one vector is also a list of one."""
    import pyarrow as pa

    wanted = output_type(job)
    return bool(arrow_type == wanted or pa.list_(arrow_type) == wanted)


def part_schema(job: Job) -> pa.Schema:
    """Return the schema of an outcome part: the result columns, and those that later rounds and epochs need.

    `asked_at` is when an answer was asked for, in epoch seconds, where the ledger should learn its new place.
    """
    import pyarrow as pa

    types = {
        "status": pa.string(),
        "output": output_type(job),
        **dict.fromkeys(Usage.__struct_fields__, pa.int64()),
        "cost": cost_type(),
        "round": pa.int32(),
    }
    return pa.schema(
        [
            ("ordinal", pa.int64()),
            ("digest", pa.binary(16)),
            *((name, types.get(name, pa.string())) for name in RESULT_COLUMNS),
            ("retryable", pa.bool_()),
            ("line", pa.large_binary()),
            ("asked_at", pa.int64()),
            *((FIELD + name, arrow_type) for name, arrow_type in field_types(job.spec.schema).items()),
        ]
    )


class ClassifiedRow(NamedTuple):
    """The outcome of a row that the fast parser has no good answer for; its raw line, if it did not succeed."""

    outcome: Outcome
    line: bytes | None


class Tally:
    """The counts of outcomes, by status."""

    def __init__(self) -> None:
        self.by_status: Counter[Status] = Counter()
        self.retryable: Counter[Status] = Counter()
        self.usage = Usage()
        self.cost = Cost()

    def add(self, n: int, classified: Sequence[Outcome], tokens: Usage, cost: Cost) -> None:
        """Count outcomes.

        Args:
            n: Number of outcomes.
            classified: Those that the fast parser did not find to be good.
            tokens: The token usage of all of them.
            cost: What all of them cost.
        """
        self.by_status[Status.SUCCEEDED] += n - len(classified)
        self.by_status.update([outcome.status for outcome in classified])
        self.retryable.update([outcome.status for outcome in classified if outcome.retryable])
        self.usage += tokens
        self.cost += cost


class AnswerColumns:
    """Makes Arrow columns of outcomes, but for custom_id, status and error.

    Args:
        job: The job, which determines the types of output and fields.
    """

    def __init__(self, job: Job) -> None:
        import pyarrow as pa

        schema = part_schema(job)
        self._names = [name for name in COLUMNS if name in schema.names and name != "custom_id"]
        self._types = [schema.field(name).type for name in self._names]
        self._has_single_vectors = job.spec.endpoint == EMBEDDINGS and not job.embeds_many
        if self._has_single_vectors:
            # Until rows are in order: Arrow reorders binary values ten times as fast as lists.
            self._types[self._names.index("output")] = pa.binary()
        fields = [field for field in schema if field.name.startswith(FIELD)]
        self._field_types = [field.type for field in fields]
        self._schema = pa.schema([*zip(self._names, self._types, strict=True), *fields])

    def __call__(self, rows: Sequence[FastRow]) -> pa.RecordBatch:
        """Return the columns of rows, in the order of the rows."""
        import numpy as np
        import pyarrow as pa

        if not rows:
            return pa.RecordBatch.from_pylist([], schema=self._schema)
        values: dict[str, Any] = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
        values |= {name: np.fromiter(values[name], np.int64, len(rows)) for name in Usage.__struct_fields__}
        if self._has_single_vectors:
            values["output"] = [np.asarray(out[0], "<f4").tobytes() if out else None for out in values["output"]]
        values |= {name: _repeated(values[name], pa.string()) for name in ("finish_reason", "model")}
        arrays = [_array(values[name], arrow_type) for name, arrow_type in zip(self._names, self._types, strict=True)]
        arrays += field_columns(values["fields"], self._field_types)
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)


class PartWriter:
    """Writes outcomes in row order. A thread encodes and writes them.

    Args:
        path: The local file.
        job: The job, which determines the types of output and fields.
        shard: The shard whose outcomes they are.
        prices: What models cost.
    """

    def __init__(self, path: str, job: Job, shard: Shard, prices: Prices) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = part_schema(job)
        self._columns = AnswerColumns(job)
        self._shard, self._prices = shard, prices
        self._batch_id = shard.batch.id if shard.batch is not None else None
        self._tier: Tier = "batch" if shard.direct is None else tier_of(shard.direct.tier)
        self._via = "direct" if shard.direct is not None else "batch" if shard.batch is not None else None
        # By path: each small write to a Python file would make the thread wait for the main one.
        self._file = pa.OSFile(path, "wb")
        self._writer = pq.ParquetWriter(self._file, self._schema, use_dictionary=REPEATING)
        self._writing = SerialExecutor(1)
        self.tally = Tally()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import pyarrow as pa

        try:
            if error is None:
                self._writing(self._writer.close)
                self._writing.wait()
        finally:
            self._writing.stop()
            with contextlib.suppress(OSError, pa.ArrowException):  # only after another error, which is more useful
                self._writer.close()
            self._file.close()

    def write(
        self,
        requests: pa.RecordBatch,
        answers: Sequence[pa.RecordBatch],
        rows: NDArray[Any],
        places: NDArray[Any],
        classified: Mapping[int, ClassifiedRow],
    ) -> None:
        """Append the outcomes of consecutive rows.

        Args:
            requests: The rows' part of the index.
            answers: The columns of good outcomes, in any order.
            rows: The rows that have a good outcome, counted from the first row of `requests`.
            places: For each of `rows` the index of its outcome in `answers`.
            classified: The outcome of each other row, by the row counted from the first row of `requests`.

        Raises:
            Exception: An earlier write failed.
        """
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        n = requests.num_rows
        rest = self._columns([row_of(row.outcome) for row in classified.values()])
        order = np.empty(n, dtype=np.int64)
        order[rows] = places
        order[list(classified)] = sum(batch.num_rows for batch in answers) + np.arange(len(classified))
        ordered = pa.Table.from_batches([*answers, rest]).combine_chunks().to_batches()[0].take(pa.array(order))
        tokens = {name: pc.sum(ordered.column(name)).as_py() or 0 for name in Usage.__struct_fields__}
        costs, cost = self._costs(ordered, classified)
        self.tally.add(n, [entry.outcome for entry in classified.values()], Usage(**tokens), cost)
        columns: dict[str, pa.Array] = {
            **dict(zip(ordered.schema.names, ordered.columns, strict=True)),
            **_status_columns(n, classified, self._schema),
            **dict(zip(requests.schema.names, requests.columns, strict=True)),
            "via": pa.repeat(pa.scalar(self._via, pa.string()), n),
            "batch_id": pa.repeat(pa.scalar(self._batch_id, pa.string()), n),
            "round": pa.repeat(pa.scalar(self._shard.round, pa.int32()), n),
            "cost": costs,
            "reused_from": pa.nulls(n, pa.string()),
            "asked_at": pa.nulls(n, pa.int64()),
        }
        if pa.types.is_binary(columns["output"].type):
            columns["output"] = _vectors(columns["output"])
        arrays = [columns[name] for name in self._schema.names]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._writing(self._writer.write_batch, batch, group_rows(batch))

    def _costs(self, answers: pa.RecordBatch, classified: Mapping[int, ClassifiedRow]) -> tuple[pa.Array, Cost]:
        """Return what each answer cost, and the sums."""
        import numpy as np

        is_billed, is_good = np.ones((2, answers.num_rows), dtype=bool)
        for row, entry in classified.items():
            is_billed[row] = entry.outcome.status in BILLED
            is_good[row] = entry.outcome.status is Status.SUCCEEDED
        names = ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens")
        tokens = TokenCounts(*(answers.column(name).to_numpy() for name in names))
        own, standard = (
            costs_of(self._prices, self._shard.model, answers.column("model"), tokens, is_billed, tier)
            for tier in (self._tier, tier_of("default"))
        )
        return own.column(), total_cost(own, standard, is_billed, is_good)


def _status_columns(n: int, classified: Mapping[int, ClassifiedRow], schema: pa.Schema) -> dict[str, pa.Array]:
    """Return the columns that have the same value for all good outcomes."""
    import numpy as np
    import pyarrow as pa

    value_of = np.zeros(n, dtype=np.int32)  # the index of each row's value: 0 for a good outcome
    value_of[list(classified)] = np.arange(1, len(classified) + 1)
    outcomes = [row.outcome for row in classified.values()]
    values: dict[str, list[Any]] = {
        "status": [Status.SUCCEEDED, *(outcome.status for outcome in outcomes)],
        "error_code": [None, *(outcome.error_code for outcome in outcomes)],
        "error_message": [None, *(outcome.error_message for outcome in outcomes)],
        "retryable": [False, *(outcome.retryable for outcome in outcomes)],
        "line": [None, *(row.line for row in classified.values())],
    }
    indices = pa.array(value_of)
    return {name: pa.array(column, schema.field(name).type).take(indices) for name, column in values.items()}


def _array(values: Any, arrow_type: pa.DataType) -> pa.Array:
    import pyarrow as pa

    return values if isinstance(values, pa.Array) else pa.array(values, arrow_type)


def _repeated(values: Sequence[Any], arrow_type: pa.DataType) -> pa.Array:
    """Return a column whose values are mostly all the same."""
    import pyarrow as pa

    is_same = values.count(values[0]) == len(values)
    return pa.repeat(pa.scalar(values[0], arrow_type), len(values)) if is_same else pa.array(values, arrow_type)


def _vectors(packed: pa.Array) -> pa.Array:
    """Convert vectors from bytes to lists of float32, without a Python object for each number."""
    import numpy as np
    import pyarrow as pa

    _, offsets, data = packed.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[packed.offset :][: len(packed) + 1] // 4
    numbers = np.frombuffer(data or b"", dtype="<f4", count=ends[-1])
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(numbers, pa.float32()), mask=packed.is_null())


def group_rows(rows: pa.RecordBatch | pa.Table) -> int:
    """Return how many rows a row group of these outcomes has: at most 4,096, and fewer if they are large, as vectors.

    Args:
        rows: The outcomes.
    """
    n_rows: int = _GROUP_BYTES * rows.num_rows // max(1, rows.nbytes)
    return max(1, min(ROW_GROUP_ROWS, n_rows))


def read_part(store: Files, name: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield an outcome part as record batches, of fewer rows where rows are large, as images are.

    Args:
        store: The job's store, or another folder that has the part.
        name: The part's file name.
        columns: The columns to read; None for all.

    Raises:
        StoreError: The store cannot be read.
    """
    with store.open(name) as file:
        for rows in read_parquet(file, columns):
            yield _with_later_columns(rows, columns)


def _with_later_columns(rows: pa.RecordBatch, columns: list[str] | None) -> pa.RecordBatch:
    """Return rows with the columns that an earlier version of this package did not write, as nulls."""
    import pyarrow as pa

    later = {
        "cache_write_tokens": pa.int64(),
        "cost": cost_type(),
        "via": pa.string(),
        "reused_from": pa.string(),
        "asked_at": pa.int64(),
    }
    missing = [name for name in later if name not in rows.schema.names and (columns is None or name in columns)]
    for name in missing:
        rows = rows.append_column(pa.field(name, later[name]), pa.nulls(rows.num_rows, later[name]))
    return rows.select(columns) if missing and columns is not None else rows


def carried_rows(
    rows: pa.RecordBatch, schema: pa.Schema, replaced: Mapping[str, Sequence[Any] | pa.Array], read: Reader
) -> pa.RecordBatch:
    """Return outcomes of an earlier part as the outcomes of rows with the same request.

    Args:
        rows: The outcomes.
        schema: The schema of the new part.
        replaced: The values that differ: of each outcome the new row's ordinal and custom_id at least.
        read: Reads the fields of an answer, for an earlier part that was written without them.
    """
    import pyarrow as pa

    values: dict[str, Any] = {"round": [0] * rows.num_rows, **replaced}
    names = [name for name in schema.names if name.startswith(FIELD)]
    if any(name not in rows.schema.names or rows.schema.field(name).type != schema.field(name).type for name in names):
        answers = [read(text)[0] if text is not None else None for text in rows.column("output").to_pylist()]
        values |= dict(zip(names, field_columns(answers, [schema.field(name).type for name in names]), strict=True))
    if rows.schema.field("output").type != schema.field("output").type:
        outputs = rows.column("output")
        values["output"] = pa.ListArray.from_arrays(
            pa.array(range(len(outputs) + 1), pa.int32()), outputs, mask=outputs.is_null()
        )
    columns = [
        _array(values[field.name] if field.name in values else rows.column(field.name), field.type) for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def reused_from(rows: pa.RecordBatch, origin: str) -> pa.Array:
    """Return whose answers outcomes are.

    Args:
        rows: The outcomes.
        origin: Whose they are if that does not stand in them.
    """
    import pyarrow.compute as pc

    return pc.fill_null(rows.column("reused_from"), origin)
