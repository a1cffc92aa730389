"""The first requests of a plan are a file that a person can read."""

from __future__ import annotations

import json

from builders import BODY, RESPONSES, World, cut, rows

from airflow_openai_batch.engine.job.plan_writer import first_requests, write_plan
from airflow_openai_batch.engine.job.submit import Request, submit
from airflow_openai_batch.engine.model import Policy


def plan(world: World, data: object, **changes: object) -> None:
    policy = changes.pop("policy", Policy())
    request = Request(data, endpoint=RESPONSES, body=BODY, custom_id="{id}", limits=cut(8))
    submit(world.engine, request, policy, is_plan_only=True, **changes)


def test_the_first_twenty_requests_are_written_as_openai_would_get_them(world: World) -> None:
    plan(world, rows(50))
    made = write_plan(world.store, world.job)
    name = made.first_requests.removeprefix(f"{world.store}/")
    text = world.store.read(name).decode()
    assert json.loads(text) == [
        {"custom_id": f"t{i}", "method": "POST", "url": RESPONSES, "body": {**BODY, "input": f"ticket {i}"}}
        for i in range(20)
    ]
    assert text.count("\n") > 100  # a value a line
    assert (made.n_to_ask, made.n_batches) == (50, 7)
    assert made.estimate.input_tokens > 50
    assert world.job.measure is None or made.estimate.output_tokens is None


def test_the_same_plan_leaves_one_file_and_another_one_its_own(world: World) -> None:
    plan(world, rows(3), max_tries=0)
    names = {write_plan(world.store, world.job).first_requests for _ in range(3)}
    plan(world, rows(4), max_tries=1)
    names.add(write_plan(world.store, world.job).first_requests)
    assert [name.split("/")[-3] for name in sorted(names)] == ["e0", "e1"]


def test_the_pilot_comes_first_and_huge_requests_are_few(world: World) -> None:
    data = [{"id": f"t{i}", "text": "x" * 3_000_000} for i in range(4)]
    plan(world, data)
    assert [request["custom_id"] for request in first_requests(world.store, world.job)] == ["t0"]


def test_nothing_to_ask_is_no_file(world: World) -> None:
    plan(world, [{"id": "a", "text": None}])
    made = write_plan(world.store, world.job)
    assert (made.first_requests, made.n_skipped, made.n_to_ask) == ("", 1, 0)
