"""Rounds: what may pass by itself is asked again, and only that; nothing waits for the slowest."""

from __future__ import annotations

import json

import pytest

from airflow_openai_batch.engine.model import Policy, State, Status

SCHEMA = {
    "title": "label",
    "type": "object",
    "properties": {"topic": {"type": "string"}, "score": {"type": "integer"}},
    "required": ["topic", "score"],
    "additionalProperties": False,
}
PASSING = {
    "429": {"http_error": {"status": 429, "code": "rate_limit_exceeded"}},
    "500": {"http_error": {"status": 500}},
    "503_without_code": {"http_error": {"status": 503, "code": None, "type": "", "message": "Overloaded."}},
    "500_in_output_file": {"http_error": {"status": 500, "in_output": True}},
    "status_0_in_output_file": {"http_error": {"status": 0, "code": None, "type": "", "in_output": True}},
    "request_timeout": {"line_error": {"code": "request_timeout"}},
    "batch_expired": {"line_error": {"code": "batch_expired"}},
    "missing": "missing",
}
FINAL = {
    "400": {"http_error": {"status": 400, "code": "invalid_value"}},
    "401": {"http_error": {"status": 401, "code": "invalid_api_key"}},
    "403": {"http_error": {"status": 403, "code": "forbidden"}},
    "404": {"http_error": {"status": 404, "code": "model_not_found"}},
    "no_money": {"http_error": {"status": 429, "code": "insufficient_quota"}},
    "refusal": "refusal",
    "truncated": "truncated",
    "filtered": "filtered",
}


@pytest.mark.parametrize("fault", PASSING)
def test_rows_that_failed_in_passing_are_asked_again_and_only_they(world, fault):
    w = world()
    w.submit(8)
    w.fault("row", PASSING[fault], match={"custom_id": "t-[25]$", "batch": 1})
    assert w.done().by_status == {"succeeded": 8}
    assert [sorted(w.asked(batch)) for batch in w.batches[1:]] == [["t-2", "t-5"]]
    assert [row["round"] for row in w.table()] == [0, 0, 1, 0, 0, 1, 0, 0]


def test_the_line_asked_again_is_the_same_line(world):
    w = world()
    w.submit(8)
    w.fault("row", "missing", match={"custom_id": "t-5$"}, times=1)
    w.done()
    assert w.lines(w.batches[1]) == [line for line in w.lines(w.batches[0]) if line["custom_id"] == "t-5"]


@pytest.mark.parametrize("fault", FINAL)
def test_what_would_fail_again_is_never_asked_again(world, fault):
    w = world()
    w.submit(8)
    w.fault("row", FINAL[fault], match={"custom_id": "t-[25]$"})
    summary = w.done()
    assert len(w.batches) == 1
    assert summary.n_succeeded == 6 and sum(summary.by_status.values()) == 8


@pytest.mark.parametrize("max_rounds", [0, 1, 3])
def test_rounds_are_bounded(world, max_rounds):
    w = world()
    w.submit(4, policy=Policy(max_rounds=max_rounds))
    w.fault("row", {"http_error": {"status": 500}}, match={"custom_id": "t-1$"})
    summary = w.done()
    assert len(w.batches) == 1 + max_rounds
    assert summary.rounds == max_rounds
    assert summary.by_status == {"failed": 1, "succeeded": 3}


def test_more_rounds_can_be_allowed_later_and_cost_only_the_open_rows(world):
    w = world()
    w.submit(4, policy=Policy(max_rounds=0))
    w.fault("row", {"http_error": {"status": 500}}, match={"custom_id": "t-1$"}, times=1)
    assert w.done().by_status == {"failed": 1, "succeeded": 3}
    w.submit(4, policy=Policy(max_rounds=1))
    assert w.done().by_status == {"succeeded": 4}
    assert w.asked(w.batches[1]) == ["t-1"]
    w.assert_paid_once(4)


def test_refused_and_truncated_answers_are_asked_again_only_if_wished(world):
    w = world()
    w.submit(6, policy=Policy(retry_on=frozenset({Status.REFUSED, Status.TRUNCATED})))
    w.fault("row", "refusal", match={"custom_id": "t-2$"}, times=1)
    w.fault("row", "truncated", match={"custom_id": "t-4$"}, times=1)
    assert w.done().by_status == {"succeeded": 6}
    assert w.asked(w.batches[1]) == ["t-2", "t-4"]


@pytest.mark.parametrize(
    ("endpoint", "body", "conversation"),
    [
        ("/v1/responses", {"model": "m", "input": "Label: {text}"}, "input"),
        ("/v1/responses", {"model": "m", "input": [{"role": "user", "content": "Label: {text}"}]}, "input"),
        (
            "/v1/chat/completions",
            {"model": "m", "messages": [{"role": "user", "content": "Label: {text}"}]},
            "messages",
        ),
    ],
    ids=["responses_text", "responses_list", "chat"],
)
def test_an_invalid_answer_is_put_into_the_conversation_with_what_is_wrong(world, endpoint, body, conversation):
    w = world()
    policy = Policy(retry_on=frozenset({Status.INVALID}))
    w.submit(4, endpoint=endpoint, body=body, response_model=SCHEMA, policy=policy)
    w.fault("row", {"invalid": '{"topic": "x"}'}, match={"custom_id": "t-2$"}, times=1)
    assert w.done().by_status == {"succeeded": 4}
    (again,) = w.lines(w.batches[1])
    (before,) = [line for line in w.lines(w.batches[0]) if line["custom_id"] == "t-2"]
    said = again["body"].pop(conversation)
    before["body"].pop(conversation)
    assert again == before, "nothing else changes"
    assert said[0] == {"role": "user", "content": "Label: ticket 2"}
    assert said[1] == {"role": "assistant", "content": '{"topic": "x"}'}
    assert said[2]["role"] == "user" and '"score" is a required property' in said[2]["content"]


def test_invalid_answers_are_kept_as_they_are_without_the_wish(world):
    w = world()
    w.submit(4, response_model=SCHEMA)
    w.fault("row", {"invalid": '{"topic": "x"}'}, match={"custom_id": "t-2$"})
    assert w.done().by_status == {"invalid": 1, "succeeded": 3}
    row = w.table()[2]
    assert row["output"] == '{"topic": "x"}' and "score" in row["error_message"] and row["topic"] is None


def test_a_request_without_a_conversation_is_repeated_as_it_was(world):
    """An unreadable embedding: there is nothing to discuss, and a changed input would be refused."""
    w = world()
    w.submit(
        3,
        endpoint="/v1/embeddings",
        body={"model": "e", "input": "{text}"},
        policy=Policy(retry_on=frozenset({Status.INVALID})),
    )
    broken = {"custom_id": "t-1", "response": {"status_code": 200, "body": {"data": []}}, "error": None}
    w.fault("row", {"malformed": json.dumps(broken)}, match={"custom_id": "t-1$"}, times=1)
    assert w.done().by_status == {"succeeded": 3}
    assert w.lines(w.batches[1]) == [line for line in w.lines(w.batches[0]) if line["custom_id"] == "t-1"]


def test_a_slow_shard_does_not_hold_up_the_second_round_of_another(world):
    w = world()
    w.submit(8, per_shard=4)
    w.fault("batch", {"stuck": {"state": "in_progress", "seconds": 40_000}}, match={"batch": 2})
    w.fault("row", "missing", match={"custom_id": "t-1$"}, times=1)
    while len(w.batches) < 3 or w.batches[2].status != "completed":
        w.advance()
        w.clock.advance(900)
    w.advance()
    assert w.batches[1].status == "in_progress"
    by_id = {shard.id: shard for shard in w.job.shards}
    assert by_id["0-00000.1"].state is State.SETTLED
    assert w.done(step_s=7200).by_status == {"succeeded": 8}
    w.assert_paid_once(8)


def test_each_shard_has_its_own_rounds(world):
    w = world()
    w.submit(9, per_shard=3)
    w.fault("row", {"http_error": {"status": 500}}, match={"custom_id": "t-1$"}, times=2)
    w.fault("row", {"http_error": {"status": 500}}, match={"custom_id": "t-7$"}, times=1)
    assert w.done().by_status == {"succeeded": 9}
    assert sorted(tuple(w.asked(b)) for b in w.batches[3:]) == [("t-1",), ("t-1",), ("t-7",)]
    w.assert_paid_once(9)
    w.assert_accounted(9)
