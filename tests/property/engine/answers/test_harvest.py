from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from builders import RESPONSES, World, answer, failure, job, line_error, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from airflow_openai_batch.engine.answers import line_files as lines_module
from airflow_openai_batch.engine.answers import reading as reading_module
from airflow_openai_batch.engine.answers import row_order as reading
from airflow_openai_batch.engine.answers.fast_parser import FastRow, Line
from airflow_openai_batch.engine.answers.harvest import harvest
from airflow_openai_batch.engine.answers.outcome_files import read_part
from airflow_openai_batch.engine.answers.parser import LineParser, custom_id_of
from airflow_openai_batch.engine.answers.row_order import AnswerReader, Unordered
from airflow_openai_batch.engine.endpoints import Limits
from airflow_openai_batch.engine.model import Batch, JobKey, Shard, State
from airflow_openai_batch.engine.requests.bodies import bodies_of
from airflow_openai_batch.engine.requests.sharding import build
from airflow_openai_batch.engine.requests.sources import source_of
from airflow_openai_batch.engine.store.job_store import JobStore

N = 6
KEY = JobKey(dag_id="d", run_id="r", task_id="t")
IDS = [f"t{i}" for i in range(N)]


def new_world() -> tuple[World, Shard]:
    world = World(JobStore(UPath(f"memory://harvest-{uuid.uuid4().hex}"), KEY))
    body = bodies_of({"model": "m", "input": "{text}"}, RESPONSES)
    source = source_of(rows(N), endpoint=RESPONSES)
    return world, build(world.store, source, body, endpoint=RESPONSES, custom_id="{id}", limits=Limits()).shards[0]


WORLD, SHARD = new_world()


def fetch(
    output: bytes, errors: bytes, status: str, parser: LineParser | None = None
) -> tuple[list[dict[str, Any]], bytes, dict[Any, int]]:
    """Rows of the outcome part, unmatched, and the tally, after a person gave up the rows without a line."""
    import msgspec

    WORLD.api.files = {"out": output, "err": errors}
    batch = Batch(id="b", status=status, output_file_id="out", error_file_id="err")
    of = msgspec.structs.replace(SHARD, state=State.ENDED, batch=batch)
    parser = parser or LineParser(RESPONSES)
    got = harvest(WORLD.store, WORLD.api, job(of), of, parser, accepted="missing")  # type: ignore[arg-type]
    found = [row for part in read_part(WORLD.store, got.outcomes) for row in part.to_pylist()]
    unmatched = WORLD.store.read(got.unmatched) if got.unmatched else b""
    for name in filter(None, (got.outcomes, got.unmatched)):
        WORLD.store._fs.rm_file(WORLD.store._at(name))
    return found, unmatched, got.tally.by_status


lines = st.builds(
    lambda custom_id, make: make(custom_id),
    st.sampled_from([*IDS, "unknown"]),
    st.sampled_from([answer, answer, failure, line_error, lambda i: failure(i, 400, "x")]),
)
ends = st.sampled_from(["completed", "expired", "cancelled"])


def corrupt(data: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    for at, n, new in cuts:
        at %= len(data) + 1
        data = data[:at] + new + data[at + n :]
    return data


cuts = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 40), st.binary(max_size=4)), max_size=6)


@settings(max_examples=60)
@given(st.lists(lines, max_size=14), st.lists(lines, max_size=14), ends, cuts, cuts)
def test_rows_in_are_the_sum_of_outcomes_whatever_happens_to_the_lines(
    output: list[bytes], errors: list[bytes], status: str, one: Any, other: Any
) -> None:
    files = corrupt(b"\n".join(output), one), corrupt(b"\n".join(errors), other)
    found, unmatched, tally = fetch(*files, status)
    assert [row["custom_id"] for row in found] == IDS
    assert [row["ordinal"] for row in found] == list(range(N))
    assert sum(tally.values()) == N
    # Nothing is lost: a line either names a row, which then has an answer or keeps a line, or is unmatched.
    rows_by_id = {row["custom_id"]: row for row in found}
    for text in (text.rstrip(b"\r") for data in files for text in data.split(b"\n") if text.strip()):
        row = rows_by_id.get(custom_id_of(text) or "")
        if row is None:
            assert text + b"\n" in unmatched
        else:
            assert row["status"] == "succeeded" or row["line"] is not None or text + b"\n" in unmatched


@settings(max_examples=60)
@given(st.lists(lines, min_size=1, max_size=14), st.lists(lines, max_size=6), st.randoms(use_true_random=False))
def test_success_wins_whatever_the_order_and_the_file(
    output: list[bytes], errors: list[bytes], rng: random.Random
) -> None:
    everything = [*output, *errors]
    expected = {i for i in IDS if any(text == answer(i) for text in everything)}
    told = {i for i in IDS if any(f'"{i}"'.encode() in text for text in everything)}
    rng.shuffle(everything)
    at = rng.randint(0, len(everything))
    files = (b"".join(text + b"\n" for text in part) for part in (everything[:at], everything[at:]))
    found, unmatched, _ = fetch(*files, "completed")
    assert {row["custom_id"] for row in found if row["status"] == "succeeded"} == expected
    assert {row["custom_id"] for row in found if row["status"] == "missing"} == set(IDS) - told
    assert sorted(unmatched.splitlines()) == sorted(text for text in everything if b'"unknown"' in text)


class Careful(LineParser):
    """Never uses the fast parser."""

    def read_fast(self, lines: Sequence[Line]) -> list[FastRow | None]:
        return [None] * len(lines)


@settings(max_examples=60)
@given(st.lists(lines, max_size=14), st.lists(lines, max_size=14), ends, cuts, cuts)
def test_the_fast_and_the_careful_parser_come_to_the_same(
    output: list[bytes], errors: list[bytes], status: str, one: Any, other: Any
) -> None:
    files = corrupt(b"\n".join(output), one), corrupt(b"\n".join(errors), other)
    assert fetch(*files, status) == fetch(*files, status, Careful(RESPONSES))


def reading_in_small_steps(patch: pytest.MonkeyPatch, block: int, chunk: int, waiting_bytes: int) -> None:
    patch.setattr(lines_module, "BLOCK_ROWS", block)
    patch.setattr(reading, "_CHUNKS_A_BLOCK", chunk)
    patch.setattr(reading, "_MOST_WAITING_BYTES", waiting_bytes)


MANY = 1_000_000


def never(*_: Any) -> Any:
    raise Unordered


sizes = st.sampled_from([1, 2, 3, 100])
makes = st.sampled_from([answer, answer, answer, failure, line_error, lambda i: answer(i).replace(b'"error"', b'"e"')])
whole = st.permutations(IDS).flatmap(
    lambda ids: st.tuples(*(st.builds(lambda make, i=i: make(i), makes) for i in ids))  # type: ignore[misc]
)


@settings(max_examples=150)
@given(
    whole,
    st.integers(0, N),
    st.lists(st.tuples(st.integers(0, N), lines), max_size=1),
    st.sampled_from([0, 1]),
    sizes,
    sizes,
    st.sampled_from([0, 200, MANY]),
)
def test_lines_read_once_come_to_the_same_as_lines_read_twice(
    texts: tuple[bytes, ...],
    at: int,
    more: list[tuple[int, bytes]],
    n_lost: int,
    block: int,
    chunk: int,
    waiting_bytes: int,
) -> None:
    everything = list(texts[n_lost:])
    for place, text in more:
        everything.insert(place, text)
    files = (b"".join(text + b"\n" for text in part) for part in (everything[at:], everything[:at]))
    output, errors = files
    with pytest.MonkeyPatch.context() as patch:
        reading_in_small_steps(patch, block, chunk, waiting_bytes)
        found = fetch(output, errors, "completed")
        patch.setattr(AnswerReader, "once", never)
        assert found == fetch(output, errors, "completed")


@given(st.permutations(IDS), st.integers(0, N - 1), sizes, sizes)
def test_lines_in_any_order_are_read_once_if_little_waits(
    ids: list[str], n_errors: int, block: int, chunk: int
) -> None:
    output = b"".join(answer(custom_id) + b"\n" for custom_id in ids[n_errors:])
    errors = b"".join(failure(custom_id) + b"\n" for custom_id in ids[:n_errors])
    with pytest.MonkeyPatch.context() as patch:
        reading_in_small_steps(patch, block, chunk, MANY)
        patch.setattr(AnswerReader, "twice", never)
        found, unmatched, tally = fetch(output, errors, "completed")
    assert [row["status"] for row in found] == ["failed" if i in ids[:n_errors] else "succeeded" for i in IDS]
    assert unmatched == b"" and sum(tally.values()) == N


def test_what_waits_for_a_line_that_does_not_come_is_bounded() -> None:
    kept: list[int] = []

    class Counting(AnswerReader):
        def once(self, files: Any) -> Any:
            try:
                yield from super().once(files)
            except Unordered:
                kept.append(1)
                raise

    output = b"".join(answer(custom_id) + b"\n" for custom_id in [*IDS[1:], IDS[0]])
    with pytest.MonkeyPatch.context() as patch:
        reading_in_small_steps(patch, 1, 1, 200)
        patch.setattr(lines_module, "_READ_BYTES", 16)
        patch.setattr(reading_module, "AnswerReader", Counting)
        found, _, _ = fetch(output, b"", "completed")
    assert kept and [row["status"] for row in found] == ["succeeded"] * N
