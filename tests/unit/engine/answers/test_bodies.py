from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from builders import CHAT, EMBEDDINGS, RESPONSES, line, responses_body

from airflow_openai_batch.engine.answers.parser import LineParser
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


def read(body: Any, endpoint: str = CHAT) -> Outcome:
    return parse(line("c", body), endpoint)


def told(outcome: Outcome) -> tuple[Status, Any, str | None]:
    return outcome.status, outcome.output, outcome.error_code


def chat(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "m-1", "choices": list(choices), "usage": {"prompt_tokens": 7, "completion_tokens": 3}, **more}


def said(content: str | list[dict[str, Any]] | None, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
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
    found = read({"model": "m", "choices": [choice]})
    assert (found.status, found.error_code) == (S.INVALID, "empty_answer")
    assert not found.retryable


def test_a_tool_call_without_content_is_an_answer() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    found = read({"choices": [{"message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}]})
    assert found.status is S.SUCCEEDED and json.loads(found.output) == calls


def test_a_refusal_in_any_choice_makes_the_row_refused() -> None:
    good = {"message": {"content": "good"}, "finish_reason": "stop"}
    bad = {"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}
    for choices in ([good, bad], [bad, good]):
        found = read({"choices": choices})
        assert (found.status, found.error_code, found.error_message) == (S.REFUSED, "refusal", "No.")


def test_two_good_choices_are_an_answer() -> None:
    choices = [{"message": {"content": text}, "finish_reason": "stop"} for text in ("a", "b")]
    assert read({"choices": choices}).output == '["a","b"]'


def test_a_good_choice_beside_an_empty_one_is_not_thrown_away() -> None:
    choices = [{"message": {"content": text}, "finish_reason": "stop"} for text in ("good", "")]
    found = read({"choices": choices})
    assert found.output is not None and "good" in found.output, "it was paid for"


@pytest.mark.parametrize("body", [{"model": "m"}, {"model": "m", "results": []}, {"model": "m", "results": None}])
def test_a_moderation_without_results_is_invalid(body: dict[str, Any]) -> None:
    assert read(body, "/v1/moderations").status is S.INVALID


def test_a_video_that_failed_is_failed() -> None:
    body = {"id": "v", "object": "video", "status": "failed", "error": {"code": "moderation_blocked", "message": "No."}}
    found = read(body, "/v1/videos")
    assert found.status is S.FAILED
    assert found.error_code == "moderation_blocked"
    assert read({"id": "v", "status": "completed"}, "/v1/videos").status is S.SUCCEEDED


VECTOR = [0.25, -1.5, 3.0]

BASE64 = base64.b64encode(np.array(VECTOR, dtype="<f4").tobytes()).decode()


def embedded(*entries: Any, **more: Any) -> Outcome:
    found = LineParser(EMBEDDINGS).parse(line("c", {"model": "e", "data": list(entries), **more}))
    assert found is not None
    return found


@pytest.mark.parametrize(
    "embedding", [VECTOR, BASE64, [0.25, -1.5, 3]], ids=["floats", "base64", "an integer among them"]
)
def test_a_vector_is_read_in_both_encodings(embedding: Any) -> None:
    found = embedded({"embedding": embedding, "index": 0}, usage={"prompt_tokens": 5, "total_tokens": 5})
    assert (found.status, found.usage, found.model) == (Status.SUCCEEDED, Usage(input_tokens=5), "e")
    [vector] = found.output
    assert vector.dtype == np.float32 and vector.tolist() == VECTOR


def test_vectors_come_in_the_order_of_their_inputs() -> None:
    found = embedded({"embedding": [2.0], "index": 1}, {"embedding": [1.0], "index": 0})
    assert [vector.tolist() for vector in found.output] == [[1.0], [2.0]]


@pytest.mark.parametrize("embedding", ["not base64!", "QUJD", "", [], None, {"x": 1}, [None], ["a"]])
def test_a_spoilt_vector_is_invalid(embedding: Any) -> None:
    found = embedded({"embedding": embedding, "index": 0})
    assert (found.status, found.output, found.error_code) == (Status.INVALID, None, "unreadable_answer")


def test_an_answer_without_vectors_is_invalid() -> None:
    assert embedded().error_code == "unreadable_answer"


# -- content as a list of parts, as compatible servers send it ------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([{"type": "text", "text": "hi"}], "hi"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "hi"}], "hi"),
        ([{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "hi", "annotations": []}], "hi"),
    ],
)
def test_content_may_be_a_list_of_parts(parts: list[dict[str, Any]], expected: str) -> None:
    assert told(read(chat(said(parts)))) == (S.SUCCEEDED, expected, None)


def test_parts_are_held_against_the_schema_like_a_text() -> None:
    good, bad = ([{"type": "text", "text": text}] for text in ('{"a":1}', '{"a":"x"}'))
    found = parse(line("c", chat(said(good))), CHAT, SCHEMA)
    assert (found.status, found.fields) == (S.SUCCEEDED, (1,))
    assert parse(line("c", chat(said(bad))), CHAT, SCHEMA).status is S.INVALID


def test_a_part_can_be_a_refusal_and_no_part_is_no_answer() -> None:
    refusal = said([{"type": "refusal", "refusal": "I will not."}])
    assert told(read(chat(refusal))) == (S.REFUSED, None, "refusal")
    assert told(read(chat(said([])))) == told(read(chat(said(""))))
