"""Bodies of requests: what a dict or a function makes of a row."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from builders import CHAT, EMBEDDINGS, RESPONSES
from rendering import first, render

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.bodies import bodies_of


def test_the_model_may_differ_from_row_to_row() -> None:
    assert [r.model for r in render({"model": "{m}", "input": "x"}, m=["a", "b"])] == ["a", "b"]


def test_a_row_without_a_model_is_named() -> None:
    # One line without a model makes OpenAI refuse the whole batch.
    with pytest.raises(InputError, match=r"row 6.*model"):
        render({"model": "{m}", "input": "x"}, first_row=5, m=["a", None])


def test_a_row_whose_required_value_is_null_is_named() -> None:
    talk = pa.array([[{"role": "user", "content": "x"}], None])
    with pytest.raises(InputError, match=r"row 6.*messages"):
        render({"model": "m", "messages": "{talk!json}"}, CHAT, first_row=5, talk=talk)


def test_embeddings_ask_for_base64_unless_told_otherwise() -> None:
    assert first({"model": "m", "input": "{t}"}, EMBEDDINGS, t=["x"])["encoding_format"] == "base64"
    body = {"model": "m", "input": "{t}", "encoding_format": "float"}
    assert first(body, EMBEDDINGS, t=["x"])["encoding_format"] == "float"
    assert first(lambda row: {"model": "m", "input": "x"}, EMBEDDINGS, t=["x"])["encoding_format"] == "base64"


@pytest.mark.parametrize(
    ("template", "value", "n"),
    [
        ("{v}", "x", 1),
        ("{v!json}", "x", 1),
        ("{v!json}", ["x", "y"], 2),
        ("{v!json}", [5, 6, 7], 1),
        (["{v}", "b"], "x", 2),
    ],
)
def test_embedding_inputs_are_counted(template: Any, value: Any, n: int) -> None:
    assert [r.n_inputs for r in render({"model": "m", "input": template}, EMBEDDINGS, v=[value])] == [n]


def test_embedding_inputs_beyond_openais_limits_name_the_row() -> None:
    with pytest.raises(InputError, match="row 9: 2049 inputs"):
        render({"model": "m", "input": "{v!json}"}, EMBEDDINGS, first_row=8, v=[["a"], ["a"] * 2049])
    with pytest.raises(InputError, match="row 8: `input` must be a text or a list"):
        render({"model": "m", "input": "{v!json}"}, EMBEDDINGS, first_row=8, v=pa.array([[]], pa.list_(pa.string())))


@pytest.mark.parametrize(
    ("body", "endpoint", "message"),
    [
        ({"input": "x"}, RESPONSES, "'model'"),
        ({"model": "m"}, CHAT, "'messages'"),
        ({"model": "m", "messages": None}, CHAT, "'messages'"),
        ({"model": "m", "input": "x", "stream": True}, RESPONSES, "stream"),
        ({"model": "m", "input": object()}, RESPONSES, "cannot be written as JSON"),
        ("text", RESPONSES, "must be a dict, a callable"),
    ],
)
def test_a_template_that_openai_would_refuse_is_refused(body: Any, endpoint: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bodies_of(body, endpoint)


def test_a_callable_makes_bodies_from_rows() -> None:
    found = render(lambda row: {"model": "m", "input": row["t"] * 2}, t=["x", "y"])
    assert [r.body for r in found] == [b'{"input":"xx","model":"m"}', b'{"input":"yy","model":"m"}']


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda row: 1 / row["n"], "row 3: the body function raised ZeroDivisionError"),
        (lambda row: None, "row 3: the body must be an object"),
        (lambda row: {"model": "m"}, "row 3: the body lacks 'input'"),
        (lambda row: {"model": "m", "input": "x", "stream": True}, "row 3: .*stream"),
        (lambda row: {"model": "m", "input": object()}, "row 3: the body cannot be written as JSON"),
    ],
)
def test_what_is_wrong_in_a_callable_names_the_row(function: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        render(function, first_row=3, n=[0])


def test_a_function_has_the_same_mark_whatever_it_does() -> None:
    """What it would send is compared by calling it, never by its source."""
    one = bodies_of(lambda row: {"model": "m", "input": "a"}, RESPONSES).spec_body
    other = bodies_of(lambda row: {"model": "m", "input": "b"}, RESPONSES).spec_body
    template = bodies_of({"model": "m", "input": "callable"}, RESPONSES).spec_body
    assert one == other != template
