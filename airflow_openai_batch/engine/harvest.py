"""Both files of a batch become one outcome part in row order. Every row of the shard gets an outcome.

The files come in any order and may lack, repeat or spoil lines. They are spooled to local disk and read twice: once
to learn where each row's line is, once in row order. Memory holds the ids of one shard and one chunk of outcomes.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

from airflow_openai_batch.engine.api import Api
from airflow_openai_batch.engine.errors import NotFound, Unavailable, Unclear
from airflow_openai_batch.engine.model import Batch, Job, Outcome, Shard, State, Status
from airflow_openai_batch.engine.outcomes import Index, PartWriter, Tally, read_index
from airflow_openai_batch.engine.parse import LineParser, custom_id_of
from airflow_openai_batch.engine.store import JobStore

_READ_BYTES = 256 * 1024
_DOWNLOAD_TRIES = 3


class Harvested(NamedTuple):
    """What a harvest left in the store."""

    outcomes: str
    strays: str | None
    tally: Tally


class _Place(NamedTuple):
    file: int
    offset: int
    length: int


def harvest(
    store: JobStore, api: Api, job: Job, shard: Shard, parser: LineParser, sleep: Callable[[float], None] = time.sleep
) -> Harvested:
    """Write the outcome part of a shard whose batch has ended, was refused, or was never sent.

    Raises:
        ApiError: A file could not be downloaded. Nothing is lost: harvest again later.
    """
    index = read_index(store, shard.index)
    folder = f"e{shard.id.partition('-')[0]}"
    name = store.unique(f"{folder}/outcomes", shard.id, ".parquet")
    with contextlib.ExitStack() as stack:
        files, is_gone = _files(stack, api, shard, sleep)
        places, strays = _locate(store, files, index, f"{folder}/strays", shard.id)
        file = stack.enter_context(store.writing(name))
        writer = PartWriter(file, job, shard.batch.id if shard.batch is not None else None, shard.round)
        for outcome, line, ordinal, digest in _in_row_order(files, places, index, parser, shard, is_gone):
            outcome.retryable = outcome.retryable or outcome.status in job.policy.retry_on
            writer.add(ordinal, digest, outcome, None if outcome.status is Status.SUCCEEDED else line)
        writer.close()
    return Harvested(outcomes=name, strays=strays, tally=writer.tally)


def _file_ids(shard: Shard) -> list[str]:
    if shard.state is State.REJECTED or shard.batch is None:
        return []
    # Completed, expired and cancelled batches alike can have both files; each can be absent.
    return [file_id for file_id in (shard.batch.output_file_id, shard.batch.error_file_id) if file_id]


def _files(
    stack: contextlib.ExitStack, api: Api, shard: Shard, sleep: Callable[[float], None]
) -> tuple[list[IO[bytes]], bool]:
    """Download both files. Returns them, and whether the error file is gone: some servers name one never written.

    Raises:
        NotFound: The output file is gone, or there was none and the error file is gone.
    """
    files: list[IO[bytes]] = []
    is_gone = False
    for file_id in _file_ids(shard):
        try:
            files.append(stack.enter_context(_downloaded(api, file_id, sleep)))
        except NotFound:
            if not files:  # the output file comes first: without it nothing that was paid for may be written off
                raise
            is_gone = True
    return files, is_gone


@contextlib.contextmanager
def _downloaded(api: Api, file_id: str, sleep: Callable[[float], None]) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile(prefix="openai-batch-") as file:
        for left in range(_DOWNLOAD_TRIES - 1, -1, -1):
            try:
                api.download(file_id, file)
                break
            except (NotFound, Unclear, Unavailable) as error:
                # A first 404 may be a replica that lags.
                if not left or (isinstance(error, NotFound) and left < _DOWNLOAD_TRIES - 1):
                    raise
                file.seek(0)
                file.truncate()
                sleep(error.retry_after_s or 2.0)
        yield file


def _locate(
    store: JobStore, files: list[IO[bytes]], index: Index, folder: str, stem: str
) -> tuple[dict[int, list[_Place]], str | None]:
    """Find the lines of each row; lines of no row are kept verbatim as strays."""
    position = {custom_id: i for i, custom_id in enumerate(index.custom_ids)}
    places: dict[int, list[_Place]] = {}
    with tempfile.TemporaryFile(prefix="openai-batch-") as strays:
        for number, file in enumerate(files):
            for offset, line in _lines(file):
                custom_id = custom_id_of(line)
                at = position.get(custom_id) if custom_id is not None else None
                if at is not None:
                    places.setdefault(at, []).append(_Place(number, offset, len(line)))
                elif line.strip():
                    strays.write(line.rstrip(b"\r\n") + b"\n")
        if not strays.tell():
            return places, None
        strays.seek(0)
        name = store.unique(folder, stem, ".jsonl")
        with store.writing(name) as target:
            while block := strays.read(_READ_BYTES):
                target.write(block)
    return places, name


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


def _in_row_order(
    files: list[IO[bytes]],
    places: dict[int, list[_Place]],
    index: Index,
    parser: LineParser,
    shard: Shard,
    is_gone: bool,
) -> Iterator[tuple[Outcome, bytes | None, int, bytes]]:
    for i, (ordinal, custom_id, digest) in enumerate(zip(*index, strict=True)):
        best: Outcome | None = None
        best_line: bytes | None = None
        for place in places.get(i, ()):
            files[place.file].seek(place.offset)
            line = files[place.file].read(place.length)
            outcome = parser.parse(line)
            # Repeated lines are not documented; the better answer wins, else the last.
            if outcome is not None and (best is None or _beats(outcome, best)):
                best, best_line = outcome, line
            elif best is None:
                best_line = line  # it names the row and nothing else can be read: kept verbatim
        if best is None:
            best = _absent(custom_id, shard)
            if is_gone:
                best = _failed(custom_id, Status.MISSING, "file_gone", "A result file of the batch is gone at OpenAI.")
            # A row whose line is there, however spoiled, was billed: it is not asked again.
            best.retryable = best.retryable and best_line is None
        yield best, best_line, ordinal, digest


_ANSWERED = frozenset({Status.INVALID, Status.REFUSED, Status.TRUNCATED})


def _beats(later: Outcome, earlier: Outcome) -> bool:
    return _rank(later) > _rank(earlier) or (_rank(later) == _rank(earlier) and earlier.status is not Status.SUCCEEDED)


def _rank(outcome: Outcome) -> int:
    """Order what two lines say of one row: a good answer, then any answer, then none."""
    return 2 if outcome.status is Status.SUCCEEDED else int(outcome.status in _ANSWERED)


_ABSENT: dict[str, tuple[Status, str, str]] = {
    "expired": (Status.EXPIRED, "batch_expired", "The batch expired before this request was answered."),
    "called_off": (Status.CANCELLED, "called_off", "The job was cancelled before this request was sent."),
    "cancelled": (Status.CANCELLED, "batch_cancelled", "The batch was cancelled before this request was answered."),
}


def _absent(custom_id: str, shard: Shard) -> Outcome:
    """Say what became of a row that no file mentions."""
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


def describe(batch: Batch) -> str:
    """Return one line about a batch for a log: status and counts, as OpenAI reports them."""
    return f"{batch.id} {batch.status} ({batch.n_completed} completed, {batch.n_failed} failed of {batch.n_total})"
