from __future__ import annotations

import logging
from typing import Any

import pytest
from builders import World, answer, rows, strict

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import RESULT_COLUMNS, Spec
from airflow_openai_batch.engine.results.sinks import ListSink
from airflow_openai_batch.engine.results.writer import write_results
from airflow_openai_batch.engine.schema.columns import check_column_names, column_names

TEXT = {"type": "string"}


def spec(*fields: str, prefix: str | None = None) -> Spec:
    return Spec(endpoint="/v1/responses", body="{}", schema=strict(**dict.fromkeys(fields, TEXT)), column_prefix=prefix)


def test_names_are_those_of_rows_and_fields_around_the_fixed_ones() -> None:
    found = column_names(["id", "model"], spec("label", "note"))
    assert found.all == ("id", "input_model", *RESULT_COLUMNS, "label", "note")
    assert column_names(["id"], spec("label", prefix="a_")).fields == ("a_label",)
    assert column_names(["id"], Spec(endpoint="/v1/embeddings", body="{}")).all == ("id", *RESULT_COLUMNS)


@pytest.mark.parametrize(
    ("inputs", "fields", "prefix", "message"),
    [
        (["id", "label"], ["label"], None, "columns 'label', but the rows have one.*column_prefix='answer_'"),
        (
            ["id", "a_label"],
            ["label", "x"],
            "a_",
            "columns 'a_label', but the rows have one.*column_prefix='a_answer_'",
        ),
        (["id", "label", "answer_label"], ["label"], None, "column_prefix='answer_answer_'"),
        (["id"], ["status", "model"], None, "columns 'status', 'model', but the results have a column of their own"),
        (["id", "status"], ["status"], None, "'status', but the results have"),
        (["id", "status"], ["input_status"], None, "'input_status', but the rows have one"),
        (["id", "status", "input_status"], [], None, "'status' of their own.*'input_status', which the rows have too"),
    ],
)
def test_two_columns_of_one_name_are_refused(
    inputs: list[str], fields: list[str], prefix: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=f"{message}.*Nothing was uploaded"):
        check_column_names(inputs, spec(*fields, prefix=prefix))


@pytest.mark.parametrize(
    ("inputs", "fields", "prefix"),
    [
        (["id", "label"], ["label"], "answer_"),
        (["id", "status", "model"], ["label"], None),
        (["id", "input_status"], ["label"], None),
        (["id"], ["status", "output"], "its_"),
    ],
)
def test_what_does_not_clash_is_taken(inputs: list[str], fields: list[str], prefix: str | None) -> None:
    check_column_names(inputs, spec(*fields, prefix=prefix))
    names = column_names(inputs, spec(*fields, prefix=prefix)).all
    assert len(set(names)) == len(names)


# -- in a job --------------------------------------------------------------------------------------------------------

TRUTHS = [{**row, "label": "bug"} for row in rows(2)]


def finished(world: World) -> list[dict[str, Any]]:
    world.waits()
    world.api.finish("batch_0", lambda i: answer(i, '{"label":"wish"}'))
    world.done()
    return results(world)


def results(world: World) -> list[dict[str, Any]]:
    sink = ListSink()
    write_results(world.store, world.job, sink)
    return sink.rows


@pytest.mark.parametrize("data", [TRUTHS, [rows(1)[0], TRUTHS[1]], lambda: iter(TRUTHS)])
def test_a_clash_is_an_error_before_anything_is_sent_and_leaves_no_job(world: World, data: Any) -> None:
    with pytest.raises(InputError, match="column_prefix='answer_'"):
        world.submit(data, response_model=strict(label=TEXT))
    assert world.store.load() is None and not +world.api.calls


def test_the_prefix_is_stored_in_the_job_and_its_results_obey_it(world: World) -> None:
    world.submit(TRUTHS, response_model=strict(label=TEXT), column_prefix="answer_")
    assert [(row["label"], row["answer_label"]) for row in finished(world)] == [("bug", "wish")] * 2


def test_another_prefix_renames_the_columns_of_answers_that_are_there(world: World) -> None:
    schema = strict(label=TEXT)
    world.submit(TRUTHS, response_model=schema, column_prefix="answer_")
    finished(world)
    world.submit(TRUTHS, response_model=schema, column_prefix="said_")
    assert [row["said_label"] for row in results(world)] == ["wish"] * 2
    assert world.job.epoch == 0 and world.api.calls["create"] == 1
    with pytest.raises(InputError, match="column_prefix='answer_'"):
        world.submit(TRUTHS, response_model=schema)
    assert [row["said_label"] for row in results(world)] == ["wish"] * 2


def test_a_prefix_without_fields_is_a_mistake(world: World) -> None:
    with pytest.raises(InputError, match="column_prefix is for the fields of a response_model"):
        world.submit(1, column_prefix="answer_")


def test_the_names_are_told_in_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = [{**row, "model": "gpt-6-luna"} for row in TRUTHS]
    world.submit(data, response_model=strict(label=TEXT), column_prefix="answer_")
    assert f"columns id, text, label, input_model, {', '.join(RESULT_COLUMNS)}, answer_label." in caplog.text
    assert "Renamed: 'model' is 'input_model', 'label' is 'answer_label'." in caplog.text
