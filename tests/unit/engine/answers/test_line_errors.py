"""Errors in the forms that servers write: asked again where that may help, and never without their text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import CHAT, EMBEDDINGS, RESPONSES, Status, World, line, responses_body

from airflow_openai_batch.engine.answers.parser import LineParser
from airflow_openai_batch.engine.model import Outcome


def parse(endpoint: str, **fields: Any) -> Outcome:
    outcome = LineParser(endpoint).parse(json.dumps({"id": "1", "custom_id": "c", **fields}).encode())
    assert outcome is not None
    return outcome


def in_body(body: Any, status: Any = None) -> dict[str, Any]:
    return {"response": {"status_code": status, "body": body}}


TEXT = "slow down"
PASSING: dict[str, dict[str, Any]] = {
    "text": {"error": f"Error code: 429 - {TEXT}"},
    "text of another status": {"error": f"HTTP 503: {TEXT}"},
    "nested": {"error": {"error": {"code": 429, "message": TEXT}}},
    "nested twice": {"error": {"error": {"error": {"code": "503", "message": TEXT}}}},
    "list": {"error": [{"code": 500, "message": TEXT}]},
    "status in the code": {"error": {"code": "HTTP_429", "message": TEXT}},
    "reason phrase in the code": {"error": {"code": "503 Service Unavailable", "message": TEXT}},
    "type beside a status in words": {"error": {"type": "some_error", "message": f"Error code: 500 - {TEXT}"}},
    "body without a status": in_body({"error": {"error": {"code": 503, "message": TEXT}}}),
    "body that is the error": in_body({"object": "error", "code": 500, "message": TEXT}),
    "body of a good status": in_body({"error": {"code": 429, "message": TEXT}}, 200),
    "body of a good status that is the error": in_body({"object": "error", "code": 503, "message": TEXT}, 200),
    "body of a bad status that is the error": in_body({"object": "error", "type": "x", "message": TEXT}, 502),
    "detail": in_body({"detail": TEXT}, 500),
    "plain body": in_body(f"<html>{TEXT}", 504),
}

FINAL: dict[str, dict[str, Any]] = {
    "text": {"error": f"Error code: 400 - {TEXT}"},
    "nested": {"error": {"error": {"code": 404, "message": TEXT}}},
    "status in the code": {"error": {"code": "HTTP_422", "message": TEXT}},
    "account": {"error": {"code": "insufficient_quota", "message": f"Error code: 429 - {TEXT}"}},
    "number that is no status": {"error": {"code": "max_512_tokens", "message": TEXT}},
    "body that is the error": in_body({"object": "error", "code": 400, "message": TEXT}),
    "body of a good status": in_body({"error": {"message": TEXT}}, 200),
    "detail": in_body({"detail": [{"msg": TEXT}]}, 422),
}


@pytest.mark.parametrize("endpoint", [RESPONSES, CHAT, EMBEDDINGS, "/v1/of-another-server"])
@pytest.mark.parametrize("form", PASSING)
def test_a_passing_error_is_asked_again_whatever_its_form(form: str, endpoint: str) -> None:
    if endpoint.endswith("server") and form.startswith("body of a good status"):
        pytest.skip("an unknown endpoint's answers are taken as they are")
    outcome = parse(endpoint, **PASSING[form])
    assert (outcome.status, outcome.retryable) == (Status.FAILED, True)
    assert TEXT in (outcome.error_message or "")


@pytest.mark.parametrize("endpoint", [RESPONSES, CHAT])
@pytest.mark.parametrize("form", FINAL)
def test_any_other_error_is_not_asked_again(form: str, endpoint: str) -> None:
    outcome = parse(endpoint, **FINAL[form])
    assert (outcome.status, outcome.retryable) == (Status.FAILED, False)
    assert TEXT in (outcome.error_message or "")


@pytest.mark.parametrize(
    "line",
    [
        in_body({"error": {"code": "content_filter", "message": TEXT, "param": "prompt", "status": 400}}, 400),
        {"error": {"code": "content_filter", "message": TEXT}},
    ],
    ids=["with a status", "without"],
)
def test_a_prompt_that_a_content_filter_refused_is_refused(line: dict[str, Any]) -> None:
    outcome = parse(CHAT, **line)
    assert (outcome.status, outcome.error_code, outcome.retryable) == (Status.REFUSED, "content_filter", False)
    assert TEXT in (outcome.error_message or "")


@pytest.mark.parametrize("empty", [{}, [], "", None, False])
def test_an_empty_error_beside_an_answer_is_none(empty: Any) -> None:
    outcome = parse(RESPONSES, error=empty, **in_body(responses_body("good")))
    assert (outcome.status, outcome.output) == (Status.SUCCEEDED, "good")


def test_an_answer_that_has_a_field_named_detail_is_an_answer() -> None:
    outcome = parse("/v1/of-another-server", **in_body({"detail": "an image of a cat"}))
    assert outcome.status is Status.SUCCEEDED


@pytest.mark.parametrize(
    "raw", [b'"\xff"', b'{"code": 1e999}', b"[" * 2000 + b"]" * 2000, b"[[[[[[[[]]]]]]]]", b"[null]"]
)
def test_any_error_is_read_without_an_exception(raw: bytes) -> None:
    outcome = LineParser(RESPONSES).parse(b'{"custom_id":"c","error":%b}' % raw)
    assert outcome is None or outcome.custom_id == "c"


def test_rows_whose_error_has_no_status_are_asked_again_and_only_they(world: World) -> None:
    def first(custom_id: str) -> bytes:
        if custom_id == "t0":
            return line(custom_id, responses_body("good"))
        return json.dumps({"custom_id": custom_id, "error": {"error": {"message": "Error code: 429 - slow"}}}).encode()

    world.submit(5)
    world.waits()
    world.api.finish("batch_0", first)
    world.api.change("batch_0", n_completed=1, n_failed=4)
    world.waits()
    assert [len(world.api.requests(name)) for name in world.api.made] == [5, 4]
    world.api.finish("batch_1")
    assert world.done().summary.by_status == {Status.SUCCEEDED: 5}
