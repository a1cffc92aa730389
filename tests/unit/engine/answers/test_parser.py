from __future__ import annotations

import json
from typing import Any

import pytest
from builders import CHAT, RESPONSES, failure, line, line_error, responses_body

from airflow_openai_batch.engine.answers.parser import LineParser, custom_id_of
from airflow_openai_batch.engine.model import Outcome, Status
from airflow_openai_batch.engine.schema.validation import ResponseSchema

S = Status


def parse(data: bytes, endpoint: str = RESPONSES, schema: ResponseSchema | None = None) -> Outcome:
    found = LineParser(endpoint, schema).parse(data)
    assert found is not None
    return found


def told(outcome: Outcome) -> tuple[Status, Any, str | None]:
    return outcome.status, outcome.output, outcome.error_code


@pytest.mark.parametrize(
    ("data", "status", "code", "again"),
    [
        (failure("c", 400, "invalid_value"), S.FAILED, "invalid_value", False),
        (failure("c", 401, None), S.FAILED, "http_401", False),
        (failure("c", 403, "x"), S.FAILED, "x", False),
        (failure("c", 404, "model_not_found"), S.FAILED, "model_not_found", False),
        (failure("c", 408, "x"), S.FAILED, "x", True),
        (failure("c", 409, "x"), S.FAILED, "x", True),
        (failure("c", 429, "rate_limit_exceeded"), S.FAILED, "rate_limit_exceeded", True),
        (failure("c", 429, "insufficient_quota"), S.FAILED, "insufficient_quota", False),
        (failure("c", 500, "server_error"), S.FAILED, "server_error", True),
        (failure("c", 502, None), S.FAILED, "http_502", True),
        (failure("c", 0, None), S.FAILED, "http_0", True),
        (line("c", {}, status=0), S.FAILED, "http_0", True),
        (line_error("c", "batch_expired"), S.EXPIRED, "batch_expired", True),
        (line_error("c", "batch_cancelled"), S.CANCELLED, "batch_cancelled", True),
        (line_error("c", "request_timeout"), S.FAILED, "request_timeout", True),
        (line_error("c", "something_new"), S.FAILED, "something_new", False),
        (line("c"), S.FAILED, "no_answer", True),
        (b'{"custom_id":"c"}', S.FAILED, "no_answer", True),
        (b'{"custom_id":"c","response":{"body":{}}}', S.FAILED, "no_answer", True),
        (b'{"custom_id":"c","error":"overloaded"}', S.FAILED, "no_answer", True),
        (b'{"custom_id":"c","response":{"status_code":500,"body":null}}', S.FAILED, "http_500", True),
        (b'{"custom_id":"c","response":{"status_code":500,"body":"<html>"}}', S.FAILED, "http_500", True),
        (b'{"custom_id":"c","response":{"status_code":400,"body":{"error":"bad"}}}', S.FAILED, "http_400", False),
        (b'{"custom_id":"c","response":{"status_code":null,"body":null}}', S.FAILED, "no_answer", True),
        (b'{"custom_id":"c","response":{"body":{"error":{"code":"bad_thing"}}}}', S.FAILED, "bad_thing", False),
        (line("c", {"error": {"code": "server_error"}}, status=200), S.FAILED, "server_error", True),
        (
            b'{"custom_id":"c","response":{"status_code":200,"body":null},"error":{"code":"batch_expired"}}',
            S.EXPIRED,
            "batch_expired",
            True,
        ),
    ],
)
def test_failures_are_told_apart_and_asked_again_where_that_may_help(
    data: bytes, status: Status, code: str, again: bool
) -> None:
    found = parse(data)
    assert (found.status, found.error_code, found.retryable) == (status, code, again)


def test_a_failure_says_what_openai_said() -> None:
    assert parse(failure("c", 400, "x")).error_message == "it was 400"
    assert parse(line("c", {"error": "bad thing"}, status=400)).error_message == "bad thing"
    assert parse(line("c", {}, status=503)).error_message == "HTTP 503"
    typed = parse(line("c", {"error": {"type": "invalid_request_error", "message": "m", "code": None}}, status=400))
    assert typed.error_code == "invalid_request_error"


def test_a_body_may_be_a_json_text() -> None:
    assert parse(line("c", json.dumps(responses_body("hi")))).output == "hi"
    error = json.dumps({"error": {"code": "rate_limit_exceeded", "message": "slow"}})
    assert told(parse(line("c", error, status=429))) == (S.FAILED, None, "rate_limit_exceeded")


@pytest.mark.parametrize("status", [None, "200", "200.0", 200.0, "OK"])
def test_an_answer_is_one_however_its_status_is_written(status: Any) -> None:
    data = line("c", responses_body("hi"), status=status)
    assert told(parse(data)) == (S.SUCCEEDED, "hi", None)
    assert told(parse(data.replace(b'"status_code": null, ', b""))) == (S.SUCCEEDED, "hi", None)


def test_without_a_status_an_error_is_one() -> None:
    found = parse(line("c", {"error": {"code": "server_error", "message": "m"}}, status=None), CHAT)  # type: ignore[arg-type]
    assert (told(found), found.retryable) == ((S.FAILED, None, "server_error"), True)


def test_what_json_has_no_room_for_spoils_no_answer() -> None:
    data = line("c", responses_body("cut \ud83d", logprobs=float("nan"), other=float("-inf")))
    assert b"NaN" in data and b"\\ud83d" in data
    assert told(parse(data)) == (S.SUCCEEDED, "cut \ufffd", None)
    assert custom_id_of(data) == "c"
    whole = line("c", responses_body("whole \U0001f600", logprobs=float("nan")))
    assert parse(whole).output == "whole \U0001f600"


@pytest.mark.parametrize("text", ["a\u2028b\u2029c\x85d", "é😀", "\x00\x1f", '"\\'])
def test_no_character_is_lost(text: str) -> None:
    for data in (line("c", responses_body(text)), json.dumps(json.loads(line("c", responses_body(text)))).encode()):
        assert parse(data).output == text
    raw = json.dumps({"custom_id": text, "response": None}, ensure_ascii=False).encode()
    assert custom_id_of(raw) == text == parse(raw).custom_id


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'"c"',
        b"{",
        b"{}",
        b'{"custom_id":""}',
        b'{"custom_id":[1]}',
        b"\xff",
        b'{"custom_id":"c"',
    ],
)
def test_a_line_that_names_no_row_is_unmatched(data: bytes) -> None:
    assert LineParser(RESPONSES).parse(data) is None and not custom_id_of(data)


@pytest.mark.parametrize("body", [None, 1, [], "text", '"', {"output": "x"}, {"output": [1]}, {"model": 3}])
@pytest.mark.parametrize("endpoint", [RESPONSES, CHAT, "/v1/embeddings", "/v1/moderations"])
def test_an_answer_of_an_unknown_shape_is_invalid_and_says_so(body: Any, endpoint: str) -> None:
    data = json.dumps({"custom_id": "c", "response": {"status_code": 200, "body": body}}).encode()
    found = parse(data, endpoint)
    assert found.status in (S.INVALID, S.SUCCEEDED)
    assert found.status is S.SUCCEEDED or (found.error_code, found.retryable) == ("unreadable_answer", False)
