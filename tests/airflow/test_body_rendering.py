"""Jinja in a body: a prompt stays text, also where a Dag renders native objects, and errors name their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
from airflow.sdk import DAG

from airflow_openai_batch.exceptions import OpenAIBatchError, OpenAIBatchFailure
from airflow_openai_batch.operators import OpenAIBatchSubmitOperator
from airflow_openai_batch.task.body_rendering import rendered_body

TEXTS = ["1", "[1, 2]", "None", "{'a': 1}", "True", "1e3", "'quoted'", " 007 ", "{text}", '{"a": "{text}"}']


class Broken:
    def __str__(self) -> str:
        raise LookupError("the text of a row")


CONTEXT: dict[str, Any] = {
    "ds": "2026-01-01",
    "n": 5,
    "none": None,
    "one": "1",
    "chat": [{"role": "user", "content": "1"}],
    "texts": TEXTS,
    "broken": Broken(),
}


def rendered(body: Any, *, native: bool) -> Any:
    with DAG("d", render_template_as_native_obj=native):
        submit = OpenAIBatchSubmitOperator(
            task_id="t", rows=[{"text": "x"}], endpoint="/v1/responses", body={"model": "m", "input": "x"}
        )
    return rendered_body(submit, body, CONTEXT)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_stays_what_was_written(text: str, native: bool) -> None:
    body = {
        "model": text,
        "input": [{"role": "user", "content": [{"type": "input_text", "text": text}]}],
        "instructions": text,
        "user": text,
        "metadata": {"a": text},
    }
    assert rendered(body, native=native) == body


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("place", ["input", "instructions", "messages", "prompt"])
def test_a_prompt_that_jinja_makes_is_text(place: str, native: bool) -> None:
    for i, text in enumerate(TEXTS):
        assert rendered({place: f"{{{{ texts[{i}] }}}}"}, native=native) == {place: text}
    assert rendered({place: [{"content": "{{ one }}"}]}, native=native) == {place: [{"content": "1"}]}
    assert rendered({place: "[{{ n }}, {{ one }}]"}, native=native) == {place: "[5, 1]"}
    assert rendered({place: "{{ n }}"}, native=native) == {place: "5"}
    assert rendered({place: "On {{ ds }}: {text}"}, native=native) == {place: "On 2026-01-01: {text}"}


def test_native_values_are_still_values_where_they_are_parameters_or_messages() -> None:
    body = {"max_output_tokens": "{{ n }}", "temperature": "{{ one }}", "input": "{{ chat }}"}
    assert rendered(body, native=True) == {"max_output_tokens": 5, "temperature": 1, "input": CONTEXT["chat"]}
    assert rendered("{{ {'model': one, 'input': chat} }}", native=True) == {"model": "1", "input": CONTEXT["chat"]}


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ nowhere }}", "Jinja cannot render it: 'nowhere' is undefined"),
        ("one\n{{ ds", "line 2: Jinja cannot read it: unexpected end of template"),
        ("{% if ds %}x", "line 1: Jinja cannot read it: Unexpected end of template"),
    ],
)
def test_an_error_names_its_place_in_the_body(text: str, message: str, native: bool) -> None:
    with pytest.raises(OpenAIBatchFailure, match=message) as caught:
        rendered({"model": "m", "input": [{"role": "user", "content": text}]}, native=native)
    assert str(caught.value).startswith('body["input"][0]["content"]')
    assert isinstance(caught.value.__cause__, jinja2.TemplateError)
    with pytest.raises(OpenAIBatchFailure, match=r'^body\["text"\]\["verbosity"\]'):
        rendered({"model": "m", "text": {"verbosity": text}}, native=native)


@pytest.mark.parametrize("native", [False, True])
def test_a_failed_lookup_may_be_tried_again_and_quotes_nothing(native: bool) -> None:
    with pytest.raises(OpenAIBatchError, match=r'^body\["instructions"\]: rendering it raised LookupError\.$'):
        rendered({"instructions": "a {{ broken }}"}, native=native)


def test_a_native_dag_sends_the_texts(run_dag, emulator, tmp_path: Path) -> None:
    run = run_dag(
        """
        dag.render_template_as_native_obj = True
        OpenAIBatchSubmitOperator(
            task_id="t", rows=[{"id": 1}], endpoint="/v1/responses", storage=STORE,
            body={"model": "m", "input": "[1, 2]", "instructions": "None", "max_output_tokens": "{{ 5 * 2 }}"},
        )
        """
    )
    assert run.states == {"t": "success"}
    [file] = (tmp_path / "store").rglob("requests/*.jsonl")
    assert json.loads(file.read_text())["body"] == {
        "model": "m",
        "input": "[1, 2]",
        "instructions": "None",
        "max_output_tokens": 10,
    }
