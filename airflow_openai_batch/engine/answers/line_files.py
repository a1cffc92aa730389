"""The lines of a batch's files, and where those of each row are. Memory holds the places, and one block of lines."""

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

_MOST_READ_IN_VAIN = 3
"""How many times its lines' bytes a block may be read for, rather than each line by itself."""

_usual_id = re.compile(rb'\{"id": ?"[^"]*+", ?"custom_id": ?"([^"]*+)", ?"response":').match
"""How OpenAI begins a line. Its id is found so in a fraction of the time that it takes to read the line; whether the
rest is whole, and the id the line's own, shows when it is read."""


class Lines:
    r"""A file of this machine as lines. They end with ``\n`` only: U+2028 is legal inside JSON.

    Args:
        file: The file. Its last line needs no end.
    """

    def __init__(self, file: IO[bytes]) -> None:
        file.flush()
        self._file = file.fileno()
        self.n_bytes = os.fstat(self._file).st_size
        self._buffer = bytearray()

    def blocks(self) -> Iterator[list[Line]]:
        """Yield all lines, some at a time, in memory that is used again and again."""
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
        """Where each line begins."""
        import numpy as np

        return np.concatenate(([0], self._ends))[: len(self._ends)]

    @functools.cached_property
    def lengths(self) -> Numbers:
        """The bytes of each line, without its end."""
        return self._ends - self.starts - 1

    @functools.cached_property
    def _ends(self) -> Numbers:
        """Where the line after each line begins."""
        import numpy as np

        block = bytearray(_READ_BYTES)
        content = np.frombuffer(block, dtype=np.uint8)
        found = [np.empty(0, dtype=np.int64)]
        n_read = 0
        while n := os.preadv(self._file, [block], n_read):
            found.append(np.flatnonzero(content[:n] == ord(_END)) + (n_read + 1))
            n_read += n
        ends = np.concatenate(found)
        has_rest = n_read > (ends[-1] if len(ends) else 0)
        return np.append(ends, n_read + 1) if has_rest else ends

    def read(self, which: Numbers) -> list[Line]:
        """Return some lines. They are good until the next ones are asked for.

        All between the first and the last one is read at once, or, if they lie far apart, one by one.
        """
        starts, lengths = self.starts[which], self.lengths[which]
        first = int(starts.min())
        span = int((starts + lengths).max()) - first
        if span > _MOST_READ_IN_VAIN * int(lengths.sum()):
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
    """Return the whole lines in the first n bytes, and where the rest begins."""
    whole, find = memoryview(block), block.find
    lines: list[Line] = []
    start = 0
    with gc_paused():
        while (end := find(_END, start, n)) >= 0:
            lines.append(whole[start:end])
            start = end + 1
    return lines, start


class Places(NamedTuple):
    """Where the lines of rows are, in the order of the rows, and for one row in the order of the files.

    Attributes:
        first: For each row the number of its first line here, and at the end the number of lines.
        file: The file of each line.
        line: Which line of the file it is.
        length: How long it is, without the line's end.
    """

    first: Numbers
    file: Numbers
    line: Numbers
    length: Numbers


class Block(NamedTuple):
    """The lines of consecutive rows. Good until the next block is asked for.

    Attributes:
        start: The first row.
        lines: The line of each row; empty for a row that has none, or several.
        several: The lines of each row that has several.
    """

    start: int
    lines: list[Line]
    several: dict[int, list[Line]]


def locate(files: list[Lines], custom_ids: list[str], unmatched: IO[bytes]) -> Places:
    """Find the lines of each row; lines of no row are added to the unmatched."""
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
            usual: Any = _usual_id(line)
            row = row_of.get(usual[1]) if usual is not None else None
            yield row if row is not None else _row_of_unusual(bytes(line), row_of, unmatched)


def _row_of_unusual(line: bytes, row_of: dict[bytes, int], unmatched: IO[bytes]) -> int:
    row = row_of.get(insides_of([custom_id_of(line) or ""])[0], -1)
    if row < 0 and line.strip():
        add_unmatched(unmatched, line)
    return row


def add_unmatched(unmatched: IO[bytes], line: bytes) -> None:
    """Add a line of no row, verbatim."""
    unmatched.write(line.rstrip(b"\r\n") + b"\n")


def lines_in_order(files: list[Lines], places: Places) -> Iterator[Block]:
    """Yield the lines of all rows, in row order."""
    import numpy as np

    reader = _BlockReader(files, places)
    n_rows = len(places.first) - 1
    before = np.concatenate(([0], np.cumsum(places.length)))[places.first]  # bytes of all rows before each row
    start = 0
    while start < n_rows:
        full = int(np.searchsorted(before, before[start] + _BLOCK_BYTES, side="right")) - 1
        stop = min(max(full, start + 1), start + BLOCK_ROWS, n_rows)
        yield reader.block(start, stop)
        start = stop


def rows_a_block(file: Lines, n_rows: int) -> int:
    """Return how many rows fit into a block, if each has a line in the file."""
    return max(1, min(BLOCK_ROWS, _BLOCK_BYTES * n_rows // max(1, file.n_bytes)))


class _BlockReader:
    """Reads the lines of consecutive rows."""

    def __init__(self, files: list[Lines], places: Places) -> None:
        self._files, self._places = files, places

    def block(self, start: int, stop: int) -> Block:
        """Return the lines of rows."""
        import numpy as np

        first = self._places.first[start : stop + 1]
        lines = self._lines(slice(first[0], first[-1]))
        if (np.diff(first) == 1).all():
            return Block(start, lines, {})
        spans = list(pairwise((first - first[0]).tolist()))
        several = {row: lines[one:end] for row, (one, end) in enumerate(spans) if end - one > 1}
        return Block(start, [lines[one] if end - one == 1 else b"" for one, end in spans], several)

    def _lines(self, which: slice) -> list[Line]:
        import numpy as np

        files, numbers = self._places.file[which], self._places.line[which]
        lines: list[Line] = [b""] * len(files)
        for number, file in enumerate(self._files):
            if len(chosen := np.flatnonzero(files == number)):
                for i, line in zip(chosen.tolist(), file.read(numbers[chosen]), strict=True):
                    lines[i] = line
        return lines
