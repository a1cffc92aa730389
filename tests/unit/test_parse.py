from __future__ import annotations

import json
from typing import Any

import pytest
from builders import CHAT, RESPONSES, failure, line, line_error, responses_body

from airflow_openai_batch.engine.answers.parser import LineParser, custom_id_of
from airflow_openai_batch.engine.model import Outcome, Status, Usage
from airflow_openai_batch.engine.schema.validation import ResponseSchema

SCHEMA = ResponseSchema(
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}, "x"
)
S = Status


def parse(data: bytes, endpoint: str = RESPONSES, schema: ResponseSchema | None = None) -> Outcome:
    found = LineParser(endpoint, schema).parse(data)
    assert found is not None
    return found


def told(outcome: Outcome) -> tuple[Status, Any, str | None]:
    return outcome.status, outcome.output, outcome.error_code


def chat(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "m-1", "choices": list(choices), "usage": {"prompt_tokens": 7, "completion_tokens": 3}, **more}


def said(content: str | None, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    return {"message": {"content": content, **message}, "finish_reason": finish_reason}


# -- responses -------------------------------------------------------------------------------------------------------


def test_an_answer_comes_with_all_that_is_known_of_it() -> None:
    assert parse(line("c1", responses_body("hi"))) == Outcome(
        custom_id="c1",
        status=S.SUCCEEDED,
        output="hi",
        finish_reason="completed",
        model="gpt-6-luna-2026",
        usage=Usage(input_tokens=10, cached_tokens=4, output_tokens=5, reasoning_tokens=2),
        request_id="req_1",
    )


def test_the_last_message_counts_because_an_earlier_one_can_be_a_fragment() -> None:
    assert parse(line("c", responses_body('{"a":', '{"a":1}'))).output == '{"a":1}'
    assert told(parse(line("c", responses_body('{"a":1}', "As I said.")), schema=SCHEMA)) == (
        S.SUCCEEDED,
        '{"a":1}',
        None,
    )


def test_items_that_are_no_messages_are_passed_over() -> None:
    body = responses_body("hi")
    body["output"] = [
        {"type": "reasoning", "summary": [], "content": None},
        {"type": "new_kind", "x": 1},
        *body["output"],
    ]
    assert parse(line("c", body)).output == "hi"


def test_the_parts_of_a_message_are_one_text() -> None:
    parts = [{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}]
    body = responses_body() | {"output": [{"type": "message", "content": parts}]}
    assert parse(line("c", body)).output == "ab"


def test_a_refusal_is_no_answer() -> None:
    item = {"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}
    found = parse(line("c", responses_body() | {"output": [item]}))
    assert (told(found), found.error_message, found.usage.input_tokens) == ((S.REFUSED, None, "refusal"), "No.", 10)


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        ("max_output_tokens", S.TRUNCATED, "max_output_tokens"),
        ("content_filter", S.REFUSED, "content_filter"),
        (None, S.TRUNCATED, "incomplete"),
    ],
)
def test_an_incomplete_answer_is_kept_and_not_good(reason: str | None, status: Status, code: str) -> None:
    details = {"reason": reason} if reason else None
    found = parse(line("c", responses_body("a", "half", status="incomplete", incomplete_details=details)))
    assert told(found) == (status, "half", code)


@pytest.mark.parametrize(("code", "again"), [("server_error", True), ("invalid_prompt", False), (None, False)])
def test_a_response_that_failed_inside_is_a_failure(code: str | None, again: bool) -> None:
    error = {"code": code, "message": "oops"} if code else None
    found = parse(line("c", responses_body(status="failed", error=error)))
    assert (told(found), found.retryable) == ((S.FAILED, None, code or "failed"), again)


def test_function_calls_are_the_answer_where_there_is_no_text() -> None:
    call = {"type": "function_call", "name": "f", "arguments": "{}"}
    found = parse(line("c", responses_body() | {"output": [call, call]}), schema=SCHEMA)
    assert found.status is S.SUCCEEDED and json.loads(found.output) == [call, call]


def message(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "content": list(parts)}


def text(value: str) -> dict[str, Any]:
    return {"type": "output_text", "text": value}


REFUSAL = {"type": "refusal", "refusal": "No."}
CALL = {"type": "function_call", "name": "f", "arguments": "{}"}
CUSTOM = {"type": "custom_tool_call", "name": "g", "input": "x"}
SEARCH = {"type": "web_search_call", "id": "ws_1"}


def of_items(*items: dict[str, Any], schema: ResponseSchema | None = None) -> Outcome:
    return parse(line("c", responses_body() | {"output": list(items)}), schema=schema)


@pytest.mark.parametrize("call", [CALL, CUSTOM])
def test_what_is_said_beside_calls_does_not_hide_them(call: dict[str, Any]) -> None:
    items = (message(text("Let me look that up.")), call)
    found = of_items(*items)
    assert found.status is S.SUCCEEDED and json.loads(found.output) == list(items)
    assert json.loads(of_items(*items, schema=SCHEMA).output) == list(items)
    # What the schema asks for is the answer, whatever else was called.
    assert told(of_items(message(text('{"a":1}')), call, schema=SCHEMA)) == (S.SUCCEEDED, '{"a":1}', None)


def test_what_openais_own_tools_did_is_no_answer_beside_a_text() -> None:
    assert told(of_items(SEARCH, message(text("found")))) == (S.SUCCEEDED, "found", None)
    assert json.loads(of_items(SEARCH).output) == [SEARCH]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ((message(text("Sure, "), REFUSAL),), (S.REFUSED, "Sure, ", "refusal")),
        ((message(text("Sure, ")), message(REFUSAL)), (S.REFUSED, "Sure, ", "refusal")),
        ((message(text(""), REFUSAL),), (S.REFUSED, None, "refusal")),
        ((message(REFUSAL), message(text(""))), (S.REFUSED, None, "refusal")),
        ((message(REFUSAL), message(text("well"))), (S.SUCCEEDED, "well", None)),
        ((message(text("whole")), message(text(""))), (S.SUCCEEDED, "whole", None)),
        ((message(text("")),), (S.INVALID, "", "empty_answer")),
        ((), (S.INVALID, None, "unreadable_answer")),
    ],
)
def test_the_last_message_that_says_something_decides(items: Any, expected: Any) -> None:
    assert told(of_items(*items)) == expected


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"incomplete_details": {"reason": "max_output_tokens"}}, (S.TRUNCATED, "half", "max_output_tokens")),
        ({"status": None, "incomplete_details": {"reason": "content_filter"}}, (S.REFUSED, "half", "content_filter")),
        ({"error": {"code": "server_error", "message": "oops"}}, (S.FAILED, None, "server_error")),
    ],
)
def test_what_a_response_says_against_itself_counts_whatever_its_status(more: Any, expected: Any) -> None:
    assert told(parse(line("c", responses_body("half") | more))) == expected


@pytest.mark.parametrize("text", ["{", '{"a":"1"}', '{"a":1,"b":2}', "[1]"])
def test_an_answer_that_breaks_the_schema_is_invalid_and_kept(text: str) -> None:
    found = parse(line("c", responses_body(text)), schema=SCHEMA)
    assert told(found) == (S.INVALID, text, "schema_mismatch") and found.error_message and not found.retryable


def test_the_users_own_check_comes_after_the_schema() -> None:
    parser = LineParser(RESPONSES, SCHEMA, lambda text: "a is too small" if json.loads(text)["a"] < 5 else None)
    found = [parser.parse(line("c", responses_body(text))) for text in ('{"a":9}', '{"a":1}', "{")]
    assert [o.status for o in found if o] == [S.SUCCEEDED, S.INVALID, S.INVALID]
    assert found[1] is not None and found[1].error_message == "a is too small"


# -- chat, completions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (chat(said("hi")), (S.SUCCEEDED, "hi", None)),
        (chat(said("a"), said("b")), (S.SUCCEEDED, '["a","b"]', None)),
        (chat(said(None, refusal="No.")), (S.REFUSED, None, "refusal")),
        (chat(said("hi", refusal=None, tool_calls=None)), (S.SUCCEEDED, "hi", None)),
        (chat(said("ha", "length")), (S.TRUNCATED, "ha", "length")),
        (chat(said("whole"), said("ha", "length")), (S.TRUNCATED, "whole", "length")),
        (chat(said("x", "content_filter")), (S.REFUSED, "x", "content_filter")),
        (chat(said(None, "tool_calls", tool_calls=[{"id": "1"}])), (S.SUCCEEDED, '[{"id":"1"}]', None)),
        (chat(said("", "tool_calls", tool_calls=[{"id": "1"}])), (S.SUCCEEDED, '[{"id":"1"}]', None)),
        (
            chat(said("Let me see.", "tool_calls", tool_calls=[{"id": "1"}])),
            (S.SUCCEEDED, '[{"type":"text","text":"Let me see."},{"id":"1"}]', None),
        ),
        (chat(said("hi", tool_calls=[])), (S.SUCCEEDED, "hi", None)),
        (chat(said(None, tool_calls=None)), (S.INVALID, "", "empty_answer")),
        (chat(), (S.INVALID, None, "unreadable_answer")),
        ({"model": "m"}, (S.INVALID, None, "unreadable_answer")),
        ({}, (S.INVALID, None, "unreadable_answer")),
    ],
)
def test_chat_answers(body: Any, expected: Any) -> None:
    data = line("c", body).replace(b'[{"id": "1"}]', b'[{"id":"1"}]')
    assert told(parse(data, CHAT)) == expected


def test_chat_counts_tokens_under_their_older_names() -> None:
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    found = parse(line("c", chat(said("x"), usage=usage)), CHAT)
    assert found.usage == Usage(input_tokens=7, cached_tokens=2, output_tokens=3, reasoning_tokens=1)
    assert parse(line("c", chat(said("x"), usage=None)), CHAT).usage == Usage()


@pytest.mark.parametrize("endpoint", [RESPONSES, CHAT])
def test_tokens_are_counted_under_either_name(endpoint: str) -> None:
    for usage in ({"prompt_tokens": 7, "completion_tokens": 3}, {"input_tokens": 7, "output_tokens": 3}):
        body = responses_body("x") if endpoint == RESPONSES else chat(said("x"))
        found = parse(line("c", body | {"usage": usage}), endpoint)
        assert (found.output, found.usage) == ("x", Usage(input_tokens=7, output_tokens=3))


@pytest.mark.parametrize("usage", [{"prompt_tokens": "many"}, {"prompt_tokens_details": []}, [], 3])
def test_an_odd_count_makes_an_answer_no_worse(usage: Any) -> None:
    found = parse(line("c", chat(said("x"), usage=usage)), CHAT)
    assert (found.status, found.output, found.usage) == (S.SUCCEEDED, "x", Usage())


def test_chat_calls_are_the_answer_whatever_the_schema() -> None:
    found = parse(line("c", chat(said(None, "tool_calls", tool_calls=[{"id": "1"}]))), CHAT, SCHEMA)
    assert (found.status, json.loads(found.output), found.fields) == (S.SUCCEEDED, [{"id": "1"}], None)


def test_the_schemas_answer_beside_chat_calls_is_the_answer() -> None:
    found = parse(line("c", chat(said('{"a":1}', "tool_calls", tool_calls=[{"id": "1"}]))), CHAT, SCHEMA)
    assert (told(found), found.fields) == ((S.SUCCEEDED, '{"a":1}', None), (1,))


def test_each_of_several_chat_answers_must_follow_the_schema() -> None:
    assert parse(line("c", chat(said('{"a":1}'), said('{"a":2}'))), CHAT, SCHEMA).status is S.SUCCEEDED
    assert parse(line("c", chat(said('{"a":1}'), said("{}"))), CHAT, SCHEMA).status is S.INVALID


def test_completions_have_their_text_in_the_choice() -> None:
    body = {"choices": [{"text": "once", "finish_reason": "stop"}]}
    assert told(parse(line("c", body), "/v1/completions")) == (S.SUCCEEDED, "once", None)


# -- other endpoints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "body", "output"),
    [
        ("/v1/moderations", {"model": "m", "results": [{"flagged": True}]}, [{"flagged": True}]),
        (
            "/v1/images/generations",
            {"data": [{"b64_json": "aGk="}], "usage": {"input_tokens": 1}},
            [{"b64_json": "aGk="}],
        ),
        ("/v1/images/edits", {"data": [{"url": "u"}]}, [{"url": "u"}]),
        ("/v1/videos", {"id": "v", "status": "completed"}, {"id": "v", "status": "completed"}),
        ("/v1/something/new", {"id": "v"}, {"id": "v"}),
    ],
)
def test_other_endpoints_give_json(endpoint: str, body: Any, output: Any) -> None:
    found = parse(line("c", body), endpoint)
    assert found.status is S.SUCCEEDED and json.loads(found.output) == output


# -- failures --------------------------------------------------------------------------------------------------------


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


# -- shapes ----------------------------------------------------------------------------------------------------------


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
        b'{"custom_id":1}',
        b"\xff",
        b'{"custom_id":"c"',
    ],
)
def test_a_line_that_names_no_row_is_a_stray(data: bytes) -> None:
    assert LineParser(RESPONSES).parse(data) is None and not custom_id_of(data)


@pytest.mark.parametrize("body", [None, 1, [], "text", '"', {"output": "x"}, {"output": [1]}, {"model": 3}])
@pytest.mark.parametrize("endpoint", [RESPONSES, CHAT, "/v1/embeddings", "/v1/moderations"])
def test_an_answer_of_an_unknown_shape_is_invalid_and_says_so(body: Any, endpoint: str) -> None:
    data = json.dumps({"custom_id": "c", "response": {"status_code": 200, "body": body}}).encode()
    found = parse(data, endpoint)
    assert found.status in (S.INVALID, S.SUCCEEDED)
    assert found.status is S.SUCCEEDED or (found.error_code, found.retryable) == ("unreadable_answer", False)
