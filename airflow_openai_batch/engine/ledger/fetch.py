"""Bringing known answers into a job: each shard gets an outcome part with those to its requests, in row order.

The parts that the ledger points to are read once each, from their first row to their last, whatever order the new rows
have; what belongs together is put on this machine's disk until it is whole. Memory holds some 30 MB of answers, and
about 50 bytes for each row of a chunk.
"""

from __future__ import annotations

import itertools
import os
import struct
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_openai_batch.engine.answers.classify import no_fields
from airflow_openai_batch.engine.answers.outcome_files import (
    FIELD,
    REPEATING,
    carried_rows,
    fits_output,
    group_rows,
    part_schema,
    read_part,
    reused_from,
)
from airflow_openai_batch.engine.errors import StoreError
from airflow_openai_batch.engine.ledger.lookup import look_up
from airflow_openai_batch.engine.ledger.segments import Ledger, digests_of, joined_digests
from airflow_openai_batch.engine.model import Job, Shard, Status
from airflow_openai_batch.engine.schema.validation import Check, ResponseSchema
from airflow_openai_batch.engine.store.files import Files
from airflow_openai_batch.engine.store.index import read_index_table
from airflow_openai_batch.engine.store.job_store import JobStore

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.ledger.segments import Digests, Numbers

_CHUNK_ROWS = 500_000
"""Rows that are looked up together. Each chunk reads all digests of the ledger, and each row takes some 50 bytes."""
_BUCKET_BYTES = 8 * 1024 * 1024
_WAITING_BYTES = 4 * 1024 * 1024
_MAX_LOOKUPS = 4

_REFRESH_AFTER_S = 30 * 24 * 3600.0
"""Age of an entry at which an answer that is used shall be recorded anew, so that old jobs can be removed without loss.
"""


class AnswerPart(NamedTuple):
    """An outcome part with answers to requests of a shard."""

    name: str
    n_rows: int


def bring_known_answers(
    ledger: Ledger,
    store: JobStore,
    job: Job,
    shards: Sequence[Shard],
    now: float,
    since: float,
    check: Check | None = None,
) -> dict[str, AnswerPart]:
    """Write the answers that the ledger knows to a job's store.

    Args:
        ledger: The ledger.
        store: The job's store.
        job: The job, which determines the columns of answers.
        shards: The shards whose requests are looked up.
        now: Epoch seconds.
        since: The oldest answer that counts, in epoch seconds.
        check: A check of answers that is stricter than the schema: what does not pass is not known.

    Returns:
        The outcome part of each shard that has known answers, by the shard's id.

    Raises:
        StoreError: The storage cannot be read or written.
    """
    parts: dict[str, AnswerPart] = {}
    for chunk in _chunks(shards):
        parts |= _Chunk(ledger, store, job, chunk, now, since, check).bring()
    return parts


def _chunks(shards: Sequence[Shard]) -> Iterator[list[Shard]]:
    chunk: list[Shard] = []
    for shard in shards:
        if chunk and sum(s.n_rows for s in chunk) + shard.n_rows > _CHUNK_ROWS:
            yield chunk
            chunk = []
        chunk.append(shard)
    if chunk:
        yield chunk


class _Located(NamedTuple):
    """Requests that have an answer, in the order in which the answers lie: arrays of the same length."""

    rows: Numbers
    """The rows of the requests, counted over the chunk."""
    part: Numbers
    """The place of the answer's outcome part in `parts`."""
    place: Numbers
    """The answer's row in that part."""
    recorded_anew: Numbers
    """When the answer was asked for, in epoch seconds, where its entry is so old that it is recorded anew; else 0."""
    parts: tuple[str, ...]


class _Chunk:
    """Some shards, whose requests are looked up together."""

    def __init__(
        self,
        ledger: Ledger,
        store: JobStore,
        job: Job,
        shards: Sequence[Shard],
        now: float,
        since: float,
        check: Check | None,
    ) -> None:
        import numpy as np

        self._ledger, self._store, self._job, self._shards = ledger, store, job, shards
        self._now, self._since, self._check = now, since, check
        digests = [digests_of(read_index_table(store, shard.index, ["digest"]).column("digest")) for shard in shards]
        self._ends = np.cumsum(list(map(len, digests)))
        self._starts = np.r_[0, self._ends]
        self._digests = joined_digests(digests)
        self._schema = part_schema(job)
        spec = job.spec
        self._read_fields = ResponseSchema(spec.schema, spec.schema_name or "").read if spec.schema else no_fields

    def bring(self) -> dict[str, AnswerPart]:
        """Look the requests up, and write the answers; see ``bring_known_answers``."""
        import numpy as np

        gone: set[str] = set()
        wanted = np.arange(len(self._digests), dtype=np.int32)
        with tempfile.TemporaryDirectory(prefix="openai-batch-") as folder:
            buckets = _Buckets(folder, self._schema)
            # An answer whose file is gone may have been recorded a second time, with another file.
            for _ in range(_MAX_LOOKUPS):
                located = self._looked_up(wanted, gone)
                wanted = self._fetch(located, buckets, gone)
                if not len(wanted):
                    break
            return self._write(buckets)

    def _looked_up(self, wanted: Numbers, gone: set[str]) -> _Located:
        """Return the wanted rows that have an answer, and where the answers are."""
        import numpy as np

        order = wanted[self._digests[wanted].order()]
        digests = self._digests[order]
        is_first = np.ones(len(digests), bool)
        is_first[1:] = ~digests[1:].equal(digests[:-1])
        if not is_first.all():
            digests = digests[is_first]
        hits = look_up(self._ledger, digests, self._since, gone)
        del digests
        of_row = np.cumsum(is_first, dtype=np.int32) - 1
        is_hit = hits.part[of_row] >= 0
        rows, places = order[is_hit], of_row[is_hit]
        del order, of_row, is_hit
        in_parts = np.lexsort((hits.row[places], hits.part[places])).astype(np.int32)
        rows, places = rows[in_parts], places[in_parts]
        is_old = hits.recorded_at[places] < self._now - _REFRESH_AFTER_S
        recorded_anew = np.where(is_old, hits.asked_at[places], np.uint32(0))
        return _Located(rows, hits.part[places], hits.row[places], recorded_anew, hits.parts)

    def _fetch(self, located: _Located, buckets: _Buckets, gone: set[str]) -> Numbers:
        """Read answers into the buckets. Returns the rows whose answer is not where the ledger says.

        Args:
            located: The answers that are to be read.
            buckets: Where the answers go.
            gone: Outcome parts that cannot be used, to which others are added.
        """
        import numpy as np

        rows, part, places, times, parts = located
        bounds = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(part)]
        lost: list[Numbers] = []
        for start, stop in itertools.pairwise(bounds):
            if start == stop:
                continue  # there are none at all
            name = parts[part[start]]
            missed = self._read(name, rows[start:stop], places[start:stop], times[start:stop], buckets)
            if len(missed):
                gone.add(name)
            lost.append(missed)
        return np.concatenate(lost) if lost else np.empty(0, np.int32)

    def _read(self, name: str, rows: Numbers, places: Numbers, times: Numbers, buckets: _Buckets) -> Numbers:
        """Read answers of one outcome part. Returns the rows that have none in it."""
        import numpy as np
        import pyarrow as pa

        answers = self._ledger.answers
        if not answers.exists(name):
            return rows
        first = n_done = 0
        lost: list[Numbers] = []
        try:
            if not _fits(answers, name, self._job):
                return rows
            for batch in read_part(answers, name):
                n = int(np.searchsorted(places[n_done:], first + batch.num_rows))
                if n:
                    its_rows = rows[n_done : n_done + n]
                    taken = batch.take(_array(places[n_done : n_done + n] - first))
                    is_right = _are_good(taken, self._digests[its_rows], self._read_fields, self._check)
                    lost.append(its_rows[~is_right])
                    its_times = times[n_done : n_done + n][is_right]
                    more = {
                        "reused_from": reused_from(taken, _job_of(name)).filter(pa.array(is_right)),
                        "asked_at": pa.array(its_times.astype(np.int64), mask=its_times == 0),
                    }
                    self._keep(taken.filter(pa.array(is_right)), its_rows[is_right], more, buckets)
                first += batch.num_rows
                n_done += n
        except (pa.ArrowException, OSError, ValueError):  # a damaged file: its answers are asked again
            _check_readable(answers, name)
        except StoreError:
            if answers.exists(name):  # else its job was removed meanwhile
                raise
        return np.concatenate([*lost, rows[n_done:]])

    def _keep(self, answers: pa.RecordBatch, rows: Numbers, more: dict[str, pa.Array], buckets: _Buckets) -> None:
        import numpy as np
        import pyarrow as pa

        shards = np.searchsorted(self._ends, rows, side="right")
        places = rows - self._starts[shards]
        # Until the answers are in order, the place in the shard stands for the row's ordinal, and nothing for its id.
        replaced = {"ordinal": _array(places), "custom_id": pa.nulls(len(rows), pa.string()), **more}
        carried = carried_rows(answers, self._schema, replaced, self._read_fields)
        mean = max(1, carried.nbytes // max(1, carried.num_rows))
        for shard in np.unique(shards).tolist():
            own = np.flatnonzero(shards == shard)
            some = carried if len(own) == carried.num_rows else carried.take(_array(own))
            buckets.add(shard, places[own], some, mean)

    def _write(self, buckets: _Buckets) -> dict[str, AnswerPart]:
        """Write what the buckets have as an outcome part for each shard."""
        import pyarrow.parquet as pq

        parts: dict[str, AnswerPart] = {}
        for number, shard in enumerate(self._shards):
            if not buckets.has(number):
                continue
            index = read_index_table(self._store, shard.index, ["ordinal", "custom_id"])
            name, n_rows = self._store.new_name("outcomes", shard.id, "known"), 0
            with (
                self._store.writing(name) as file,
                pq.ParquetWriter(file, self._schema, use_dictionary=[*REPEATING, "reused_from"]) as writer,
            ):
                for table in buckets.tables(number):
                    writer.write_table(_named(table, index), row_group_size=group_rows(table))
                    n_rows += table.num_rows
                    del table  # else it would be there while the next is read
            parts[shard.id] = AnswerPart(name, n_rows)
        return parts


def _named(answers: pa.Table, index: pa.Table) -> pa.Table:
    """Return answers with the ordinals and custom_ids of their rows, of which they have the places in the index."""
    places = answers.column("ordinal")
    for name in ("ordinal", "custom_id"):
        at = answers.schema.get_field_index(name)
        answers = answers.set_column(at, answers.schema.field(at), index.column(name).take(places))
    return answers


def _check_readable(answers: Files, name: str) -> None:
    """Read a file's bytes, to tell damage from a storage that fails: only the latter passes.

    Raises:
        StoreError: The storage fails.
    """
    for start in range(0, answers.size(name), _BUCKET_BYTES):
        answers.read_range(name, start, start + _BUCKET_BYTES)


def _are_good(answers: pa.RecordBatch, digests: Digests, read: Any, check: Check | None) -> Any:
    """Return which answers are good ones to the requests that have these digests."""
    is_good = answers.column("status").to_numpy(zero_copy_only=False) == Status.SUCCEEDED.value
    is_good &= digests_of(answers.column("digest")).equal(digests)
    if read is not no_fields and not any(name.startswith(FIELD) for name in answers.schema.names):
        # The job that asked did not read the fields, so it did not check them either.
        is_good &= [text is not None and read(text)[1] is None for text in answers.column("output").to_pylist()]
    if check is not None:
        is_good &= [text is not None and check(text) is None for text in answers.column("output").to_pylist()]
    return is_good


def _fits(answers: Files, name: str, job: Job) -> bool:
    """Return whether the answers of an outcome part have the type that the job's have: text, a vector, or several."""
    import pyarrow.parquet as pq

    with answers.open(name) as file:
        schema = pq.read_schema(file)
    return "output" in schema.names and fits_output(schema.field("output").type, job)


def _job_of(part: str) -> str:
    """Return the folder of the job that an outcome part belongs to."""
    return "/".join(part.split("/")[:3])


def _array(places: Numbers) -> pa.Array:
    import pyarrow as pa

    return pa.array(places)


class _Buckets:
    """Answers on disk, by the shard and the place in it that they belong to.

    Args:
        folder: Where the files are. They are open only while they are written or read: there may be thousands.
        schema: The columns of answers.
    """

    def __init__(self, folder: str, schema: pa.Schema) -> None:
        self._folder, self._schema = folder, schema
        self._paths: dict[tuple[int, int], str] = {}
        self._waiting: dict[tuple[int, int], list[pa.RecordBatch]] = {}
        self._n_waiting = 0
        self._n_rows = 0

    def add(self, shard: int, rows: Numbers, answers: pa.RecordBatch, mean_bytes: int) -> None:
        """Keep answers.

        Args:
            shard: The number of their shard.
            rows: Their rows, counted from the first of the shard.
            answers: The answers.
            mean_bytes: How large one is, about. That of the first ones decides how many rows a bucket has.
        """
        import numpy as np

        self._n_rows = self._n_rows or max(256, _BUCKET_BYTES // mean_bytes)
        numbers = rows // self._n_rows
        for number in np.unique(numbers).tolist():
            own = np.flatnonzero(numbers == number)
            # Where a bucket is the only one, taking all its rows would copy them for nothing.
            some = answers if len(own) == answers.num_rows else answers.take(_array(own))
            self._waiting.setdefault((shard, number), []).append(some)
        self._n_waiting += answers.num_rows * mean_bytes
        if self._n_waiting > _WAITING_BYTES:
            self._flush()

    def has(self, shard: int) -> bool:
        """Return whether there are answers of a shard."""
        self._flush()
        return any(key[0] == shard for key in self._paths)

    def tables(self, shard: int) -> Iterator[pa.Table]:
        """Yield the answers of a shard, in row order, and forget them."""
        import pyarrow as pa

        self._flush()
        for key in sorted(key for key in self._paths if key[0] == shard):
            path = self._paths[key]
            yield pa.Table.from_batches(list(self._read(path)), self._schema).sort_by("ordinal")
            os.unlink(path)

    def _flush(self) -> None:
        for key, batches in self._waiting.items():
            path = self._paths.setdefault(key, os.path.join(self._folder, f"{key[0]}-{key[1]}"))
            with open(path, "ab") as file:
                for batch in batches:
                    data = batch.serialize()
                    file.write(_LENGTH.pack(data.size))
                    file.write(data)
        self._waiting.clear()
        self._n_waiting = 0

    def _read(self, path: str) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        with open(path, "rb") as file:
            while length := file.read(_LENGTH.size):
                data = pa.py_buffer(file.read(_LENGTH.unpack(length)[0]))
                yield pa.ipc.read_record_batch(data, self._schema)


_LENGTH = struct.Struct("<Q")
