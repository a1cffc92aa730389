"""Cutting a text into chunks for embeddings: at paragraphs where there are some, else at sentences, lines and words."""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from airflow_openai_batch.engine.errors import InputError

_BREAKS = tuple(
    map(
        re.compile,
        (
            r"(?=\n[^\S\n]*\n)",
            "[.!?\u2026][\"'\u201d\u2019)\\]]*(?=\\s)|[\u3002\uff01\uff1f]",  # of Chinese and Japanese: without a space
            r"(?=\n)",
            r"(?=\s)",
        ),
    )
)
"""What ends where a chunk may end, best first: a paragraph, a sentence, a line, a word."""

_SPACE = re.compile(r"\s+")

_JOINER = "\u200d"

_VOCABULARY = "cl100k_base"
"""The vocabulary of OpenAI's embedding models. From tiktoken's list of models, in `tiktoken/model.py`."""


class Chunk(NamedTuple):
    """A part of a text.

    Attributes:
        text: The part.
        start: Where it begins in the text, in characters; None if that is not known.
        end: Where it ends.
    """

    text: str
    start: int | None = None
    end: int | None = None


def chunk_text(
    text: str, *, max_tokens: int | None = None, max_characters: int | None = None, overlap: int = 0
) -> list[Chunk]:
    """Cut a text into chunks that are as long as they may be, and end at a paragraph, a sentence, a line or a word.

    Such an end is looked for in the second half of a chunk; a text without any is cut between two characters. White
    space around a chunk is not part of it. The same text gives the same chunks.

    Args:
        text: The text.
        max_tokens: The most tokens of a chunk, as OpenAI's embedding models count them.
        max_characters: The most characters of a chunk, if it is not cut by tokens.
        overlap: How much of the end of a chunk the next one repeats at most, in tokens or characters, from the
            beginning of a word: up to half a chunk.

    Raises:
        InputError: Not exactly one of the two limits is given, or a number makes no sense.
    """
    check_sizes(max_tokens, max_characters, overlap)
    if max_characters is not None:
        return list(_cut(text, range(len(text) + 1), max_characters, overlap, len))
    encode, token_bytes = _tokenizer()
    places = _token_ends(text, [len(token_bytes(token)) for token in encode(text)])
    return list(_cut(text, places, max_tokens or 1, overlap, lambda part: len(encode(part))))


def check_sizes(max_tokens: Any, max_characters: Any, overlap: Any) -> None:
    """Refuse sizes that make no sense.

    Args:
        max_tokens: As those of ``chunk_text``.
        max_characters: Likewise.
        overlap: Likewise.

    Raises:
        InputError: It says what to give.
    """
    if (max_tokens is None) == (max_characters is None):
        raise InputError("chunks: give one of max_tokens and max_characters, or a function of your own.")
    most = max_tokens if max_characters is None else max_characters
    for name, value, least in (("the size", most, 1), ("overlap", overlap, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"chunks: {name} must be a whole number from {least} on, not {value!r}.")
    if overlap > most // 2:
        raise InputError(f"chunks: overlap must be at most half of a chunk, {most // 2}, not {overlap}.")


def _cut(text: str, places: Sequence[int], most: int, overlap: int, size: Callable[[str], int]) -> Iterator[Chunk]:
    """Yield the chunks.

    Args:
        text: The text.
        places: Where its units begin, and its end: ascending, in characters.
        most: The most units of a chunk.
        overlap: How many units of it the next one repeats.
        size: Counts the units of a part, which may be a few more than those of the whole text there.
    """
    start, stop = _trimmed(text, 0, len(text))
    done = 0
    while start < stop:
        end = _end(text, start, stop, places, most, size)
        first, last = _trimmed(text, start, end)
        if last > done:
            yield Chunk(text[first:last], first, last)
            begin = _next_start(text, start, end, places, overlap) if overlap and end < stop else end
        else:  # it would have nothing that the last chunk has not, so here nothing is repeated
            begin = max(end, done)
        done = max(last, done)
        start, _ = _trimmed(text, begin, stop)


def _end(text: str, start: int, stop: int, places: Sequence[int], most: int, size: Callable[[str], int]) -> int:
    """Return where a chunk ends that begins at a place."""
    n = most
    while True:
        # The unit that the start lies in counts whole.
        limit = places[min(bisect_right(places, start) - 1 + n, len(places) - 1)]
        end = stop if limit >= stop else _break(text, start, max(limit, start + 1))
        excess = size(text[start:end].strip()) - most
        if excess <= 0 or n == 1:
            return end
        n = max(1, n - excess)


def _break(text: str, start: int, limit: int) -> int:
    """Return the best place for an end, in the second half of what lies between start and limit."""
    middle = start + (limit - start) // 2
    for pattern in _BREAKS:
        # One more character is looked at: where that is white space, the limit is a good end.
        ends = [match.end() for match in pattern.finditer(text, middle, limit + 1) if middle < match.end() <= limit]
        if ends:
            return ends[-1]
    return _between_characters(text, start, limit)


def _between_characters(text: str, start: int, end: int) -> int:
    """Return the last place up to an end where no mark stands apart from its letter."""
    for place in range(end, max(start, end - 32), -1):
        if place == len(text):
            return place
        after, before = text[place], text[place - 1]
        if not unicodedata.combining(after) and _JOINER not in (after, before) and after not in "\ufe0e\ufe0f":
            return place
    return end


def _next_start(text: str, start: int, end: int, places: Sequence[int], overlap: int) -> int:
    """Return where the next chunk begins, so that it repeats whole words of the end of the last."""
    earliest = max(places[max(bisect_left(places, end) - overlap, 0)], end - (end - start) // 2)
    if earliest >= end or text[earliest - 1].isspace():
        return min(earliest, end)
    word = _SPACE.search(text, earliest, end)
    return word.end() if word is not None else end


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a range without the white space around it."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _token_ends(text: str, lengths: list[int]) -> list[int]:
    """Return where tokens begin and the last one ends, in characters.

    Args:
        text: The text.
        lengths: How many bytes each token has in UTF-8.
    """
    ends = [0, *itertools.accumulate(lengths)]
    if text.isascii():
        return ends
    n_begun, n = [0], 0
    for byte in text.encode():
        n += byte & 0xC0 != 0x80
        n_begun.append(n)
    # A character that several tokens make is in the first of them.
    return [n_begun[end] for end in ends]


@functools.cache
def _tokenizer() -> tuple[Callable[[str], list[int]], Callable[[int], bytes]]:
    import splintr

    tokenizer = splintr.Tokenizer.from_pretrained(_VOCABULARY)
    return tokenizer.encode_ordinary, functools.cache(tokenizer.decode_token_bytes)
