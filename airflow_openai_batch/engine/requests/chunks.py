"""Documents that shall be cut into chunks: each row becomes several, with ids that stay the same from night to night.

A Dag file imports this.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_openai_batch.engine.errors import InputError

if TYPE_CHECKING:
    from airflow_openai_batch.engine.requests.chunk_text import Chunk


class Chunks(msgspec.Struct, frozen=True):
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
            from airflow_openai_batch.engine.requests.chunk_text import check_sizes

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
        from airflow_openai_batch.engine.requests.chunk_text import chunk_text

        return functools.partial(
            chunk_text, max_tokens=self.max_tokens, max_characters=self.max_characters, overlap=self.overlap
        )

    @property
    def version(self) -> str:
        """A text that changes when other chunks are asked for; a function of the user's counts by its name."""
        how = (self.max_tokens, self.max_characters, self.overlap)
        name = getattr(self.cut, "__qualname__", type(self.cut).__qualname__) if self.cut else ""
        return f"|chunks:{self.text}|{self.key}|{how}|{name}"
