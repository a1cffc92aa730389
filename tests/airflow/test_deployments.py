"""Whose a job is: the option ``deployment``, or Airflow's own URL; that of another deployment is refused for good."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

NAME, URL = "AIRFLOW__OPENAI_BATCH__DEPLOYMENT", "AIRFLOW__API__BASE_URL"
ASKING = "OpenAIBatchOperator(task_id='asking', rows=ROWS, output=OUT + '/x.jsonl', deferrable=False, **CHAT)"
SPLIT = """
submit = OpenAIBatchSubmitOperator(task_id="submit", rows=ROWS, **CHAT)
wait = OpenAIBatchSensor(task_id="wait", job=submit.output, deferrable=False, poke_interval=0.2)
results = OpenAIBatchResultsOperator(task_id="results", job=submit.output, output=OUT + "/x.jsonl")
wait >> results
"""


@pytest.mark.parametrize(
    ("name", "url", "deployment"),
    [
        ("", "", ""),
        ("", "https://a.example.com/", "https://a.example.com"),
        ("production", "https://a.example.com", "production"),
        (" production ", "", "production"),
    ],
)
def test_a_deployment_is_named_by_the_option_or_by_its_url(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str, deployment: str
) -> None:
    from airflow_openai_batch import settings

    monkeypatch.setenv(NAME, name)
    monkeypatch.setenv(URL, url)
    assert settings.deployment() == deployment


def test_a_deployment_without_any_setting_has_no_name() -> None:
    from airflow_openai_batch import settings

    assert settings.deployment() == ""


def execute(run: Any, task_id: str, job: Any = None) -> Any:
    """Execute a task of a run again, as its clearing does."""
    ti = SimpleNamespace(
        dag_id=run.dag.dag_id,
        run_id=run.run_id,
        task_id=task_id,
        map_index=-1,
        is_mapped=False,
        max_tries=0,
        try_number=1,
        task=run.dag.get_task(task_id),
        xcom_push=lambda **_: None,
    )
    if job is not None:
        ti.task.job = job
    return ti.task.execute({"ti": ti, "dag_run": None})


@pytest.mark.parametrize(("tasks", "names"), [(ASKING, ["asking"]), (SPLIT, ["submit", "wait", "results"])])
def test_each_task_refuses_the_job_of_another_deployment_without_a_retry(
    run_dag: Any, emulator: Any, monkeypatch: pytest.MonkeyPatch, tasks: str, names: list[str]
) -> None:
    from airflow_openai_batch.exceptions import OpenAIBatchFailure

    monkeypatch.setenv(URL, "https://a.example.com")
    run = run_dag(tasks)
    assert run.state == "success"
    job = run.xcom("submit") if "submit" in names else None
    calls = len(emulator.ledger.calls)
    monkeypatch.setenv(URL, "https://b.example.com")
    for name in names:
        with pytest.raises(OpenAIBatchFailure, match=r"belongs to the deployment 'https://a\.example\.com'"):
            execute(run, name, job if name != "submit" else None)
    assert len(emulator.ledger.calls) == calls
    monkeypatch.setenv(NAME, "https://a.example.com")  # the URL has changed, the deployment has not
    for name in names:
        execute(run, name, job if name != "submit" else None)
    assert emulator.ledger.n_rows() == 20
    assert len(emulator.batches) == 1


def test_a_deployment_with_a_name_may_change_its_url(
    run_dag: Any, emulator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, "production")
    monkeypatch.setenv(URL, "https://a.example.com")
    run = run_dag(ASKING)
    monkeypatch.setenv(URL, "https://b.example.com")
    execute(run, "asking")
    assert emulator.ledger.n_rows() == 20
