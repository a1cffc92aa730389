"""Writing one shard: its request file, index and row parts, and how much of a batch's limits is used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.concurrency import FileWriter, SerialExecutor
from airflow_openai_batch.engine.endpoints import Limits
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import Shard, State
from airflow_openai_batch.engine.requests.arrow import LINE_BODY
from airflow_openai_batch.engine.requests.lines import Requests
from airflow_openai_batch.engine.store.index import write_index

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.encoding import Counts
    from airflow_openai_batch.engine.store.job_store import JobStore


class ShardWriter:
    """Writes a shard, to which requests are added. Threads write the rows and store the files.

    Args:
        store: The job's store.
        name: The shard's id.
        first_row: The ordinal of its first row.
        model: The model of all its requests.
        limits: The limits of a batch.
        writers: The thread that closes request files and writes indexes, and the one that writes row parts.
    """

    def __init__(
        self,
        store: JobStore,
        name: str,
        first_row: int,
        model: str,
        limits: Limits,
        writers: tuple[SerialExecutor, FileWriter],
    ) -> None:
        self._store, self._name, self._limits, self._model = store, name, limits, model
        self._writing, self._row_writer = writers
        self._first_row = first_row
        self._n_rows = self._n_bytes = self._n_inputs = self._n_tokens = 0
        self._ids: list[str] = []
        self._has_custom_ids = False
        self._digests: list[bytes] = []
        self._index = ""
        self._files = contextlib.ExitStack()
        self._requests = store.new_name("requests", name)
        self._file = self._files.enter_context(store.writing(self._requests, is_checked=True))
        self._row_parts = RowPartWriter(store, name)

    def room(self, requests: Requests, start: int, end: int, model: str) -> int:
        """Return how many of the next requests still fit into the shard.

        Args:
            requests: Requests.
            start: The first one to add, counted from the first of `requests`.
            end: The one after the last to add.
            model: Their model.
        """
        if model != self._model:  # OpenAI's guide: one model in each input file
            return 0
        limits = self._limits
        n = min(end - start, limits.max_requests - self._n_rows)
        n = _fitting(requests.n_bytes[start : start + n], limits.max_bytes - self._n_bytes)
        n = _fitting(requests.n_inputs[start : start + n], limits.max_inputs - self._n_inputs)
        if limits.max_tokens is not None:
            n = _fitting(requests.n_tokens[start : start + n], limits.max_tokens - self._n_tokens)
        return n

    def add(self, requests: Requests, start: int, stop: int, rows: pa.RecordBatch) -> None:
        """Add requests, and the input columns of their rows.

        Args:
            requests: Requests.
            start: The first one to add, counted from the first of `requests`.
            stop: The one after the last to add.
            rows: The rows from `start` to before `stop`.

        Raises:
            InputError: A custom_id is empty.
        """
        ids = requests.ids[start:stop]
        if requests.has_custom_ids and "" in ids:
            raise InputError(f"row {requests.first_row + start + ids.index('')}: the custom_id is empty.")
        self._ids += ids
        self._has_custom_ids = requests.has_custom_ids
        self._digests += requests.digests[start:stop]
        self._n_rows += stop - start
        self._n_bytes += int(requests.n_bytes[start:stop].sum())
        self._n_inputs += int(requests.n_inputs[start:stop].sum())
        self._n_tokens += int(requests.n_tokens[start:stop].sum())
        for block in requests.blocks(start, stop):
            self._file.write(block)
        self._row_writer.write(self._row_parts.write, rows)

    def close(self) -> None:
        """Close the files, in the threads.

        Raises:
            InputError: A custom_id repeats.
        """
        ordinals = range(self._first_row, self._first_row + self._n_rows)
        is_doubtful = self._has_custom_ids and len(set(self._ids)) < len(self._ids)
        if is_doubtful and (error := first_duplicate(zip(self._ids, ordinals, strict=True))):
            raise error
        self._row_writer.finish(self._row_parts.close)
        self._writing(self._finish, ordinals)

    def _finish(self, ordinals: range) -> None:
        self._files.close()
        self._index = write_index(self._store, self._name, ordinals, self._ids, self._digests)
        self._ids, self._digests = [], []

    def abandon(self) -> None:
        """Discard the files that are not closed."""
        self._row_parts.abandon()
        with contextlib.suppress(Abandoned):
            self._files.__exit__(Abandoned, Abandoned(), None)

    def described(self, state: State) -> Shard:
        """Return the shard as a value, once its files are closed."""
        return Shard(
            id=self._name,
            state=state,
            first_row=self._first_row,
            n_rows=self._n_rows,
            n_requests=self._n_rows,
            n_bytes=self._n_bytes,
            n_tokens=self._n_tokens,
            row_parts=self._row_parts.names,
            index=self._index,
            requests=self._requests,
        )


def _fitting(counts: Counts, limit: int) -> int:
    """Return how many of the first counts sum up to at most the limit."""
    import numpy as np

    return int(np.searchsorted(np.cumsum(counts), limit, side="right"))


def first_duplicate(ids: Iterable[tuple[str, int]]) -> InputError | None:
    """Return an error that names the first two rows with the same custom_id; None if all differ.

    Args:
        ids: Pairs of custom_id and ordinal.
    """
    first: dict[str, int] = {}
    for custom_id, ordinal in ids:
        if (earlier := first.setdefault(custom_id, ordinal)) != ordinal:
            return InputError(
                f"Rows {earlier} and {ordinal} have the same custom_id {custom_id!r}. It must be unique, because "
                "answers are matched by it. Nothing was uploaded."
            )
    return None


class Abandoned(Exception):
    """Raised into an open file to discard it."""


class RowPartWriter:
    """Writes input columns as Parquet. A change of schema starts a new part, so that no row waits in memory.

    Args:
        store: The job's store.
        shard: The shard's id.
    """

    def __init__(self, store: JobStore, shard: str) -> None:
        self._store, self._shard = store, shard
        self._names: list[str] = []
        self._files = contextlib.ExitStack()
        self._writer: Any = None
        self._schema: pa.Schema | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows. Ready-made request lines have no input columns.

        Raises:
            InputError: A column cannot be stored as Parquet.
        """
        import pyarrow as pa

        if LINE_BODY in batch.schema.names or not batch.num_rows:
            return
        if batch.schema != self._schema:
            self._next(batch.schema)
        try:
            self._writer.write_batch(batch)
        except pa.ArrowException as error:
            raise InputError(f"The input columns cannot be stored as Parquet: {error}") from None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parts, in row order."""
        return tuple(self._names)

    def close(self) -> None:
        """Close the last part."""
        if self._writer is not None:
            self._writer.close()
        self._files.close()

    def abandon(self) -> None:
        """Discard the part that is not closed."""
        if self._writer is not None:
            with contextlib.suppress(Exception):  # it may well be why the rest is given up
                self._writer.close()
        with contextlib.suppress(Abandoned):
            self._files.__exit__(Abandoned, Abandoned(), None)

    def _next(self, schema: pa.Schema) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.close()
        name = self._store.new_name("rows", self._shard, str(len(self._names)))
        file = self._files.enter_context(self._store.writing(name))
        try:
            # No dictionary: prompts hardly repeat, and trying costs more than it saves.
            # By path: each small write to a Python file would make the thread wait for the main one.
            self._file = self._files.enter_context(pa.OSFile(file.name, "wb"))
            self._writer = pq.ParquetWriter(self._file, schema, use_dictionary=False)
        except pa.ArrowException as error:
            raise InputError(f"The input columns cannot be stored as Parquet: {error}") from None
        self._schema = schema
        self._names.append(name)
