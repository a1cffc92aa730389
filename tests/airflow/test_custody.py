"""How long OpenAI keeps files, and whether they are deleted: what task and deployment say, and what is told."""

from __future__ import annotations

import pytest

from airflow_openai_batch.emulator import Rule
from airflow_openai_batch.engine.model import JobKey, Policy
from airflow_openai_batch.exceptions import OpenAIBatchFailure
from airflow_openai_batch.reporting.trigger_progress import progress_key
from airflow_openai_batch.task.job import with_options

EXPIRE, DELETE = "AIRFLOW__OPENAI_BATCH__FILES_EXPIRE_AFTER", "AIRFLOW__OPENAI_BATCH__DELETE_FILES"

TASKS = """
    custody = dict(files_expire_after="7d", delete_files={deletes})
    submit = OpenAIBatchSubmitOperator(task_id="submit", rows=ROWS, **custody, **CHAT)
    wait = OpenAIBatchSensor(task_id="wait", job=submit.output)
    results = OpenAIBatchResultsOperator(task_id="results", job=submit.output, output=f"{{OUT}}/out.jsonl")
    submit >> wait >> results
"""

SINGLE = """
    OpenAIBatchOperator(task_id="results", rows=ROWS, output=f"{OUT}/out.jsonl", delete_files=True, **CHAT)
"""


@pytest.fixture(autouse=True)
def _no_options(monkeypatch):
    for name in (EXPIRE, DELETE):
        monkeypatch.delenv(name, raising=False)


def progress(run):
    return run.xcom("results", progress_key(JobKey(dag_id=run.dag.dag_id, run_id=run.run_id, task_id="submit")))


def test_the_deployment_says_what_a_task_does_not(monkeypatch):
    assert with_options(Policy()) == Policy()
    monkeypatch.setenv(EXPIRE, "7d")
    monkeypatch.setenv(DELETE, "True")
    said = with_options(Policy())
    assert (said.files_expire_after_s, said.delete_files) == (7 * 86_400, True)
    said = with_options(Policy(files_expire_after_s=10 * 86_400, delete_files=False))
    assert (said.files_expire_after_s, said.delete_files) == (10 * 86_400, False)


def test_an_option_that_is_no_duration_is_named(monkeypatch):
    monkeypatch.setenv(EXPIRE, "a while")
    with pytest.raises(OpenAIBatchFailure, match=r"\[openai_batch\] files_expire_after must be a duration above 0"):
        with_options(Policy())


def test_the_results_task_deletes_the_files_and_says_so(emulator, run_dag):
    run = run_dag(TASKS.format(deletes=True))
    assert run.state == "success"
    assert emulator.files == {}
    assert (progress(run)["files_deleted"], progress(run)["files_left"]) == (2, 0)


def test_the_single_operator_deletes_them_too(emulator, run_dag):
    run = run_dag(SINGLE)
    assert run.state == "success"
    assert emulator.files == {}


def test_files_that_cannot_be_deleted_are_told_by_a_green_task(emulator, run_dag):
    emulator.faults.add(Rule("DELETE /v1/files/*", {"status": {"code": 403, "error": {"message": "No scope."}}}))
    run = run_dag(TASKS.format(deletes=True))
    assert run.state == "success"
    assert len(emulator.files) == 2
    assert (progress(run)["files_deleted"], progress(run)["files_left"]) == (0, 2)


def test_files_are_kept_as_long_as_the_task_says_if_they_are_not_deleted(emulator, run_dag):
    run = run_dag(TASKS.format(deletes=False))
    assert run.state == "success"
    assert [file.expires_at - file.created_at for file in emulator.files.values()] == [7 * 86_400] * 2
    assert progress(run)["files_deleted"] is None


def test_an_option_that_endangers_answers_stops_the_task_before_anything_is_sent(emulator, run_dag, monkeypatch):
    monkeypatch.setenv(EXPIRE, "1d")
    run = run_dag(SINGLE)
    assert run.state == "failed"
    assert emulator.files == {} and emulator.ledger.batches == []
