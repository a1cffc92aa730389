from __future__ import annotations

import json
import socket
from typing import Annotated, Any, Literal

import pytest
from builders import CHAT, RESPONSES, strict
from pydantic import AnyUrl, BaseModel, Field

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.schema.response_format import check_format, response_schema
from airflow_openai_batch.engine.schema.validation import ResponseSchema


class Cat(BaseModel):
    kind: Literal["cat"]
    meows: int


class Dog(BaseModel):
    kind: Literal["dog"]
    barks: int


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    others: list[Annotated[Cat | Dog, Field(discriminator="kind")]]


class Tags(BaseModel):
    tags: set[str]


class Point(BaseModel):
    at: tuple[float, float]


class Free(BaseModel):
    value: Any


class Bare(BaseModel):
    value: list  # type: ignore[type-arg]


class Counts(BaseModel):
    counts: dict[str, int]


class Link(BaseModel):
    url: AnyUrl


class Price(BaseModel, regex_engine="python-re"):
    price: Annotated[str, Field(pattern=r"^(?!0)\d+$")] | None


class Inner(BaseModel):
    tags: frozenset[int]


class Outer(BaseModel):
    inner: Inner | None


@pytest.mark.parametrize(
    ("model", "place", "advice"),
    [
        (Tags, "Tags.tags", "'uniqueItems'; .*list"),
        (Outer, "Outer.Inner.tags", "'uniqueItems'; .*list"),
        (Point, "Point.at", "'prefixItems'; .*model in place of a tuple"),
        (Free, "Free.value", "needs a type.*in place of Any"),
        (Bare, "Bare.value.items", "needs a type"),
        (Counts, "Counts.counts", "array of objects with a name and a value"),
        (Link, "Link.url", "format 'uri'; leave it out, or take one of date-time"),
        (Price, "Price.price", "look-ahead.*simpler"),
    ],
)
def test_a_class_that_strict_mode_refuses_is_refused(model: Any, place: str, advice: str) -> None:
    with pytest.raises(InputError, match=f"^{place}[^:]*: .*{advice}"):
        response_schema(model)


@pytest.mark.parametrize(
    ("entry", "advice"),
    [
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, "'oneOf'; write `anyOf`"),
        ({"allOf": [{"type": "string"}]}, "'allOf'; "),
        ({"type": "string", "not": {"const": "x"}}, "'not'; "),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "'uniqueItems'; "),
        ({"type": "array"}, "needs `items`"),
        ({"type": ["array", "null"]}, "needs `items`"),
        ({"type": "array", "items": True}, "a schema with a type here, not True"),
        ({}, "needs a type"),
        ({"description": "anything"}, "needs a type"),
        ({"type": "string", "format": "uri"}, "format 'uri'"),
        ({"type": "string", "pattern": "^(?!x)"}, "look-ahead"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, '"additionalProperties": false'),
        ({"$ref": "#/$defs/Label", "description": "why"}, "move 'description' into"),
        ({"$ref": "#/$defs/Nowhere"}, "names '#/\\$defs/Nowhere', which the schema does not have"),
        ({"$ref": "https://example.com/label.json"}, "nothing is fetched"),
        ({"$ref": "label.json#/x"}, "nothing is fetched"),
    ],
)
def test_a_schema_that_strict_mode_refuses_is_refused(entry: dict[str, Any], advice: str) -> None:
    schema = {**strict(a=entry), "$defs": {"Label": {"type": "string"}}}
    with pytest.raises(InputError, match=f"^response_model.a[^:]*: .*{advice}"):
        response_schema(schema)


@pytest.mark.parametrize(
    "entry",
    [
        {"$ref": "#/$defs/Label"},
        {"$ref": "#"},
        {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
        {"enum": ["a", 1, None]},
        {"const": "a"},
        {"type": "string", "pattern": r"^[(?!]+$|\(?=\?", "title": "t", "examples": ["oneOf"]},
        {"type": ["array", "null"], "items": {"type": "number", "minimum": 0}, "maxItems": 3},
        strict(oneOf={"type": "string"}, uniqueItems={"type": "boolean"}),  # names of properties are free
    ],
)
def test_what_strict_mode_takes_is_taken(entry: dict[str, Any]) -> None:
    schema = {**strict(a=entry), "$defs": {"Label": {"type": "string"}}}
    found = response_schema(schema)
    assert found is not None and found.schema == schema


def test_a_discriminated_union_is_sent_as_any_of_and_read_by_its_members() -> None:
    found = response_schema(Owner)
    assert found is not None
    text = json.dumps(found.schema)
    assert "oneOf" not in text and "discriminator" not in text
    assert [sorted(entry) for entry in found.schema["properties"]["pet"]["anyOf"]] == [["$ref"], ["$ref"]]
    good = {"pet": {"kind": "dog", "barks": 2}, "others": [{"kind": "cat", "meows": 1}]}
    assert found.read(json.dumps(good)) == (tuple(good.values()), None)
    for pet in ({"kind": "dog", "meows": 2}, {"kind": "cow", "barks": 2}):
        assert found.read(json.dumps({**good, "pet": pet}))[1] is not None


def test_defaults_of_a_class_are_not_sent() -> None:
    class WithDefaults(BaseModel):
        default: str = "x"
        cat: Cat = Cat(kind="cat", meows=1)

    found = response_schema(WithDefaults)
    assert found is not None
    assert set(found.schema["properties"]) == {"default", "cat"}
    assert found.schema["properties"]["default"] == {"title": "Default", "type": "string"}
    assert "default" not in found.schema["properties"]["cat"]


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({f"p{i}": {"type": "string"} for i in range(5001)}, "5,001 properties; OpenAI takes at most 5,000"),
        ({"a": {"enum": list(range(1001))}}, "1,001 values in its enumerations"),
        ({"a": {"type": "string", "enum": ["x" * 120_000]}}, "120,001 characters"),
    ],
)
def test_a_schema_that_is_too_large_is_refused(properties: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        response_schema(strict(**properties))


@pytest.mark.parametrize("top", [{"anyOf": [strict(a={"type": "string"})]}, {"type": ["object", "null"]}])
def test_the_top_is_an_object_and_no_union(top: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="object at the top"):
        response_schema({**top, "properties": {}, "required": [], "additionalProperties": False} | top)


def test_no_reference_is_fetched_not_even_by_a_schema_of_a_stored_job() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        uri = f"http://127.0.0.1:{server.getsockname()[1]}/label.json"
        with pytest.raises(InputError, match="nothing is fetched"):
            ResponseSchema(strict(a={"$ref": uri}), "x")
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    ("endpoint", "with_format"),
    [
        (RESPONSES, lambda text_format: {"text": {"format": text_format}}),
        (CHAT, lambda text_format: {"response_format": {"type": "json_schema", "json_schema": text_format}}),
    ],
)
def test_a_strict_format_that_the_body_brings_along_is_checked_too(endpoint: str, with_format: Any) -> None:
    bad = {"type": "json_schema", "name": "x", "schema": strict(a={})}
    with pytest.raises(InputError, match=r"response format\.a: .*needs a type"):
        check_format(with_format({**bad, "strict": True}), endpoint)
    check_format(with_format(bad), endpoint)  # without strict mode OpenAI takes it
    check_format(with_format({**bad, "strict": True, "schema": "{schema!json}"}), endpoint)
    check_format(with_format({**bad, "strict": True, "schema": strict(a={"enum": "{labels!json}"})}), endpoint)
