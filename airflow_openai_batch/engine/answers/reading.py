"""Reading: the downloaded files of a batch become an outcome part. Local files only, so any process can do it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, NamedTuple

from airflow_openai_batch.engine.answers.line_files import Lines, add_unmatched
from airflow_openai_batch.engine.answers.outcome_files import AnswerColumns, ClassifiedRow, PartWriter, Tally
from airflow_openai_batch.engine.answers.parser import LineParser, custom_id_of
from airflow_openai_batch.engine.answers.row_order import AnswerBlock, AnswerReader
from airflow_openai_batch.engine.model import BILLED, Job, Outcome, Shard, State, Status
from airflow_openai_batch.engine.money.prices import prices_of

if TYPE_CHECKING:
    import pyarrow as pa


class Reading(NamedTuple):
    """What is read, besides the files.

    Attributes:
        job: The job.
        shard: The shard whose batch it is.
        index: The shard's index.
        part: The path of the local file that becomes the outcome part.
        is_read_once: Whether the lines are read once; else twice, which takes any lines.
        is_file_gone: Whether OpenAI no longer has one of the files.
        is_absence_final: Whether rows without a line are not asked again.
        is_asked_again: Whether a person wants rows without a line to be asked again.
    """

    job: Job
    shard: Shard
    index: pa.Table
    part: str
    is_read_once: bool
    is_file_gone: bool = False
    is_absence_final: bool = False
    is_asked_again: bool = False


class ReadPart(NamedTuple):
    """What was read: the counts, and the number of rows without a line."""

    tally: Tally
    n_absent: int


def read_answers(reading: Reading, parser: LineParser, files: Sequence[IO[bytes]], unmatched: IO[bytes]) -> ReadPart:
    """Write the outcome part of a shard, with an outcome for every row.

    Args:
        reading: What is read.
        parser: Reads the lines.
        files: The output file and the error file, as far as they exist, and what was downloaded earlier.
        unmatched: The file to which lines of no row are added; what it holds is dropped.

    Raises:
        Unordered: The lines cannot be read once.
        OSError: The part cannot be written.
    """
    job, shard, index = reading.job, reading.shard, reading.index
    ids = index.column("custom_id").to_numpy(zero_copy_only=False).tolist()
    unmatched.seek(0)
    unmatched.truncate()
    lines = [Lines(file) for file in files]
    reader = AnswerReader(parser, AnswerColumns(job), ids, unmatched)
    classifier = _RowClassifier(parser, reading, ids, unmatched)
    with PartWriter(reading.part, job, shard, prices_of(job.policy)) as writer:
        for block in reader.once(lines) if reading.is_read_once else reader.twice(lines):
            requests = index.slice(block.start, block.stop - block.start).to_batches()[0]
            writer.write(requests, block.answers, block.rows - block.start, block.places, classifier(block))
    unmatched.flush()
    return ReadPart(writer.tally, classifier.n_absent)


class _RowClassifier:
    """Classifies the rows that the fast parser has no good answer for."""

    def __init__(self, parser: LineParser, reading: Reading, custom_ids: list[str], unmatched: IO[bytes]) -> None:
        self._parser, self._reading, self._ids, self._unmatched = parser, reading, custom_ids, unmatched
        self.n_absent = 0
        """Rows without a line so far."""

    def __call__(self, block: AnswerBlock) -> dict[int, ClassifiedRow]:
        """Return the outcome of each row without a good answer, by its number counted from the block's first row."""
        import numpy as np

        start = block.start
        lacks_answer = np.ones(block.stop - start, dtype=bool)
        lacks_answer[block.rows - start] = False
        numbers = np.flatnonzero(lacks_answer).tolist()
        return {i: self._classify(self._ids[start + i], block.lines.get(start + i, [])) for i in numbers}

    def _classify(self, custom_id: str, lines: list[bytes]) -> ClassifiedRow:
        best: Outcome | None = None
        best_line: bytes | None = None
        for line in lines:
            outcome = self._parser.parse(line)
            if outcome is not None and outcome.custom_id != custom_id:
                add_unmatched(self._unmatched, line)  # two lines were merged into one: its row is not certain
                continue
            # OpenAI documents nothing about repeated lines: the better answer wins, else the last.
            if outcome is not None and (best is None or _beats(outcome, best)):
                best, best_line = outcome, line
            elif outcome is None and custom_id_of(line) is None:
                add_unmatched(self._unmatched, line)
            elif best is None:
                best_line = line  # it names the row, but nothing else can be read: kept verbatim
        if best is None:
            best = _absent(custom_id, self._reading.shard)
            if self._reading.is_file_gone:
                best = _failed(custom_id, Status.MISSING, "file_gone", "A result file of the batch is gone at OpenAI.")
                best.retryable = self._reading.is_asked_again
            self.n_absent += best_line is None
            # A row that has a line, however damaged, was billed: it is not sent again.
            best.retryable = best.retryable and best_line is None and not self._reading.is_absence_final
        if best.status is Status.SUCCEEDED:
            return ClassifiedRow(best, None)
        best.retryable = best.retryable or best.status in self._reading.job.policy.retry_on
        return ClassifiedRow(best, best_line)


def _beats(later: Outcome, earlier: Outcome) -> bool:
    return _rank(later) > _rank(earlier) or (_rank(later) == _rank(earlier) and earlier.status is not Status.SUCCEEDED)


def _rank(outcome: Outcome) -> int:
    """Return the rank of one of several lines of a row: a good answer, then any answer, then none."""
    return 2 if outcome.status is Status.SUCCEEDED else int(outcome.status in BILLED)


_ABSENT: dict[str, tuple[Status, str, str]] = {
    "expired": (Status.EXPIRED, "batch_expired", "The batch expired before this request was answered."),
    "called_off": (Status.CANCELLED, "called_off", "The job was cancelled before this request was sent."),
    "cancelled": (Status.CANCELLED, "batch_cancelled", "The batch was cancelled before this request was answered."),
}


def _absent(custom_id: str, shard: Shard) -> Outcome:
    """Return the outcome of a row that no file mentions, by the end of its batch."""
    if shard.state is State.REJECTED:
        first = shard.rejections[0] if shard.rejections else None
        message = f"{first.code}: {first.message}" if first else shard.problem
        return _failed(custom_id, Status.FAILED, "batch_rejected", f"OpenAI refused the whole batch. {message}")
    status, code, message = _ABSENT.get(
        shard.batch.status if shard.batch is not None else "called_off",
        (Status.MISSING, "missing", "No output line mentions this request."),
    )
    outcome = _failed(custom_id, status, code, message)
    outcome.retryable = True
    return outcome


def _failed(custom_id: str, status: Status, code: str, message: str) -> Outcome:
    return Outcome(custom_id=custom_id, status=status, error_code=code, error_message=message)
