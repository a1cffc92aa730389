"""Writing one shard: its request file, index and row parts, and how much of a batch's limits is used."""

from __future__ import annotations

import array
import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_openai_batch.engine.concurrency import FileWriter, SerialExecutor
from airflow_openai_batch.engine.endpoints import Limits
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.identity import DIGEST_BYTES
from airflow_openai_batch.engine.model import Shard, State
from airflow_openai_batch.engine.money.tokens import UNBOUNDED
from airflow_openai_batch.engine.requests.arrow import LINE_BODY, n_bytes_of
from airflow_openai_batch.engine.requests.lines import Requests
from airflow_openai_batch.engine.store.index import write_index

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.encoding import Counts
    from airflow_openai_batch.engine.store.job_store import JobStore

_GROUP_ROWS, _GROUP_BYTES = 256, 256 * 1024
"""Fewer rows, as a batch has of each of many models, wait for more: each row group costs memory and time."""


class ShardWriter:
    """Writes a shard, to which requests are added. Threads write the rows and store the files.

    Args:
        store: The job's store.
        name: The shard's id.
        model: The model of its requests; None for rows that are not sent: there is no request file, and the shard is
            settled.
        limits: The limits of a batch.
        writers: The thread that closes request files and writes indexes, and the one that writes row parts.
        is_pilot: Whether it takes no more rows than a pilot has.
        is_repeat: Whether its requests equal earlier ones, and are not sent if those are answered.
    """

    def __init__(
        self,
        store: JobStore,
        name: str,
        model: str | None,
        limits: Limits,
        writers: tuple[SerialExecutor, FileWriter],
        *,
        is_pilot: bool = False,
        is_repeat: bool = False,
    ) -> None:
        if is_pilot and limits.pilot_rows is not None:
            limits = msgspec.structs.replace(limits, max_requests=min(limits.max_requests, limits.pilot_rows))
        self._is_pilot, self._is_repeat = is_pilot, is_repeat
        self._store, self._name, self._model, self._limits = store, name, model, limits
        self._writing, self._row_writer = writers
        self._n_rows = self._n_bytes = self._n_inputs = self._n_tokens = self._most_tokens = 0
        self._first_row = 0
        self._bound: int | None = 0
        # As arrays, which take a third of the memory that lists of Python objects take.
        self._ordinals: list[Counts] = []
        self._ids: list[pa.Array] = []
        self._digests = bytearray()
        self._id_hashes = array.array("q")
        self._index = ""
        self._files = contextlib.ExitStack()
        self._is_sent = model is not None
        self._requests = store.new_name("requests", name) if self._is_sent else ""
        if self._is_sent:
            self._file = self._files.enter_context(store.writing(self._requests, is_checked=True))
        self._row_parts = RowPartWriter(store, name)

    def room(self, requests: Requests, start: int) -> int:
        """Return how many of the next requests still fit into the shard.

        Args:
            requests: Requests.
            start: The first one to add, counted from the first of `requests`.
        """
        limits = self._limits
        n = min(requests.n_rows - start, limits.max_requests - self._n_rows)
        if not self._is_sent:
            return n
        n = _fitting(requests.n_bytes[start : start + n], limits.max_bytes - self._n_bytes)
        n = _fitting(requests.n_inputs[start : start + n], limits.max_inputs - self._n_inputs)
        if limits.max_tokens is not None and requests.tokens is not None:
            n = _fitting(requests.tokens.at_most[start : start + n], limits.max_tokens - self._most_tokens)
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
        import pyarrow as pa

        ids, ordinals = requests.ids[start:stop], requests.ordinals[start:stop]
        if requests.has_custom_ids and "" in ids:
            raise InputError(
                f"row {ordinals[ids.index('')]}: the custom_id is empty, as the columns of its template are null or "
                "blank there. Fill them, or leave custom_id out for row numbers. Nothing was uploaded."
            )
        if not self._n_rows:
            self._first_row = int(ordinals[0])
        if requests.has_custom_ids:
            self._id_hashes.extend(map(hash, ids))
        self._ordinals.append(ordinals)
        self._ids.append(pa.array(ids, pa.string()))
        self._digests += b"".join(requests.digests[start:stop])
        self._n_rows += stop - start
        self._row_writer.write(self._row_parts.write, rows)
        if not self._is_sent:
            return
        self._n_bytes += int(requests.n_bytes[start:stop].sum())
        self._n_inputs += int(requests.n_inputs[start:stop].sum())
        bounds = requests.bounds[start:stop]
        is_bounded = self._bound is not None and int(bounds.min()) != UNBOUNDED
        self._bound = max(self._bound or 0, int(bounds.max())) if is_bounded else None
        if requests.tokens is not None:
            self._n_tokens += int(requests.tokens.expected[start:stop].sum())
            self._most_tokens += int(requests.tokens.at_most[start:stop].sum())
        for block in requests.blocks(start, stop):
            self._file.write(block)

    def close(self) -> array.array[int]:
        """Close the files, in the threads. Returns the hashes of the custom_ids, unless they are our own.

        Raises:
            InputError: A custom_id repeats.
        """
        hashes, self._id_hashes = self._id_hashes, array.array("q")
        if repeated(hashes) and (error := first_duplicate(self._custom_ids())):
            raise error
        self._row_writer.finish(self._row_parts.close)
        self._writing(self._finish)
        return hashes

    def _custom_ids(self) -> Iterator[tuple[str, int]]:
        for ids, ordinals in zip(self._ids, self._ordinals, strict=True):
            yield from zip(ids.to_pylist(), ordinals.tolist(), strict=True)

    def _finish(self) -> None:
        import numpy as np
        import pyarrow as pa

        self._files.close()
        digests = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(DIGEST_BYTES), self._n_rows, [None, pa.py_buffer(bytes(self._digests))]
        )
        self._index = write_index(
            self._store, self._name, np.concatenate(self._ordinals), pa.concat_arrays(self._ids), digests
        )
        self._ordinals, self._ids, self._digests = [], [], bytearray()

    def abandon(self) -> None:
        """Discard the files that are not closed."""
        self._row_parts.abandon()
        with contextlib.suppress(Abandoned):
            self._files.__exit__(Abandoned, Abandoned(), None)

    def described(self, state: State) -> Shard:
        """Return the shard as a value, once its files are closed."""
        if self._is_repeat:
            state = State.DRAFTED
        to_send = self._is_sent and not self._is_repeat
        return Shard(
            id=self._name,
            state=state if self._is_sent else State.SETTLED,
            model=self._model or None,
            is_pilot=self._is_pilot,
            is_repeat=self._is_repeat,
            first_row=self._first_row,
            n_rows=self._n_rows,
            n_requests=self._n_rows if to_send else 0,
            n_bytes=self._n_bytes if to_send else 0,
            n_tokens=self._n_tokens if to_send else 0,
            max_output_tokens=self._bound if self._is_sent else None,
            row_parts=self._row_parts.names,
            index=self._index,
            requests=self._requests,
        )


def empty_shard(store: JobStore, name: str, schema: pa.Schema) -> Shard:
    """Write a shard without rows, which keeps the columns that its job's results shall have.

    Args:
        store: The job's store.
        name: The shard's id.
        schema: The columns.

    Raises:
        InputError: A column cannot be stored as Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = store.new_name("rows", name, "0")
    try:
        with store.writing(part) as file:
            pq.write_table(schema.empty_table(), file)
    except pa.ArrowException as error:
        raise InputError(f"The input columns cannot be stored as Parquet: {error}") from None
    return Shard(id=name, state=State.SETTLED, row_parts=(part,), index=write_index(store, name, [], [], []))


def _fitting(counts: Counts, limit: int) -> int:
    """Return how many of the first counts sum up to at most the limit."""
    import numpy as np

    return int(np.searchsorted(np.cumsum(counts), limit, side="right"))


def repeated(hashes: array.array[int]) -> set[int]:
    """Sort hashes in place, because a copy would take as much memory again, and return those that repeat."""
    import numpy as np

    if not hashes:
        return set()
    values = np.frombuffer(hashes, dtype=np.int64)
    values.sort()
    return set(values[1:][values[1:] == values[:-1]].tolist())


def first_duplicate(ids: Iterable[tuple[str, int]]) -> InputError | None:
    """Return an error that names two rows with the same custom_id; None if all differ.

    Args:
        ids: Pairs of custom_id and ordinal, in any order.
    """
    first: dict[str, int] = {}
    for custom_id, ordinal in ids:
        if (other := first.setdefault(custom_id, ordinal)) != ordinal:
            earlier, later = sorted((other, ordinal))
            return InputError(
                f"Rows {earlier} and {later} have the same custom_id {custom_id!r}. It must be unique, because "
                "answers are matched by it. Add a column to its template, or leave it out for row numbers. Nothing was "
                "uploaded."
            )
    return None


class Abandoned(Exception):
    """Raised into an open file to discard it."""


class RowPartWriter:
    """Writes input columns as Parquet. A change of schema starts a new part, so that few rows wait in memory.

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
        self._waiting: list[pa.RecordBatch] = []
        self._n_rows = self._n_bytes = 0  # that wait

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows. Ready-made request lines have no input columns.

        Raises:
            InputError: A column cannot be stored as Parquet.
        """
        if LINE_BODY in batch.schema.names or not batch.num_rows:
            return
        if batch.schema != self._schema:
            self._next(batch.schema)
        self._waiting.append(batch)
        self._n_rows += batch.num_rows
        self._n_bytes += n_bytes_of(batch)
        if self._n_rows >= _GROUP_ROWS or self._n_bytes >= _GROUP_BYTES:
            self._write_waiting()

    def _write_waiting(self) -> None:
        """Write what waits as one row group."""
        import pyarrow as pa

        waiting, self._waiting = self._waiting, []
        self._n_rows = self._n_bytes = 0
        try:
            if waiting:
                self._writer.write_table(pa.Table.from_batches(waiting))
        except pa.ArrowException as error:
            raise InputError(f"The input columns cannot be stored as Parquet: {error}") from None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parts, in row order."""
        return tuple(self._names)

    def close(self) -> None:
        """Close the last part."""
        if self._writer is not None:
            self._write_waiting()
            self._writer.close()
            self._writer = None  # it keeps what it knows of all row groups
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
            # No statistics: nobody searches, and they hold two whole texts for each column of a row group.
            self._writer = pq.ParquetWriter(self._file, schema, use_dictionary=False, write_statistics=False)
        except pa.ArrowException as error:
            raise InputError(f"The input columns cannot be stored as Parquet: {error}") from None
        self._schema = schema
        self._names.append(name)
