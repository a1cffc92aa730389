"""Asking again, and not asking again: child shards for rows that deserve another answer, answers carried over.

Both choose rows of a shard and copy their request lines, so neither needs the source or the template.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from airflow_openai_batch.engine.identity import child_id
from airflow_openai_batch.engine.model import Job, Outcome, Shard, State, Status, Usage
from airflow_openai_batch.engine.outcomes import Index, PartWriter, output_type, read_index, read_part
from airflow_openai_batch.engine.parts import write_index
from airflow_openai_batch.engine.store import JobStore

_READ_BYTES = 256 * 1024


def reshard(store: JobStore, job: Job, parent: Shard) -> Shard:
    """Write a child shard with the parent's rows that deserve another answer. The parent's rows stay as they are."""
    index = read_index(store, parent.index)
    again: dict[int, tuple[str, str | None, str | None]] = {}
    assert parent.outcomes is not None  # noqa: S101 - for the type checker: a settled shard has outcomes
    columns = ["ordinal", "status", "output", "error_message", "retryable"]
    for batch in read_part(store, parent.outcomes, columns if job.spec.schema else columns[:2] + columns[4:]):
        for row in batch.to_pylist():
            if row["retryable"]:
                again[row["ordinal"]] = (row["status"], row.get("output"), row.get("error_message"))

    def lines() -> Iterator[tuple[int, bytes]]:
        for i, line in enumerate(_lines(store, parent.requests)):
            told = again.get(index.ordinals[i])
            if told is not None:
                status, output, problem = told
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
        first_row=parent.first_row,
        # A line is longer than its input. Never more than the parent, or a budget that it filled would not let it pass.
        n_tokens=min(written.n_tokens, parent.n_tokens),
    )


def carry(store: JobStore, job: Job, draft: Shard) -> Shard:
    """Take answers to unchanged requests from earlier epochs; what is left will be asked."""
    index = read_index(store, draft.index)
    wanted: dict[bytes, list[int]] = {}
    for i, digest in enumerate(index.digests):
        wanted.setdefault(digest, []).append(i)
    found: dict[int, tuple[Outcome, str | None]] = {}
    for shard in (shard for shard in job.earlier if not shard.is_unwanted):
        for part in filter(None, (shard.carried, shard.outcomes)):
            for batch in read_part(store, part):
                if batch.schema.field("output").type == output_type(job):
                    _take(batch, wanted, found)
    if not found:
        return draft
    name = store.unique(f"e{job.epoch}/outcomes", f"{draft.id}-carried", ".parquet")
    with store.writing(name) as file:
        writer = PartWriter(file, job, None, 0)
        for i in sorted(found):
            outcome, batch_id = found[i]
            outcome.custom_id = index.custom_ids[i]
            if writer.has_single_vectors:
                outcome.output = [outcome.output]
            writer.add(index.ordinals[i], index.digests[i], outcome, None, batch_id=batch_id)
        writer.close()
    rest = ((i, line) for i, line in enumerate(_lines(store, draft.requests)) if i not in found)
    written = _write(store, draft, draft.id, index, rest)
    return msgspec.structs.replace(
        draft,
        index=written.index,
        requests=written.requests,
        n_requests=written.n_requests,
        n_bytes=written.n_bytes,
        n_tokens=min(written.n_tokens, draft.n_tokens),
        row_index=draft.index,
        carried=name,
        n_carried=len(found),
        usage=Usage(),
    )


def _take(batch: Any, wanted: dict[bytes, list[int]], found: dict[int, tuple[Outcome, str | None]]) -> None:
    digests = batch.column("digest").to_pylist()
    statuses = batch.column("status").to_pylist()
    for row, (digest, status) in enumerate(zip(digests, statuses, strict=True)):
        if status != Status.SUCCEEDED or digest not in wanted:
            continue
        told = batch.slice(row, 1).to_pylist()[0]
        for i in wanted[digest]:
            outcome = Outcome(
                custom_id="",
                status=Status.SUCCEEDED,
                output=told["output"],
                finish_reason=told["finish_reason"],
                model=told["model"],
                request_id=told["request_id"],
                usage=Usage(**{name: told[name] or 0 for name in Usage.__struct_fields__}),
            )
            found[i] = (outcome, told["batch_id"])


def _write(store: JobStore, whole: Shard, name: str, index: Index, lines: Iterator[tuple[int, bytes]]) -> Shard:
    folder = f"e{whole.id.partition('-')[0]}"
    requests = store.unique(f"{folder}/requests", name, ".jsonl")
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
        index=write_index(store, folder, name, [index.ordinals[i] for i in kept], ids, digests),
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
    told = [
        {"role": "assistant", "content": output},
        {"role": "user", "content": f"That answer does not follow the required schema: {problem}. Answer again."},
    ]
    if isinstance(body.get("messages"), list):
        body["messages"] = [*body["messages"], *told]
    elif isinstance(body.get("input"), str):
        body["input"] = [{"role": "user", "content": body["input"]}, *told]
    elif isinstance(body.get("input"), list):
        body["input"] = [*body["input"], *told]
    return msgspec.json.encode(request) + b"\n"
