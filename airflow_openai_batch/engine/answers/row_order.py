"""Answers in row order, from lines in any order.

OpenAI's guide: the order of lines is not that of the requests. Seen: mostly it nearly is. Files are read once, and
answers wait as columns until a block of rows is complete, as long as these are few enough for memory. Other files (with
very many lines ahead of their turn, lines that are repeated, or of no row) are read twice: once to find the position of
each row's lines, once in row order.
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

    from airflow_openai_batch.engine.answers.fast_parser import FastRow, Line
    from airflow_openai_batch.engine.answers.line_files import Numbers
    from airflow_openai_batch.engine.answers.outcome_files import AnswerColumns


_MOST_WAITING_BYTES = 32 * 1024 * 1024
"""How large answers and lines may be that wait. A batch of 50,000 short answers in random order has about 20 MB."""

_CHUNKS_A_BLOCK = 4
"""Answers become columns in chunks that are small enough to stay, as Python objects, in a processor's cache."""


class AnswerBlock(NamedTuple):
    """The answers of consecutive rows.

    Attributes:
        start: The first row.
        stop: The row after the last one.
        answers: The columns of the good answers of these rows, in any order.
        rows: The rows that have a good answer, in order.
        places: For each of `rows` the index of its answer in `answers`.
        lines: All lines of each other row that has lines.
    """

    start: int
    stop: int
    answers: list[pa.RecordBatch]
    rows: Numbers
    places: Numbers
    lines: dict[int, list[bytes]]


class Unordered(Exception):
    """The lines are not one for each row, or too many are far ahead of their turn."""


class AnswerReader:
    """Reads the lines of the files of one batch.

    Args:
        parser: Reads lines.
        columns: Makes columns of good answers.
        custom_ids: The id of each row.
        unmatched: The file to which lines of no row are added.
    """

    def __init__(self, parser: LineParser, columns: AnswerColumns, custom_ids: list[str], unmatched: IO[bytes]) -> None:
        self.parser, self.columns, self.custom_ids, self.unmatched = parser, columns, custom_ids, unmatched

    def once(self, files: list[Lines]) -> Iterator[AnswerBlock]:
        """Yield the rows of files that have one line for each row, either nearly in row order or not too large.

        Args:
            files: The output file and the error file, as far as they exist.

        Raises:
            Unordered: The lines are in another order. The blocks yielded so far are to be discarded.
        """
        if not files:
            raise Unordered
        waiting = _Waiting(self, *files)
        for lines in files[0].blocks():
            with gc_paused():
                waiting.add(lines, self.parser.read_fast(lines))
            yield from waiting.whole_blocks()
            waiting.check_size()
        yield from waiting.other_blocks()

    def twice(self, files: list[Lines]) -> Iterator[AnswerBlock]:
        """Yield the rows of files whose lines are in any order.

        Args:
            files: The output file and the error file, as far as they exist.
        """
        for block in lines_in_order(files, locate(files, self.custom_ids, self.unmatched)):
            yield self._block(block)

    def _block(self, block: Block) -> AnswerBlock:
        import numpy as np

        n = len(block.lines)
        ids = self.custom_ids[block.start : block.start + n]
        answers: list[pa.RecordBatch] = []
        good: list[int] = []
        chunk_rows = -(-n // _CHUNKS_A_BLOCK)
        for start in range(0, n, chunk_rows):
            with gc_paused():
                fast_rows = enumerate(self.parser.read_fast(block.lines[start : start + chunk_rows]), start)
                # The id that was matched at the beginning of a line need not be the decoded one.
                chunk = {i: row for i, row in fast_rows if row is not None and row[0] == ids[i]}
                answers.append(self.columns(list(chunk.values())))
            good += chunk
        lines: dict[int, list[bytes]] = {}
        for i in sorted(set(range(n)).difference(good)):
            if of_row := [bytes(line) for line in block.several.get(i, block.lines[i : i + 1]) if line]:
                lines[block.start + i] = of_row
        rows = block.start + np.array(good, dtype=np.int64)
        return AnswerBlock(block.start, block.start + n, answers, rows, np.arange(len(good)), lines)


class _Chunk(NamedTuple):
    """Answers that wait, in row order, and their rows."""

    rows: Numbers
    answers: pa.RecordBatch
    n_bytes: int


class _Waiting:
    """Answers and lines of an output file that wait for their turn. Lines of the error file are read at their turn."""

    def __init__(self, reader: AnswerReader, output: Lines, errors: Lines | None = None) -> None:
        import numpy as np

        ids = reader.custom_ids
        self._reader, self._errors = reader, errors
        self._row_of = dict(zip(ids, range(len(ids)), strict=True))
        self._size = rows_a_block(output, len(ids))
        self._n_blocks = -(-len(ids) // self._size)
        self._n_missing = self._by_block(np.arange(len(ids)))
        self._has_line = np.zeros(len(ids), dtype=bool)
        self._error_line_of = self._rows_in(errors) if errors is not None else {}
        self._line_of: dict[int, bytes] = {}
        self._line_bytes = 0
        self._good: list[FastRow] = []
        self._chunks: list[_Chunk] = []
        self._next = 0

    def _rows_in(self, errors: Lines) -> dict[int, int]:
        """Return the line number of each row in the error file."""
        numbers: dict[int, int] = {}
        for number, line in enumerate(itertools.chain.from_iterable(errors.blocks())):
            if (row := self._row_named_by(line)) is not None:
                numbers[row] = number
        return numbers

    def add(self, lines: list[Line], fast_rows: list[FastRow | None]) -> None:
        """Add lines with what the fast parser made of them.

        Raises:
            Unordered: A row has a line already, or a line has no row.
        """
        good = [row for row in fast_rows if row is not None]
        if len(good) < len(fast_rows):
            for line, answer in zip(lines, fast_rows, strict=True):
                if answer is None and (row := self._row_named_by(line)) is not None:
                    self._line_of[row] = bytes(line)
                    self._line_bytes += len(line)
        self._good += good
        if len(self._good) * _CHUNKS_A_BLOCK >= self._size:
            self._make_columns()

    def _row_named_by(self, line: Line) -> int | None:
        """Return the row of a line that the fast parser did not accept; None for an empty line."""
        if not (text := bytes(line).strip()):
            return None
        row = self._row_of.get(custom_id_of(text) or "")
        self._record([row])
        return row

    def _make_columns(self) -> None:
        import numpy as np

        rows = self._record(list(map(self._row_of.get, [row[0] for row in self._good])))
        order = np.argsort(rows)
        # Reordered here, where they are still Python objects: of Arrow's columns each would have to be copied.
        answers = self._reader.columns([self._good[i] for i in order.tolist()])
        self._chunks.append(_Chunk(rows[order], answers, answers.nbytes))
        self._good = []

    def _record(self, row_numbers: list[int | None]) -> Numbers:
        """Record that rows have their line."""
        import numpy as np

        if None in row_numbers or len(set(row_numbers)) < len(row_numbers):
            raise Unordered
        rows = np.array(row_numbers, dtype=np.int64)
        if self._has_line[rows].any():
            raise Unordered
        self._has_line[rows] = True
        self._n_missing -= self._by_block(rows)
        return rows

    def check_size(self) -> None:
        """Check that what waits is small in memory.

        Raises:
            Unordered: It is too large.
        """
        if self._line_bytes + sum(chunk.n_bytes for chunk in self._chunks) > _MOST_WAITING_BYTES:
            raise Unordered

    def _by_block(self, rows: Numbers) -> Numbers:
        import numpy as np

        return np.bincount(rows // self._size, minlength=self._n_blocks)

    def whole_blocks(self) -> Iterator[AnswerBlock]:
        """Yield the blocks that are complete."""
        while self._next < self._n_blocks and not self._n_missing[self._next]:
            yield self._block()

    def other_blocks(self) -> Iterator[AnswerBlock]:
        """Yield the remaining blocks, when there are no more lines."""
        self._make_columns()
        while self._next < self._n_blocks:
            yield self._block()

    def _block(self) -> AnswerBlock:
        import numpy as np

        start = self._next * self._size
        stop = min(start + self._size, len(self._has_line))
        self._next += 1
        its_rows, answers = [np.empty(0, dtype=np.int64)], []
        for chunk in self._chunks:
            first, end = np.searchsorted(chunk.rows, (start, stop)).tolist()
            if first < end:
                its_rows.append(chunk.rows[first:end])
                answers.append(chunk.answers.slice(first, end - first))
        self._chunks = [chunk for chunk in self._chunks if len(chunk.rows) and chunk.rows[-1] >= stop]
        rows = np.concatenate(its_rows)
        places = np.argsort(rows)
        return AnswerBlock(start, stop, answers, rows[places], places, self._lines_of(start, stop))

    def _lines_of(self, start: int, stop: int) -> dict[int, list[bytes]]:
        import numpy as np

        rows = range(start, stop)
        lines = {row: [self._line_of.pop(row)] for row in rows if row in self._line_of}
        self._line_bytes -= sum(len(line) for (line,) in lines.values())
        of_errors = [row for row in rows if row in self._error_line_of]
        if self._errors is not None and of_errors:
            error_lines = self._errors.read(np.array([self._error_line_of[row] for row in of_errors]))
            lines |= {row: [bytes(line)] for row, line in zip(of_errors, error_lines, strict=True)}
        return lines
