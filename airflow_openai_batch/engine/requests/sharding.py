"""Sharding: requests are divided into shards, each of which has one model and fits into one batch.

Rows of different models may come in any order: a shard stays open until it is full or the rows have ended, so a model
has as few shards as its rows need. The rows of a shard keep their order, but need not be consecutive.

For each shard the store gets the row parts (input columns), an index (ordinal, custom_id and digest of each request)
and the batch input file. All are written as streams: requests as soon as they are rendered, while they are in the
processor's cache, the rest by threads. Memory holds a few record batches, and about 50 bytes for each row of a shard
that is open or being closed. At most `MAX_OPEN` shards are open, which is 40 MB if all are nearly full; for a job with
one model it is 5 MB. Rows of further models wait on this machine's disk until the others are finished.

Where equal requests are asked once, those that the job has made before have shards of their own too: they are open
besides the others, and are sent only if the first of its kind gets no answer.

Rows that are not sent have shards of their own, which are settled from the beginning. These end wherever another shard
is full, so that the results find them near their neighbours.
"""

from __future__ import annotations

import array
import contextlib
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from airflow_openai_batch.engine.concurrency import FileWriter, SerialExecutor
from airflow_openai_batch.engine.endpoints import Limits
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.identity import shard_id
from airflow_openai_batch.engine.model import Measure, Shard, State, Value
from airflow_openai_batch.engine.money.token_sample import TokenSample
from airflow_openai_batch.engine.requests.arrow import LINE_ID, n_bytes_of, take_rows
from airflow_openai_batch.engine.requests.bodies import Bodies
from airflow_openai_batch.engine.requests.column_types import ColumnTypes
from airflow_openai_batch.engine.requests.lines import Requests
from airflow_openai_batch.engine.requests.repeats import SeenRequests
from airflow_openai_batch.engine.requests.shard_writer import ShardWriter, empty_shard, first_duplicate, repeated
from airflow_openai_batch.engine.requests.sources import Source
from airflow_openai_batch.engine.requests.spill import Spill
from airflow_openai_batch.engine.requests.template import TextTemplate
from airflow_openai_batch.engine.store.index import read_index

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.store.job_store import JobStore


MAX_OPEN = 16
"""Number of models whose shards are open at a time."""

_PIECE_BYTES = 1024 * 1024

_WAITING = 2


class Built(Value, frozen=True, kw_only=True):
    """The shards of a source, as they are in the store."""

    shards: tuple[Shard, ...]
    n_rows: int
    embeds_many: bool
    """Whether some embeddings request has several inputs."""
    columns: tuple[str, ...] = ()
    """The columns of the rows; none of ready-made request lines, of which none are kept."""
    measure: Measure | None = None
    """What the requests are like; None if none is sent."""
    uncounted: str | None = None
    """Why tokens could not be counted; None if they were."""


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
    check_columns: Callable[[Sequence[str]], None] | None = None,
    may_be_empty: bool = False,
    are_equal_asked_once: bool = False,
) -> Built:
    """Write the rows of a source to the store as shards.

    Args:
        store: The job's store.
        source: The rows.
        bodies: Makes requests of them.
        endpoint: The job's endpoint.
        custom_id: The template of the custom_ids; None for row ordinal and a short digest.
        limits: The limits of a batch.
        epoch: The job's epoch.
        check_columns: Raises an error for columns of the rows that the job cannot have.
        state: The state of the new shards with something to send.
        may_be_empty: Whether there may be no rows. Then one shard without rows has the columns, if they are known.
        are_equal_asked_once: Whether requests that equal earlier ones have shards of their own (``is_repeat``).

    Raises:
        InputError: There are no rows, a column does not exist, a custom_id repeats, or a request exceeds a limit.
        StoreError: The store cannot be written.
    """
    seen = _SeenSource(source)
    sample = TokenSample(endpoint, limits.max_tokens)
    repeats = SeenRequests() if are_equal_asked_once else None
    with ShardBuilder(store, limits, epoch, state, sample, repeats) as builder:
        for rows, requests in rendered(seen, bodies, custom_id):
            if builder.add(rows, requests) and builder.columns and check_columns is not None:
                check_columns(builder.columns)
    if not builder.n_rows:
        if not may_be_empty:
            raise InputError(
                "There are no rows. Nothing was uploaded. If that is to be expected, give on_empty='skip' or 'succeed'."
            )
        shards = (empty_shard(store, shard_id(epoch, 0), seen.schema),) if seen.schema is not None else ()
        return Built(shards=shards, n_rows=0, embeds_many=False)
    if builder.id_hashes:
        _check_unique(store, builder)
    return Built(
        shards=builder.shards,
        n_rows=builder.n_rows,
        embeds_many=builder.embeds_many,
        columns=builder.columns,
        measure=sample.measure(_bound_of(builder.shards)),
        uncounted=sample.problem,
    )


def _bound_of(shards: Sequence[Shard]) -> int | None:
    """Return how many tokens an answer may have at most; None if a body does not say."""
    bounds = [shard.max_output_tokens for shard in shards if shard.model is not None or shard.n_requests]
    known = [bound for bound in bounds if bound is not None]
    return max(known) if known and len(known) == len(bounds) else None


class _SeenSource:
    """A source whose columns are known once it was read, even if it has no rows."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.version = None
        self.is_repeatable = source.is_repeatable
        self.schema: pa.Schema | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self._source.batches():
            self.schema = self.schema or batch.schema
            yield batch


def rendered(source: Source, bodies: Bodies, custom_id: str | None) -> Iterator[tuple[pa.RecordBatch, Requests]]:
    """Yield rows and their requests, in order.

    Args:
        source: The rows.
        bodies: Makes requests of them.
        custom_id: The template of the custom_ids; None for row ordinal and a short digest.

    Raises:
        InputError: A column does not exist, or a request cannot be made.
    """
    ids: TextTemplate | None = None
    first_row = 0
    for batch in source.batches():
        if not first_row and batch.num_rows:
            bodies.check(batch.schema.names)
            ids = _custom_ids(custom_id, batch.schema.names)
        for rows in _pieces(batch):
            custom_ids = list(ids.render(rows, first_row)) if ids is not None else None
            yield rows, bodies.render(rows, first_row, custom_ids)
            first_row += rows.num_rows


def _custom_ids(custom_id: str | None, columns: list[str]) -> TextTemplate | None:
    if LINE_ID in columns:
        return TextTemplate(f"{{{LINE_ID}}}")
    if custom_id is None:
        return None
    template = TextTemplate(custom_id)
    template.check("custom_id", columns)
    return template


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Divide a record batch of long rows, so that its requests stay small in memory."""
    n = max(1, -(-n_bytes_of(batch) // _PIECE_BYTES))
    rows = max(1, -(-batch.num_rows // n))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


class ShardBuilder:
    """Adds rows to the open shard of their model, and starts the next one where a limit would be exceeded.

    Args:
        store: The job's store.
        limits: The limits of a batch.
        epoch: The job's epoch.
        state: The state of the new shards.
        sample: Counts the tokens of the requests.
        seen: Knows the requests so far; None if equal requests are sent as all others.
    """

    def __init__(
        self,
        store: JobStore,
        limits: Limits,
        epoch: int,
        state: State,
        sample: TokenSample,
        seen: SeenRequests | None = None,
    ) -> None:
        self._store, self._limits, self._epoch, self._state, self._seen = store, limits, epoch, state, seen
        self._sample = sample
        self._requests, self._rows = SerialExecutor(1), FileWriter(_WAITING)
        self._begun: list[ShardWriter] = []
        self._models: set[str | None] = set()
        self._open: dict[str | None, ShardWriter] = {}  # that of None takes the rows that are not sent
        self._open_repeats: dict[str | None, ShardWriter] = {}
        self._spill = Spill(MAX_OPEN)
        self._types = ColumnTypes()
        self.n_rows = 0
        self.embeds_many = False
        self.id_hashes = array.array("q")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
                self._requests.wait()
                self._rows.wait()
        finally:
            self._requests.stop()
            self._rows.stop()
            self._spill.close()
            for shard in self._begun:
                shard.abandon()

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The shards, once the block has ended."""
        return tuple(shard.described(self._state) for shard in self._begun)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the rows so far; none of ready-made request lines, of which none are kept."""
        names = self._types.schema.names
        return () if LINE_ID in names else tuple(names)

    def add(self, rows: pa.RecordBatch, requests: Requests) -> bool:
        """Add the rows of a record batch, and return whether they have columns that those before have not.

        Args:
            rows: The rows.
            requests: Their requests.

        Raises:
            InputError: No type holds a column's values, a custom_id is empty or repeats, or a request exceeds a limit.
        """
        has_more_columns = self._types.add(rows, self.n_rows)
        self.embeds_many |= bool((requests.n_inputs > 1).any())
        for model, of_model, its_rows in _by_model(requests, rows):
            self._add(model, of_model, its_rows)
        self.n_rows += rows.num_rows
        return has_more_columns

    def _add(self, model: str | None, requests: Requests, rows: pa.RecordBatch) -> None:
        """Add requests of one model, or those that are not sent."""
        if model is not None and model not in self._open and len(self._open) >= MAX_OPEN:
            self._spill.add(model, requests, rows)
            return
        if self._seen is None or model is None or not (is_repeat := self._seen.repeats(requests.digests)).any():
            self._fill(model, requests, rows, is_repeat=False)
            return
        for flag in (False, True):
            places = (is_repeat == flag).nonzero()[0].tolist()
            if places:
                self._fill(model, requests.take(places, model), take_rows(rows, places), is_repeat=flag)

    def _fill(self, model: str | None, requests: Requests, rows: pa.RecordBatch, *, is_repeat: bool) -> None:
        if model is not None:
            requests.count_tokens(self._sample, model)
        start, end = 0, requests.n_rows
        while start < end:
            shard, n = self._place(model, requests, start, is_repeat=is_repeat)
            shard.add(requests, start, start + n, rows.slice(start, n))
            start += n

    def _place(self, model: str | None, requests: Requests, start: int, *, is_repeat: bool) -> tuple[ShardWriter, int]:
        """Return the shard for the next requests, and how many of them fit."""
        shards = self._open_repeats if is_repeat else self._open
        shard = shards.get(model)
        if shard is not None:
            if n := shard.room(requests, start):
                return shard, n
            self._close(shard)
            if model is not None and (not_sent := self._open.pop(None, None)) is not None:
                self._close(not_sent)
        name = shard_id(self._epoch, len(self._begun))
        is_first = model is not None and model not in self._models
        self._models.add(model)
        shard = ShardWriter(
            self._store,
            name,
            model,
            self._limits,
            (self._requests, self._rows),
            is_pilot=self._limits.pilot_rows is not None and is_first,
            is_repeat=is_repeat,
        )
        self._begun.append(shard)
        shards[model] = shard
        n = shard.room(requests, start)
        if not n:
            raise _too_large(requests, start, self._limits)
        return shard, n

    def _finish(self) -> None:
        """Close the open shards, then write those of the models that had to wait."""
        self._close_open()
        while self._spill:
            with contextlib.closing(self._spill) as spill:
                self._spill = Spill(MAX_OPEN)
                for waiting in spill.files():
                    for model, requests, rows in waiting:
                        self._add(model, requests, rows)
                    self._close_open()

    def _close_open(self) -> None:
        for shards in (self._open, self._open_repeats):
            for shard in shards.values():
                self._close(shard)
            shards.clear()

    def _close(self, shard: ShardWriter) -> None:
        self.id_hashes.extend(shard.close())


def _by_model(requests: Requests, rows: pa.RecordBatch) -> Iterator[tuple[str | None, Requests, pa.RecordBatch]]:
    """Yield each model, or None for rows that are not sent, with its requests and rows, by their first rows."""
    models = requests.models
    if isinstance(models, str):
        yield models, requests, rows
        return
    if not models:
        return
    if models.count(models[0]) == len(models):
        yield models[0], requests, rows
        return
    places: dict[str | None, list[int]] = {}
    for i, model in enumerate(models):
        places.setdefault(model, []).append(i)
    for model, its_places in places.items():
        yield model, requests.take(its_places, model), take_rows(rows, its_places)


def _too_large(requests: Requests, at: int, limits: Limits) -> InputError:
    """Return an error that names the limit which a single request exceeds."""
    row = f"row {requests.ordinals[at]}"
    n_bytes, n_inputs = requests.n_bytes[at], requests.n_inputs[at]
    if n_bytes > limits.max_bytes:
        return InputError(
            f"{row}: the request has {n_bytes:,} bytes; a batch input file may have {limits.max_bytes:,}. "
            "Nothing was uploaded."
        )
    if n_inputs > limits.max_inputs:
        return InputError(f"{row}: {n_inputs} inputs; a batch may have {limits.max_inputs}.")
    n_tokens = requests.tokens.expected[at] if requests.tokens is not None else 0
    return InputError(
        f"{row}: about {n_tokens:,} tokens; max_enqueued_tokens is {limits.max_tokens:,}, so the request could "
        "never be sent. Nothing was uploaded."
    )


def _check_unique(store: JobStore, builder: ShardBuilder) -> None:
    """Reject custom_ids that repeat across shards. Takes 8 bytes a row; ids are read again only if a hash repeats."""
    suspects = repeated(builder.id_hashes)
    if not suspects:
        return

    def suspicious() -> Iterator[tuple[str, int]]:
        for shard in builder.shards:
            index = read_index(store, shard.index)
            for custom_id, ordinal in zip(index.custom_ids, index.ordinals, strict=True):
                if hash(custom_id) in suspects:
                    yield custom_id, ordinal

    error = first_duplicate(suspicious())
    if error is not None:
        raise error
