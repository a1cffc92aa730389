"""A sample of a job: which rows it has, what of them, and how much it reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import EMBEDDINGS, World, answer, cut, failure, line

from airflow_openai_batch.engine.errors import StoreError
from airflow_openai_batch.engine.model import Policy, Status
from airflow_openai_batch.engine.results import sample
from airflow_openai_batch.engine.results.sample import MAX_ROWS, MAX_TEXT, Sample, SampleRow, sample_of


def sampled(world: World, status: Status | None = None) -> Sample:
    return sample_of(world.store, world.job, status)


def by_id(found: Sample) -> dict[str, SampleRow]:
    return {row.custom_id: row for row in found.rows}


def test_each_row_has_its_request_its_answer_and_its_outcome(world: World) -> None:
    world.ended(lambda i: answer(i, f"about {i}"), 4, limits=cut(2))
    found = sampled(world)
    assert not found.is_cut
    assert [(row.row, row.custom_id, row.status, row.answer) for row in found.rows] == [
        (i, f"t{i}", "succeeded", f"about t{i}") for i in range(4)
    ]
    for i, row in enumerate(found.rows):
        assert json.loads(row.request or "")["input"] == f"ticket {i}"


def test_rows_of_one_outcome_are_found_wherever_they_are(world: World) -> None:
    def told(i: str) -> bytes:
        return failure(i, 400, "context_length_exceeded") if i in ("t3", "t17") else answer(i)

    world.ended(told, 20, limits=cut(8), policy=Policy(max_bad_ratio=1.0))
    found = sampled(world, Status.FAILED)
    assert [row.row for row in found.rows] == [3, 17]
    assert not found.is_cut
    for row in found.rows:
        assert row.error == "context_length_exceeded: it was 400"
        assert json.loads(row.request or "")["input"] == f"ticket {row.row}"
        assert "context_length_exceeded" in (row.answer or ""), "the line that came back"
    assert sampled(world, Status.REFUSED) == Sample(rows=(), is_cut=False)


def test_a_row_that_was_asked_again_is_there_once_with_its_last_word(world: World) -> None:
    def told(i: str) -> bytes:
        n = len(world.api.made)
        return answer(i, f"try {n}") if n > 1 or i != "t1" else failure(i, 500)

    world.ended(told, 3)
    found = by_id(sampled(world))
    assert len(sampled(world).rows) == 3
    assert (found["t1"].status, found["t1"].answer) == ("succeeded", "try 2")
    assert json.loads(found["t1"].request or "")["input"] == "ticket 1"


def test_before_there_are_answers_there_are_requests(world: World) -> None:
    world.submit(3)
    found = sampled(world)
    assert [(row.custom_id, row.status, row.answer) for row in found.rows] == [(f"t{i}", None, None) for i in range(3)]
    assert json.loads(found.rows[2].request or "")["input"] == "ticket 2"
    assert sampled(world, Status.SUCCEEDED).rows == ()


def test_of_many_rows_there_are_few_and_of_long_texts_the_beginning(world: World) -> None:
    data = [{"id": f"t{i}", "text": f"{i} " + "é" * 50_000} for i in range(30)]
    world.ended(lambda i: answer(i, "x" * 50_000), data)
    found = sampled(world)
    assert len(found.rows) == MAX_ROWS
    assert found.is_cut
    for row in found.rows:
        assert row.request is not None and len(row.request) <= MAX_TEXT and row.request.endswith("…")
        assert row.answer is not None and len(row.answer) == MAX_TEXT


def test_what_is_too_far_into_a_file_is_not_looked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ended(data=9)
    size = len(world.store.read(world.job.shards[0].requests))
    monkeypatch.setattr(sample, "_SCANNED_BYTES", size // 2)
    requests = [row.request for row in sampled(world).rows]
    assert requests[0] is not None
    assert requests[-1] is None


def test_without_its_request_file_a_row_still_has_its_answer(world: World) -> None:
    world.ended(data=2)
    job = world.job
    gone = [job.shards[0].requests]
    original = world.store.open

    def open_if_there(name: str) -> Any:
        if name in gone:
            raise StoreError("it is gone")
        return original(name)

    world.store.open = open_if_there  # type: ignore[method-assign]
    assert [(row.request, row.answer) for row in sample_of(world.store, job).rows] == [(None, "good")] * 2


def test_an_embedding_is_shown_by_its_first_numbers(world: World) -> None:
    def told(i: str) -> bytes:
        return line(i, {"model": "m", "data": [{"embedding": [0.5] * 1536, "index": 0}], "usage": {"prompt_tokens": 1}})

    world.ended(told, 2, endpoint=EMBEDDINGS, body={"model": "text-embedding-3-small", "input": "{text}"})
    assert sampled(world).rows[0].answer == "[" + "0.5, " * 8 + "… 1,536 numbers]"
