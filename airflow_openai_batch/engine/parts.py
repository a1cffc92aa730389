"""The files of a shard besides its requests: the index, and the row parts with the input columns."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.template import LINE_BODY

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.store import JobStore


def index_schema() -> pa.Schema:
    """Return the schema of an index: one line for each request, in the order of the request file."""
    import pyarrow as pa

    return pa.schema([("ordinal", pa.int64()), ("custom_id", pa.string()), ("digest", pa.binary(16))])


class Abandoned(Exception):
    """A file is given up."""


def write_index(
    store: JobStore, folder: str, name: str, ordinals: Sequence[int], ids: list[str], digests: list[bytes]
) -> str:
    """Write the index of a shard and return its name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = store.unique(f"{folder}/index", name, ".parquet")
    table = pa.table([pa.array(ordinals, pa.int64()), ids, pa.array(digests, pa.binary(16))], schema=index_schema())
    with store.writing(index) as file:
        pq.write_table(table, file, use_dictionary=False)  # nothing in it repeats
    return index


class RowPartWriter:
    """Writes input columns. A change of schema starts a new part, so no row waits in memory for the next."""

    def __init__(self, store: JobStore, folder: str, name: str) -> None:
        self._store, self._folder, self._name = store, folder, name
        self._names: list[str] = []
        self._files = contextlib.ExitStack()
        self._writer: Any = None
        self._schema: pa.Schema | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows. Ready-made request lines have no input columns to keep."""
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
        """Finish the last part."""
        if self._writer is not None:
            self._writer.close()
        self._files.close()

    def abandon(self) -> None:
        """Leave nothing of a part that was not finished."""
        if self._writer is not None:
            with contextlib.suppress(Exception):  # it may well be why the rest is given up
                self._writer.close()
        with contextlib.suppress(Abandoned):
            self._files.__exit__(Abandoned, Abandoned(), None)

    def _next(self, schema: pa.Schema) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.close()
        name = self._store.unique(f"{self._folder}/rows", f"{self._name}-{len(self._names)}", ".parquet")
        file = self._files.enter_context(self._store.writing(name))
        try:
            # No dictionary: prompts hardly repeat, and trying costs more than it saves.
            # By its path: for each small piece that goes to a Python file, the thread would wait for the main one.
            self._file = self._files.enter_context(pa.OSFile(file.name, "wb"))
            self._writer = pq.ParquetWriter(self._file, schema, use_dictionary=False)
        except pa.ArrowException as error:
            raise InputError(f"The input columns cannot be stored as Parquet: {error}") from None
        self._schema = schema
        self._names.append(name)
