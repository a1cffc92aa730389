"""Requests are cut into shards: contiguous ranges of rows that fit into one batch each.

For each shard the store gets the row parts (input columns), an index (ordinal, custom_id and digest of each request)
and the batch input file. All are written as streams; memory holds one record batch and the ids of one shard.
"""

from __future__ import annotations

import array
import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from airflow_openai_batch.engine.endpoints import Limits
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.identity import default_custom_id, digest, shard_id
from airflow_openai_batch.engine.model import Shard, State, Value
from airflow_openai_batch.engine.parts import Abandoned, RowPartWriter, write_index
from airflow_openai_batch.engine.source import Source
from airflow_openai_batch.engine.splice import TextTemplate
from airflow_openai_batch.engine.template import LINE_ID, Bodies, Rendered

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.store import JobStore

BYTES_PER_TOKEN = 4
"""For the estimate of enqueued tokens. English text has about four bytes a token; images are not counted."""
_PIECE_BYTES = 16 * 1024 * 1024


class Built(Value, frozen=True, kw_only=True):
    """What became of the rows."""

    shards: tuple[Shard, ...]
    n_rows: int
    embeds_many: bool


def build(
    store: JobStore,
    source: Source,
    bodies: Bodies,
    *,
    endpoint: str,
    custom_id: str | None,
    limits: Limits,
    epoch: int = 0,
    state: State = State.PLANNED,
) -> Built:
    """Write the rows of a source to the store as shards.

    Raises:
        InputError: No rows, a column that does not exist, a duplicate custom_id, a request over a limit.
    """
    cutter = _Cutter(store, endpoint, limits, epoch, state)
    ids: TextTemplate | None = None
    with cutter:
        for batch in source.batches():
            if not cutter.n_rows and batch.num_rows:
                bodies.check(batch.schema.names)
                ids = _custom_ids(custom_id, batch.schema.names)
            for piece in _pieces(batch):
                cutter.add(piece, bodies.render(piece, cutter.n_rows), ids)
    if not cutter.n_rows:
        raise InputError("There are no rows. Nothing was uploaded.")
    if ids is not None:
        _check_unique(store, cutter)
    return Built(shards=tuple(cutter.shards), n_rows=cutter.n_rows, embeds_many=cutter.embeds_many)


def request_line(custom_id: str, endpoint: str, body: bytes) -> bytes:
    """Return one line of a batch input file. ``url`` must equal the batch's endpoint on every line."""
    return b'{"custom_id":%b,"method":"POST","url":%b,"body":%b}\n' % (
        msgspec.json.encode(custom_id),
        msgspec.json.encode(endpoint),
        body,
    )


def _custom_ids(custom_id: str | None, columns: list[str]) -> TextTemplate | None:
    if LINE_ID in columns:
        return TextTemplate(f"{{{LINE_ID}}}")
    if custom_id is None:
        return None
    template = TextTemplate(custom_id)
    template.check("custom_id", columns)
    return template


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut a record batch of long rows so that its rendered requests stay small in memory."""
    n = max(1, -(-batch.nbytes // _PIECE_BYTES))
    rows = max(1, -(-batch.num_rows // n))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


class _Cutter:
    """Adds rows to the open shard and starts the next one where a limit would be passed."""

    def __init__(self, store: JobStore, endpoint: str, limits: Limits, epoch: int, state: State) -> None:
        self._store, self._endpoint, self._limits, self._epoch, self._state = store, endpoint, limits, epoch, state
        self._open: _OpenShard | None = None
        self._schema: pa.Schema | None = None
        self.shards: list[Shard] = []
        self.n_rows = 0
        self.embeds_many = False
        self.id_hashes = array.array("q")

    def __enter__(self) -> _Cutter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(keep=error is None)

    def add(self, batch: pa.RecordBatch, rendered: Iterator[Rendered], ids: TextTemplate | None) -> None:
        """Add the rows of a record batch."""
        self._schema = _unified(self._schema, batch.schema, self.n_rows)
        given = ids.render(batch, self.n_rows) if ids is not None else None
        start = 0
        for i, (body, model, n_inputs) in enumerate(rendered):
            ordinal = self.n_rows + i
            row_digest = digest(self._endpoint, body)
            custom_id = next(given) if given is not None else default_custom_id(ordinal, row_digest)
            if given is not None:
                self.id_hashes.append(hash(custom_id))
            line = request_line(custom_id, self._endpoint, body)
            n_tokens = len(body) // BYTES_PER_TOKEN + 1
            if self._open is None or not self._open.takes(len(line), model, n_inputs, n_tokens):
                if self._open is not None:
                    self._open.keep_rows(batch.slice(start, i - start))
                    start = i
                    self._close(keep=True)
                self._begin(ordinal, model)
                self._check_alone(ordinal, len(line), n_inputs, n_tokens)
            assert self._open is not None  # noqa: S101 - for the type checker: begun just above
            self._open.add(ordinal, custom_id, row_digest, line, n_inputs, n_tokens)
            self.embeds_many |= n_inputs > 1
        if self._open is not None:
            self._open.keep_rows(batch.slice(start))
        self.n_rows += batch.num_rows

    def _begin(self, first_row: int, model: str) -> None:
        name = shard_id(self._epoch, len(self.shards))
        self._open = _OpenShard(self._store, name, self._epoch, first_row, model, self._limits)

    def _close(self, *, keep: bool) -> None:
        if self._open is None:
            return
        shard = self._open.close(self._state, keep=keep)
        self._open = None
        if shard is not None:
            self.shards.append(shard)

    def _check_alone(self, ordinal: int, n_bytes: int, n_inputs: int, n_tokens: int) -> None:
        limits = self._limits
        if n_bytes > limits.max_bytes:
            raise InputError(
                f"row {ordinal}: the request has {n_bytes:,} bytes; a batch input file may have {limits.max_bytes:,}. "
                "Nothing was uploaded."
            )
        if n_inputs > limits.max_inputs:
            raise InputError(f"row {ordinal}: {n_inputs} inputs; a batch may have {limits.max_inputs}.")
        if limits.max_tokens is not None and n_tokens > limits.max_tokens:
            raise InputError(
                f"row {ordinal}: about {n_tokens:,} tokens; max_enqueued_tokens is {limits.max_tokens:,}, so the "
                "request could never be sent. Nothing was uploaded."
            )


class _OpenShard:
    """The files of the shard that is being written."""

    def __init__(self, store: JobStore, name: str, epoch: int, first_row: int, model: str, limits: Limits) -> None:
        self._store, self._name, self._limits, self._model = store, name, limits, model
        self._folder = f"e{epoch}"
        self._first_row = first_row
        self._n_bytes = self._n_inputs = self._n_tokens = 0
        self._ordinals: list[int] = []
        self._ids: dict[str, int] = {}
        self._digests: list[bytes] = []
        self._files = contextlib.ExitStack()
        self._requests = store.unique(f"{self._folder}/requests", name, ".jsonl")
        self._file = self._files.enter_context(store.writing(self._requests))
        self._row_parts = RowPartWriter(store, self._folder, name)

    def takes(self, n_bytes: int, model: str, n_inputs: int, n_tokens: int) -> bool:
        """Say whether one more request still fits."""
        limits = self._limits
        return (
            model == self._model  # one model a file
            and len(self._ordinals) < limits.max_requests
            and self._n_bytes + n_bytes <= limits.max_bytes
            and self._n_inputs + n_inputs <= limits.max_inputs
            and (limits.max_tokens is None or self._n_tokens + n_tokens <= limits.max_tokens)
        )

    def add(self, ordinal: int, custom_id: str, row_digest: bytes, line: bytes, n_inputs: int, n_tokens: int) -> None:
        """Add one request."""
        if not custom_id:
            raise InputError(f"row {ordinal}: the custom_id is empty.")
        if (first := self._ids.setdefault(custom_id, ordinal)) != ordinal:
            raise _duplicate(custom_id, first, ordinal)
        self._file.write(line)
        self._ordinals.append(ordinal)
        self._digests.append(row_digest)
        self._n_bytes += len(line)
        self._n_inputs += n_inputs
        self._n_tokens += n_tokens

    def keep_rows(self, batch: pa.RecordBatch) -> None:
        """Keep the input columns of rows that were added."""
        self._row_parts.write(batch)

    def close(self, state: State, *, keep: bool) -> Shard | None:
        """Finish the files and describe the shard; or, after an error, leave nothing."""
        if not keep:
            self._row_parts.close(keep=False)
            with contextlib.suppress(Abandoned):
                self._files.__exit__(Abandoned, Abandoned(), None)
            return None
        self._files.close()
        index = write_index(self._store, self._folder, self._name, self._ordinals, list(self._ids), self._digests)
        return Shard(
            id=self._name,
            state=state,
            first_row=self._first_row,
            n_rows=len(self._ordinals),
            n_requests=len(self._ordinals),
            n_bytes=self._n_bytes,
            n_tokens=self._n_tokens,
            row_parts=self._row_parts.close(keep=True),
            index=index,
            requests=self._requests,
        )


def _unified(known: pa.Schema | None, new: pa.Schema, first_row: int) -> pa.Schema:
    """Refuse now what could not be written as one table of results after everything was paid for."""
    import pyarrow as pa

    if known is None or known == new:
        twice = {name for name in new.names if new.names.count(name) > 1}
        if twice:
            raise InputError(f"The rows have several columns named {', '.join(sorted(twice))}.")
        return new
    try:
        return pa.unify_schemas([known, new], promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(
            f"From row {first_row} on, a column changes its type: {error}. Give every row the same types."
        ) from None


def _check_unique(store: JobStore, cutter: _Cutter) -> None:
    """Refuse custom_ids that repeat across shards. Eight bytes a row; ids are read again only if a hash repeats."""
    import numpy as np
    import pyarrow.parquet as pq

    hashes = np.sort(np.frombuffer(cutter.id_hashes, dtype=np.int64))
    suspects = {int(value) for value in hashes[1:][hashes[1:] == hashes[:-1]]}
    if not suspects:
        return
    first: dict[str, int] = {}
    for shard in cutter.shards:
        with store.open(shard.index) as file:
            for row in pq.read_table(file, columns=["ordinal", "custom_id"]).to_pylist():
                if hash(row["custom_id"]) not in suspects:
                    continue
                known = first.setdefault(row["custom_id"], row["ordinal"])
                if known != row["ordinal"]:
                    raise _duplicate(row["custom_id"], known, row["ordinal"])


def _duplicate(custom_id: str, first: int, second: int) -> InputError:
    return InputError(
        f"Rows {first} and {second} have the same custom_id {custom_id!r}. It must be unique, because answers are "
        "matched by it. Nothing was uploaded."
    )
