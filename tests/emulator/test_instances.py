from __future__ import annotations

import re

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_openai_batch.emulator.schema import make_instance

SCHEMAS = st.recursive(
    st.one_of(
        st.fixed_dictionaries({"type": st.just("integer")}, optional={"minimum": st.integers(-9, 9)}),
        st.fixed_dictionaries(
            {"type": st.just("integer"), "multipleOf": st.integers(1, 5), "maximum": st.integers(-9, 9)}
        ),
        st.fixed_dictionaries({"type": st.just("number")}, optional={"exclusiveMaximum": st.integers(-9, 9)}),
        st.fixed_dictionaries(
            {"type": st.just("string")}, optional={"minLength": st.integers(0, 30), "maxLength": st.integers(30, 60)}
        ),
        st.fixed_dictionaries({"enum": st.lists(st.text(), min_size=1)}),
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {}, {"const": 3}]),
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}, optional={"minItems": st.integers(0, 3)}),
        st.dictionaries(st.text(max_size=4), inner, max_size=4).map(
            lambda p: {"type": "object", "properties": p, "required": list(p), "additionalProperties": False}
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
    ),
    max_leaves=8,
)


@given(schema=SCHEMAS, seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_an_instance_satisfies_its_schema_and_is_always_the_same(schema, seed):
    instance = make_instance(schema, seed)

    jsonschema.validate(instance, schema)
    assert make_instance(schema, seed) == instance


@pytest.mark.parametrize(
    "pattern",
    [
        "^[A-Z]{3}-\\d{4}$",
        "^(bug|question)$",
        "[^a-z]+x?",
        "^\\w+@\\w+\\.(?:com|org)$",
        "a{2,}",
        "^$",
        "",
        "^[]a-]+?$",
        "(?P<year>20[0-9]{2})",
        "ü.*",
    ],
)
def test_a_pattern_gets_a_text_that_matches(pattern):
    schema = {"type": "string", "pattern": pattern}
    for seed in range(20):
        jsonschema.validate(make_instance(schema, seed), schema)


@pytest.mark.parametrize("pattern", ["(?=a)b", "(a)\\1", "\\bx", "a)b", "(a"])
def test_an_unsupported_pattern_is_an_error(pattern):
    with pytest.raises((ValueError, re.error)):
        make_instance({"type": "string", "pattern": pattern}, 0)


def test_items_are_unique_where_they_must_be():
    schema = {"type": "array", "items": {"enum": list("abcde")}, "minItems": 5, "maxItems": 5, "uniqueItems": True}
    for seed in range(20):
        jsonschema.validate(make_instance(schema, seed), schema)
