"""Outcome parts: Parquet files in the store, one line for each row of a shard, in row order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_openai_batch.engine.endpoints import EMBEDDINGS
from airflow_openai_batch.engine.model import RESULT_COLUMNS, Job, Outcome, Status, Usage

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.store import JobStore

_CHUNK_ROWS = 2048
_CHUNK_BYTES = 8 * 1024 * 1024


class Index(NamedTuple):
    """The requests of a shard, in the order of its request file."""

    ordinals: list[int]
    custom_ids: list[str]
    digests: list[bytes]


def read_index(store: JobStore, name: str) -> Index:
    """Read an index from the store."""
    import pyarrow.parquet as pq

    with store.open(name) as file:
        table = pq.read_table(file, columns=["ordinal", "custom_id", "digest"])
    return Index(*(table.column(i).to_pylist() for i in range(3)))


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
        ]
    )


class Tally:
    """Counts outcomes while they are written."""

    def __init__(self) -> None:
        self.by_status: dict[Status, int] = {}
        self.retryable: dict[Status, int] = {}
        self.usage = Usage()

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.by_status[outcome.status] = self.by_status.get(outcome.status, 0) + 1
        if outcome.retryable:
            self.retryable[outcome.status] = self.retryable.get(outcome.status, 0) + 1
        self.usage += outcome.usage


class PartWriter:
    """Writes outcomes in row order, in chunks.

    Args:
        file: Where to.
        job: The job, for the type of the output.
        batch_id: The batch that the outcomes come from, or None.
        shard_round: The round of the shard.
    """

    def __init__(self, file: Any, job: Job, batch_id: str | None, shard_round: int) -> None:
        import pyarrow.parquet as pq

        self._schema = part_schema(job)
        self.has_single_vectors = job.spec.endpoint == EMBEDDINGS and not job.embeds_many
        self._batch_id, self._round = batch_id, shard_round
        self._writer = pq.ParquetWriter(file, self._schema)
        self._rows: list[tuple[int, bytes, Outcome, bytes | None, str | None]] = []
        self._n_bytes = 0
        self.tally = Tally()

    def add(
        self, ordinal: int, digest: bytes, outcome: Outcome, line: bytes | None, batch_id: str | None = None
    ) -> None:
        """Append one outcome, with its raw line unless it succeeded, and its batch if it is not the part's own."""
        self.tally.add(outcome)
        if self.has_single_vectors and outcome.output is not None:
            outcome.output = outcome.output[0]
        self._rows.append((ordinal, digest, outcome, line, batch_id or self._batch_id))
        self._n_bytes += len(line or b"") + (len(outcome.output) if isinstance(outcome.output, str) else 8192)
        if len(self._rows) >= _CHUNK_ROWS or self._n_bytes >= _CHUNK_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._rows:
            return
        outcomes = [row[2] for row in self._rows]
        n = len(outcomes)
        usages = [outcome.usage for outcome in outcomes]
        columns: dict[str, Any] = {
            "ordinal": [row[0] for row in self._rows],
            "digest": [row[1] for row in self._rows],
            "custom_id": [o.custom_id for o in outcomes],
            "status": [o.status.value for o in outcomes],
            "output": [o.output for o in outcomes],
            "error_code": [o.error_code for o in outcomes],
            "error_message": [o.error_message for o in outcomes],
            "finish_reason": [o.finish_reason for o in outcomes],
            "model": [o.model for o in outcomes],
            "input_tokens": [u.input_tokens for u in usages],
            "cached_tokens": [u.cached_tokens for u in usages],
            "output_tokens": [u.output_tokens for u in usages],
            "reasoning_tokens": [u.reasoning_tokens for u in usages],
            "batch_id": [row[4] for row in self._rows],
            "request_id": [o.request_id for o in outcomes],
            "round": [self._round] * n,
            "retryable": [o.retryable for o in outcomes],
            "line": [row[3] for row in self._rows],
        }
        arrays = [pa.array(columns[field.name], field.type) for field in self._schema]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._rows.clear()
        self._n_bytes = 0


def read_part(store: JobStore, name: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield an outcome part as record batches."""
    import pyarrow.parquet as pq

    with store.open(name) as file:
        yield from pq.ParquetFile(file, pre_buffer=False).iter_batches(batch_size=_CHUNK_ROWS, columns=columns)
