"""What a callback is told of a failed task: why, figures, what to do, and where to look. Real Dags, by dag.test()."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2.sandbox
import pytest

from airflow_openai_batch.emulator import Rule

TELLING = """
import json
from airflow_openai_batch.notifications import job_message, reason_of

def tell(context):
    told = {"reason": reason_of(context), "message": job_message(context), "task": context["ti"].task_id}
    with open(os.environ["TOLD"], "a") as file:
        file.write(json.dumps(told) + "\\n")

"""
ONE = "OpenAIBatchOperator(task_id='one', rows=ROWS, on_failure_callback=tell, **{**CHAT, **%s})"
CAPPED = {"max_cost": 0.000001, "prices": {"gpt-6-luna": {"input": 1, "output": 1}}}
BODY = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "{text}"}], "max_completion_tokens": 100}


def gives_exceptions() -> bool:
    """Return whether dag.test() gives callbacks the exception, as every real worker does: Airflow 3.1 does not."""
    from airflow.sdk.execution_time import supervisor

    return 'context["exception"]' in inspect.getsource(supervisor)


@pytest.fixture
def told(run_dag, emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that runs one task, and returns what its callback was told."""
    if not gives_exceptions():
        pytest.skip("dag.test() of this Airflow gives callbacks no exception; tests/integration/test_alerts.py has it")
    monkeypatch.setenv("TOLD", str(tmp_path / "told.jsonl"))

    def run(tasks: str) -> list[dict[str, Any]]:
        assert run_dag(TELLING + tasks).state == "failed"
        return [json.loads(line) for line in Path(os.environ["TOLD"]).read_text().splitlines()]

    return run


def test_bad_rows_are_told_with_figures_what_to_do_and_where_to_look(told, emulator) -> None:
    emulator.faults.add(Rule(on="row", do="refusal", probability=0.5, seed=1))
    (one,) = told(ONE % {})
    assert one["reason"] == "bad_rows"
    message = one["message"]
    assert "/ one: too many rows without a good answer (run " in message.splitlines()[0]
    assert "20 of 20 rows (100%)" in message and "refused" in message
    assert "Cost so far: $" in message and "max_bad_ratio" in message
    assert "/openai-batch/?dag_id=dag_" in message and "&task_id=one&map_index=-1" in message


@pytest.mark.parametrize(
    ("arguments", "reason", "words"),
    [
        ({**CAPPED, "body": BODY}, "max_cost", "held at max_cost"),
        ({"body": {**BODY, "messages": "{no_such_column}"}}, "refused", "cannot be run as it is"),
    ],
)
def test_each_reason_has_its_own_word(told, arguments: dict[str, Any], reason: str, words: str) -> None:
    (one,) = told(ONE % arguments)
    assert one["reason"] == reason and words in one["message"].splitlines()[0], one


def test_a_job_that_a_person_must_help_is_held(told, emulator) -> None:
    code = {"code": 403, "error": {"message": "Your account is not active.", "code": "billing_not_active"}}
    emulator.faults.add(Rule(on="POST /v1/batches", do={"status": code}))
    (one,) = told(ONE % {})
    assert one["reason"] == "held" and "Your account is not active" in one["message"]
    assert "0 of 20 rows" in one["message"]


def test_a_pilot_that_went_badly_is_told_as_that(told, emulator) -> None:
    emulator.faults.add(Rule(on="row", do="refusal"))
    (one,) = told(ONE % {"pilot_rows": 5})
    assert one["reason"] == "pilot" and "held after its pilot" in one["message"]


def test_the_sensor_and_the_results_task_tell_of_their_own_failures(told, emulator) -> None:
    emulator.faults.add(Rule(on="row", do="refusal"))
    tasks = """
submit = OpenAIBatchSubmitOperator(task_id="submit", rows=ROWS, on_failure_callback=tell, **CHAT)
wait = OpenAIBatchSensor(task_id="wait", job=submit.output, on_failure_callback=tell)
results = OpenAIBatchResultsOperator(task_id="results", job=submit.output, on_failure_callback=tell)
wait >> results
"""
    (one,) = told(tasks)
    assert (one["task"], one["reason"]) == ("results", "bad_rows")
    assert "&task_id=submit&map_index=-1" in one["message"], "the page knows the job by the task that submitted it"


# -- without a run ---------------------------------------------------------------------------------------------------


def context(error: object, **ti: Any) -> dict[str, Any]:
    values = {"dag_id": "nightly", "task_id": "label", "run_id": "r 1", "map_index": -1, **ti}
    return {"ti": SimpleNamespace(**values), "exception": error}


class AirflowSensorTimeout(Exception):
    """Named like Airflow's."""


class MySensorTimeout(AirflowSensorTimeout):
    """A subclass of it."""


def test_errors_that_are_not_ours() -> None:
    from airflow_openai_batch.exceptions import OpenAIBatchError
    from airflow_openai_batch.notifications import Reason, job_message, reason_of

    assert reason_of(context(None)) is Reason.OTHER
    assert reason_of(context("a text, as of a task whose worker was lost")) is Reason.OTHER
    assert reason_of(context(ValueError("of the Dag author"))) is Reason.OTHER
    assert reason_of(context(MySensorTimeout("late"))) is Reason.TIMEOUT
    assert reason_of(context(OpenAIBatchError("an outage"))) is Reason.PASSING
    assert "an outage" in job_message(context(OpenAIBatchError("an outage")))
    text = job_message(context(ValueError("patient Jane Roe")))
    assert "Jane" not in text and "ValueError" in text


def test_a_deadline_that_has_passed_is_late() -> None:
    from airflow_openai_batch.engine.job.status import Held
    from airflow_openai_batch.engine.job.summary import summarize
    from airflow_openai_batch.notifications import Reason
    from airflow_openai_batch.task.job import _reason_of

    job = _job()
    late = Held(reason="The deadline has passed.", is_late=True, summary=summarize(job), job=job)
    assert _reason_of(late) is Reason.LATE


def _job() -> Any:
    from airflow_openai_batch.engine.model import FORMAT_VERSION, Job, JobKey, Policy, Spec

    key = JobKey(dag_id="d", run_id="r", task_id="t")
    spec = Spec(endpoint="/v1/responses", body="{}")
    times = {"created_at": 0.0, "deadline_from": 0.0}
    return Job(
        format_version=FORMAT_VERSION, key=key, spec=spec, policy=Policy(), source_version=None, shards=(), **times
    )


def test_a_notifier_finds_no_template_in_what_rows_and_servers_wrote() -> None:
    """Notifiers render their texts with the task's context, which knows connections and variables."""
    from airflow_openai_batch.exceptions import OpenAIBatchFailure
    from airflow_openai_batch.notifications import Reason, job_message

    hostile = "for example {{ var.value.secret }}, {% raw %}, {{{ 7 * 7 }}}, {# gone #}"
    text = job_message(context(OpenAIBatchFailure(hostile, Reason.BAD_ROWS)))
    rendered = jinja2.sandbox.SandboxedEnvironment().from_string(text).render(var={"value": {"secret": "s3cret"}})
    assert rendered == text and "49" not in text


def test_a_long_message_is_cut_and_a_mapped_task_says_which() -> None:
    from airflow_openai_batch.exceptions import OpenAIBatchFailure
    from airflow_openai_batch.notifications import Reason, job_message

    text = job_message(context(OpenAIBatchFailure("x" * 9000, Reason.HELD), map_index=3, log_url="http://af/log"))
    assert len(text) < 2000 and "nightly / label [3]: held" in text and text.endswith("Log: http://af/log")


def test_the_text_of_a_deadline_alert_leads_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_openai_batch.notifications import late_text, page_address

    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com/prod")
    run = {"dag_id": "nightly", "dag_run_id": "scheduled__2026-01-01T00:00:00+00:00"}
    text = jinja2.sandbox.SandboxedEnvironment().from_string(late_text()).render(dag_run=run)
    address = "https://airflow.example.com/prod/openai-batch/?dag_id=nightly&run_id=scheduled__2026-01-01T00%3A00%3A00%2B00%3A00"
    assert text == f"nightly, run {run['dag_run_id']}: not over in time. Jobs: {address}"
    assert page_address(run["dag_id"], run["dag_run_id"]) == address
    assert page_address("d", "r/1", "a.b", 2).endswith("?dag_id=d&run_id=r%2F1&task_id=a.b&map_index=2")


def test_a_failure_keeps_its_reason_between_processes() -> None:
    import pickle

    from airflow_openai_batch.exceptions import OpenAIBatchFailure, Reason

    again = pickle.loads(pickle.dumps(OpenAIBatchFailure("held", Reason.HELD)))
    assert (str(again), again.reason, again.progress) == ("held", Reason.HELD, None)
