"""No rows, and rows without a prompt, in real Dags against the emulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

ONE = "OpenAIBatchOperator(task_id='one', rows={rows}, output=OUT + '/out.parquet', {more}**CHAT)"
THREE = """
submit = OpenAIBatchSubmitOperator(task_id="submit", rows=[], on_empty="{}", **CHAT)
wait = OpenAIBatchSensor(task_id="wait", job=submit.output)
results = OpenAIBatchResultsOperator(task_id="results", job=submit.output)
wait >> results
"""
NULLS = "[*ROWS[:3], {'id': 3, 'text': None}, {'id': 4, 'text': '  '}]"


def test_no_rows_skip_the_task_and_those_after_it(run_dag, emulator) -> None:
    run = run_dag(THREE.format("skip"))
    assert run.states == {"submit": "skipped", "wait": "skipped", "results": "skipped"}
    assert not emulator.batches


def test_no_rows_succeed_with_no_results(run_dag, emulator) -> None:
    run = run_dag(THREE.format("succeed"))
    assert set(run.states.values()) == {"success"} and run.xcom("results") == []
    assert not emulator.batches


@pytest.mark.parametrize(
    ("on_empty", "state"), [("", "failed"), ("on_empty='skip', ", "skipped"), ("on_empty='succeed', ", "success")]
)
def test_the_single_operator_does_as_told_without_rows(
    run_dag, emulator, tmp_path: Path, on_empty: str, state: str
) -> None:
    run = run_dag(f"import pandas as pd\n{ONE}".format(rows="pd.DataFrame({'id': [], 'text': []})", more=on_empty))
    assert run.states["one"] == state
    file = tmp_path / "out" / "out.parquet"
    assert file.exists() is (state == "success")
    if state == "success":
        frame = pd.read_parquet(file)
        assert frame.empty and list(frame.columns[:4]) == ["id", "text", "custom_id", "status"]
        assert run.xcom("one")["rows"] == 0


def test_null_prompts_are_skipped_and_told_in_the_manifest(run_dag, emulator, tmp_path: Path) -> None:
    run = run_dag(ONE.format(rows=NULLS, more="max_bad_ratio=0, "))
    assert run.state == "success" and run.xcom("one")["by_status"] == {"skipped": 2, "succeeded": 3}
    frame = pd.read_parquet(tmp_path / "out" / "out.parquet")
    assert list(frame["id"]) == list(range(5))
    assert list(frame["status"]) == ["succeeded"] * 3 + ["skipped"] * 2
    assert run.xcom("one", key="openai_batch_progress.one")["by_status"] == {"skipped": 2, "succeeded": 3}


def test_nothing_but_null_prompts_fails_and_costs_nothing(run_dag, emulator) -> None:
    assert run_dag(ONE.format(rows="[{'id': 0, 'text': None}]", more="")).state == "failed"
    assert not emulator.batches


def test_null_prompts_fail_before_anything_is_sent(run_dag, emulator) -> None:
    assert run_dag(ONE.format(rows=NULLS, more="on_null='fail', ")).state == "failed"
    assert not emulator.batches


@pytest.mark.parametrize("setting", [{"on_null": "drop"}, {"on_empty": "ignore"}, {"on_null": None}, {"deadline": 72}])
def test_an_unknown_word_is_an_error_of_the_dag_file(setting: dict[str, Any]) -> None:
    from airflow_openai_batch.exceptions import OpenAIBatchFailure
    from airflow_openai_batch.operators import OpenAIBatchSubmitOperator

    with pytest.raises(OpenAIBatchFailure, match=f"Task 'a': {next(iter(setting))} must be (one of|a datetime)"):
        OpenAIBatchSubmitOperator(task_id="a", rows=[], endpoint="/v1/responses", body=None, **setting)
