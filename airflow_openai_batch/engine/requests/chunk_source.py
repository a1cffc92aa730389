"""The chunks of documents, as rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import BATCH_ROWS, empty_batch, take_rows
from airflow_openai_batch.engine.requests.chunk_text import Chunk
from airflow_openai_batch.engine.requests.chunks import Chunks
from airflow_openai_batch.engine.requests.exact_types import is_text
from airflow_openai_batch.engine.requests.values import python_values, text_of

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.requests.source import Source

CHUNK_COLUMNS = ("chunk_id", "chunk", "chunk_start", "chunk_end")
"""The columns that a chunk has besides those of its document."""

_MOST_CHARACTERS = 8 * 1024 * 1024
"""Of the chunks that are in memory at once, besides those of one document."""


class ChunkSource:
    """The chunks of a source's rows.

    Args:
        source: The documents.
        chunks: How they are cut.
    """

    def __init__(self, source: Source, chunks: Chunks) -> None:
        self._source, self._chunks = source, chunks
        self.is_repeatable = source.is_repeatable

    @property
    def version(self) -> str | None:
        """The documents' version, and how they are cut."""
        version = self._source.version
        return None if version is None else version + self._chunks.version

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the chunks, document by document.

        Raises:
            InputError: A column is missing or cannot be used, a document has no id, or the function returned no texts.
        """
        first_row, n_chunks = 0, 0
        schema: pa.Schema | None = None
        for batch in self._source.batches():
            for made in self._cut(batch, first_row):
                schema = made.schema
                if made.num_rows:
                    n_chunks += made.num_rows
                    yield made
            first_row += batch.num_rows
        if not n_chunks and schema is not None:
            yield empty_batch(schema)

    def _cut(self, batch: pa.RecordBatch, first_row: int) -> Iterator[pa.RecordBatch]:
        self._check(batch.schema)
        if not batch.num_rows:
            yield self._batch(batch, [], [], [])
        places: list[int] = []
        ids: list[str] = []
        numbered: list[tuple[int, Chunk]] = []
        n_characters = 0
        texts = batch.column(self._chunks.text).to_pylist()
        for place, key in enumerate(python_values(batch.column(self._chunks.key))):
            row = first_row + place
            for number, chunk in enumerate(self._chunks_of(texts[place], row), 1):
                places.append(place)
                ids.append(f"{_id(key, row, self._chunks.key)}#{number}")
                numbered.append((number, chunk))
                n_characters += len(chunk.text)
            if len(numbered) >= BATCH_ROWS or n_characters >= _MOST_CHARACTERS or place == batch.num_rows - 1:
                for start in range(0, max(1, len(numbered)), BATCH_ROWS):
                    these = slice(start, start + BATCH_ROWS)
                    yield self._batch(batch, places[these], ids[these], numbered[these])
                places, ids, numbered, n_characters = [], [], [], 0

    def _check(self, schema: pa.Schema) -> None:
        import pyarrow as pa

        for name in (self._chunks.text, self._chunks.key):
            if name not in schema.names:
                raise InputError(f"chunks: the rows have no column {name!r}. Columns: {', '.join(schema.names)}.")
        if clash := [name for name in CHUNK_COLUMNS if name in schema.names]:
            raise InputError(
                f"chunks: the rows have the column {', '.join(clash)} already, which chunks get. Rename it."
            )
        text_type = schema.field(self._chunks.text).type
        text_type = text_type.value_type if pa.types.is_dictionary(text_type) else text_type
        if not pa.types.is_null(text_type) and not is_text(text_type):
            raise InputError(
                f"chunks: the column {self._chunks.text!r} holds no texts but values of the type {text_type}."
            )

    def _chunks_of(self, text: str | None, row: int) -> Iterator[Chunk]:
        """Yield the chunks of a document that are not blank."""
        if text is None or not text.strip():
            return
        for chunk in self._chunks.function(text):
            made: object = Chunk(chunk) if isinstance(chunk, str) else chunk
            if not isinstance(made, Chunk):
                raise InputError(
                    f"row {row}: the function that cuts returned {type(chunk).__name__}, and texts or Chunk(text, "
                    "start, end) are needed."
                )
            if made.text.strip():
                yield made

    def _batch(
        self, batch: pa.RecordBatch, places: list[int], ids: list[str], numbered: list[tuple[int, Chunk]]
    ) -> pa.RecordBatch:
        import pyarrow as pa

        rows = take_rows(batch.drop_columns([self._chunks.text]), places)
        texts = pa.array([chunk.text for _, chunk in numbered], pa.large_string())
        columns = {name: texts if name == self._chunks.text else rows.column(name) for name in batch.schema.names}
        added = (
            pa.array(ids, pa.large_string()),
            pa.array([number for number, _ in numbered], pa.int64()),
            pa.array([chunk.start for _, chunk in numbered], pa.int64()),
            pa.array([chunk.end for _, chunk in numbered], pa.int64()),
        )
        columns.update(zip(CHUNK_COLUMNS, added, strict=True))
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _id(key: Any, row: int, column: str) -> str:
    text = text_of(key)
    if not text.strip():
        raise InputError(f"row {row}, column {column!r}: a document without an id. Fill it, or leave the row out.")
    return text
