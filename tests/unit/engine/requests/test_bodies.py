"""Bodies of requests: what a dict or a function makes of a row, and the fingerprint by which a change is noticed."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Any

import pyarrow as pa
import pytest
from builders import CHAT, EMBEDDINGS, RESPONSES
from rendering import first, render

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.bodies import bodies_of


def _make(prompt: str, row: dict[str, Any], tone: str = "kind") -> dict[str, Any]:
    return {"model": "m", "input": f"{prompt} {row} {tone}"}


def _shout(prompt: str, row: dict[str, Any], tone: str = "kind") -> dict[str, Any]:
    return {"model": "m", "input": f"{prompt} {row} {tone}!"}


def fingerprint(body: Any, **_others: Any) -> str:
    return bodies_of(body, RESPONSES).fingerprint


def test_partials_with_other_arguments_are_other_bodies() -> None:
    found = [
        fingerprint(functools.partial(_make, "a")),
        fingerprint(functools.partial(_make, "b")),
        fingerprint(functools.partial(_shout, "a")),
        fingerprint(functools.partial(_make, "a", tone="rude")),
        fingerprint(functools.partial(functools.partial(_make, "c"), tone="rude")),
    ]
    assert len(set(found)) == len(found)


def test_partials_with_the_same_arguments_are_the_same_body() -> None:
    assert fingerprint(functools.partial(_make, "a", tone="x")) == fingerprint(functools.partial(_make, "a", tone="x"))


def test_the_other_arguments_of_a_call_are_no_part_of_a_lambda() -> None:
    one = fingerprint(lambda row: {"model": "m", "input": row["t"]}, max_rounds=1)
    two = fingerprint(lambda row: {"model": "m", "input": row["t"]}, max_rounds=2, output="s3://b/x.parquet")
    three = fingerprint(
        body=lambda row: {"model": "m", "input": row["t"]},
        max_rounds=7,
    )
    four = fingerprint(
        body=lambda row: {"model": "m", "input": row["t"]},
        output="elsewhere",
        task_id="ask",
    )
    assert one == two
    assert three == four


def test_a_changed_default_of_a_lambda_is_a_changed_body() -> None:
    one = fingerprint(lambda row, prompt="Label": {"input": f"{prompt} {row}"})
    two = fingerprint(lambda row, prompt="Classify": {"input": f"{prompt} {row}"})
    assert one != two


FINGERPRINTS = """
import functools
from airflow_openai_batch.engine.requests.bodies import bodies_of
def pick(choose, row): return {"input": choose(row)}
def first(row): return row["t"]
print(bodies_of(EXPRESSION, "/v1/responses").fingerprint)
"""


@pytest.mark.parametrize(
    "expression",
    [
        'lambda row: {"input": "a" if row["t"] in {"one", "two", "three", "four", "five"} else "b"}',
        'lambda row: {"input": [x for x in row["t"] if x in {"one", "two", "three", "four", "five"}]}',
        "functools.partial(pick, first)",
        "functools.partial(pick, lambda row: row['t'])",
    ],
    ids=["set_in_a_lambda", "set_inside_a_comprehension", "partial_of_a_function", "partial_of_a_lambda"],
)
def test_a_fingerprint_is_the_same_in_every_process(expression: str) -> None:
    """A retry runs in another process; a new fingerprint would cancel what runs."""
    code = FINGERPRINTS.replace("EXPRESSION", expression)
    # Something in memory first, so that addresses differ.
    found = [
        subprocess.run(
            [sys.executable, "-c", f"x = [object() for _ in range({seed} * 1000)]{code}"],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in (1, 2, 3)
    ]
    assert len(set(found)) == 1


def test_two_lambdas_of_one_line_are_told_apart() -> None:
    one, two = (fingerprint(f) for f in (lambda row: {"input": "a"}, lambda row: {"input": "b"}))
    assert one != two


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


def test_a_changed_function_is_a_changed_spec() -> None:
    one = bodies_of(lambda row: {"model": "m", "input": "a"}, RESPONSES).fingerprint
    other = bodies_of(lambda row: {"model": "m", "input": "b"}, RESPONSES).fingerprint
    assert one != other
