"""Harvest: downloads both files of a batch and writes one outcome part in row order, with an outcome for every row.

Lines may be missing, repeated or damaged. The files are spooled to local disk. Memory holds the ids of one shard and a
few blocks of outcomes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO, Literal, NamedTuple

import msgspec

from airflow_openai_batch.engine.answers.outcome_files import Tally
from airflow_openai_batch.engine.answers.parser import LineParser, custom_id_of, is_json
from airflow_openai_batch.engine.answers.proof import Lines as FoundLines
from airflow_openai_batch.engine.answers.proof import are_damaged, doubt_of
from airflow_openai_batch.engine.answers.readers import Readers
from airflow_openai_batch.engine.answers.reading import Reading
from airflow_openai_batch.engine.answers.result_formats import as_json_lines
from airflow_openai_batch.engine.answers.row_order import Unordered
from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.errors import NotFound, Unavailable, Unclear
from airflow_openai_batch.engine.model import BILLED, Job, Shard, State
from airflow_openai_batch.engine.store.index import read_index_table
from airflow_openai_batch.engine.store.job_store import JobStore

_DOWNLOAD_TRIES = 3
_MAX_PAUSE_S = 30.0
"""A longer pause is not slept through by a worker: the shard is looked at again later."""

Accepted = Literal["missing", "ask_again"]
"""What a person decided of rows that cannot be proven to have no answer: that is final, or they are asked again."""


class Harvested(NamedTuple):
    """The result of a harvest: the names of what it wrote to the store, and the counts."""

    outcomes: str
    unmatched: str | None
    """The file of unmatched lines, which belong to no row; None if there are none."""
    tally: Tally


class Unproven(Exception):
    """Rows have no line, and nothing proves that they have no answer. No outcome was written.

    Args:
        reason: Why.
        raw: The names under which the files were stored, verbatim.
        digest: A digest of the files, by which a repeated download is told from a new one.
        n_absent: The rows without a line.
    """

    def __init__(self, reason: str, raw: tuple[str, ...], digest: str, n_absent: int) -> None:
        super().__init__(reason)
        self.raw, self.digest, self.n_absent = raw, digest, n_absent


class _Damaged(Exception):
    """Rows without a line were answered and billed: their lines are there and cannot be read."""


class _Downloads(NamedTuple):
    files: list[IO[bytes]]
    output_gone: NotFound | None
    """The answer of OpenAI if it does not have the output file."""
    is_error_file_gone: bool
    is_size_wrong: bool


def harvest(
    store: JobStore,
    api: Api,
    job: Job,
    shard: Shard,
    parser: LineParser,
    sleep: Callable[[float], None] = time.sleep,
    accepted: Accepted | None = None,
    *,
    is_settled: bool = False,
    is_output_gone: bool = False,
    readers: Readers | None = None,
) -> Harvested:
    """Write the outcome part of a shard whose batch has ended, was rejected, or was never created.

    Args:
        store: The job's store.
        api: The client, which downloads the files.
        job: The job.
        shard: The shard.
        parser: Reads the lines.
        sleep: Waits so many seconds before a download is repeated.
        accepted: What a person decided of rows that cannot be proven to have no answer.
        is_settled: Whether the files were first fetched so long ago that nothing of them can be late any more.
        is_output_gone: Whether it is certain that OpenAI has the output file no more: what was ``accepted`` counts for
            its rows too.
        readers: Who reads the files; by default this process.

    Raises:
        Unproven: Rows have no line, and it is not certain that they have no answer.
        NotFound: OpenAI does not have a file, and rows have no line in the other.
        ApiError: A file could not be downloaded. Nothing is lost: harvest again later.
        StoreError: The store cannot be read or written.
    """
    readers = readers or Readers()
    index = read_index_table(store, shard.index).combine_chunks()
    name = store.new_name("outcomes", shard.id)
    with contextlib.ExitStack() as stack:
        downloads = _downloads_of(stack, store, api, shard, sleep, is_output_gone=is_output_gone)
        if downloads.output_gone is not None and accepted is not None and not is_output_gone:
            raise downloads.output_gone
        # What arrived at an earlier look counts too: a server may give less the next time.
        earlier = [stack.enter_context(_local_copy(store, raw)) for raw in shard.evidence.raw] if shard.evidence else []
        files = [as_json_lines(stack, file) for file in (*downloads.files, *earlier)]
        unmatched = stack.enter_context(tempfile.TemporaryFile(prefix="openai-batch-"))

        def write(*, is_read_once: bool, is_absence_final: bool) -> Tally:
            """Write the part; it appears in the store only if nothing raises."""
            with store.writing(name) as file:
                reading = Reading(
                    msgspec.structs.replace(job, shards=(), earlier=()),
                    shard,
                    index,
                    file.name,
                    is_read_once=is_read_once,
                    is_file_gone=downloads.is_error_file_gone or downloads.output_gone is not None,
                    is_absence_final=is_absence_final,
                    is_asked_again=accepted == "ask_again",
                )
                tally, n_absent = readers.read(reading, parser, files, unmatched)
                if accepted is None and not is_absence_final:
                    _require_proof(store, shard, downloads, n_absent, tally, unmatched, is_settled=is_settled)
            return tally

        is_final = accepted == "missing"
        tally: Tally | None = None
        if not earlier:
            with contextlib.suppress(Unordered, _Damaged):
                tally = write(is_read_once=True, is_absence_final=is_final)
        if tally is None:
            try:
                tally = write(is_read_once=False, is_absence_final=is_final)
            except _Damaged:
                tally = write(is_read_once=False, is_absence_final=True)
        unmatched_name = _store_unmatched(store, unmatched, shard.id)
    return Harvested(outcomes=name, unmatched=unmatched_name, tally=tally)


_MAX_FRUITLESS_RAW = 6
"""How many different files are kept of a batch although they add nothing: a page of HTML may be another each time."""


def _require_proof(
    store: JobStore,
    shard: Shard,
    downloads: _Downloads,
    n_absent: int,
    tally: Tally,
    unmatched: IO[bytes],
    *,
    is_settled: bool,
) -> None:
    """Raise an error if rows have no line and may have an answer all the same."""
    if shard.state is State.REJECTED or shard.batch is None or not n_absent:
        return  # nothing ran, or every row has a line
    if downloads.output_gone is not None:
        raise downloads.output_gone
    n_unreadable, n_spoilt, n_foreign = _count_unmatched(unmatched)
    lines = FoundLines(
        n_rows=shard.n_requests,
        n_seen=shard.n_requests - n_absent,
        n_answered=sum(tally.by_status[status] for status in BILLED),
        n_unreadable=n_unreadable,
        n_spoilt=n_spoilt,
        n_foreign=n_foreign,
        is_cut=any(map(_is_cut, downloads.files)),
        is_size_wrong=downloads.is_size_wrong,
    )
    if are_damaged(shard.batch, lines):
        raise _Damaged
    doubt = doubt_of(shard.batch, lines)
    if doubt is None:
        return
    digest, before = _digest(downloads.files), shard.evidence
    is_same = before is not None and before.digest == digest
    if doubt.passes and is_settled and is_same:
        return
    adds = (
        before is None or before.n_absent is None or n_absent < before.n_absent or len(before.raw) < _MAX_FRUITLESS_RAW
    )
    is_kept = adds and not is_same
    raw = tuple(_store_raw(store, file, shard.id) for file in downloads.files if _size(file)) if is_kept else ()
    raise Unproven(doubt.reason, raw, digest, n_absent)


def _count_unmatched(unmatched: IO[bytes]) -> tuple[int, int, int]:
    """Return how many different unmatched lines cannot be read, are a spoilt JSON object, and name a foreign row.

    What arrived at two looks is there twice.
    """
    unmatched.seek(0)
    digests: set[bytes] = set()
    n_unreadable = n_spoilt = n_foreign = 0
    for line in unmatched:
        digest = hashlib.blake2b(line, digest_size=16).digest()
        if digest in digests:
            continue
        digests.add(digest)
        is_foreign = custom_id_of(line) is not None
        n_foreign += is_foreign
        n_unreadable += not is_foreign
        n_spoilt += not is_foreign and line.lstrip().startswith(b"{") and not is_json(line)
    return n_unreadable, n_spoilt, n_foreign


def _empty(file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()


def _downloads_of(
    stack: contextlib.ExitStack,
    store: JobStore,
    api: Api,
    shard: Shard,
    sleep: Callable[[float], None],
    *,
    is_output_gone: bool,
) -> _Downloads:
    """Download both files; if the output file is known to be gone, nothing at all may be left."""
    try:
        return _download_all(stack, store, api, shard, sleep)
    except NotFound as error:
        if not is_output_gone:
            raise
        return _Downloads([], error, is_error_file_gone=False, is_size_wrong=False)


def _download_all(
    stack: contextlib.ExitStack, store: JobStore, api: Api, shard: Shard, sleep: Callable[[float], None]
) -> _Downloads:
    """Download both files; or copy the answers of a shard that was asked synchronously, which are in the store.

    OpenAI's guide: successes are in the output file, other requests in the error file. Seen: completed, expired and
    cancelled batches can have both, each can be absent, and a server can name one that it never wrote.
    """
    files: list[IO[bytes]] = []
    output_gone: NotFound | None = None
    is_error_file_gone = is_size_wrong = False
    if shard.direct is not None:
        files.append(stack.enter_context(_direct_answers(store, shard)))
    if shard.state is State.REJECTED or shard.batch is None:
        return _Downloads(files, None, is_error_file_gone=False, is_size_wrong=False)
    for is_output, file_id in ((True, shard.batch.output_file_id), (False, shard.batch.error_file_id)):
        if not file_id:
            continue
        try:
            file, is_whole = stack.enter_context(_downloaded(api, file_id, sleep))
            files.append(file)
            is_size_wrong |= not is_whole
        except NotFound as error:
            if is_output:
                output_gone = error
            else:
                is_error_file_gone = True
    if output_gone is not None and not files:
        raise output_gone
    return _Downloads(files, output_gone, is_error_file_gone, is_size_wrong)


@contextlib.contextmanager
def _downloaded(api: Api, file_id: str, sleep: Callable[[float], None]) -> Iterator[tuple[IO[bytes], bool]]:
    """Download a file. Yields it, and whether it has the size that the files route says.

    What arrives counts, whatever size another route gives: a wrong size only makes a file be fetched again that
    plainly ends in the middle of a line.
    """
    with tempfile.TemporaryFile(prefix="openai-batch-") as file:
        for n_retries in range(_DOWNLOAD_TRIES - 1, -1, -1):
            try:
                n_bytes = api.download(file_id, file)
                expected = api.file_bytes(file_id)
                is_whole = expected is None or n_bytes == expected
                if is_whole or not n_retries or not _is_cut(file):
                    break
            except (NotFound, Unclear, Unavailable) as error:
                # A first 404 may be a replica that lags.
                if not n_retries or (isinstance(error, NotFound) and n_retries < _DOWNLOAD_TRIES - 1):
                    raise
                if (error.retry_after_s or 0.0) > _MAX_PAUSE_S:
                    raise
                sleep(error.retry_after_s or 2.0)
            _empty(file)
        yield file, is_whole


def _is_cut(file: IO[bytes]) -> bool:
    """Return whether a file is empty or ends in the middle of a line."""
    file.flush()
    size = _size(file)
    tail = os.pread(file.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
    if tail.endswith(b"\n"):
        return False
    return custom_id_of(tail.rpartition(b"\n")[2]) is None


_TAIL_BYTES = 1024 * 1024


def _size(file: IO[bytes]) -> int:
    file.flush()
    return os.fstat(file.fileno()).st_size


def _digest(files: list[IO[bytes]]) -> str:
    content = hashlib.sha256()
    for file in files:
        file.seek(0)
        content.update(hashlib.file_digest(file, "sha256").digest())  # type: ignore[arg-type]
    return content.hexdigest()[:32]


def _store_raw(store: JobStore, file: IO[bytes], shard: str) -> str:
    """Keep a downloaded file, verbatim."""
    file.seek(0)
    name = store.new_name("unmatched", shard, "raw")
    with store.writing(name) as target:
        shutil.copyfileobj(file, target)
    return name


@contextlib.contextmanager
def _local_copy(store: JobStore, name: str) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile(prefix="openai-batch-") as file:
        with store.open(name) as stored:
            shutil.copyfileobj(stored, file)
        yield file


@contextlib.contextmanager
def _direct_answers(store: JobStore, shard: Shard) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile(prefix="openai-batch-") as file:
        for name in store.answer_files(shard.id):
            with store.open(name) as stored:
                shutil.copyfileobj(stored, file)
        yield file


def _store_unmatched(store: JobStore, unmatched: IO[bytes], shard: str) -> str | None:
    """Write the unmatched lines to the store, verbatim. Returns the file's name, or None if there are none."""
    if not _size(unmatched):
        return None
    unmatched.seek(0)
    name = store.new_name("unmatched", shard)
    with store.writing(name) as target:
        shutil.copyfileobj(unmatched, target)
    return name
