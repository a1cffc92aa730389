"""Not asking again: answers that were paid for are carried over, and rows with equal requests share one outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_openai_batch.engine.answers.classify import no_fields
from airflow_openai_batch.engine.answers.outcome_files import (
    carried_rows,
    fits_output,
    group_rows,
    part_schema,
    read_part,
    reused_from,
)
from airflow_openai_batch.engine.identity import job_path
from airflow_openai_batch.engine.job.planner import outcome_parts
from airflow_openai_batch.engine.job.subset import request_lines, write_subset
from airflow_openai_batch.engine.model import CarriedAnswers, Job, OutcomePart, Shard, Status, Usage
from airflow_openai_batch.engine.money.costs import picodollars_of
from airflow_openai_batch.engine.schema.validation import ResponseSchema
from airflow_openai_batch.engine.store.index import Index, read_index
from airflow_openai_batch.engine.store.job_store import JobStore

if TYPE_CHECKING:
    import pyarrow as pa


def carry(store: JobStore, job: Job, draft: Shard) -> Shard:
    """Take answers to the requests of a draft from earlier epochs and from other jobs; what is left will be asked.

    Args:
        store: The job's store.
        job: The job.
        draft: The shard.

    Raises:
        StoreError: The store cannot be read or written.
    """
    index = read_index(store, draft.index)
    earlier = list(_parts_of_earlier_epochs(store, job))
    if draft.carried is not None:
        return _carry_more(store, job, draft, draft.carried, earlier, index)
    if draft.known is not None and not earlier:
        carried, answered = _all_known(store, draft, draft.known, index)
        return _asking_the_rest(store, msgspec.structs.replace(draft, carried=carried), index, answered)
    parts = [*([draft.known] if draft.known is not None else []), *earlier]
    chosen = _choose(store, parts, index)
    if not chosen:
        return draft
    carried = _carried(store, job, draft, parts, index, chosen)
    return _asking_the_rest(store, msgspec.structs.replace(draft, carried=carried), index, set(chosen))


def _carry_more(
    store: JobStore, job: Job, draft: Shard, carried: CarriedAnswers, earlier: list[str], rest: Index
) -> Shard:
    """Take more answers to a shard of which some were carried over before, and the rest was not sent."""
    parts = [*([draft.known] if draft.known is not None else []), carried.name, *earlier]
    whole = read_index(store, carried.row_index)
    chosen = _choose(store, parts, whole)
    more = _carried(store, job, msgspec.structs.replace(draft, index=carried.row_index), parts, whole, chosen)
    has_answer = {whole.ordinals[place] for place in chosen}
    answered = {place for place, ordinal in enumerate(rest.ordinals) if ordinal in has_answer}
    return _asking_the_rest(store, msgspec.structs.replace(draft, carried=more), rest, answered)


def _all_known(store: JobStore, draft: Shard, name: str, index: Index) -> tuple[CarriedAnswers, set[int]]:
    """Return answers of other jobs as those of a draft, just as they were brought, and which requests they answer."""
    import numpy as np

    ordinals, picodollars, usage = [], 0, Usage()
    for rows in read_part(store, name, ["ordinal", "cost", *Usage.__struct_fields__]):
        ordinals.append(rows.column("ordinal").to_numpy())
        picodollars += picodollars_of(rows.column("cost"))
        usage += _usage_of(rows)
    places = np.searchsorted(np.asarray(index.ordinals), np.concatenate(ordinals)).tolist()
    n = len(places)
    carried = CarriedAnswers(
        name=name, n_rows=n, row_index=draft.index, n_reused=n, saved_picodollars=picodollars, usage=usage
    )
    return carried, set(places)


def _usage_of(rows: pa.RecordBatch | pa.Table) -> Usage:
    """Return the tokens of answers when they were asked."""
    import pyarrow.compute as pc

    return Usage(**{name: pc.sum(rows.column(name)).as_py() or 0 for name in Usage.__struct_fields__})


def share(store: JobStore, job: Job, repeats: Shard) -> Shard:
    """Give rows the outcomes of the equal requests that were asked; what was asked nowhere will be.

    Args:
        store: The job's store.
        job: The job, in which every other row has its last outcome.
        repeats: The shard of the rows.

    Raises:
        StoreError: The store cannot be read or written.
    """
    whole = repeats.carried.row_index if repeats.carried is not None else repeats.index
    index = read_index(store, whole)
    parts = list(outcome_parts(job))
    good = _choose(store, parts, index)
    bad = {i: place for i, place in _choose(store, parts, index, are_bad=True).items() if i not in good}
    shared = msgspec.structs.replace(repeats, carried=None, outcomes=None, copied_from=tuple(parts))
    if good:
        carried = _carried(store, job, repeats, parts, index, good)
        shared = msgspec.structs.replace(shared, carried=msgspec.structs.replace(carried, row_index=whole))
    if len(good) + len(bad) < len(index.ordinals):
        return _asking_the_rest(store, shared, index, set(good))
    if bad:
        shared = msgspec.structs.replace(shared, outcomes=_bad_outcomes(store, job, repeats, parts, index, bad))
    return shared


def _asking_the_rest(store: JobStore, shard: Shard, index: Index, answered: set[int]) -> Shard:
    rest = ((i, line) for i, line in enumerate(request_lines(store, shard.requests)) if i not in answered)
    written = write_subset(store, shard, shard.id, index, rest)
    return msgspec.structs.replace(
        shard,
        index=written.index,
        requests=written.requests,
        n_requests=written.n_requests,
        n_bytes=written.n_bytes,
        n_tokens=min(written.n_tokens, shard.n_tokens) if shard.n_tokens else written.n_tokens,
    )


def _parts_of_earlier_epochs(store: JobStore, job: Job) -> Iterator[str]:
    """Yield the outcome parts that may hold answers, oldest first."""
    import pyarrow.parquet as pq

    # Copies of answers that are in another part tell nothing new.
    for shard in (shard for shard in job.earlier if not shard.is_unwanted and not shard.is_copied):
        for part in (shard.carried, shard.outcomes):
            if part is None:
                continue
            with store.open(part.name) as file:
                if fits_output(pq.read_schema(file).field("output").type, job):
                    yield part.name


def _choose(store: JobStore, parts: list[str], index: Index, *, are_bad: bool = False) -> dict[int, tuple[int, int]]:
    """Return for each request that has a good answer, or a bad outcome, its part and row. The newest wins."""
    wanted: dict[bytes, list[int]] = {}
    for i, digest in enumerate(index.digests):
        wanted.setdefault(digest, []).append(i)
    chosen: dict[int, tuple[int, int]] = {}
    for number, part in enumerate(parts):
        row = 0
        for batch in read_part(store, part, ["digest", "status"]):
            for digest, status in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if (status == Status.SUCCEEDED) != are_bad:
                    chosen.update((i, (number, row)) for i in wanted.get(digest, ()))
                row += 1
    return chosen


class _Copied(NamedTuple):
    name: str
    by_status: Mapping[Status, int]
    n_reused: int
    saved_picodollars: int
    usage: Usage


def _carried(
    store: JobStore, job: Job, draft: Shard, parts: list[str], index: Index, chosen: dict[int, tuple[int, int]]
) -> CarriedAnswers:
    copied = _copy_outcomes(store, job, draft, parts, index, chosen)
    return CarriedAnswers(
        name=copied.name,
        n_rows=len(chosen),
        row_index=draft.index,
        n_reused=copied.n_reused,
        saved_picodollars=copied.saved_picodollars,
        usage=copied.usage,
    )


def _bad_outcomes(
    store: JobStore, job: Job, repeats: Shard, parts: list[str], index: Index, chosen: dict[int, tuple[int, int]]
) -> OutcomePart:
    copied = _copy_outcomes(store, job, repeats, parts, index, chosen)
    return OutcomePart(name=copied.name, tally=dict(copied.by_status))


def _copy_outcomes(
    store: JobStore, job: Job, draft: Shard, parts: list[str], index: Index, chosen: dict[int, tuple[int, int]]
) -> _Copied:
    """Write the chosen outcomes in row order. Memory holds those of one shard, as Arrow has them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = store.new_name("outcomes", draft.id, "carried")
    read = ResponseSchema(job.spec.schema, job.spec.schema_name or "").read if job.spec.schema else no_fields
    # What a shard of repeats has is the answer to another row of this job, or was in a job before.
    origin = "/".join(job_path(job.key))
    schema = part_schema(job)
    batches: list[pa.RecordBatch] = []
    for number, part in enumerate(parts):
        places = sorted((row, i) for i, (of, row) in chosen.items() if of == number)
        first, at = 0, 0
        for batch in read_part(store, part) if places else ():
            here = []
            while at < len(places) and places[at][0] < first + batch.num_rows:
                here.append(places[at])
                at += 1
            if here:
                rows = batch.take(pa.array([row - first for row, _ in here]))
                requests = [i for _, i in here]
                ordinals, ids = [index.ordinals[i] for i in requests], [index.custom_ids[i] for i in requests]
                replaced: dict[str, Any] = {"ordinal": ordinals, "custom_id": ids}
                if draft.is_repeat:
                    replaced["reused_from"] = reused_from(rows, origin)
                batches.append(carried_rows(rows, schema, replaced, read))
            first += batch.num_rows
    table = pa.Table.from_batches(batches, schema).sort_by("ordinal")
    if draft.is_repeat:
        table = _last_word(table)
    with store.writing(name) as file, pq.ParquetWriter(file, schema) as writer:
        writer.write_table(table, row_group_size=group_rows(table))
    reused = table.filter(table.column("reused_from").is_valid())
    by_status = Counter(map(Status, table.column("status").to_pylist()))
    return _Copied(name, by_status, reused.num_rows, picodollars_of(reused.column("cost")), _usage_of(table))


def _last_word(outcomes: Any) -> Any:
    """Return outcomes of repeats: their raw lines belong to the rows that were asked, and they are not asked again."""
    import pyarrow as pa

    n = outcomes.num_rows
    for name, value in (("line", None), ("retryable", False)):
        at = outcomes.schema.get_field_index(name)
        field = outcomes.schema.field(at)
        outcomes = outcomes.set_column(at, field, pa.repeat(pa.scalar(value, field.type), n))
    return outcomes
