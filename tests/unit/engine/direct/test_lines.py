"""The answer to a synchronous request becomes a line that is read as one of a batch."""

from __future__ import annotations

import json

import msgspec
import pytest

from airflow_openai_batch.engine.answers.parser import LineParser
from airflow_openai_batch.engine.api.client import Reply
from airflow_openai_batch.engine.direct.lines import LOST, body_to_send, line_of_error, line_of_reply, request_of
from airflow_openai_batch.engine.errors import Refused, Unavailable, Unclear
from airflow_openai_batch.engine.model import Status

BODY = {"model": "m", "input": "x"}
ANSWER = {
    "model": "m",
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "fine\u2028"}]}],
    "usage": {"input_tokens": 3, "output_tokens": 4},
}


def read(line: bytes):
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    return LineParser("/v1/responses").parse(line)


def test_a_pretty_answer_is_one_line() -> None:
    outcome = read(line_of_reply("a", Reply(json.dumps(ANSWER, indent=2).encode(), "req_1")))
    assert (outcome.custom_id, outcome.status, outcome.output) == ("a", Status.SUCCEEDED, "fine\u2028")
    assert (outcome.request_id, outcome.usage.output_tokens) == ("req_1", 4)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{"])
def test_what_is_no_json_is_no_answer(body) -> None:
    with pytest.raises((msgspec.MsgspecError, ValueError)):
        line_of_reply("a", Reply(body))


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (Refused("HTTP 400: No.", status=400, code="invalid_value", is_openais=True), None, "invalid_value"),
        (Refused("HTTP 400: No.", status=400, is_openais=True), None, "http_400"),
        (Unavailable("HTTP 429: No.", status=429, code="rate_limit_exceeded"), None, "rate_limit_exceeded"),
        (Unclear("The answer of OpenAI was lost."), LOST, LOST),
        (Unclear("HTTP 504: page", status=504), LOST, LOST),
    ],
)
def test_an_error_is_a_failed_row_that_names_its_code(error, code, expected) -> None:
    outcome = read(line_of_error("a", error, code))
    assert (outcome.custom_id, outcome.status, outcome.error_code) == ("a", Status.FAILED, expected)
    assert outcome.error_message == str(error)


def test_the_service_tier_is_sent_where_there_is_one() -> None:
    assert body_to_send(BODY, "/v1/responses", "flex") == {**BODY, "service_tier": "flex"}
    assert (
        body_to_send({**BODY, "service_tier": "auto"}, "/v1/chat/completions", "default")["service_tier"] == "default"
    )
    assert body_to_send(BODY, "/v1/embeddings", "default") == BODY


def test_a_request_line_is_read() -> None:
    line = json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": BODY}).encode()
    request = request_of(line)
    assert (request.custom_id, request.body, request.n_bytes) == ("a", BODY, len(line))
