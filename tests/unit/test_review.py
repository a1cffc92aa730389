"""Regressions that a review found, at the level of the engine's parts."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pandas as pd
import pytest
from builders import BODY, CHAT, RESPONSES, TIMING, Lost, World, answer, failure, line, responses_body
from openai import OpenAI
from upath import UPath

from airflow_openai_batch.engine.answers.parser import LineParser
from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.errors import InputError, UnknownFormat
from airflow_openai_batch.engine.job.planner import deadline_at
from airflow_openai_batch.engine.job.submit import extend_deadline
from airflow_openai_batch.engine.model import Outcome, Policy, State, Status
from airflow_openai_batch.engine.requests.bodies import bodies_of
from airflow_openai_batch.engine.results.sinks import FileSink, ListSink
from airflow_openai_batch.engine.results.writer import Written, manifest, write_results
from airflow_openai_batch.engine.store.job_store import decode_job

S = Status
SECRET = "patient Jane Roe"


def ended(world: World, output: Any = answer, data: Any = 3, **request: Any) -> None:
    """Run a job to its end; every batch answers alike."""
    world.submit(data, **{"policy": Policy(max_bad_ratio=1.0), **request})
    for _ in range(5):
        world.advance()
        for name in world.api.running:
            world.api.finish(name, output)
    world.done()


def strict(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


def parse(body: Any, endpoint: str = CHAT) -> Outcome:
    found = LineParser(endpoint).parse(line("c", body))
    assert found is not None
    return found


def no_jane(*texts: object) -> None:
    for text in texts:
        assert "Jane" not in str(text), text


# -- huge numbers ----------------------------------------------------------------------------------------------------

NUMBERS = (9007199254740993, 10**30, -(10**30), 2**64, 0.5, 7)


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_huge_integers_in_a_number_field_can_be_written(world: World, tmp_path: Path, ending: str) -> None:
    def told(custom_id: str) -> bytes:
        n = NUMBERS[int(custom_id[1:])]
        return line(custom_id, responses_body(json.dumps({"many": [n, 1, n], "n": n})))

    schema = strict(n={"type": "number"}, many={"type": "array", "items": {"type": "number"}})
    ended(world, told, len(NUMBERS), response_model=schema)
    path = tmp_path / f"x.{ending}"
    written = write_results(world.store, world.job, FileSink(UPath(path)))
    assert written.n_rows == len(NUMBERS)
    read: Any = {
        "parquet": pd.read_parquet,
        "jsonl": lambda p: pd.DataFrame(map(json.loads, p.read_text().splitlines())),
        "csv": pd.read_csv,
    }
    table = read[ending](path)
    assert list(table["status"]) == ["succeeded"] * len(NUMBERS)
    for wanted, value, many in zip(NUMBERS, table["n"], table["many"], strict=True):
        many = json.loads(many) if isinstance(many, str) else list(many)
        assert len(many) == 3 and many[1] == 1
        for found in (value, many[0], many[2]):
            assert found is None or math.isnan(found) or float(found) == float(wanted)


def test_huge_integers_go_through_xcom(world: World) -> None:
    told = json.dumps({"n": 10**30})
    ended(world, lambda i: line(i, responses_body(told)), response_model=strict(n={"type": "number"}))
    sink = ListSink()
    write_results(world.store, world.job, sink)
    assert [row["n"] for row in sink.rows] in ([1e30] * 3, [None] * 3)


# -- nothing of rows or answers in messages --------------------------------------------------------------------------

LEAKY = {
    "wrong_type": json.dumps({"kind": "a", "n": SECRET}),
    "not_in_the_enum": json.dumps({"kind": SECRET, "n": 1}),
    "surplus_field": json.dumps({"kind": "a", "n": 1, SECRET: SECRET}),
    "no_object": json.dumps([SECRET]),
    "no_json": f"I think of {SECRET}",
    "cut_json": '{"kind": "' + SECRET,
}


def written_and_told(world: World, tmp_path: Path) -> tuple[Written, list[dict[str, Any]], str]:
    path = tmp_path / "out.jsonl"
    found = write_results(world.store, world.job, FileSink(UPath(path)))
    return found, [json.loads(text) for text in path.read_text().splitlines()], json.dumps(manifest(found))


@pytest.mark.parametrize("name", LEAKY)
def test_a_broken_schema_is_told_without_the_answer(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level(logging.DEBUG)
    schema = strict(kind={"enum": ["a", "b"], "type": "string"}, n={"type": "integer"})
    ended(world, lambda i: line(i, responses_body(LEAKY[name])), response_model=schema)
    written, table, told = written_and_told(world, tmp_path)
    assert [row["status"] for row in table] == ["invalid"] * 3
    assert all(row["error_message"] for row in table), "something is said all the same"
    assert table[0]["output"] == LEAKY[name], "the answer itself is delivered"
    no_jane(*(row["error_message"] for row in table), told, written.errors, caplog.text)


def test_a_refusal_is_not_in_the_manifest(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    item = {"type": "message", "content": [{"type": "refusal", "refusal": f"I do not talk about {SECRET}."}]}
    ended(world, lambda i: line(i, responses_body() | {"output": [item]}))
    _, table, told = written_and_told(world, tmp_path)
    assert table[0]["status"] == "refused"
    no_jane(told, caplog.text)


def _raises(error: type[Exception]) -> Any:
    def body(row: dict[str, Any]) -> Any:
        raise error(f"cannot make a prompt of {row['text']}")

    return body


ROWS = [{"id": "t0", "text": SECRET}, {"id": "t1", "text": SECRET}]
INPUTS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "text_then_number": ([{"id": "t0", "text": SECRET}, {"id": "t1", "text": 5}], {}, "Column 'text'"),
    "number_then_text": ([{"id": "t0", "text": 5}, {"id": "t1", "text": SECRET}], {}, "Column 'text'"),
    "text_then_object": ([{"id": "t0", "text": SECRET}, {"id": "t1", "text": {"a": SECRET}}], {}, "Column 'text'"),
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
    no_jane(str(caught.value), caught.value.args, caplog.text)


# -- the fingerprint of a body function ------------------------------------------------------------------------------


def _make(prompt: str, row: dict[str, Any], tone: str = "kind") -> dict[str, Any]:
    return {"model": "m", "input": f"{prompt} {row} {tone}"}


def _shout(prompt: str, row: dict[str, Any], tone: str = "kind") -> dict[str, Any]:
    return {"model": "m", "input": f"{prompt} {row} {tone}!"}


def fingerprint(body: Any, **_others: Any) -> str:
    return bodies_of(body, RESPONSES).fingerprint


def test_partials_with_other_arguments_are_other_bodies() -> None:
    found = [
        fingerprint(functools.partial(_make, "a")),
        fingerprint(functools.partial(_make, "b")),
        fingerprint(functools.partial(_shout, "a")),
        fingerprint(functools.partial(_make, "a", tone="rude")),
        fingerprint(functools.partial(functools.partial(_make, "c"), tone="rude")),
    ]
    assert len(set(found)) == len(found)


def test_partials_with_the_same_arguments_are_the_same_body() -> None:
    assert fingerprint(functools.partial(_make, "a", tone="x")) == fingerprint(functools.partial(_make, "a", tone="x"))


def test_the_other_arguments_of_a_call_are_no_part_of_a_lambda() -> None:
    one = fingerprint(lambda row: {"model": "m", "input": row["t"]}, max_rounds=1)
    two = fingerprint(lambda row: {"model": "m", "input": row["t"]}, max_rounds=2, output="s3://b/x.parquet")
    three = fingerprint(
        body=lambda row: {"model": "m", "input": row["t"]},
        max_rounds=7,
    )
    four = fingerprint(
        body=lambda row: {"model": "m", "input": row["t"]},
        output="elsewhere",
        task_id="ask",
    )
    assert one == two
    assert three == four


def test_a_changed_default_of_a_lambda_is_a_changed_body() -> None:
    one = fingerprint(lambda row, prompt="Label": {"input": f"{prompt} {row}"})
    two = fingerprint(lambda row, prompt="Classify": {"input": f"{prompt} {row}"})
    assert one != two


FINGERPRINTS = """
import functools
from airflow_openai_batch.engine.requests.bodies import bodies_of
def pick(choose, row): return {"input": choose(row)}
def first(row): return row["t"]
print(bodies_of(EXPRESSION, "/v1/responses").fingerprint)
"""


@pytest.mark.parametrize(
    "expression",
    [
        'lambda row: {"input": "a" if row["t"] in {"one", "two", "three", "four", "five"} else "b"}',
        'lambda row: {"input": [x for x in row["t"] if x in {"one", "two", "three", "four", "five"}]}',
        "functools.partial(pick, first)",
        "functools.partial(pick, lambda row: row['t'])",
    ],
    ids=["set_in_a_lambda", "set_inside_a_comprehension", "partial_of_a_function", "partial_of_a_lambda"],
)
def test_a_fingerprint_is_the_same_in_every_process(expression: str) -> None:
    """A retry runs in another process; a new fingerprint would cancel what runs."""
    code = FINGERPRINTS.replace("EXPRESSION", expression)
    # Something in memory first, so that addresses differ.
    found = [
        subprocess.run(
            [sys.executable, "-c", f"x = [object() for _ in range({seed} * 1000)]{code}"],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in (1, 2, 3)
    ]
    assert len(set(found)) == 1


def test_two_lambdas_of_one_line_are_told_apart() -> None:
    one, two = (fingerprint(f) for f in (lambda row: {"input": "a"}, lambda row: {"input": "b"}))
    assert one != two


# -- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": None}, "finish_reason": "stop"},
        {"message": {"content": None, "tool_calls": []}, "finish_reason": "stop"},
        {},
        {"message": {}},
        {"finish_reason": "stop"},
    ],
    ids=["null_content", "null_content_and_no_calls", "nothing", "empty_message", "no_message"],
)
def test_a_chat_answer_without_content_is_no_good_answer(choice: dict[str, Any]) -> None:
    found = parse({"model": "m", "choices": [choice]})
    assert (found.status, found.error_code) == (S.INVALID, "empty_answer")
    assert not found.retryable


def test_a_tool_call_without_content_is_an_answer() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    found = parse({"choices": [{"message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}]})
    assert found.status is S.SUCCEEDED and json.loads(found.output) == calls


def test_a_refusal_in_any_choice_makes_the_row_refused() -> None:
    good = {"message": {"content": "good"}, "finish_reason": "stop"}
    bad = {"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}
    for choices in ([good, bad], [bad, good]):
        found = parse({"choices": choices})
        assert (found.status, found.error_code, found.error_message) == (S.REFUSED, "refusal", "No.")


def test_two_good_choices_are_an_answer() -> None:
    choices = [{"message": {"content": text}, "finish_reason": "stop"} for text in ("a", "b")]
    assert parse({"choices": choices}).output == '["a","b"]'


def test_a_good_choice_beside_an_empty_one_is_not_thrown_away() -> None:
    choices = [{"message": {"content": text}, "finish_reason": "stop"} for text in ("good", "")]
    found = parse({"choices": choices})
    assert found.output is not None and "good" in found.output, "it was paid for"


@pytest.mark.parametrize("body", [{"model": "m"}, {"model": "m", "results": []}, {"model": "m", "results": None}])
def test_a_moderation_without_results_is_invalid(body: dict[str, Any]) -> None:
    assert parse(body, "/v1/moderations").status is S.INVALID


def test_a_video_that_failed_is_failed() -> None:
    body = {"id": "v", "object": "video", "status": "failed", "error": {"code": "moderation_blocked", "message": "No."}}
    found = parse(body, "/v1/videos")
    assert found.status is S.FAILED
    assert found.error_code == "moderation_blocked"
    assert parse({"id": "v", "status": "completed"}, "/v1/videos").status is S.SUCCEEDED


def test_a_truncated_answer_beats_an_error_line(world: World) -> None:
    body = responses_body("half", status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    ended(world, lambda i: line(i, body) + b"\n" + failure(i, 500) if i == "t1" else answer(i))
    assert world.job.shards[0].tally == {S.SUCCEEDED: 2, S.TRUNCATED: 1}
    assert len(world.api.made) == 1


# -- what is stored --------------------------------------------------------------------------------------------------


def test_a_default_policy_is_stored_whole(world: World) -> None:
    """Another version may have other defaults; what this job was promised must not change with them."""
    world.submit(2)
    stored = json.loads(world.store.read(f"state/{world.number:06d}.json"))
    assert set(stored["policy"]) == set(Policy.__struct_fields__)
    assert stored["policy"]["max_rounds"] == Policy().max_rounds
    assert world.job.policy == Policy()


def test_a_snapshot_with_an_unknown_state_is_of_an_unknown_format(world: World) -> None:
    world.submit(2)
    data = world.store.read(f"state/{world.number:06d}.json")
    assert decode_job(data).shards[0].state == "planned"
    changed = data.replace(b'"planned"', b'"levitating"')
    assert changed != data
    with pytest.raises(UnknownFormat):
        decode_job(changed)


# -- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_rows_may_be_a_plain_path(world: World, tmp_path: Path, ending: str) -> None:
    frame = pd.DataFrame([{"id": "t0", "text": "a"}, {"id": "t1", "text": "b"}])
    path = tmp_path / f"rows.{ending}"
    save: dict[str, Any] = {
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        "csv": lambda: frame.to_csv(path, index=False),
        "parquet": lambda: frame.to_parquet(path),
    }
    save[ending]()
    ended(world, data=path)
    assert world.job.n_rows == 2 and world.job.source_version is not None
    world.submit(str(path))
    assert world.job.epoch == 0, "the same file as a text is the same source"


def test_a_plain_path_that_is_not_there_is_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        world.submit(tmp_path / "nothing.jsonl", body=BODY)


# -- the listing -----------------------------------------------------------------------------------------------------


def listing(handler: Any) -> Api:
    http = httpx2.Client(transport=httpx2.MockTransport(handler))
    return Api(OpenAI(base_url="http://openai.test/v1", api_key="sk-test", http_client=http))


def page(first: int, n: int, *, more: bool) -> httpx2.Response:
    data = [{"id": f"batch_{i}", "status": "completed", "created_at": 1_786_400_000} for i in range(first, first + n)]
    return httpx2.Response(200, json={"object": "list", "data": data, "has_more": more})


def test_a_server_that_ignores_the_cursor_does_not_keep_us_for_ever() -> None:
    calls: list[str] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        calls.append(str(request.url))
        return page(0, 100, more=True)

    found = list(itertools.islice(listing(handler).batches(0.0), 5_000))
    assert len(calls) <= 3
    # Each once: of two batches of a shard, the look adopts one and cancels the other.
    assert [batch.id for batch in found] == [f"batch_{i}" for i in range(100)]


def test_all_pages_of_a_server_that_heeds_the_cursor_are_read() -> None:
    def handler(request: httpx2.Request) -> httpx2.Response:
        after = request.url.params.get("after")
        return page(0 if after is None else int(after[6:]) + 1, 100, more=after != "batch_199")

    assert [b.id for b in listing(handler).batches(0.0)] == [f"batch_{i}" for i in range(300)]


def test_a_batch_that_is_listed_twice_is_not_one_too_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server does that ignores the cursor: the batch must not be adopted and cancelled at once."""
    world.submit(2)
    world.api.script("create", Lost())
    listed = world.api.batches
    monkeypatch.setattr(world.api, "batches", lambda since: iter([*listed(since), *listed(since)]))
    world.waits()
    assert world.job.shards[0].state is State.RUNNING
    assert world.api.calls["cancel"] == 0
    monkeypatch.undo()
    world.ends_well(2)


# -- taking up -------------------------------------------------------------------------------------------------------


def test_taking_up_a_late_job_makes_it_wait_again(world: World) -> None:
    world.submit(2)
    world.waits()
    world.later(80 * 3600)
    assert "deadline" in world.held()
    extend_deadline(world.engine)
    assert world.job.deadline_from == world.clock.now
    assert deadline_at(world.job, TIMING) > world.clock.now
    world.waits()
    assert len(world.api.made) == 1, "nothing is sent again"


def test_taking_up_a_job_in_time_changes_nothing(world: World) -> None:
    world.submit(2)
    world.waits()
    world.later(10 * 3600)
    before = world.store.load()
    extend_deadline(world.engine)
    assert world.store.load() == before


def test_taking_up_keeps_a_policy_that_is_not_the_default(world: World) -> None:
    policy = Policy(deadline_s=3600.0, max_rounds=0, max_bad_rows=1)
    world.submit(2, policy=policy)
    world.waits()
    world.later(40 * 3600)
    extend_deadline(world.engine)
    assert world.job.policy == policy
    assert world.job.deadline_from == world.clock.now
