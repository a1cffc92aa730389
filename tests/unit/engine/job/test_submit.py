from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest
from builders import BODY, RESPONSES, SECRET, World, cut, has_no_secret, rows

from airflow_openai_batch.engine.errors import InputError, StoreError
from airflow_openai_batch.engine.job.submit import Request, submit
from airflow_openai_batch.engine.model import Job, Policy, State


def test_the_plan_is_written_and_nothing_is_sent(world: World) -> None:
    made = world.submit(5, limits=cut(2))
    assert world.job == made and world.number == 0
    assert [(s.id, s.state, s.n_rows) for s in made.shards] == [
        ("0-00000", State.PLANNED, 2),
        ("0-00001", State.PLANNED, 2),
        ("0-00002", State.PLANNED, 1),
    ]
    assert not world.api.calls


def test_the_same_request_takes_up_the_job_and_commits_nothing(world: World) -> None:
    made = world.submit(5)
    assert world.submit(5) == made
    assert world.number == 0


def test_rows_of_a_callable_are_not_read_again(world: World) -> None:
    calls: list[int] = []

    def data() -> list[dict[str, Any]]:
        calls.append(1)
        return rows(2)

    world.submit(data)
    world.submit(data)
    assert len(calls) == 1


def test_a_changed_policy_is_obeyed_without_starting_over(world: World) -> None:
    world.submit(2)
    world.submit(2, policy=Policy(max_rounds=0))
    assert (world.job.policy.max_rounds, world.job.epoch) == (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"data": 3},
        {"body": {**BODY, "temperature": 1}},
        {"endpoint": "/v1/embeddings"},
        {"custom_id": "x{id}"},
        {"response_model": {"type": "object", "properties": {}, "required": [], "additionalProperties": False}},
        {"start_over": "please"},
        {"policy": Policy(max_enqueued_tokens=12)},
    ],
)
def test_what_changes_the_answers_starts_a_new_epoch(world: World, change: dict[str, Any]) -> None:
    world.submit(2)
    made = world.submit(**{"data": 2, **change})
    assert made.epoch == 1 and world.number == 1
    assert all(s.id.startswith("1-") for s in made.shards)


def test_what_runs_is_cancelled_and_harvested_before_anything_new_is_sent(world: World) -> None:
    world.submit(2)
    world.waits()
    world.submit(2, body={"model": "m", "input": "new {text}"})
    world.waits()
    assert world.api.calls["cancel"] == 1 and world.api.made["batch_0"].status == "cancelling"
    assert len(world.api.made) == 1  # nothing new is sent while the old one runs
    world.api.finish("batch_0", status="cancelled")
    world.waits()
    assert world.api.running == ["batch_1"]
    assert [s.state for s in world.job.earlier] == [State.SETTLED]


def test_what_was_never_sent_is_forgotten(world: World) -> None:
    world.submit(2)
    assert world.submit(3).earlier == ()


def test_a_late_job_gets_a_new_deadline_when_a_person_takes_it_up(world: World) -> None:
    first = world.submit(2)
    world.later(first.policy.deadline_s - 1)
    assert world.submit(2).deadline_from == first.deadline_from
    world.later(2)
    assert world.submit(2).deadline_from == world.clock()


def test_two_submits_at_once_make_one_plan(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = world.store.commit
    rival: list[Job] = []

    def beaten(number: int, job: Job, now: float) -> tuple[int, Job]:
        if not rival:
            rival.append(commit(number, msgspec.structs.replace(job, writer=""), now)[1])
        return commit(number, job, now)

    monkeypatch.setattr(world.store, "commit", beaten)
    assert world.submit(2) == rival[0] == world.job


def test_a_store_that_protects_nothing_is_refused_before_the_rows_are_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.store, "create", lambda name, data: True)
    monkeypatch.setattr(world.store, "read", lambda name: b"2")
    with pytest.raises(StoreError, match="lets a file be created twice"):
        world.submit(lambda: pytest.fail("the rows were read"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint": "/v1/chat"}, "Unknown endpoint '/v1/chat'. The Batch API has: /v1/responses"),
        ({"body": lambda row: row, "response_model": {}}, "response_model"),
        ({"body": 5}, "body must be a dict"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_at_once(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Request(rows(1), **{"endpoint": RESPONSES, "body": BODY, **change})


def _raises(error: type[Exception]) -> Any:
    def body(row: dict[str, Any]) -> Any:
        raise error(f"cannot make a prompt of {row['text']}")

    return body


ROWS = [{"id": "t0", "text": SECRET}, {"id": "t1", "text": SECRET}]

INPUTS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "text_then_number": ([{"id": "t0", "text": SECRET}, {"id": "t1", "text": 5}], {}, "Column 'text'"),
    "number_then_text": ([{"id": "t0", "text": 5}, {"id": "t1", "text": SECRET}], {}, "Column 'text'"),
    "half_a_character": ([{"id": "t0", "text": SECRET + "\ud800"}], {}, "row 0, column 'text'"),
    "object_that_is_no_json": ([{"id": "t0", "text": {SECRET: object()}}], {}, "row 0, column 'text'"),
    "half_a_character_inside": ([{"id": "t0", "text": [SECRET + "\ud800", 1]}], {}, "row 0, column 'text'"),
    "no_bytes_among_texts": ([{"id": "t0", "text": b"x"}, {"id": "t1", "text": SECRET}], {}, "row 1, column 'text'"),
    "fraction_then_text": ([{"id": "t0", "text": 0.5}, {"id": "t1", "text": SECRET}], {}, "Column 'text'"),
    "row_is_a_text": ([SECRET], {}, "row 0 is no dict but str"),
    "row_is_a_list": ([[SECRET]], {}, "row 0 is no dict but list"),
    "row_of_a_function_is_a_text": (lambda: iter([SECRET]), {}, "row 0 is no dict but str"),
    "body_raises_a_value_error": (ROWS, {"body": _raises(ValueError)}, "row 0: the body function raised ValueError"),
    "body_raises_a_key_error": (ROWS, {"body": _raises(KeyError)}, "row 0: the body function raised KeyError"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_bad_input_is_told_without_its_content(world: World, caplog: pytest.LogCaptureFixture, name: str) -> None:
    caplog.set_level(logging.DEBUG)
    data, args, message = INPUTS[name]
    with pytest.raises(InputError, match=message) as caught:
        world.submit(data, **args)
    has_no_secret(str(caught.value), caught.value.args, caplog.text)


def test_the_connection_of_the_submission_is_in_the_store(world: World) -> None:
    request = Request(rows(2), endpoint=RESPONSES, body=BODY)
    assert submit(world.engine, request, Policy(), conn_id="mine").conn_id == "mine"
    assert submit(world.engine, request, Policy()).conn_id == "mine"
    assert submit(world.engine, request, Policy(), conn_id="moved").conn_id == "moved"
