"""The lines of a batch's files, brought into the order of the rows that they answer.

OpenAI writes lines in any order, though mostly in nearly the order of the requests. Memory holds where each line is,
and one block of lines.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import IO, TYPE_CHECKING, NamedTuple

from airflow_openai_batch.engine.escape import insides_of
from airflow_openai_batch.engine.memory import uncollected
from airflow_openai_batch.engine.parse import custom_id_of
from airflow_openai_batch.engine.usual import Line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]

_READ_BYTES = 256 * 1024
_BLOCK_ROWS = 4096
_BLOCK_BYTES = 4 * 1024 * 1024
_MOST_READ_IN_VAIN = 3
"""How many times its lines' bytes a block may be read for, rather than each line by itself."""

_usual_id = re.compile(rb'\{"id": ?"[^"]*+", ?"custom_id": ?"([^"]*+)", ?"response":').match
"""How OpenAI begins a line. Its id is found so in a fraction of the time that it takes to read the line; whether the
rest is whole, and the id the line's own, shows when it is read."""


class Places(NamedTuple):
    """Where the lines of rows are, in the order of the rows, and for one row in the order of the files.

    Attributes:
        first: For each row the number of its first line, and at the end the number of lines.
        file: The file of each line.
        offset: Where in the file it is.
        length: How long it is, without the line's end.
    """

    first: Numbers
    file: Numbers
    offset: Numbers
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


def locate(files: list[IO[bytes]], custom_ids: list[str], strays: IO[bytes]) -> Places:
    """Find the lines of each row; lines of no row are added to the strays."""
    import numpy as np

    row_of = dict(zip(insides_of(custom_ids), range(len(custom_ids)), strict=True))
    tables = [np.empty((4, 0), dtype=np.int64)]
    for number, file in enumerate(files):
        rows, ends = np.array(_rows(file, row_of, strays), dtype=np.int64)
        starts = np.concatenate(([0], ends[:-1]))[: len(ends)]
        tables.append(np.stack((rows, np.full_like(rows, number), starts, ends - starts - 1)))
    table = np.concatenate(tables, axis=1)
    table = table[:, table[0] >= 0]
    order = np.argsort(table[0], kind="stable")
    first = np.concatenate(([0], np.cumsum(np.bincount(table[0], minlength=len(custom_ids)))))
    return Places(first, *(column[order] for column in table[1:]))


def _rows(file: IO[bytes], row_of: dict[bytes, int], strays: IO[bytes]) -> tuple[list[int], list[int]]:
    """Return for each line of a file its row, or -1, and where the next one begins."""
    rows: list[int] = []
    ends: list[int] = []
    for offset, block, stop in _blocks(file):
        at = 0
        while at < stop:
            end = block.index(b"\n", at) + 1
            usual = _usual_id(block, at, end)
            row = row_of.get(usual[1]) if usual is not None else None
            rows.append(row if row is not None else _row_of_unusual(bytes(block[at : end - 1]), row_of, strays))
            ends.append(offset + end)
            at = end
    return rows, ends


def _row_of_unusual(line: bytes, row_of: dict[bytes, int], strays: IO[bytes]) -> int:
    row = row_of.get(insides_of([custom_id_of(line) or ""])[0], -1)
    if row < 0 and line.strip():
        add_stray(strays, line)
    return row


def add_stray(strays: IO[bytes], line: bytes) -> None:
    """Add a line of no row, verbatim."""
    strays.write(line.rstrip(b"\r\n") + b"\n")


def _blocks(file: IO[bytes]) -> Iterator[tuple[int, bytearray, int]]:
    r"""Yield offset, bytes and length of blocks of whole lines, in memory that is used again and again.

    Lines end with ``\n`` only: U+2028 is legal inside JSON. The last line gets an end if it has none.
    """
    file.flush()
    block = bytearray(_READ_BYTES)
    offset = n = 0
    while got := _read_into(file.fileno(), block, n, offset + n):
        n += got
        if stop := block.rfind(b"\n", 0, n) + 1:
            yield offset, block, stop
            offset += stop
            block[: n - stop] = block[stop:n]
            n -= stop
        if n == len(block):  # a line longer than the block
            block.extend(bytes(n))
    if n:
        block[n : n + 1] = b"\n"
        yield offset, block, n + 1


def _read_into(file: int, block: bytearray, start: int, offset: int) -> int:
    with memoryview(block) as whole, whole[start:] as view:
        return os.preadv(file, [view], offset)


def lines_in_order(files: list[IO[bytes]], places: Places) -> Iterator[Block]:
    """Yield the lines of all rows, in row order."""
    import numpy as np

    reader = _BlockReader([file.fileno() for file in files], places)
    n_rows = len(places.first) - 1
    before = np.concatenate(([0], np.cumsum(places.length)))[places.first]  # bytes of all rows before each row
    start = 0
    while start < n_rows:
        full = int(np.searchsorted(before, before[start] + _BLOCK_BYTES, side="right")) - 1
        stop = min(max(full, start + 1), start + _BLOCK_ROWS, n_rows)
        yield reader.block(start, stop)
        start = stop


class _BlockReader:
    """Reads the lines of a range of rows, into memory that is used again and again."""

    def __init__(self, files: list[int], places: Places) -> None:
        self._files, self._places = files, places
        self._buffers = [bytearray() for _ in files]

    def block(self, start: int, stop: int) -> Block:
        """Return the lines of rows."""
        import numpy as np

        first = self._places.first[start : stop + 1]
        lines = self._lines(int(first[0]), int(first[-1]))
        if (np.diff(first) == 1).all():
            return Block(start, lines, {})
        spans = list(pairwise((first - first[0]).tolist()))
        several = {row: lines[one:end] for row, (one, end) in enumerate(spans) if end - one > 1}
        return Block(start, [lines[one] if end - one == 1 else b"" for one, end in spans], several)

    def _lines(self, start: int, stop: int) -> list[Line]:
        import numpy as np

        files, offsets, lengths = (column[start:stop] for column in self._places[1:])
        lines: list[Line] = [b""] * (stop - start)
        for number in range(len(self._files)):
            if len(which := np.flatnonzero(files == number)):
                read = self._read(number, offsets[which], lengths[which])
                for i, line in zip(which.tolist(), read, strict=True):
                    lines[i] = line
        return lines

    def _read(self, number: int, offsets: Numbers, lengths: Numbers) -> list[Line]:
        """Read all between the first and the last line at once, or, if lines lie far apart, one by one."""
        file = self._files[number]
        first = int(offsets.min())
        span = int((offsets + lengths).max()) - first
        if span > _MOST_READ_IN_VAIN * int(lengths.sum()):
            return [os.pread(file, n, at) for n, at in zip(lengths.tolist(), offsets.tolist(), strict=True)]
        if len(self._buffers[number]) < span:
            self._buffers[number] = bytearray(span)
        block = memoryview(self._buffers[number])
        n = 0
        while n < span and (got := os.preadv(file, [block[n:span]], first + n)):
            n += got
        starts = offsets - first
        with uncollected():
            return [block[at:end] for at, end in zip(starts.tolist(), (starts + lengths).tolist(), strict=True)]
