"""The answers to rows in the order of the rows, from lines in any order.

OpenAI writes lines in any order, though mostly in nearly the order of the requests. Then they are read once, as they
come, and answers wait as columns until a block of rows is whole. Files that are not so (lines are far ahead of their
turn, repeated, or of no row) are read twice: once to learn where each row's lines are, once in the order of the rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, NamedTuple

from airflow_openai_batch.engine.answers.line_files import Block, Lines, lines_in_order, locate, rows_a_block
from airflow_openai_batch.engine.answers.parser import LineParser, custom_id_of
from airflow_openai_batch.engine.concurrency import gc_paused

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.answers.fast_parser import Line, Row
    from airflow_openai_batch.engine.answers.line_files import Numbers
    from airflow_openai_batch.engine.answers.outcome_files import AnswerColumns


_MOST_WAITING = 4
"""How many blocks of rows may wait besides the one whose turn it is."""

_CHUNKS_A_BLOCK = 4
"""Answers become columns a chunk at a time: few enough to stay, as Python objects, in a processor's cache."""


class Read(NamedTuple):
    """What was read of consecutive rows.

    Attributes:
        start: The first row.
        stop: The row after the last one.
        answers: Good answers of these rows, in any order.
        rows: The rows that have one, in order.
        places: For each of them where in `answers` it is.
        lines: All lines of each other row that has some.
    """

    start: int
    stop: int
    answers: list[pa.RecordBatch]
    rows: Numbers
    places: Numbers
    lines: dict[int, list[bytes]]


class Unordered(Exception):
    """Lines are not nearly in the order of the rows, one for each."""


class AnswerReader:
    """Reads the lines of the files of one batch.

    Args:
        parser: Reads a line.
        columns: Makes columns of what was read.
        custom_ids: The ids of the rows.
        unmatched: Where lines of no row go.
    """

    def __init__(self, parser: LineParser, columns: AnswerColumns, custom_ids: list[str], unmatched: IO[bytes]) -> None:
        self.parser, self.columns, self.custom_ids, self.unmatched = parser, columns, custom_ids, unmatched

    def once(self, files: list[Lines]) -> Iterator[Read]:
        """Yield the rows of files whose lines are nearly in the order of the rows, one for each.

        Args:
            files: The output file and the error file, as far as there are any.

        Raises:
            Unordered: The files are not like this. What was yielded is to be forgotten.
        """
        if not files:
            raise Unordered
        waiting = _Waiting(self, *files)
        for lines in files[0].blocks():
            with gc_paused():
                waiting.add(lines, self.parser.read_usual(lines))
            yield from waiting.whole_blocks()
        yield from waiting.other_blocks()

    def twice(self, files: list[Lines]) -> Iterator[Read]:
        """Yield the rows of files whose lines are as they may.

        Args:
            files: The output file and the error file, as far as there are any.
        """
        for block in lines_in_order(files, locate(files, self.custom_ids, self.unmatched)):
            yield self._block(block)

    def _block(self, block: Block) -> Read:
        import numpy as np

        n = len(block.lines)
        ids = self.custom_ids[block.start : block.start + n]
        answers: list[pa.RecordBatch] = []
        good: list[int] = []
        chunk_rows = -(-n // _CHUNKS_A_BLOCK)
        for start in range(0, n, chunk_rows):
            with gc_paused():
                read = enumerate(self.parser.read_usual(block.lines[start : start + chunk_rows]), start)
                # The id that a line was found by need not be its own.
                chunk = {i: row for i, row in read if row is not None and row[0] == ids[i]}
                answers.append(self.columns(list(chunk.values())))
            good += chunk
        lines: dict[int, list[bytes]] = {}
        for i in sorted(set(range(n)).difference(good)):
            if of_row := [bytes(line) for line in block.several.get(i, block.lines[i : i + 1]) if line]:
                lines[block.start + i] = of_row
        rows = block.start + np.array(good, dtype=np.int64)
        return Read(block.start, block.start + n, answers, rows, np.arange(len(good)), lines)


class _Waiting:
    """What was read of an output file and waits for its turn. Lines of the error file are read when it has come."""

    def __init__(self, reader: AnswerReader, output: Lines, errors: Lines | None = None) -> None:
        import numpy as np

        ids = reader.custom_ids
        self._reader, self._errors = reader, errors
        self._row_of = dict(zip(ids, range(len(ids)), strict=True))
        self._size = rows_a_block(output, len(ids))
        self._n_blocks = -(-len(ids) // self._size)
        self._n_missing = self._by_block(np.arange(len(ids)))
        self._is_known = np.zeros(len(ids), dtype=bool)
        self._error_line_of = self._found_in(errors) if errors is not None else {}
        self._line_of: dict[int, bytes] = {}
        self._good: list[Row] = []
        self._rows: list[Numbers] = []
        self._answers: list[pa.RecordBatch] = []
        self._next = 0

    def _found_in(self, errors: Lines) -> dict[int, int]:
        """Return for each row in the error file which line of it that is."""
        numbers: dict[int, int] = {}
        for number, line in enumerate(itertools.chain.from_iterable(errors.blocks())):
            if (row := self._row_named_by(line)) is not None:
                numbers[row] = number
        return numbers

    def add(self, lines: list[Line], read: list[Row | None]) -> None:
        """Let lines, and what was read of them, wait.

        Raises:
            Unordered: A row has a line already, a line has no row, or is far ahead of its turn.
        """
        good = [row for row in read if row is not None]
        if len(good) < len(read):
            for line, answer in zip(lines, read, strict=True):
                if answer is None and (row := self._row_named_by(line)) is not None:
                    self._line_of[row] = bytes(line)
                    self._check_near(row)
        self._good += good
        if len(self._good) * _CHUNKS_A_BLOCK >= self._size:
            self._make_columns()

    def _row_named_by(self, line: Line) -> int | None:
        """Return the row of a line that is not usual and good, or None for an empty line."""
        if not (text := bytes(line).strip()):
            return None
        row = self._row_of.get(custom_id_of(text) or "")
        self._note([row])
        return row

    def _make_columns(self) -> None:
        rows = self._note(list(map(self._row_of.get, [row[0] for row in self._good])))
        self._check_near(int(rows.max(initial=0)))
        self._rows.append(rows)
        self._answers.append(self._reader.columns(self._good))
        self._good = []

    def _note(self, found: list[int | None]) -> Numbers:
        """Note that rows have their line."""
        import numpy as np

        if None in found or len(set(found)) < len(found):
            raise Unordered
        rows = np.array(found, dtype=np.int64)
        if self._is_known[rows].any():
            raise Unordered
        self._is_known[rows] = True
        self._n_missing -= self._by_block(rows)
        return rows

    def _check_near(self, row: int) -> None:
        """Refuse a row far ahead of its turn: what waits must stay little, and whether it will shows early."""
        if row >= (self._next + 1 + _MOST_WAITING) * self._size:
            raise Unordered

    def _by_block(self, rows: Numbers) -> Numbers:
        import numpy as np

        return np.bincount(rows // self._size, minlength=self._n_blocks)

    def whole_blocks(self) -> Iterator[Read]:
        """Yield the rows whose turn has come."""
        while self._next < self._n_blocks and not self._n_missing[self._next]:
            yield self._block()

    def other_blocks(self) -> Iterator[Read]:
        """Yield all other rows, when there are no more lines."""
        self._make_columns()
        while self._next < self._n_blocks:
            yield self._block()

    def _block(self) -> Read:
        import numpy as np
        import pyarrow as pa

        start = self._next * self._size
        stop = min(start + self._size, len(self._is_known))
        self._next += 1
        rows, answers, still = [np.empty(0, dtype=np.int64)], [], []
        for i, waiting in enumerate(self._rows):
            here = np.flatnonzero((waiting >= start) & (waiting < stop))
            if len(here):
                rows.append(waiting[here])
                answers.append(self._answers[i].take(pa.array(here)))
            if (waiting >= stop).any():
                still.append(i)
        self._rows, self._answers = [self._rows[i] for i in still], [self._answers[i] for i in still]
        found = np.concatenate(rows)
        places = np.argsort(found)
        return Read(start, stop, answers, found[places], places, self._lines_of(start, stop))

    def _lines_of(self, start: int, stop: int) -> dict[int, list[bytes]]:
        import numpy as np

        rows = range(start, stop)
        lines = {row: [self._line_of.pop(row)] for row in rows if row in self._line_of}
        of_errors = [row for row in rows if row in self._error_line_of]
        if self._errors is not None and of_errors:
            found = self._errors.read(np.array([self._error_line_of[row] for row in of_errors]))
            lines |= {row: [bytes(line)] for row, line in zip(of_errors, found, strict=True)}
        return lines
