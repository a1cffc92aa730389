"""Outcome parts: Parquet files in the store, one line for each row of a shard, in row order."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from airflow_openai_batch.engine.answers.fast_parser import COLUMNS, Row, row_of
from airflow_openai_batch.engine.concurrency import SerialExecutor
from airflow_openai_batch.engine.endpoints import EMBEDDINGS
from airflow_openai_batch.engine.model import RESULT_COLUMNS, Job, Outcome, Status, Usage
from airflow_openai_batch.engine.schema.arrow_types import field_columns, field_types

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from airflow_openai_batch.engine.answers.classify import Reader
    from airflow_openai_batch.engine.store.job_store import JobStore


ROW_GROUP_ROWS = 4096

_READ_BYTES = 16 * 1024 * 1024

REPEATING = ["status", "error_code", "error_message", "finish_reason", "model", "batch_id", "round"]
"""Columns whose values repeat, for which Parquet keeps a dictionary."""

FIELD = "answer."
"""What the names of the columns with the fields of structured answers begin with."""


def output_type(job: Job) -> pa.DataType:
    """Return the type of the output column: text, or the vectors of an embeddings job."""
    import pyarrow as pa

    if job.spec.endpoint != EMBEDDINGS:
        return pa.large_string()
    vector = pa.list_(pa.float32())
    return pa.list_(vector) if job.embeds_many else vector


def part_schema(job: Job) -> pa.Schema:
    """Return the schema of an outcome part: the result columns, and what later rounds and epochs need."""
    import pyarrow as pa

    types = {
        "status": pa.string(),
        "output": output_type(job),
        **dict.fromkeys(("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"), pa.int64()),
        "round": pa.int32(),
    }
    return pa.schema(
        [
            ("ordinal", pa.int64()),
            ("digest", pa.binary(16)),
            *((name, types.get(name, pa.string())) for name in RESULT_COLUMNS),
            ("retryable", pa.bool_()),
            ("line", pa.large_binary()),
            *((FIELD + name, kind) for name, kind in field_types(job.spec.schema).items()),
        ]
    )


class Unusual(NamedTuple):
    """The outcome of a row whose line is not one, usual and good; its raw line, if it did not succeed."""

    outcome: Outcome
    line: bytes | None


class Tally:
    """Counts outcomes while they are written."""

    def __init__(self) -> None:
        self.by_status: Counter[Status] = Counter()
        self.retryable: Counter[Status] = Counter()
        self.usage = Usage()

    def add(self, n: int, unusual: Sequence[Outcome], tokens: Usage) -> None:
        """Count some outcomes.

        Args:
            n: How many there are.
            unusual: Those that are not simply good.
            tokens: The tokens of all.
        """
        self.by_status[Status.SUCCEEDED] += n - len(unusual)
        self.by_status.update([outcome.status for outcome in unusual])
        self.retryable.update([outcome.status for outcome in unusual if outcome.retryable])
        self.usage += tokens


class AnswerColumns:
    """Makes columns of what good outcomes, and others, have in common.

    Args:
        job: The job, for the types of output and fields.
    """

    def __init__(self, job: Job) -> None:
        import pyarrow as pa

        schema = part_schema(job)
        self._names = [name for name in COLUMNS if name in schema.names and name != "custom_id"]
        self._kinds = [schema.field(name).type for name in self._names]
        self._has_single_vectors = job.spec.endpoint == EMBEDDINGS and not job.embeds_many
        if self._has_single_vectors:
            # Until rows are in order; Arrow reorders bytes ten times as fast as lists.
            self._kinds[self._names.index("output")] = pa.binary()
        fields = [field for field in schema if field.name.startswith(FIELD)]
        self._field_kinds = [field.type for field in fields]
        self._schema = pa.schema([*zip(self._names, self._kinds, strict=True), *fields])

    def __call__(self, rows: Sequence[Row]) -> pa.RecordBatch:
        """Return the columns of some rows, without their ids."""
        import numpy as np
        import pyarrow as pa

        if not rows:
            return pa.RecordBatch.from_pylist([], schema=self._schema)
        values: dict[str, Any] = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
        values |= {kind: np.fromiter(values[kind], np.int64, len(rows)) for kind in Usage.__struct_fields__}
        if self._has_single_vectors:
            values["output"] = [np.asarray(found[0], "<f4").tobytes() if found else None for found in values["output"]]
        values |= {name: _repeated(values[name], pa.string()) for name in ("finish_reason", "model")}
        arrays = [_array(values[name], kind) for name, kind in zip(self._names, self._kinds, strict=True)]
        arrays += field_columns(values["fields"], self._field_kinds)
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)


class PartWriter:
    """Writes outcomes in row order. What goes to the file is made in a thread.

    Args:
        file: Where to.
        job: The job, for the types of output and fields.
        batch_id: The batch that the outcomes come from, or None.
        shard_round: The round of the shard.
    """

    def __init__(self, file: Any, job: Job, batch_id: str | None, shard_round: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = part_schema(job)
        self._columns = AnswerColumns(job)
        self._batch_id, self._round = batch_id, shard_round
        # By its path: for each small piece that goes to a Python file, the thread would wait for the main one.
        self._file = pa.OSFile(file.name, "wb")
        self._writer = pq.ParquetWriter(self._file, self._schema, use_dictionary=REPEATING)
        self._writing = SerialExecutor(1)
        self.tally = Tally()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import pyarrow as pa

        try:
            if error is None:
                self._writing(self._writer.close)
                self._writing.wait()
        finally:
            self._writing.stop()
            with contextlib.suppress(OSError, pa.ArrowException):  # only after another error, which says more
                self._writer.close()
            self._file.close()

    def write(
        self,
        requests: pa.RecordBatch,
        answers: Sequence[pa.RecordBatch],
        rows: NDArray[Any],
        places: NDArray[Any],
        unusual: Mapping[int, Unusual],
    ) -> None:
        """Append the outcomes of some rows.

        Args:
            requests: The rows' part of the index.
            answers: The columns of good outcomes, in any order.
            rows: Which rows have a good one, counted from the first of these.
            places: For each of them where in `answers` it is.
            unusual: The outcomes of all other rows.
        """
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        n = requests.num_rows
        others = self._columns([row_of(found.outcome) for found in unusual.values()])
        order = np.empty(n, dtype=np.int64)
        order[rows] = places
        order[list(unusual)] = sum(batch.num_rows for batch in answers) + np.arange(len(unusual))
        found = pa.Table.from_batches([*answers, others]).combine_chunks().to_batches()[0].take(pa.array(order))
        tokens = {kind: pc.sum(found.column(kind)).as_py() or 0 for kind in Usage.__struct_fields__}
        self.tally.add(n, [entry.outcome for entry in unusual.values()], Usage(**tokens))
        columns: dict[str, pa.Array] = {
            **dict(zip(found.schema.names, found.columns, strict=True)),
            **_judged(n, unusual, self._schema),
            **dict(zip(requests.schema.names, requests.columns, strict=True)),
            "batch_id": pa.repeat(pa.scalar(self._batch_id, pa.string()), n),
            "round": pa.repeat(pa.scalar(self._round, pa.int32()), n),
        }
        if pa.types.is_binary(columns["output"].type):
            columns["output"] = _vectors(columns["output"])
        arrays = [columns[name] for name in self._schema.names]
        self._writing(self._writer.write_batch, pa.RecordBatch.from_arrays(arrays, schema=self._schema))


def _judged(n: int, unusual: Mapping[int, Unusual], schema: pa.Schema) -> dict[str, pa.Array]:
    """Return the columns in which only unusual rows differ from the others."""
    import numpy as np
    import pyarrow as pa

    which = np.zeros(n, dtype=np.int32)
    which[list(unusual)] = np.arange(1, len(unusual) + 1)
    outcomes = [found.outcome for found in unusual.values()]
    values: dict[str, list[Any]] = {
        "status": [Status.SUCCEEDED, *(outcome.status for outcome in outcomes)],
        "error_code": [None, *(outcome.error_code for outcome in outcomes)],
        "error_message": [None, *(outcome.error_message for outcome in outcomes)],
        "retryable": [False, *(outcome.retryable for outcome in outcomes)],
        "line": [None, *(found.line for found in unusual.values())],
    }
    return {name: pa.array(column, schema.field(name).type).take(pa.array(which)) for name, column in values.items()}


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _repeated(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return a column in which mostly all values are the same."""
    import pyarrow as pa

    is_same = values.count(values[0]) == len(values)
    return pa.repeat(pa.scalar(values[0], kind), len(values)) if is_same else pa.array(values, kind)


def _vectors(packed: pa.Array) -> pa.Array:
    """Return vectors that are bytes as lists of numbers, without a Python object for each number."""
    import numpy as np
    import pyarrow as pa

    _, offsets, data = packed.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[packed.offset :][: len(packed) + 1] // 4
    numbers = np.frombuffer(data or b"", dtype="<f4", count=ends[-1])
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(numbers, pa.float32()), mask=packed.is_null())


def read_part(store: JobStore, name: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield an outcome part as record batches: few rows at a time where they are large, as pictures are."""
    import pyarrow.parquet as pq

    with store.open(name) as file:
        part = pq.ParquetFile(file, pre_buffer=False)
        groups = [part.metadata.row_group(i) for i in range(part.num_row_groups)]
        row_bytes = sum(group.total_byte_size for group in groups) // max(1, part.metadata.num_rows)
        n_rows = max(1, min(ROW_GROUP_ROWS, _READ_BYTES // max(1, row_bytes)))
        yield from part.iter_batches(batch_size=n_rows, columns=columns)


def carried_rows(
    rows: pa.RecordBatch, schema: pa.Schema, ordinals: list[int], custom_ids: list[str], read: Reader
) -> pa.RecordBatch:
    """Return good outcomes of an earlier part as the outcomes of other rows that asked the same.

    Args:
        rows: The outcomes.
        schema: The schema of the part that they go to.
        ordinals: The rows they go to.
        custom_ids: Their requests' ids.
        read: Reads the fields of an answer, for a part that was written without them.
    """
    import pyarrow as pa

    n = rows.num_rows
    given: dict[str, Any] = {"ordinal": ordinals, "custom_id": custom_ids, "round": [0] * n}
    names = [name for name in schema.names if name.startswith(FIELD)]
    if any(name not in rows.schema.names or rows.schema.field(name).type != schema.field(name).type for name in names):
        answers = [read(text)[0] for text in rows.column("output").to_pylist()]
        given |= dict(zip(names, field_columns(answers, [schema.field(name).type for name in names]), strict=True))
    columns = [
        _array(given[field.name] if field.name in given else rows.column(field.name), field.type) for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
