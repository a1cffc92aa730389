"""The lines of a batch's files, brought into the order of the rows that they answer.

OpenAI writes lines in any order, though mostly in nearly the order of the requests. Memory holds where each line is,
and one block of lines.
"""

from __future__ import annotations

import array
import os
import re
from collections.abc import Iterator
from typing import IO

from airflow_openai_batch.engine.parse import custom_id_of
from airflow_openai_batch.engine.usual import Line

Lines = Line | list[Line] | None
"""The line of a row; several, or none. Good until the next block is asked for."""

_READ_BYTES = 256 * 1024
_BLOCK_ROWS = 4096
_BLOCK_BYTES = 4 * 1024 * 1024
_MOST_READ_IN_VAIN = 3
"""How many times its lines' bytes a block may be read for, rather than each line by itself."""

_usual_id = re.compile(rb'\{"id": ?"[^"\\]*", ?"custom_id": ?"([^"\\]*)", ?"response":').match
"""How OpenAI begins a line. Its id is found so in a third of the time that it takes to read the line; whether the rest
is whole shows when it is read."""


class Places:
    """Where the lines of each row are. Nearly every row has one; the others are kept apart."""

    def __init__(self, n_rows: int) -> None:
        self.file = array.array("b", bytes(n_rows))
        self.offset = array.array("q", bytes(8 * n_rows))
        self.length = array.array("q", bytes(8 * n_rows))
        self.more: dict[int, list[tuple[int, int, int]]] = {}


def locate(files: list[IO[bytes]], custom_ids: list[str], strays: IO[bytes]) -> Places:
    """Find the lines of each row; lines of no row are added to the strays."""
    row_of = {custom_id.encode(): row for row, custom_id in enumerate(custom_ids)}
    places = Places(len(custom_ids))
    offsets, lengths = places.offset, places.length
    for number, file in enumerate(files):
        for offset, line in _lines(file):
            usual = _usual_id(line)
            row = row_of.get(usual[1] if usual is not None else (custom_id_of(line) or "").encode())
            if row is None:
                if line.strip():
                    add_stray(strays, line)
            elif lengths[row]:
                places.more.setdefault(row, []).append((number, offset, len(line)))
            else:
                offsets[row], lengths[row] = offset, len(line)
                if number:
                    places.file[row] = number
    return places


def add_stray(strays: IO[bytes], line: bytes) -> None:
    """Add a line of no row, verbatim."""
    strays.write(line.rstrip(b"\r\n") + b"\n")


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    r"""Yield offset and bytes of each line, split at ``\n`` only: U+2028 is legal inside a JSON string."""
    file.seek(0)
    offset = 0
    rest = b""
    while block := file.read(_READ_BYTES):
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            yield offset, line
            offset += len(line) + 1
    if rest:
        yield offset, rest


def lines_in_order(files: list[IO[bytes]], places: Places) -> Iterator[tuple[int, list[Lines]]]:
    """Yield blocks of lines in row order, each with the number of its first row."""
    read = _BlockReader([file.fileno() for file in files], places)
    start = n_bytes = 0
    for row, length in enumerate(places.length):
        if row - start >= _BLOCK_ROWS or (n_bytes and n_bytes + length > _BLOCK_BYTES):
            yield start, read(start, row)
            start, n_bytes = row, 0
        n_bytes += length
    if start < len(places.length):
        yield start, read(start, len(places.length))


class _BlockReader:
    """Reads the lines of a range of rows, into memory that is used again and again."""

    def __init__(self, files: list[int], places: Places) -> None:
        self._files, self._places = files, places
        self._buffers = [bytearray() for _ in files]

    def __call__(self, start: int, stop: int) -> list[Lines]:
        places = self._places
        lines: list[Lines] = [None] * (stop - start)
        for number in range(len(self._files)):
            rows = [row for row in range(start, stop) if places.length[row] and places.file[row] == number]
            self._read(number, rows, start, lines)
        for row in range(start, stop) if places.more else ():
            if row in places.more:
                more: list[Line] = [os.pread(self._files[of], n, at) for of, at, n in places.more[row]]
                first = lines[row - start]
                lines[row - start] = more if first is None or isinstance(first, list) else [first, *more]
        return lines

    def _read(self, number: int, rows: list[int], start: int, lines: list[Lines]) -> None:
        """Read all between the first and the last line at once, or, if lines lie far apart, one by one."""
        if not rows:
            return
        offsets, lengths = self._places.offset, self._places.length
        first = min(offsets[row] for row in rows)
        span = max(offsets[row] + lengths[row] for row in rows) - first
        if span > _MOST_READ_IN_VAIN * sum(lengths[row] for row in rows):
            for row in rows:
                lines[row - start] = os.pread(self._files[number], lengths[row], offsets[row])
            return
        if len(self._buffers[number]) < span:
            self._buffers[number] = bytearray(span)
        block = memoryview(self._buffers[number])
        n = 0
        while n < span and (got := os.preadv(self._files[number], [block[n:span]], first + n)):
            n += got
        for row in rows:
            at = offsets[row] - first
            lines[row - start] = block[at : at + lengths[row]]
