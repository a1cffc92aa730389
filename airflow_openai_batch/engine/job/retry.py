"""Asking again, and not asking again: child shards for rows that deserve another answer, answers carried over.

Both choose rows of a shard and copy their request lines, so neither needs the source or the template.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from airflow_openai_batch.engine.answers.classify import no_fields
from airflow_openai_batch.engine.answers.outcome_files import (
    ROW_GROUP_ROWS,
    carried_rows,
    output_type,
    part_schema,
    read_part,
)
from airflow_openai_batch.engine.identity import child_id
from airflow_openai_batch.engine.model import GOOD, CarriedAnswers, Job, Shard, State, Status
from airflow_openai_batch.engine.schema.validation import ResponseSchema
from airflow_openai_batch.engine.store.index import Index, read_index, write_index
from airflow_openai_batch.engine.store.job_store import JobStore

_READ_BYTES = 256 * 1024


def reshard(store: JobStore, job: Job, parent: Shard) -> Shard:
    """Write a child shard with the parent's rows that deserve another answer, or that a person wants asked again.

    The parent's rows stay as they are.
    """
    index = read_index(store, parent.index)
    again: dict[int, tuple[str, str | None, str | None]] = {}
    assert parent.outcomes is not None  # noqa: S101 - for the type checker: a settled shard has outcomes
    columns = ["ordinal", "status", "output", "error_message", "retryable"]
    for batch in read_part(store, parent.outcomes.name, columns if job.spec.schema else columns[:2] + columns[4:]):
        for row in batch.to_pylist():
            if row["status"] not in GOOD if parent.is_replayed else row["retryable"]:
                again[row["ordinal"]] = (row["status"], row.get("output"), row.get("error_message"))

    def lines() -> Iterator[tuple[int, bytes]]:
        for i, line in enumerate(_lines(store, parent.requests)):
            reason = again.get(index.ordinals[i])
            if reason is not None:
                status, output, problem = reason
                # Only an answer that can be read can be discussed; vectors, for one, have no conversation.
                if status == Status.INVALID and output is not None:
                    line = _with_problem(line, output, problem)
                yield i, line

    child = child_id(parent.id)
    written = _write(store, parent, child, index, lines())
    return msgspec.structs.replace(
        written,
        id=child,
        round=parent.round + 1,
        parent=parent.id,
        model=parent.model,
        first_row=parent.first_row,
        # A line is longer than its input. Never more than the parent, or a budget that it filled would not let it pass.
        n_tokens=min(written.n_tokens, parent.n_tokens),
    )


def carry(store: JobStore, job: Job, draft: Shard) -> Shard:
    """Take answers to unchanged requests from earlier epochs; what is left will be asked."""
    index = read_index(store, draft.index)
    parts = list(_parts_of_earlier_epochs(store, job))
    chosen = _choose(store, parts, index)
    if not chosen:
        return draft
    name = store.new_name("outcomes", draft.id, "carried")
    _copy_outcomes(store, name, job, parts, index, chosen)
    rest = ((i, line) for i, line in enumerate(_lines(store, draft.requests)) if i not in chosen)
    written = _write(store, draft, draft.id, index, rest)
    return msgspec.structs.replace(
        draft,
        index=written.index,
        requests=written.requests,
        n_requests=written.n_requests,
        n_bytes=written.n_bytes,
        n_tokens=min(written.n_tokens, draft.n_tokens),
        carried=CarriedAnswers(name=name, n_rows=len(chosen), row_index=draft.index),
    )


def _parts_of_earlier_epochs(store: JobStore, job: Job) -> Iterator[str]:
    """Yield the outcome parts that may hold answers, oldest first."""
    import pyarrow.parquet as pq

    for shard in (shard for shard in job.earlier if not shard.is_unwanted):
        for part in (shard.carried, shard.outcomes):
            if part is None:
                continue
            with store.open(part.name) as file:
                if pq.read_schema(file).field("output").type == output_type(job):
                    yield part.name


def _choose(store: JobStore, parts: list[str], index: Index) -> dict[int, tuple[int, int]]:
    """Return for each request that has a good answer its part and row. The newest wins."""
    wanted: dict[bytes, list[int]] = {}
    for i, digest in enumerate(index.digests):
        wanted.setdefault(digest, []).append(i)
    chosen: dict[int, tuple[int, int]] = {}
    for number, part in enumerate(parts):
        row = 0
        for batch in read_part(store, part, ["digest", "status"]):
            for digest, status in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if status == Status.SUCCEEDED:
                    chosen.update((i, (number, row)) for i in wanted.get(digest, ()))
                row += 1
    return chosen


def _copy_outcomes(
    store: JobStore, name: str, job: Job, parts: list[str], index: Index, chosen: dict[int, tuple[int, int]]
) -> None:
    """Write the chosen outcomes in row order. Memory holds those of one shard, as Arrow has them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    read = ResponseSchema(job.spec.schema, job.spec.schema_name or "").read if job.spec.schema else no_fields
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
                batches.append(carried_rows(rows, schema, ordinals, ids, read))
            first += batch.num_rows
    table = pa.Table.from_batches(batches, schema).sort_by("ordinal")
    with store.writing(name) as file, pq.ParquetWriter(file, schema) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)


def _write(store: JobStore, whole: Shard, name: str, index: Index, lines: Iterator[tuple[int, bytes]]) -> Shard:
    requests = store.new_name("requests", name)
    kept: list[int] = []
    n_bytes = 0
    with store.writing(requests) as file:
        for i, line in lines:
            kept.append(i)
            n_bytes += file.write(line)
    ids = [index.custom_ids[i] for i in kept]
    digests = [index.digests[i] for i in kept]
    return Shard(
        id=name,
        state=State.PLANNED,
        n_rows=len(kept),
        n_requests=len(kept),
        n_bytes=n_bytes,
        # By the same measure as the whole, so that what fitted into a budget still fits.
        n_tokens=-(-whole.n_tokens * n_bytes // max(1, whole.n_bytes)),
        requests=requests,
        index=write_index(store, name, [index.ordinals[i] for i in kept], ids, digests),
    )


def _lines(store: JobStore, name: str) -> Iterator[bytes]:
    with store.open(name) as file:
        rest = b""
        while block := file.read(_READ_BYTES):
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                yield line + b"\n"


def _with_problem(line: bytes, output: str, problem: str | None) -> bytes:
    """Put the answer and what is wrong with it into the conversation, so that the next one can be better."""
    request = msgspec.json.decode(line)
    body = request["body"]
    feedback = [
        {"role": "assistant", "content": output},
        {"role": "user", "content": f"That answer does not follow the required schema: {problem}. Answer again."},
    ]
    if isinstance(body.get("messages"), list):
        body["messages"] = [*body["messages"], *feedback]
    elif isinstance(body.get("input"), str):
        body["input"] = [{"role": "user", "content": body["input"]}, *feedback]
    elif isinstance(body.get("input"), list):
        body["input"] = [*body["input"], *feedback]
    return msgspec.json.encode(request) + b"\n"
