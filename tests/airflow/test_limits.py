"""What cannot be returned through XCom is refused before OpenAI hears of it; mending and clearing goes on for free."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

XCOM = "AIRFLOW__OPENAI_BATCH__XCOM_MAX_BYTES"
MAP = "AIRFLOW__CORE__MAX_MAP_LENGTH"
SUBMIT_AND_RESULTS = """
submit = OpenAIBatchSubmitOperator(task_id="submit", rows=ROWS, **CHAT)
wait = OpenAIBatchSensor(task_id="wait", job=submit.output)
results = OpenAIBatchResultsOperator(task_id="results", job=submit.output{})
wait >> results
"""
MAPPED_OVER = """
@task
def take(row):
    return row["id"]
take.expand(row={}.output)
"""


def n_paid(emulator: Any) -> int:
    return len(emulator.batches) + emulator.ledger.n_calls("POST", "/v1/files")


@pytest.mark.parametrize(
    "tasks",
    [
        "OpenAIBatchOperator(task_id='asking', rows=ROWS, **CHAT)",
        "task.openai_batch(task_id='asking', **CHAT)(lambda: ROWS)()",
        SUBMIT_AND_RESULTS.format("").replace("'submit'", "'asking'").replace('"submit"', '"asking"'),
        "OpenAIBatchOperator.partial(task_id='asking', **CHAT).expand(rows=[ROWS])",
        """
        submit = OpenAIBatchSubmitOperator.partial(task_id="asking", **CHAT).expand(rows=[ROWS])
        OpenAIBatchResultsOperator.partial(task_id="results").expand(job=submit.output)
        """,
    ],
    ids=["single", "decorator", "submit and results", "mapped single", "mapped submit and results"],
)
def test_rows_that_are_too_large_for_xcom_are_refused_before_anything_is_sent(
    run_dag, emulator, monkeypatch, capsys, tasks: str
) -> None:
    monkeypatch.setenv(XCOM, "4000")
    run = run_dag(tasks)
    assert run.states["asking"] == "failed"
    assert n_paid(emulator) == 0
    told = capsys.readouterr().out
    assert "even without the answers they take more than 4,000 bytes" in told
    assert "Nothing was sent to OpenAI" in told


@pytest.mark.parametrize(
    ("tasks", "mapped"),
    [
        ("asking = OpenAIBatchOperator(task_id='asking', rows=ROWS, **CHAT)" + MAPPED_OVER.format("asking"), "take"),
        (
            SUBMIT_AND_RESULTS.format("").replace('"submit"', '"asking"') + MAPPED_OVER.format("results"),
            "take is mapped over the rows that results returns",
        ),
        (
            """
            from airflow.sdk import task_group
            asking = OpenAIBatchOperator(task_id="asking", rows=ROWS, **CHAT)
            @task_group
            def for_each(row):
                task(lambda row: row["id"], task_id="take")(row)
            for_each.expand(row=asking.output)
            """,
            "for_each is mapped over the rows that asking returns",
        ),
    ],
    ids=["single", "submit and results", "task group"],
)
def test_more_rows_than_airflow_maps_over_are_refused_before_anything_is_sent(
    run_dag, emulator, monkeypatch, capsys, tasks: str, mapped: str
) -> None:
    monkeypatch.setenv(MAP, "19")
    run = run_dag(tasks)
    assert run.states["asking"] == "failed"
    assert n_paid(emulator) == 0
    told = capsys.readouterr().out
    assert mapped in told
    assert "max_map_length" in told


@pytest.mark.parametrize(
    "tasks",
    [
        "OpenAIBatchOperator(task_id='asking', rows=ROWS, output=OUT + '/labels.jsonl', **CHAT)",
        SUBMIT_AND_RESULTS.format(", output=OUT + '/labels.jsonl'"),
        """
        asking = OpenAIBatchOperator(task_id="asking", rows=ROWS, output=OUT + "/labels.jsonl", **CHAT)
        @task
        def take(entry): ...
        take.expand(entry=asking.output)
        """,
    ],
    ids=["single", "submit and results", "mapped over the manifest"],
)
def test_with_an_output_file_neither_limit_counts(run_dag, emulator, monkeypatch, tasks: str) -> None:
    monkeypatch.setenv(XCOM, "4000")
    monkeypatch.setenv(MAP, "39")  # a manifest has fewer entries
    run = run_dag(tasks.replace("rows=ROWS", "rows=ROWS * 2"))
    assert run.state == "success"
    assert len(emulator.batches) == 1


def test_rows_of_a_mapped_task_may_be_more_than_airflow_maps_over(run_dag, emulator, monkeypatch) -> None:
    monkeypatch.setenv(MAP, "2")  # two tasks, twenty rows each: it is the tasks that the next ones are mapped over
    run = run_dag("""
        asking = OpenAIBatchOperator.partial(task_id="asking", **CHAT).expand(rows=[ROWS, ROWS])
        @task
        def count(rows):
            return len(rows)
        count.expand(rows=asking.output)
    """)
    assert run.state == "success"
    assert [run.xcom("count", map_index=i) for i in (0, 1)] == [20, 20]


def test_exactly_as_many_rows_as_airflow_maps_over_are_fine(run_dag, emulator, monkeypatch) -> None:
    monkeypatch.setenv(MAP, "20")
    run = run_dag("asking = OpenAIBatchOperator(task_id='asking', rows=ROWS, **CHAT)" + MAPPED_OVER.format("asking"))
    assert run.state == "success"
    assert len(emulator.batches) == 1


def test_what_the_limit_just_allows_is_never_refused_too_early(run_dag, emulator, monkeypatch) -> None:
    """The estimate is a lower bound: with a limit of exactly the size of the results, the rows come through."""
    run = run_dag("OpenAIBatchOperator(task_id='asking', rows=ROWS, response_model=Label, **CHAT)")
    size = len(msgspec.json.encode(run.xcom("asking")))
    monkeypatch.setenv(XCOM, str(size))
    assert run_dag("OpenAIBatchOperator(task_id='asking', rows=ROWS, response_model=Label, **CHAT)").state == "success"
    n_batches = len(emulator.batches)
    monkeypatch.setenv(XCOM, str(size // 2))
    assert run_dag("OpenAIBatchOperator(task_id='asking', rows=ROWS, response_model=Label, **CHAT)").state == "failed"
    assert len(emulator.batches) == n_batches


def test_rows_that_leave_little_room_for_answers_are_sent_with_a_warning(
    run_dag, emulator, monkeypatch, capsys
) -> None:
    monkeypatch.setenv(XCOM, "9000")
    run_dag("OpenAIBatchOperator(task_id='asking', rows=ROWS, **CHAT)")
    assert len(emulator.batches) == 1
    assert "if an answer is longer than about" in capsys.readouterr().out


@pytest.fixture
def again(run_dag: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that runs one task again as the same task instance: what a clear does, without a scheduler."""

    def execute(run: Any, task_id: str) -> Any:
        file = Path(run.dag.fileloc)
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        task = module.dag.get_task(task_id)
        return run.execute(task, try_number=2, max_tries=1)

    return execute


def test_after_a_refusal_a_clear_with_a_higher_limit_sends_each_row_once(
    run_dag, emulator, monkeypatch, again, tmp_path: Path
) -> None:
    monkeypatch.setenv(XCOM, "4000")
    run = run_dag("OpenAIBatchOperator(task_id='asking', rows=ROWS, deferrable=False, poll_interval=0.2, **CHAT)")
    assert run.states == {"asking": "failed"}
    assert n_paid(emulator) == 0
    monkeypatch.setenv(XCOM, "1000000")
    rows = again(run, "asking")
    assert [row["id"] for row in rows] == list(range(20))
    assert emulator.ledger.n_rows() == 20
    epochs = {json.loads(file.read_text()).get("epoch", 0) for file in (tmp_path / "store").rglob("state/*.json")}
    assert epochs == {0}


def test_a_job_that_was_sent_is_not_refused_when_a_limit_is_lowered_later(
    run_dag, emulator, monkeypatch, again
) -> None:
    run = run_dag("OpenAIBatchOperator(task_id='asking', rows=ROWS, deferrable=False, poll_interval=0.2, **CHAT)")
    assert run.state == "success"
    monkeypatch.setenv(MAP, "1")
    monkeypatch.setenv(XCOM, "4000")
    from airflow_openai_batch.exceptions import OpenAIBatchFailure

    with pytest.raises(OpenAIBatchFailure, match="No answer is lost"):
        again(run, "asking")  # refused at the end, as there was nothing left to save
    assert emulator.ledger.n_rows() == 20


def test_half_a_job_that_was_sent_is_kept_and_the_other_half_is_not_paid_for(
    run_dag, emulator, monkeypatch, again
) -> None:
    from airflow.providers.common.compat.sdk import TaskDeferred

    from airflow_openai_batch.exceptions import OpenAIBatchFailure

    monkeypatch.setenv(XCOM, "4000")
    run = run_dag("""
        halves = dict(max_requests_per_batch=10, max_enqueued_tokens=150)  # room for one of them at OpenAI
        OpenAIBatchOperator(task_id="asking", rows=ROWS, **halves, **CHAT)
    """)
    monkeypatch.setenv(XCOM, "1000000")
    with pytest.raises(TaskDeferred):
        again(run, "asking")
    assert len(emulator.batches) == 1
    monkeypatch.setenv(XCOM, "4000")
    with pytest.raises(OpenAIBatchFailure, match="No more is sent to OpenAI"):
        again(run, "asking")
    (batch,) = emulator.batches.values()
    assert batch.status not in ("cancelling", "cancelled")
