"""What is wrong with an output is said before anything is paid for, or else before anything is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_openai_batch.exceptions import OpenAIBatchFailure
from airflow_openai_batch.task.output_checks import check_output, read_as_rows


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\x00b", "a\u2028b", "a\r"])
def test_no_control_character_gets_into_a_name(name: str) -> None:
    with pytest.raises(OpenAIBatchFailure, match="control character"):
        check_output(f"s3://lake/{name}.parquet")


@pytest.mark.parametrize("name", ["labels.parquet", "./labels.csv", "in/../labels.jsonl"])
def test_a_rendered_path_that_is_relative_is_refused(name: str) -> None:
    with pytest.raises(OpenAIBatchFailure, match="is a relative path"):
        check_output(name)


@pytest.mark.parametrize(
    ("rows", "output"),
    [
        ("/in", "/in/labels.parquet"),
        ("/in/", "/in/labels/today.csv"),
        ("/in/day=*/*.parquet", "/in/day=1/labels.parquet"),
        ("/in/**/*.jsonl", "/in/a/b/labels.jsonl"),
        ("/in/*.jsonl", "/in/labels.parquet"),  # its dead letter ends in .jsonl
        ("/in/rows.csv", "/out/../in/rows.csv"),
        ("s3://aws_default@lake/in", "s3://other@lake/in/labels.parquet"),
        ("file:///in", "/in/labels.csv"),
    ],
)
def test_results_that_the_next_run_would_read_as_rows(rows: str, output: str) -> None:
    assert read_as_rows(output, ["/elsewhere", rows]) == rows


@pytest.mark.parametrize(
    ("rows", "output"),
    [
        ("/in", "/input/labels.parquet"),
        ("/in", "/in/_labels/today.parquet"),
        ("/in/*.parquet", "/in/labels/today.parquet"),
        ("/in/rows-*.csv", "/in/labels.csv"),
        ("/in/rows.csv", "/in/labels.csv"),
        ("s3://lake/in", "gs://lake/in/labels.parquet"),
    ],
)
def test_results_beside_the_rows(rows: str, output: str) -> None:
    assert read_as_rows(output, [rows]) is None


@pytest.fixture
def rows_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "rows.jsonl").write_text('{"id": 1, "text": "a"}\n')
    return folder


def test_a_single_task_sends_nothing_if_its_output_lies_among_its_rows(
    run_dag: Callable[..., Any], emulator: Any, rows_folder: Path
) -> None:
    run = run_dag(f'OpenAIBatchOperator(task_id="ask", rows="{rows_folder}", output="{rows_folder}/x.jsonl", **CHAT)')
    assert run.state == "failed"
    assert not emulator.ledger.batches


def test_a_results_task_whose_output_lies_among_the_rows_leaves_them_alone(
    run_dag: Callable[..., Any], emulator: Any, rows_folder: Path
) -> None:
    run = run_dag(f"""
        submit = OpenAIBatchSubmitOperator(task_id="submit", rows="{rows_folder}", **CHAT)
        wait = OpenAIBatchSensor(task_id="wait", job=submit.output)
        wait >> OpenAIBatchResultsOperator(task_id="results", job=submit.output, output="{rows_folder}/x.jsonl")
    """)
    assert run.states == {"submit": "success", "wait": "success", "results": "failed"}
    assert [path.name for path in rows_folder.iterdir()] == ["rows.jsonl"]


def test_columns_are_dropped_and_unknown_ones_named_before_anything_is_paid_for(
    run_dag: Callable[..., Any], emulator: Any, tmp_path: Path
) -> None:
    tasks = """
        submit = OpenAIBatchSubmitOperator(task_id="submit", rows=ROWS, **CHAT)
        wait = OpenAIBatchSensor(task_id="wait", job=submit.output)
        wait >> OpenAIBatchResultsOperator(
            task_id="results", job=submit.output, output=f"{OUT}/x.jsonl", drop_columns=["text", "NAME"]
        )
        OpenAIBatchOperator(task_id="one", rows=ROWS, drop_columns="NAME", **CHAT)
    """
    run = run_dag(tasks.replace("NAME", "txt"))
    assert (run.states["submit"], run.states["one"]) == ("failed", "failed")
    assert not emulator.ledger.batches
    run = run_dag(tasks.replace("NAME", "request_id"))
    assert run.state == "success"
    found = json.loads((tmp_path / "out" / "x.jsonl").read_text().splitlines()[0])
    assert found["id"] == 0
    assert not {"text", "request_id"} & set(found)
    assert "request_id" not in run.xcom("one")[0]
    assert run.xcom("one")[0]["text"] == "ticket 0"


TWO = "rows=[ROWS[:2], ROWS[2:4]]"
MAPPED = {
    "one_file_for_all": ("output=OUT + '/x.jsonl'", TWO, False),
    "one_file_a_run": ("output=OUT + '/{{ ds_nodash }}/{{ macros.ds_add(ds, 1) }}.jsonl'", TWO, False),
    "two_of_two_by_two": ("", f"{TWO}, output=[OUT + '/a.jsonl', OUT + '/b.jsonl']", False),
    "equal_entries": ("", "[dict(rows=ROWS[:2], output=OUT + '/x.jsonl')] * 2", False),
    "map_index": ("output=OUT + '/{{ ti.map_index }}.jsonl'", TWO, True),
    "own_entries": ("", "[dict(rows=ROWS[i:i + 2], output=f'{OUT}/{i}.jsonl') for i in (0, 2)]", True),
    "only_one_task": ("output=OUT + '/x.jsonl'", "rows=[ROWS[:2]]", True),
    "xcom": ("", None, True),
}


@pytest.mark.parametrize("kind", MAPPED)
def test_tasks_of_a_mapping_do_not_write_to_one_file(
    run_dag: Callable[..., Any], emulator: Any, tmp_path: Path, kind: str
) -> None:
    partial, expand, is_good = MAPPED[kind]
    if expand is None:
        partial, expand = "output=None", TWO
    how = "expand_kwargs" if expand.startswith("[") else "expand"
    run = run_dag(
        f"OpenAIBatchOperator.partial(task_id='one', {partial + ', ' if partial else ''}**CHAT).{how}({expand})"
    )
    assert run.state == ("success" if is_good else "failed")
    assert bool(emulator.ledger.batches) == is_good


def test_tasks_of_a_mapped_group_do_not_write_to_one_file(run_dag: Callable[..., Any], emulator: Any) -> None:
    tasks = """
        from airflow.sdk import task_group

        @task_group
        def part(rows, output):
            OpenAIBatchOperator(task_id="given", rows=rows, output=output, **CHAT)
            OpenAIBatchOperator(task_id="fixed", rows=rows, output=OUT + "/fixed.jsonl", **CHAT)

        part.expand_kwargs([dict(rows=ROWS[i:i + 2], output=f"{OUT}/NAME.jsonl") for i in (0, 2)])
    """
    run = run_dag(tasks.replace("NAME", "{i}"))
    assert run.states == {"part.given": "success", "part.fixed": "failed"}
    assert len(emulator.ledger.batches) == 2
    run = run_dag(tasks.replace("NAME", "x"))
    assert set(run.states.values()) == {"failed"}
    assert len(emulator.ledger.batches) == 2
