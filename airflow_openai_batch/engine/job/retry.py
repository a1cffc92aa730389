"""Asking again: child shards for rows that deserve another answer."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from airflow_openai_batch.engine.answers.outcome_files import read_part
from airflow_openai_batch.engine.identity import child_id
from airflow_openai_batch.engine.job.subset import request_lines, write_subset
from airflow_openai_batch.engine.model import GOOD, Job, Shard, Status
from airflow_openai_batch.engine.store.index import read_index
from airflow_openai_batch.engine.store.job_store import JobStore


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
        for i, line in enumerate(request_lines(store, parent.requests)):
            reason = again.get(index.ordinals[i])
            if reason is not None:
                status, output, problem = reason
                # Only an answer that can be read can be discussed; vectors, for one, have no conversation.
                if status == Status.INVALID and output is not None:
                    line = _with_problem(line, output, problem)
                yield i, line

    child = child_id(parent.id)
    written = write_subset(store, parent, child, index, lines())
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
