"""Reading the lines of a batch's files, in file or row order. Memory holds positions and one block of lines."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from airflow_openai_batch.engine.answers.fast_parser import Line
from airflow_openai_batch.engine.answers.parser import custom_id_of
from airflow_openai_batch.engine.concurrency import gc_paused
from airflow_openai_batch.engine.encoding import insides_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]


_READ_BYTES = 256 * 1024

_END = b"\n"

BLOCK_ROWS = 4096

_BLOCK_BYTES = 4 * 1024 * 1024

_MAX_SPAN_RATIO = 3
"""Lines are read one by one if the span that contains them is larger than so many times their own bytes."""

_match_id = re.compile(rb'\{"id": ?"[^"]*+", ?"custom_id": ?"([^"]*+)", ?"response":').match
"""Seen: OpenAI begins a line so. Matching it yields the id in a fraction of the time of decoding the line; whether the
line is whole, and the id really its own, is checked when the line is decoded."""


class Lines:
    r"""The lines of a local file. They end with ``\n`` only: U+2028 is legal inside JSON strings.

    Args:
        file: The file. Its last line may lack the line end.
    """

    def __init__(self, file: IO[bytes]) -> None:
        file.flush()
        self._file = file.fileno()
        self.n_bytes = os.fstat(self._file).st_size
        self._buffer = bytearray()

    def blocks(self) -> Iterator[list[Line]]:
        """Yield all lines, in blocks. A block is valid until the next one is requested, as its memory is reused."""
        block = bytearray(_READ_BYTES)
        n_read = n = 0
        while got := os.preadv(self._file, [memoryview(block)[n:]], n_read):
            n_read += got
            n += got
            lines, begun = _cut(block, n)
            yield lines
            block[: n - begun] = block[begun:n]
            n -= begun
            if n == len(block):  # a line longer than the block
                block = block + bytes(n)
        if n:
            yield [memoryview(block)[:n]]

    @functools.cached_property
    def starts(self) -> Numbers:
        """The offset of each line in bytes."""
        import numpy as np

        return np.concatenate(([0], self._ends))[: len(self._ends)]

    @functools.cached_property
    def lengths(self) -> Numbers:
        """The size of each line in bytes, without its line end."""
        return self._ends - self.starts - 1

    @functools.cached_property
    def _ends(self) -> Numbers:
        """The offset after the line end of each line."""
        import numpy as np

        block = bytearray(_READ_BYTES)
        content = np.frombuffer(block, dtype=np.uint8)
        offsets = [np.empty(0, dtype=np.int64)]
        n_read = 0
        while n := os.preadv(self._file, [block], n_read):
            offsets.append(np.flatnonzero(content[:n] == ord(_END)) + (n_read + 1))
            n_read += n
        ends = np.concatenate(offsets)
        has_rest = n_read > (ends[-1] if len(ends) else 0)
        return np.append(ends, n_read + 1) if has_rest else ends

    def read(self, numbers: Numbers) -> list[Line]:
        """Return the lines with these numbers, counted from 0. They are valid until the next call.

        The span from the first to the last one is read at once, or, if they are far apart, each line by itself.
        """
        starts, lengths = self.starts[numbers], self.lengths[numbers]
        first = int(starts.min())
        span = int((starts + lengths).max()) - first
        if span > _MAX_SPAN_RATIO * int(lengths.sum()):
            return [os.pread(self._file, n, at) for n, at in zip(lengths.tolist(), starts.tolist(), strict=True)]
        if len(self._buffer) < span:
            self._buffer = bytearray(span)
        with memoryview(self._buffer) as block:
            n = 0
            while n < span and (got := os.preadv(self._file, [block[n:span]], first + n)):
                n += got
        starts = starts - first
        whole = memoryview(self._buffer)
        with gc_paused():
            return [whole[at:end] for at, end in zip(starts.tolist(), (starts + lengths).tolist(), strict=True)]


def _cut(block: bytearray, n: int) -> tuple[list[Line], int]:
    """Return the complete lines in the first n bytes, and the offset after them."""
    whole, find = memoryview(block), block.find
    lines: list[Line] = []
    start = 0
    with gc_paused():
        while (end := find(_END, start, n)) >= 0:
            lines.append(whole[start:end])
            start = end + 1
    return lines, start


class Places(NamedTuple):
    """The positions of all lines, in row order, and for one row in the order of the files.

    Attributes:
        first: For each row the index of its first line in the next three arrays; at the end their length.
        file: The index of each line's file.
        line: The number of each line in its file.
        length: The size of each line in bytes, without its line end.
    """

    first: Numbers
    file: Numbers
    line: Numbers
    length: Numbers


class Block(NamedTuple):
    """The lines of consecutive rows. Valid until the next block is requested.

    Attributes:
        start: The first row.
        lines: The line of each row; empty for a row that has none, or several.
        several: The lines of each row that has several, by the row's number counted from `start`.
    """

    start: int
    lines: list[Line]
    several: dict[int, list[Line]]


def locate(files: list[Lines], custom_ids: list[str], unmatched: IO[bytes]) -> Places:
    """Return the positions of the lines of each row.

    Args:
        files: The output file and the error file, as far as they exist.
        custom_ids: The id of each row.
        unmatched: The file to which lines of no row are added.
    """
    import numpy as np

    row_of = dict(zip(insides_of(custom_ids), range(len(custom_ids)), strict=True))
    tables = [np.empty((4, 0), dtype=np.int64)]
    for number, file in enumerate(files):
        rows = np.fromiter(_rows(file, row_of, unmatched), dtype=np.int64, count=len(file.lengths))
        tables.append(np.stack((rows, np.full_like(rows, number), np.arange(len(rows)), file.lengths)))
    table = np.concatenate(tables, axis=1)
    table = table[:, table[0] >= 0]
    order = np.argsort(table[0], kind="stable")
    first = np.concatenate(([0], np.cumsum(np.bincount(table[0], minlength=len(custom_ids)))))
    return Places(first, *(column[order] for column in table[1:]))


def _rows(file: Lines, row_of: dict[bytes, int], unmatched: IO[bytes]) -> Iterator[int]:
    """Yield for each line of a file its row, or -1."""
    for block in file.blocks():
        for line in block:
            match: Any = _match_id(line)
            row = row_of.get(match[1]) if match is not None else None
            yield row if row is not None else _decoded_row(bytes(line), row_of, unmatched)


def _decoded_row(line: bytes, row_of: dict[bytes, int], unmatched: IO[bytes]) -> int:
    row = row_of.get(insides_of([custom_id_of(line) or ""])[0], -1)
    if row < 0 and line.strip():
        add_unmatched(unmatched, line)
    return row


def add_unmatched(unmatched: IO[bytes], line: bytes) -> None:
    """Add a line that belongs to no row to the unmatched lines, verbatim."""
    unmatched.write(line.rstrip(b"\r\n") + b"\n")


def lines_in_order(files: list[Lines], places: Places) -> Iterator[Block]:
    """Yield the lines of all rows in row order, in blocks.

    Args:
        files: The output file and the error file, as far as they exist.
        places: The positions of the lines.
    """
    import numpy as np

    reader = _BlockReader(files, places)
    n_rows = len(places.first) - 1
    before = np.concatenate(([0], np.cumsum(places.length)))[places.first]  # total bytes of the rows before each row
    start = 0
    while start < n_rows:
        full = int(np.searchsorted(before, before[start] + _BLOCK_BYTES, side="right")) - 1
        stop = min(max(full, start + 1), start + BLOCK_ROWS, n_rows)
        yield reader.block(start, stop)
        start = stop


def rows_a_block(file: Lines, n_rows: int) -> int:
    """Return the number of rows in a block, if each of `n_rows` rows has a line in the file."""
    return max(1, min(BLOCK_ROWS, _BLOCK_BYTES * n_rows // max(1, file.n_bytes)))


class _BlockReader:
    """Reads the lines of consecutive rows."""

    def __init__(self, files: list[Lines], places: Places) -> None:
        self._files, self._places = files, places

    def block(self, start: int, stop: int) -> Block:
        """Return the lines of the rows from `start` to before `stop`."""
        import numpy as np

        first = self._places.first[start : stop + 1]
        lines = self._lines(slice(first[0], first[-1]))
        if (np.diff(first) == 1).all():
            return Block(start, lines, {})
        spans = list(pairwise((first - first[0]).tolist()))
        several = {row: lines[one:end] for row, (one, end) in enumerate(spans) if end - one > 1}
        return Block(start, [lines[one] if end - one == 1 else b"" for one, end in spans], several)

    def _lines(self, span: slice) -> list[Line]:
        import numpy as np

        files, numbers = self._places.file[span], self._places.line[span]
        lines: list[Line] = [b""] * len(files)
        for number, file in enumerate(self._files):
            if len(chosen := np.flatnonzero(files == number)):
                for i, line in zip(chosen.tolist(), file.read(numbers[chosen]), strict=True):
                    lines[i] = line
        return lines
