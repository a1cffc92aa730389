from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import jsonschema
import pytest
from openai.types import (
    Completion,
    CreateEmbeddingResponse,
    ImagesResponse,
    ModerationCreateResponse,
    Video,
)
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from airflow_openai_batch.emulator.tokens import estimate

CHAT = "/v1/chat/completions"
TICKET = {
    "type": "object",
    "properties": {
        "label": {"enum": ["bug", "question"]},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "stars": {"type": "integer", "exclusiveMinimum": 0, "maximum": 5},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 3},
        "reply": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/reply"}]},
        "kind": {"const": "ticket"},
        "is_open": {"type": "boolean"},
    },
    "required": ["label", "score", "stars", "tags", "reply", "kind", "is_open"],
    "additionalProperties": False,
    "$defs": {
        "reply": {
            "type": "object",
            "properties": {
                "text": {"type": ["string", "null"]},
                "next": {"anyOf": [{"$ref": "#/$defs/reply"}, {"type": "null"}]},
            },
            "required": ["text", "next"],
            "additionalProperties": False,
        }
    },
}


def body_of(kit, endpoint, body) -> dict[str, Any]:
    batch = kit.ended([kit.line("a", endpoint, body=body)], endpoint)
    return kit.output(batch)["a"]["response"]["body"]


@pytest.mark.parametrize(
    ("endpoint", "model"),
    [
        ("/v1/responses", Response),
        (CHAT, ChatCompletion),
        ("/v1/completions", Completion),
        ("/v1/embeddings", CreateEmbeddingResponse),
        ("/v1/moderations", ModerationCreateResponse),
        ("/v1/images/generations", ImagesResponse),
        ("/v1/images/edits", ImagesResponse),
        ("/v1/videos", Video),
    ],
)
def test_each_endpoint_answers_in_the_shape_the_sdk_declares(kit, endpoint, model):
    body = body_of(kit, endpoint, kit.body("hello", endpoint))

    parsed = model.model_validate(body)
    assert parsed.model_extra == {} or endpoint in ("/v1/images/generations", "/v1/images/edits")


def test_responses_answer_with_a_message_that_is_not_the_first_item(kit):
    response = Response.model_validate(body_of(kit, "/v1/responses", kit.body("hello", "/v1/responses")))

    assert response.output_text == "Echo: hello"
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.usage is not None and response.usage.output_tokens == estimate("Echo: hello")


def test_chat_answers_as_often_as_asked(kit):
    assert len(body_of(kit, CHAT, kit.body("hi", n=3))["choices"]) == 3


def test_a_bad_value_in_a_body_is_the_error_of_its_line(kit):
    lines = [kit.line("good"), kit.line("bad", body=kit.body("hi", n="three"))]
    batch = kit.ended(lines)

    assert set(kit.output(batch)) == {"good"}
    assert kit.errors(batch)["bad"]["response"]["status_code"] == 400


def test_embeddings_are_unit_vectors_that_depend_on_the_text(kit):
    request = {"model": "m", "input": ["a", "b", "a"], "dimensions": 16}
    first, second, same = (x["embedding"] for x in body_of(kit, "/v1/embeddings", request)["data"])

    assert first == same != second
    assert len(first) == 16 and math.isclose(sum(x * x for x in first), 1.0)


def test_embeddings_in_base64_are_little_endian_floats(kit):
    request = {"model": "m", "input": "a", "dimensions": 4}
    floats = body_of(kit, "/v1/embeddings", request)["data"][0]["embedding"]
    packed = body_of(kit, "/v1/embeddings", {**request, "encoding_format": "base64"})["data"][0]["embedding"]

    assert struct.unpack("<4f", base64.b64decode(packed)) == pytest.approx(floats, abs=1e-7)


@pytest.mark.parametrize(("model", "size"), [("text-embedding-3-small", 1536), ("text-embedding-3-large", 3072)])
def test_embeddings_have_the_size_of_their_model(kit, model, size):
    body = body_of(kit, "/v1/embeddings", {"model": model, "input": "a"})

    assert len(body["data"][0]["embedding"]) == size


def test_too_many_inputs_in_one_embedding_request_are_the_error_of_its_line(kit):
    batch = kit.ended([kit.line("a", "/v1/embeddings", body={"model": "m", "input": ["x"] * 2049})], "/v1/embeddings")

    assert batch.status == "completed" and batch.output_file_id is None
    assert kit.errors(batch)["a"]["response"]["body"]["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("endpoint", ["/v1/responses", CHAT])
def test_a_schema_is_answered_with_a_valid_instance(kit, endpoint):
    response_format = {"type": "json_schema", "name": "ticket", "strict": True, "schema": TICKET}
    nested = {"type": "json_schema", "json_schema": {"name": "ticket", "strict": True, "schema": TICKET}}
    extra = {"text": {"format": response_format}} if endpoint == "/v1/responses" else {"response_format": nested}
    batch = kit.ended(
        [kit.line(str(i), endpoint, body=kit.body(str(i), endpoint, **extra)) for i in range(20)], endpoint
    )

    answers = []
    for line in kit.output(batch).values():
        body = line["response"]["body"]
        text = (
            Response.model_validate(body).output_text
            if endpoint == "/v1/responses"
            else body["choices"][0]["message"]["content"]
        )
        answers.append(json.loads(text))
        jsonschema.validate(answers[-1], TICKET)
    assert {answer["label"] for answer in answers} == {"bug", "question"}


def test_json_mode_is_answered_with_json(kit):
    body = body_of(kit, CHAT, kit.body("hi", response_format={"type": "json_object"}))

    assert json.loads(body["choices"][0]["message"]["content"]) == {"echo": "Echo: hi"}


def test_a_schema_without_an_end_is_the_error_of_its_line(kit):
    schema = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    batch = kit.ended([kit.line("endless", body=kit.body(response_format=response_format)), kit.line("good")])

    assert "no finite instance" in kit.errors(batch)["endless"]["response"]["body"]["error"]["message"]
    assert set(kit.output(batch)) == {"good"}


def test_equal_requests_get_equal_answers(kit):
    first, second = kit.ended(3), kit.ended(3)

    assert kit.texts(first) == kit.texts(second)


def test_a_function_may_answer(start):
    calls = []

    def answer(endpoint, body):
        calls.append(endpoint)
        return {"upper": body["messages"][0]["content"].upper()}

    kit = start(answer=answer)

    assert kit.texts(kit.ended(2))["row-1"] == '{"upper": "TEXT OF ROW-1"}'
    assert calls == [CHAT, CHAT]


def test_a_function_may_answer_with_vectors(start):
    kit = start(answer=lambda endpoint, body: [0.0, 1.0])

    assert body_of(kit, "/v1/embeddings", {"model": "m", "input": "a"})["data"][0]["embedding"] == [0.0, 1.0]
    kit = start(answer=lambda endpoint, body: [[1.0, 0.0], [0.0, 1.0]])
    data = body_of(kit, "/v1/embeddings", {"model": "m", "input": ["a", "b"]})["data"]
    assert [x["embedding"] for x in data] == [[1.0, 0.0], [0.0, 1.0]]


def test_a_function_that_raises_fails_only_its_row(start, caplog):
    def answer(endpoint, body):
        if body["messages"][0]["content"].endswith("1"):
            raise RuntimeError("no idea")
        return "fine"

    kit = start(answer=answer)
    batch = kit.ended(3)

    assert set(kit.output(batch)) == {"row-0", "row-2"}
    assert "RuntimeError: no idea" in kit.errors(batch)["row-1"]["response"]["body"]["error"]["message"]


def test_tokens_are_a_quarter_of_the_bytes():
    assert [estimate(text) for text in ("", "a", "abcd", "abcde", "üü")] == [1, 1, 1, 2, 1]
