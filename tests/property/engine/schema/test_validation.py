"""What a type accepts, the schema accepts, and the same values come out."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from airflow_openai_batch.engine.schema.validation import ResponseSchema, reader_of

numbers = st.integers(-5, 5) | st.floats(-5, 5)
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=4)
    | st.sampled_from("abc"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "from", "é x"]), inner),
    max_leaves=6,
)


def bounded(kind: str, words: list[str], limits: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(words), limits, max_size=2).map(lambda said: {"type": kind, **said})


simple = st.one_of(
    bounded("string", ["minLength", "maxLength"], st.integers(0, 4)),
    bounded("integer", ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"], numbers),
    bounded("number", ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"], numbers),
    st.just({"type": "boolean"}),
    st.lists(st.sampled_from("abc"), min_size=1, unique=True).map(lambda e: {"type": "string", "enum": e}),
    st.just({"type": "string", "pattern": "^a"}),
    st.just({"$ref": "#/$defs/other"}),
    st.just({"const": "a"}),
)


def nested(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.builds(
            lambda items, said: {"type": "array", "items": items, **said},
            inner,
            st.dictionaries(st.sampled_from(["minItems", "maxItems", "uniqueItems"]), st.integers(0, 3)),
        ),
        inner.map(lambda entry: {"anyOf": [entry, {"type": "null"}]}),
        inner.map(lambda entry: {**entry, "type": [entry["type"], "null"]} if "type" in entry else entry),
        st.lists(inner, max_size=2).map(lambda entries: {"anyOf": entries}),
        objects(inner),
    )


def objects(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    properties = st.dictionaries(st.sampled_from(["a", "b", "from", "é x"]), inner, max_size=3)
    return properties.map(
        lambda p: {"type": "object", "properties": p, "required": list(p), "additionalProperties": False}
    )


schemas = objects(st.recursive(simple, nested, max_leaves=5)).map(
    lambda schema: {**schema, "$defs": {"other": {"type": "string", "enum": ["b"]}}, "title": "t"}
)


def like(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Answers that nearly follow the schema."""
    names = list(schema["properties"])
    return st.fixed_dictionaries(dict.fromkeys(names, values)) | st.dictionaries(st.sampled_from([*names, "z"]), values)


@given(st.data(), schemas)
def test_what_a_type_accepts_follows_the_schema(data: st.DataObject, schema: dict[str, Any]) -> None:
    try:
        validator = jsonschema_rs.Draft202012Validator(schema)
    except (ValueError, jsonschema_rs.ValidationError):
        assume(False)
    read = reader_of(schema)
    assume(read is not None)
    assert read is not None
    answer = data.draw(like(schema))
    text = json.dumps(answer)
    try:
        found = read(text)
    except (msgspec.MsgspecError, UnicodeError):
        return
    assert validator.is_valid(json.loads(text))
    assert msgspec.to_builtins(found) == tuple(answer[name] for name in schema["properties"])


PLAIN = {
    "type": "object",
    "properties": {
        "a": {"type": "integer"},
        "b": {"type": ["number", "null"]},
        "c": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["a", "b", "c"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("changed", "is_said"),
    [
        ({}, True),
        ({"a": {"type": "string", "enum": ["x", "y"]}}, True),
        ({"a": {"type": "number", "minimum": 0, "maximum": 1, "description": "d"}}, True),
        ({"a": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}, True),
        ({"a": {"type": "string", "pattern": "^x"}}, False),
        ({"a": {"anyOf": [{"type": "integer"}, {"type": "string"}]}}, False),
        ({"a": {"$ref": "#"}}, False),
        ({"a": {}}, False),
        ({"a": True}, False),
    ],
)
def test_the_usual_schema_is_a_type(changed: dict[str, Any], is_said: bool) -> None:
    schema = {**PLAIN, "properties": {**PLAIN["properties"], **changed}}  # type: ignore[dict-item]
    assert (reader_of(schema) is not None) is is_said


@given(st.data(), schemas)
@example(None, PLAIN)
def test_the_validator_has_the_last_word(data: Any, schema: dict[str, Any]) -> None:
    try:
        checked = ResponseSchema(schema, "t")
    except Exception:
        assume(False)
    answer = data.draw(like(schema)) if data is not None else {"a": 1.0, "b": 1, "c": []}
    text = json.dumps(answer)
    values, problem = checked.read(text)
    assert (problem is None) is jsonschema_rs.Draft202012Validator(schema).is_valid(json.loads(text))
    assert (values is None) is (problem is not None)
