from __future__ import annotations

import json
from typing import Any

import pytest
from builders import CHAT, EMBEDDINGS, RESPONSES, answer, failure, line, line_error, responses_body
from hypothesis import given
from hypothesis import strategies as st

from airflow_openai_batch.engine.answers.fast_parser import FastRow, row_of
from airflow_openai_batch.engine.answers.parser import LineParser, custom_id_of
from airflow_openai_batch.engine.model import Outcome, Status
from airflow_openai_batch.engine.schema.validation import ResponseSchema

ENDPOINTS = [RESPONSES, CHAT, EMBEDDINGS, "/v1/completions", "/v1/moderations", "/v1/images/generations", "/v1/videos"]
SCHEMA = ResponseSchema({"type": "object", "properties": {}, "required": [], "additionalProperties": False}, "x")
PARSERS = [LineParser(endpoint, schema) for endpoint in ENDPOINTS for schema in (None, SCHEMA)]

KEYS = """custom_id response status_code body error code message output content text type refusal choices finish_reason
usage input_tokens prompt_tokens data embedding index model status incomplete_details reason results tool_calls"""
words = st.sampled_from(KEYS.split())
anything: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["message", "refusal", "length"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=5),
    max_leaves=20,
)
good = [
    answer("c"),
    failure("c"),
    line_error("c"),
    line("c", {"choices": [{"message": {"content": "x"}}], "data": [{"embedding": [1.0]}], **responses_body("x")}),
]
spoilt = st.builds(
    lambda data, at, n, new: data[: at % len(data)] + new + data[at % len(data) + n :],
    st.sampled_from(good),
    st.integers(0, 10_000),
    st.integers(0, 30),
    st.binary(max_size=6) | st.sampled_from([b'"', b"{", b"}", b"null", b"[]", b"\xe2\x80\xa8", b"9" * 30]),
)


def check(data: bytes) -> None:
    for parser in PARSERS:
        found = parser.parse(data)
        assert found is None or (isinstance(found, Outcome) and isinstance(found.status, Status))
        if found is not None:
            # Whoever finds a row's line by its id finds the same row when reading it.
            assert found.custom_id and custom_id_of(data) == found.custom_id
            assert not (found.status is Status.SUCCEEDED and found.retryable)
            assert found.status is Status.SUCCEEDED or found.error_code
            assert all(0 <= getattr(found.usage, name) < 2**63 for name in found.usage.__struct_fields__)


@given(st.binary())
def test_any_bytes_are_accepted(data: bytes) -> None:
    check(data)


@given(spoilt)
def test_any_spoilt_line_is_accepted(data: bytes) -> None:
    check(data)


@given(anything, st.sampled_from([200, 0, 429, 500]))
def test_any_body_is_accepted(body: Any, status: int) -> None:
    check(json.dumps({"custom_id": "c", "response": {"status_code": status, "body": body}}).encode())


@given(st.dictionaries(words, anything))
def test_any_object_is_accepted(value: dict[str, Any]) -> None:
    check(json.dumps(value).encode())
    check(json.dumps({**value, "custom_id": "c"}).encode())


@given(st.text(min_size=1), st.text(min_size=1))
def test_every_text_and_every_id_come_out_as_they_went_in(text: str, custom_id: str) -> None:
    data = answer(custom_id, text)
    for written in (data, json.dumps(json.loads(data), ensure_ascii=False).encode()):
        found = LineParser(RESPONSES).parse(written)
        assert found is not None
        assert (found.custom_id, found.output, found.status) == (custom_id, text, Status.SUCCEEDED)


@pytest.mark.parametrize("parser", PARSERS)
def test_a_line_nested_too_deeply_is_no_accident(parser: LineParser) -> None:
    deep = "[" * 20_000 + "]" * 20_000
    for data in (
        f'{{"custom_id":"c","response":{{"status_code":200,"body":{deep}}}}}',
        f'{{"custom_id":"c","extra":{deep}}}',
        line("c", responses_body(deep)).decode(),
        line("c", {"choices": [{"message": {"content": deep}}]}).decode(),
    ):
        parser.parse(data.encode())


usage = st.dictionaries(
    st.builds(
        "{}_tokens{}".format,
        st.sampled_from(["input", "output", "prompt", "completion"]),
        st.sampled_from(["", "", "_details"]),
    ),
    st.integers(0, 99)
    | st.none()
    | st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens"]), st.integers(-1, 9) | st.none()),
)
texts = st.text(max_size=3) | st.none()
contents = st.fixed_dictionaries({"type": st.sampled_from(["output_text", "refusal"])}, optional={"text": texts})
items = st.fixed_dictionaries(
    {"type": st.sampled_from(["message", "message", "reasoning", "function_call"])},
    optional={"content": st.lists(contents, max_size=2) | st.none(), "refusal": texts},
)
reasons = st.sampled_from(["stop", "length", "content_filter", None])
messages = st.fixed_dictionaries({}, optional={"content": texts, "refusal": texts, "tool_calls": st.just([{"id": 1}])})
vectors = st.just("AACAPwAAAEA=") | st.sampled_from(["AACAPw", "AAC", "", "x y"]) | st.just([1.0, 2])
bodies = st.one_of(
    st.fixed_dictionaries(
        {
            "status": st.sampled_from(["completed", "completed", "incomplete", "failed"]),
            "output": st.lists(items, max_size=3),
        },
        optional={
            "model": texts,
            "usage": usage,
            "incomplete_details": st.just({"reason": "max_output_tokens"}) | st.none(),
        },
    ),
    st.fixed_dictionaries(
        {"choices": st.lists(st.fixed_dictionaries({"message": messages, "finish_reason": reasons}), max_size=2)},
        optional={"model": texts, "usage": usage},
    ),
    st.fixed_dictionaries(
        {"data": st.lists(st.fixed_dictionaries({"embedding": vectors, "index": st.integers(0, 2)}), max_size=2)},
        optional={"model": texts, "usage": usage},
    ),
)  # fmt: skip


@given(
    bodies, st.sampled_from([200, 200, "200", 500]), st.sampled_from(["", "id", None, 7]), st.sampled_from([None, {}])
)
def test_the_fast_parser_reads_a_line_as_the_careful_one_does(
    body: Any, status: Any, request_id: Any, error: Any
) -> None:
    response = {"status_code": status, "request_id": request_id, "body": body}
    assert_read_alike(json.dumps({"id": "b", "custom_id": "c", "response": response, "error": error}).encode())


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (RESPONSES, responses_body("{}")),
        (CHAT, {"choices": [{"message": {"content": "{}"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}),
        (EMBEDDINGS, {"data": [{"embedding": "AACAPwAAAEA="}], "usage": {"prompt_tokens": 1}}),
    ],
)
def test_the_fast_parser_accepts_good_lines(endpoint: str, body: Any) -> None:
    data = line("c", body)
    assert None not in LineParser(endpoint).read_fast([data])
    assert_read_alike(data)


def assert_read_alike(data: bytes) -> None:
    """Check that what the fast parser accepts, the careful one reads as the same good outcome."""
    for parser in PARSERS:
        (fast,) = parser.read_fast([data])
        if fast is None:
            continue
        careful = parser.parse(data)
        assert careful is not None
        assert careful.status is Status.SUCCEEDED
        assert (careful.error_code, careful.error_message, careful.retryable) == (None, None, False)
        assert comparable(fast) == comparable(row_of(careful))


def comparable(row: FastRow) -> Any:
    """A row with its vectors as lists."""
    return [[vector.tolist() for vector in value] if isinstance(value, list) else value for value in row]
