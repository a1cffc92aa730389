"""Documents cut into chunks: each row becomes several, with ids that stay the same from night to night."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import BATCH_ROWS, empty_batch, take_rows
from airflow_openai_batch.engine.requests.chunk_text import Chunk, check_sizes, chunk_text
from airflow_openai_batch.engine.requests.exact_types import is_text
from airflow_openai_batch.engine.requests.values import python_values, text_of

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.requests.source import Source

CHUNK_COLUMNS = ("chunk_id", "chunk", "chunk_start", "chunk_end")
"""The columns that a chunk has besides those of its document."""

_MOST_CHARACTERS = 8 * 1024 * 1024
"""Of the chunks that are in memory at once, besides those of one document."""


@dataclasses.dataclass(frozen=True)
class Chunks:
    """Documents whose texts are cut into chunks: each chunk is a row, asked about by itself.

    A chunk has its document's columns, with its own text in place of the whole one, and the columns ``chunk_id``
    (``doc-17#3``), ``chunk`` (its number in the document, from 1), ``chunk_start`` and ``chunk_end`` (its place in the
    text, in characters). A document without text has no chunks.

    Args:
        rows: The documents: anything that ``rows`` of an operator takes.
        text: The column that is cut.
        key: The column with the document's id.
        max_tokens: The most tokens of a chunk, as OpenAI's embedding models count them; see ``chunk_text``.
        max_characters: The most characters of a chunk, if it is not cut by tokens.
        overlap: How much of the end of a chunk the next one repeats, in tokens or characters.
        cut: A function that cuts instead: from a text to texts, or to ``Chunk(text, start, end)``. It must cut a text
            the same way each time.

    Raises:
        InputError: An argument makes no sense.
    """

    rows: Any
    text: str
    key: str
    max_tokens: int | None = None
    max_characters: int | None = None
    overlap: int = 0
    cut: Callable[[str], Iterable[str | Chunk]] | None = None

    def __post_init__(self) -> None:
        # A Dag file is not checked by anybody.
        for name in ("text", "key"):
            value: object = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise InputError(f"chunks: {name} must be the name of a column, not {value!r:.60}.")
        if self.text == self.key:
            raise InputError("chunks: text and key are the same column.")
        if self.cut is None:
            check_sizes(self.max_tokens, self.max_characters, self.overlap)
            return
        cut: object = self.cut
        if not callable(cut) or (self.max_tokens, self.max_characters, self.overlap) != (None, None, 0):
            raise InputError("chunks: cut is a function that takes a text; sizes and overlap are for the built-in one.")

    @property
    def function(self) -> Callable[[str], Iterable[str | Chunk]]:
        """What cuts a text."""
        if self.cut is not None:
            return self.cut
        return functools.partial(
            chunk_text, max_tokens=self.max_tokens, max_characters=self.max_characters, overlap=self.overlap
        )

    @property
    def version(self) -> str:
        """A text that changes when other chunks are asked for; a function of the user's counts by its name."""
        how = (self.max_tokens, self.max_characters, self.overlap)
        name = getattr(self.cut, "__qualname__", type(self.cut).__qualname__) if self.cut else ""
        return f"|chunks:{self.text}|{self.key}|{how}|{name}"


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
