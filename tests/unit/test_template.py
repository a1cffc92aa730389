from __future__ import annotations

import datetime
import decimal
import json
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from builders import CHAT, EMBEDDINGS, RESPONSES

from airflow_openai_batch.engine.encoding import canonical, rows_of
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.bodies import bodies_of
from airflow_openai_batch.engine.requests.template import TextTemplate


def table(**columns: Any) -> pa.RecordBatch:
    return pa.record_batch({name: pa.array(values) for name, values in columns.items()})


class Row(NamedTuple):
    body: bytes
    model: str
    n_inputs: int


def render(body: Any, endpoint: str = RESPONSES, first_row: int = 0, **columns: Any) -> list[Row]:
    made = bodies_of(body, endpoint)
    batch = table(**columns)
    made.check(batch.schema.names)
    requests = made.render(batch, first_row)
    n, models = batch.num_rows, requests.models
    return [
        Row(*row)
        for row in zip(
            rows_of(requests.bodies, n),
            [models] * n if isinstance(models, str) else models,
            requests.n_inputs.tolist(),
            strict=True,
        )
    ]


def first(body: Any, endpoint: str = RESPONSES, **columns: Any) -> Any:
    return json.loads(render(body, endpoint, **columns)[0].body)


def test_a_field_is_replaced_by_the_rows_text() -> None:
    found = render({"model": "m", "input": "Label: {text}!"}, text=["a", 'b"\n\\'])
    assert [json.loads(r.body)["input"] for r in found] == ["Label: a!", 'Label: b"\n\\!']


def test_rendered_bodies_are_canonical() -> None:
    [found] = render({"z": 1, "model": "m", "input": [{"role": "user", "content": "{text}"}]}, text=["é\u2028😀"])
    assert found.body == canonical(json.loads(found.body))


def test_json_in_a_prompt_needs_no_escaping() -> None:
    prompt = 'Answer like {"label": "x", "n": {}} or {1} or {a.b} or {a[0]} or {{'
    assert first({"model": "m", "input": prompt}, text=["t"])["input"] == prompt


def test_keys_are_never_replaced() -> None:
    assert first({"model": "m", "input": "i", "metadata": {"{text}": "v"}}, text=["t"])["metadata"] == {"{text}": "v"}


def test_a_json_field_inserts_the_value_itself() -> None:
    messages = [{"role": "user", "content": 'say "hi"'}]
    body = {"model": "m", "messages": "{talk!json}", "n": "{n!json}", "temperature": "{t!json}"}
    found = first(body, CHAT, talk=[messages], n=[2], t=[None])
    assert found == {"model": "m", "messages": messages, "n": 2, "temperature": None}


def test_a_json_field_must_stand_alone() -> None:
    with pytest.raises(InputError, match=r"\{n!json\} must stand alone"):
        bodies_of({"model": "m", "input": "n is {n!json}"}, RESPONSES)


def test_an_unknown_column_is_named_with_those_that_exist() -> None:
    with pytest.raises(InputError, match=r"\{subjekt\}.*Columns: id, subject\. Nothing was uploaded"):
        render({"model": "m", "input": "{subjekt}"}, id=["1"], subject=["s"])


def test_null_becomes_empty_text() -> None:
    assert first({"model": "m", "input": "[{text}]"}, text=pa.array([None], pa.string()))["input"] == "[]"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (1.5, "1.5"),
        (True, "true"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.datetime(2026, 1, 2, 3, 4), "2026-01-02T03:04:00"),  # noqa: DTZ001
        (decimal.Decimal("1.20"), "1.20"),
        (["a", "b"], '["a","b"]'),
        ({"b": 1, "a": 2}, '{"a":2,"b":1}'),
        (b"hi", "aGk="),
        (datetime.timedelta(seconds=90), "PT90S"),
    ],
)
def test_values_that_are_no_text_are_written_as_people_expect(value: Any, text: str) -> None:
    assert first({"model": "m", "input": "{v}"}, v=[value])["input"] == text


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


def test_text_templates_make_custom_ids() -> None:
    batch = table(id=[1, 2], kind=["a", None])
    assert list(TextTemplate("{kind}-{id}").render(batch, 0)) == ["a-1", "-2"]
    assert list(TextTemplate("x").render(batch, 0)) == ["x", "x"]
    with pytest.raises(InputError, match=r"custom_id uses \{nr\}"):
        TextTemplate("{nr}").check("custom_id", ["id"])
