from __future__ import annotations

import datetime
import decimal
import json
import unicodedata
from typing import Any

import pyarrow as pa
import pytest
from builders import CHAT, RESPONSES
from rendering import first, render, table

from airflow_openai_batch.engine.encoding import canonical
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.bodies import bodies_of
from airflow_openai_batch.engine.requests.template import TextTemplate


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


@pytest.mark.parametrize("name", ["é", "имя", "名前", "नाम", "ชื่อ", "اسم", "şəhər", "_x", "ὄνομα"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_columns_have_names_in_any_alphabet_and_normal_form(name: str, written: str, stored: str) -> None:
    column, field = unicodedata.normalize(stored, name), unicodedata.normalize(written, name)
    found = first({"model": "m", "input": f"<{{{field}}}>", "metadata": f"{{{field}!json}}"}, **{column: ["v"]})
    assert (found["input"], found["metadata"]) == ("<v>", "v")
    batch = table(**{column: ["v"]})
    assert list(TextTemplate(f"{{{field}}}").render(batch, 0)) == ["v"]


@pytest.mark.parametrize("name", ["нет", "e\u0301"])
def test_a_column_in_another_alphabet_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"uses {{{name}}}, but the rows have no such column"):
        render({"model": "m", "input": f"{{{name}}}"}, имя=["v"])


def test_text_templates_make_custom_ids() -> None:
    batch = table(id=[1, 2], kind=["a", None])
    assert list(TextTemplate("{kind}-{id}").render(batch, 0)) == ["a-1", "-2"]
    assert list(TextTemplate("x").render(batch, 0)) == ["x", "x"]
    with pytest.raises(InputError, match=r"custom_id uses \{nr\}"):
        TextTemplate("{nr}").check("custom_id", ["id"])
