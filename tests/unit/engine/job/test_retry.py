from __future__ import annotations

import json
from typing import Any

import pytest
from builders import CHAT, EMBEDDINGS, World, answer, cut, failure, line, line_error, responses_body

from airflow_openai_batch.engine.answers.outcome_files import read_part
from airflow_openai_batch.engine.model import Policy, Shard, State, Status
from airflow_openai_batch.engine.store.index import read_index

S = Status
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
AGAIN = Policy(retry_on=frozenset({S.INVALID}), max_rounds=1)


def lines_of(world: World, of: Shard) -> list[bytes]:
    return [text for text in world.store.read(of.requests).split(b"\n") if text]


def child_of(world: World) -> Shard:
    [found] = [s for s in world.job.shards if s.parent is not None]
    return found


def ask(world: World, output: Any = answer, errors: Any = None, n: int = 4, **request: Any) -> None:
    """Submit, send and end the first batch; harvest it, and send what deserves another round."""
    world.submit(n, **request)
    world.waits()
    world.api.finish("batch_0", output, errors)
    world.advance()


def test_a_child_has_exactly_the_rows_that_deserve_another_answer(world: World) -> None:
    told = {"t0": answer, "t1": failure, "t3": line_error}
    bad = {"t2": failure("t2", 400, "x")}
    ask(world, lambda i: told[i](i) if i in told else bad[i])
    parent, child = world.job.shards
    assert (child.id, child.round, child.parent, parent.child) == ("0-00000.1", 1, parent.id, child.id)
    assert read_index(world.store, child.index).ordinals == [1, 3]
    whole = lines_of(world, parent)
    assert lines_of(world, child) == [whole[1], whole[3]]
    assert read_index(world.store, child.index).digests == [
        read_index(world.store, parent.index).digests[i] for i in (1, 3)
    ]
    assert (child.n_requests, child.n_bytes) == (2, len(whole[1]) + len(whole[3]) + 2)


def test_a_child_stands_beside_its_parent_and_is_sent_at_once(world: World) -> None:
    world.submit(4, limits=cut(2))
    world.waits()
    world.api.finish("batch_0", failure)
    world.waits()
    assert [s.id for s in world.job.shards] == ["0-00000", "0-00000.1", "0-00001"]
    assert [s.state for s in world.job.shards] == [State.SETTLED, State.RUNNING, State.RUNNING]


def test_nothing_is_asked_again_beyond_the_last_round(world: World) -> None:
    ask(world, failure, policy=Policy(max_rounds=1))
    world.api.finish("batch_1", failure)
    assert world.done().summary.by_status == {S.FAILED: 4}
    assert len(world.api.made) == 2


def test_a_child_fits_into_the_token_budget_that_its_parent_filled(world: World) -> None:
    n_tokens = world.submit(3).shards[0].n_tokens
    world.submit(3, policy=Policy(max_enqueued_tokens=n_tokens))
    world.waits()
    world.api.finish("batch_0", None, line_error, status="expired")
    world.waits()
    assert child_of(world).state is State.RUNNING and child_of(world).n_requests == 3


def test_what_is_left_after_carrying_fits_into_the_token_budget(world: World) -> None:
    ask(world, n=1)
    n_tokens = sum(s.n_tokens for s in world.submit(3).shards)
    world.submit(3, policy=Policy(max_enqueued_tokens=n_tokens))
    world.waits()
    assert len(world.api.requests("batch_1")) == 2


@pytest.mark.parametrize(
    ("endpoint", "body", "before"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "{text}"}]}, [{"role": "user", "content": "ticket 0"}]),
        ("/v1/responses", {"input": "{text}"}, [{"role": "user", "content": "ticket 0"}]),
        (
            "/v1/responses",
            {"input": [{"role": "user", "content": "{text}"}]},
            [{"role": "user", "content": "ticket 0"}],
        ),
    ],
)
def test_an_invalid_answer_is_told_what_was_wrong(world: World, endpoint: str, body: Any, before: Any) -> None:
    bad = '{"a":"one"}'
    chat = {"choices": [{"message": {"content": bad}, "finish_reason": "stop"}]}
    told = chat if endpoint == CHAT else responses_body(bad)
    request = {"endpoint": endpoint, "body": {"model": "m", **body}, "response_model": SCHEMA, "policy": AGAIN}
    ask(world, lambda i: line(i, told), n=1, **request)
    [first], [second] = (world.api.requests(name) for name in ("batch_0", "batch_1"))
    talk = second["body"].pop("messages" if endpoint == CHAT else "input")
    first["body"].pop("messages" if endpoint == CHAT else "input")
    assert first == second  # the rest is untouched
    *start, wrong, problem = talk
    assert (start, wrong) == (before, {"role": "assistant", "content": bad})
    assert problem["role"] == "user" and "a: " in problem["content"] and "Answer again" in problem["content"]


@pytest.mark.parametrize("endpoint", ["/v1/responses", EMBEDDINGS])
def test_an_answer_that_cannot_be_read_is_asked_again_word_for_word(world: World, endpoint: str) -> None:
    body = {"model": "m", "input": ["{text}"]} if endpoint == EMBEDDINGS else {"model": "m", "input": "{text}"}
    ask(world, lambda i: line(i, {"output": "?", "data": "?"}), n=2, endpoint=endpoint, body=body, policy=AGAIN)
    assert world.api.requests("batch_0") == world.api.requests("batch_1")


# -- starting over ---------------------------------------------------------------------------------------------------


def test_only_what_changed_is_asked_again(world: World) -> None:
    ask(world, lambda i: failure(i, 400, "x") if i == "t2" else answer(i, f"old {i}"))
    data = [{"id": f"t{i}", "text": f"ticket {i}"} for i in range(6)]
    data[1]["text"] = "changed"
    world.submit(data)
    world.waits()
    assert [r["custom_id"] for r in world.api.requests("batch_1")] == ["t1", "t2", "t4", "t5"]
    world.api.finish("batch_1", lambda i: answer(i, f"new {i}"))
    found = world.done().summary
    assert (found.by_status, found.n_carried, found.n_rows) == ({S.SUCCEEDED: 6}, 2, 6)
    assert found.usage.input_tokens == 30 + 40  # what was carried was paid for once, by the epoch before


def test_an_unchanged_answer_is_carried_to_its_new_row_and_id(world: World) -> None:
    ask(world, lambda i: answer(i, f"old {i}"), n=2)
    data = [{"id": "new", "text": "ticket 1"}, {"id": "twin", "text": "ticket 1"}]
    world.submit(data)
    assert world.done().summary.n_carried == 2
    assert len(world.api.made) == 1
    [settled] = world.job.shards
    assert settled.carried is not None
    [found] = read_part(world.store, settled.carried.name)
    assert [(r["custom_id"], r["ordinal"], r["output"], r["batch_id"]) for r in found.to_pylist()] == [
        ("new", 0, "old t1", "batch_0"),
        ("twin", 1, "old t1", "batch_0"),
    ]


def test_answers_survive_two_changes_of_the_rows(world: World) -> None:
    ask(world, n=2)
    for n in (3, 4):
        world.submit(n)
        world.waits()
        world.api.finish(f"batch_{n - 2}")
        assert world.done().summary.n_carried == n - 1
    assert [len(world.api.requests(name)) for name in world.api.made] == [2, 1, 1]


def test_a_changed_prompt_carries_nothing(world: World) -> None:
    ask(world, n=2)
    world.submit(2, body={"model": "m", "input": "Label {text}"})
    world.waits()
    assert len(world.api.requests("batch_1")) == 2


def test_a_person_who_wants_all_anew_gets_all_anew_once(world: World) -> None:
    ask(world, n=2)
    world.submit(2, start_over="again")
    world.waits()
    world.submit(2, start_over="again")  # the same task once more: a retry
    world.waits()
    assert [len(world.api.requests(name)) for name in world.api.made] == [2, 2]


def test_vectors_are_carried_as_vectors(world: World) -> None:
    request: dict[str, Any] = {"endpoint": EMBEDDINGS, "body": {"model": "m", "input": "{text}"}}
    ask(world, lambda i: line(i, {"data": [{"embedding": [1.0, 2.0]}]}), n=2, **request)
    world.submit(3, **request)
    world.waits()
    assert len(world.api.requests("batch_1")) == 1
    world.api.finish("batch_1", lambda i: line(i, {"data": [{"embedding": [3.0, 4.0]}]}))
    assert world.done().summary.by_status == {S.SUCCEEDED: 3}
    carried = world.job.shards[0].carried
    assert carried is not None
    [found] = read_part(world.store, carried.name, ["output"])
    assert [json.dumps(row["output"]) for row in found.to_pylist()] == ["[1.0, 2.0]"] * 2
