"""Harvest: downloads both files of a batch and writes one outcome part in row order, with an outcome for every row.

Lines may be missing, repeated or damaged. The files are spooled to local disk. Memory holds the ids of one shard and a
few blocks of outcomes.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TYPE_CHECKING, NamedTuple

from airflow_openai_batch.engine.answers.line_files import Lines, add_unmatched
from airflow_openai_batch.engine.answers.outcome_files import AnswerColumns, ClassifiedRow, PartWriter, Tally
from airflow_openai_batch.engine.answers.parser import LineParser, custom_id_of
from airflow_openai_batch.engine.answers.row_order import AnswerBlock, AnswerReader, Unordered
from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.errors import NotFound, Unavailable, Unclear
from airflow_openai_batch.engine.model import Job, Outcome, Shard, State, Status
from airflow_openai_batch.engine.store.index import read_index_table
from airflow_openai_batch.engine.store.job_store import JobStore

if TYPE_CHECKING:
    import pyarrow as pa


_DOWNLOAD_TRIES = 3


class Harvested(NamedTuple):
    """The result of a harvest: the names of what it wrote to the store, and the counts."""

    outcomes: str
    unmatched: str | None
    """The file of unmatched lines, which belong to no row; None if there are none."""
    tally: Tally


def harvest(
    store: JobStore, api: Api, job: Job, shard: Shard, parser: LineParser, sleep: Callable[[float], None] = time.sleep
) -> Harvested:
    """Write the outcome part of a shard whose batch has ended, was rejected, or was never created.

    Args:
        store: The job's store.
        api: The client, which downloads the files.
        job: The job.
        shard: The shard.
        parser: Reads the lines.
        sleep: Waits so many seconds before a download is repeated.

    Raises:
        ApiError: A file could not be downloaded. Nothing is lost: harvest again later.
        StoreError: The store cannot be read or written.
    """
    index = read_index_table(store, shard.index).combine_chunks()
    ids = index.column("custom_id").to_numpy(zero_copy_only=False).tolist()
    name = store.new_name("outcomes", shard.id)
    with contextlib.ExitStack() as stack:
        files, is_gone = _files(stack, api, shard, sleep)
        unmatched = stack.enter_context(tempfile.TemporaryFile(prefix="openai-batch-"))
        lines = [Lines(file) for file in files]
        reader = AnswerReader(parser, AnswerColumns(job), ids, unmatched)
        classifier = _RowClassifier(parser, shard, ids, job.policy.retry_on, unmatched, is_file_gone=is_gone)
        try:
            tally = _write(store, name, job, shard, index, reader.once(lines), classifier)
        except Unordered:
            unmatched.seek(0)
            unmatched.truncate()
            tally = _write(store, name, job, shard, index, reader.twice(lines), classifier)
        unmatched_name = _store_unmatched(store, unmatched, shard.id)
    return Harvested(outcomes=name, unmatched=unmatched_name, tally=tally)


def _write(
    store: JobStore,
    name: str,
    job: Job,
    shard: Shard,
    index: pa.Table,
    blocks: Iterable[AnswerBlock],
    classifier: _RowClassifier,
) -> Tally:
    """Write all outcomes of a shard, in row order."""
    batch_id = shard.batch.id if shard.batch is not None else None
    with store.writing(name) as file, PartWriter(file, job, batch_id, shard.round) as writer:
        for block in blocks:
            requests = index.slice(block.start, block.stop - block.start).to_batches()[0]
            writer.write(requests, block.answers, block.rows - block.start, block.places, classifier(block))
    return writer.tally


def _file_ids(shard: Shard) -> list[str]:
    if shard.state is State.REJECTED or shard.batch is None:
        return []
    # OpenAI's guide: successes are in the output file, other requests in the error file. Seen: completed, expired and
    # cancelled batches can have both files, and each can be absent.
    return [file_id for file_id in (shard.batch.output_file_id, shard.batch.error_file_id) if file_id]


def _files(
    stack: contextlib.ExitStack, api: Api, shard: Shard, sleep: Callable[[float], None]
) -> tuple[list[IO[bytes]], bool]:
    """Download both files. Returns them, and whether the error file is gone (some servers name one they never wrote).

    Raises:
        NotFound: The output file is gone, or the error file is gone and there is no output file.
    """
    files: list[IO[bytes]] = []
    is_gone = False
    for file_id in _file_ids(shard):
        try:
            files.append(stack.enter_context(_downloaded(api, file_id, sleep)))
        except NotFound:
            if not files:  # the output file comes first: without it, answers that were paid for would be given up
                raise
            is_gone = True
    return files, is_gone


@contextlib.contextmanager
def _downloaded(api: Api, file_id: str, sleep: Callable[[float], None]) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile(prefix="openai-batch-") as file:
        for n_retries in range(_DOWNLOAD_TRIES - 1, -1, -1):
            try:
                api.download(file_id, file)
                break
            except (NotFound, Unclear, Unavailable) as error:
                # A first 404 may be a replica that lags.
                if not n_retries or (isinstance(error, NotFound) and n_retries < _DOWNLOAD_TRIES - 1):
                    raise
                file.seek(0)
                file.truncate()
                sleep(error.retry_after_s or 2.0)
        yield file


def _store_unmatched(store: JobStore, unmatched: IO[bytes], shard: str) -> str | None:
    """Write the unmatched lines to the store, verbatim. Returns the file's name, or None if there are none."""
    if not unmatched.tell():
        return None
    unmatched.seek(0)
    name = store.new_name("unmatched", shard)
    with store.writing(name) as target:
        shutil.copyfileobj(unmatched, target)
    return name


class _RowClassifier:
    """Classifies the rows that the fast parser has no good answer for."""

    def __init__(
        self,
        parser: LineParser,
        shard: Shard,
        custom_ids: list[str],
        retry_on: frozenset[Status],
        unmatched: IO[bytes],
        *,
        is_file_gone: bool,
    ) -> None:
        self._parser, self._shard, self._ids = parser, shard, custom_ids
        self._retry_on, self._unmatched, self._is_file_gone = retry_on, unmatched, is_file_gone

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
            best = _absent(custom_id, self._shard)
            if self._is_file_gone:
                best = _failed(custom_id, Status.MISSING, "file_gone", "A result file of the batch is gone at OpenAI.")
            # A row that has a line, however damaged, was billed: it is not sent again.
            best.retryable = best.retryable and best_line is None
        if best.status is Status.SUCCEEDED:
            return ClassifiedRow(best, None)
        best.retryable = best.retryable or best.status in self._retry_on
        return ClassifiedRow(best, best_line)


_ANSWERED = frozenset({Status.INVALID, Status.REFUSED, Status.TRUNCATED})


def _beats(later: Outcome, earlier: Outcome) -> bool:
    return _rank(later) > _rank(earlier) or (_rank(later) == _rank(earlier) and earlier.status is not Status.SUCCEEDED)


def _rank(outcome: Outcome) -> int:
    """Return the rank of one of several lines of a row: a good answer, then any answer, then none."""
    return 2 if outcome.status is Status.SUCCEEDED else int(outcome.status in _ANSWERED)


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
