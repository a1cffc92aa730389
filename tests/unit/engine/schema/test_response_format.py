from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest
from builders import CHAT, EMBEDDINGS, RESPONSES
from pydantic import BaseModel, Field

from airflow_openai_batch.engine.encoding import canonical
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.bodies import bodies_of
from airflow_openai_batch.engine.schema.response_format import response_schema, strict_schema, with_response_format
from airflow_openai_batch.engine.schema.validation import ResponseSchema


class Part(BaseModel):
    name: str
    amount: float | None = None


class TicketLabel(BaseModel):
    label: Literal["bug", "wish"]
    parts: list[Part] = []
    n: int = Field(description="how many, e.g. {n} of {text}")


STRICT: dict[str, Any] = {
    "title": "my answer!",
    "type": "object",
    "properties": {"a": {"type": "string"}, "b": {"type": ["integer", "null"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


def made(model: Any) -> ResponseSchema:
    found = response_schema(model)
    assert found is not None
    return found


def sent(response_model: Any, endpoint: str, **body: Any) -> Any:
    """The body as OpenAI would get it."""
    return msgspec.json.decode(canonical(with_response_format(body, endpoint, made(response_model))))


def objects(schema: Any) -> list[dict[str, Any]]:
    found = [schema] if isinstance(schema, dict) and schema.get("type") == "object" else []
    entries = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    return found + [inner for entry in entries for inner in objects(entry)]


def test_a_pydantic_class_becomes_a_strict_schema() -> None:
    found = objects(made(TicketLabel).schema)
    assert len(found) == 2
    for entry in found:
        assert entry["additionalProperties"] is False
        assert sorted(entry["required"]) == sorted(entry["properties"])


def test_responses_has_the_format_flat_under_text() -> None:
    found = sent(TicketLabel, RESPONSES, model="m", text={"verbosity": "low"})["text"]
    assert found["verbosity"] == "low"
    assert {k: v for k, v in found["format"].items() if k != "schema"} == {
        "type": "json_schema",
        "name": "TicketLabel",
        "strict": True,
    }
    assert found["format"]["schema"] == made(TicketLabel).schema


def test_chat_completions_has_the_format_nested() -> None:
    found = sent(TicketLabel, CHAT, model="m")["response_format"]
    assert found["type"] == "json_schema"
    assert found["json_schema"]["strict"] is True and found["json_schema"]["schema"] == made(TicketLabel).schema


def test_braces_in_a_schema_are_no_fields() -> None:
    body = with_response_format({"model": "m", "input": "x"}, RESPONSES, made(TicketLabel))
    bodies_of(body, RESPONSES).check(["id"])  # {n} and {text} of the description are no columns


def test_a_strict_json_schema_is_taken_as_it_is() -> None:
    found = made(STRICT)
    assert found.schema == STRICT and found.name == "my_answer_"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"additionalProperties": True}, "response_model: .*additionalProperties"),
        ({"required": ["a"]}, "response_model: .*required.*add b"),
        ({"properties": {"a": {"type": "object", "properties": {}}}, "required": ["a"]}, r"response_model\.a: "),
        (
            {"properties": {"a": {"type": "array", "items": {"type": "object"}}}, "required": ["a"]},
            r"response_model\.a\.items: ",
        ),
        (
            {"properties": {"a": {"anyOf": [{"type": "null"}, {"type": "object"}]}}, "required": ["a"]},
            r"response_model\.a\.anyOf\[1\]: ",
        ),
        ({"$defs": {"X": {"type": "object"}}}, r"response_model\.X: "),
        ({"type": "array"}, "response_model"),
        ({"properties": {"a": {"type": "strnig"}}, "required": ["a"]}, "not a valid JSON Schema"),
    ],
)
def test_what_strict_mode_refuses_is_refused_with_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        response_schema({**STRICT, **change})


def test_a_list_at_the_top_is_refused() -> None:
    with pytest.raises(InputError, match="object at the top"):
        response_schema({"type": "array", "items": {"type": "string"}})


@pytest.mark.parametrize("model", ["TicketLabel", TicketLabel(label="bug", n=1), int])
def test_anything_else_is_no_response_model(model: Any) -> None:
    with pytest.raises(InputError, match="must be a Pydantic class or a JSON Schema"):
        response_schema(model)


def test_no_model_is_no_schema() -> None:
    assert response_schema(None) is None


@pytest.mark.parametrize(
    ("endpoint", "body"), [(RESPONSES, {"text": {"format": {}}}), (CHAT, {"response_format": {"type": "json_object"}})]
)
def test_two_response_formats_are_one_too_many(endpoint: str, body: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="not both"):
        with_response_format(body, endpoint, made(STRICT))


def test_embeddings_have_no_structured_output() -> None:
    with pytest.raises(InputError, match="response_model works with /v1/responses and /v1/chat/completions"):
        with_response_format({}, EMBEDDINGS, made(STRICT))


def test_strict_schema_allows_nothing_else() -> None:
    from pydantic import BaseModel

    class Label(BaseModel):
        a: str
        b: int = 1

    found = strict_schema(Label)
    assert found["required"] == ["a", "b"] and found["additionalProperties"] is False
