"""A few requests of a job with their answers, for a person who wants to see what was asked and what came back.

Bounded: it reads a part of the store's files, and cuts long texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_openai_batch.engine.answers.outcome_files import read_part
from airflow_openai_batch.engine.errors import StoreError
from airflow_openai_batch.engine.job.summary import summarize
from airflow_openai_batch.engine.model import Job, Shard, Status, Value

if TYPE_CHECKING:
    from airflow_openai_batch.engine.store.job_store import JobStore


MAX_ROWS = 10

MAX_TEXT = 4000
"""Characters of a request, an answer or an error."""

_SCANNED_BYTES = 32 * 1024 * 1024
"""How much of a request file, and of outcomes, is looked at."""

_SHOWN_NUMBERS = 8
"""How many numbers of an embedding are shown."""

_COLUMNS = ["ordinal", "custom_id", "status", "output", "error_code", "error_message", "retryable", "line"]


class SampleRow(Value, frozen=True, kw_only=True, omit_defaults=False):
    """A request and what came back; texts are cut to ``MAX_TEXT`` characters."""

    custom_id: str
    row: int | None = None
    """The row's ordinal, if it has an outcome."""
    status: str | None = None
    """The row's outcome, or None before it has one."""
    request: str | None = None
    """The request's body as JSON; None if it is too far into its file, or was sent by an earlier epoch."""
    answer: str | None = None
    """The output; without one the line that came back."""
    error: str | None = None


class Sample(Value, frozen=True, kw_only=True, omit_defaults=False):
    """Some rows of a job."""

    rows: tuple[SampleRow, ...]
    is_cut: bool
    """Whether the job may have more such rows."""


class _Line(msgspec.Struct):
    """A line of a request file."""

    custom_id: str
    body: msgspec.Raw


def sample_of(store: JobStore, job: Job, status: Status | None = None, n_rows: int = MAX_ROWS) -> Sample:
    """Return some rows of a job: first those with an outcome, then those that have none yet.

    Args:
        store: The job's store.
        job: The newest snapshot.
        status: The outcome that the rows shall have; None for any and none.
        n_rows: How many rows at most.

    Raises:
        StoreError: The outcomes cannot be read.
    """
    rows: list[SampleRow] = []
    for shard in job.shards:
        part = shard.outcomes
        if len(rows) < n_rows and part is not None and (status is None or part.tally.get(status)):
            found = list(_outcomes(store, part.name, status, n_rows - len(rows), is_retried=shard.child is not None))
            bodies = _bodies(store, shard, [row.custom_id for row in found])
            rows += [msgspec.structs.replace(row, request=bodies.get(row.custom_id)) for row in found]
    if status is None:
        for shard in job.shards:
            if len(rows) < n_rows and shard.outcomes is None and shard.requests:
                lines = _lines(store, shard, n_rows - len(rows))
                rows += [SampleRow(custom_id=line.custom_id, request=_body(line)) for line in lines]
    n_all = job.n_rows if status is None else summarize(job).by_status.get(status, 0)
    return Sample(rows=tuple(rows), is_cut=len(rows) < n_all)


def _outcomes(
    store: JobStore, part: str, status: Status | None, n_rows: int, *, is_retried: bool
) -> Iterator[SampleRow]:
    """Yield rows of an outcome part. If a child shard asks some again, their last outcome is in its part, not here."""
    import pyarrow as pa

    n_bytes = 0
    for batch in read_part(store, part, _COLUMNS):
        flags = zip(batch.column("status").to_pylist(), batch.column("retryable").to_pylist(), strict=True)
        chosen = [
            place
            for place, (own, is_retryable) in enumerate(flags)
            if (status is None or own == status) and not (is_retryable and is_retried)
        ][:n_rows]
        yield from map(_row, batch.take(pa.array(chosen, pa.int64())).to_pylist())
        n_rows -= len(chosen)
        if not n_rows:
            return
        n_bytes += batch.nbytes
        if n_bytes > _SCANNED_BYTES:
            return


def _row(values: dict[str, Any]) -> SampleRow:
    errors = [text for text in (values["error_code"], values["error_message"]) if text]
    return SampleRow(
        custom_id=values["custom_id"],
        row=values["ordinal"],
        status=values["status"],
        answer=_answer(values["output"], values["line"]),
        error=_cut(": ".join(errors)) if errors else None,
    )


def _answer(output: Any, line: bytes | None) -> str | None:
    if isinstance(output, str):
        return _cut(output)
    if output is not None:
        return _cut(_vector(output))
    return _cut(line[: 4 * MAX_TEXT].decode(errors="replace")) if line else None


def _vector(numbers: list[Any]) -> str:
    """Return the beginning of an embedding, or of each of several."""
    if numbers and isinstance(numbers[0], list):
        return "\n".join(map(_vector, numbers))
    shown = ", ".join(f"{number:.4g}" for number in numbers[:_SHOWN_NUMBERS])
    return f"[{shown}, … {len(numbers):,} numbers]" if len(numbers) > _SHOWN_NUMBERS else f"[{shown}]"


def _bodies(store: JobStore, shard: Shard, custom_ids: Sequence[str]) -> dict[str, str]:
    """Return the bodies of a shard's requests, of those that are found."""
    wanted = set(custom_ids)
    bodies: dict[str, str] = {}
    if not shard.requests:
        return bodies
    for line in _lines(store, shard):
        if line.custom_id in wanted:
            bodies[line.custom_id] = _body(line)
            if len(bodies) == len(wanted):
                break
    return bodies


def _lines(store: JobStore, shard: Shard, n_lines: int | None = None) -> Iterator[_Line]:
    """Yield the first lines of a shard's request file; none if it is gone, none after one that cannot be read."""
    left = _SCANNED_BYTES
    try:
        with store.open(shard.requests) as file:
            while left > 0 and n_lines != 0 and (line := file.readline(left)).endswith(b"\n"):
                left -= len(line)
                n_lines = n_lines - 1 if n_lines is not None else None
                yield msgspec.json.decode(line, type=_Line)
    except (StoreError, OSError, msgspec.MsgspecError):
        return


def _body(line: _Line) -> str:
    return _cut(bytes(line.body)[: 4 * MAX_TEXT].decode(errors="replace"))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
