"""``python -m airflow_openai_batch plan``: what a task of a Dag file would ask, without a run."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from openai import OpenAI

from airflow_openai_batch.__main__ import main
from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.job.advance import advance
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.status import Done
from airflow_openai_batch.engine.job.submit import Request, submit
from airflow_openai_batch.engine.model import JobKey, Policy
from airflow_openai_batch.engine.store.job_store import JobStore
from airflow_openai_batch.hooks import as_path

DAG = """
import datetime, os, pathlib, time
from airflow.sdk import DAG, task
from airflow_openai_batch.operators import OpenAIBatchOperator, OpenAIBatchPlanOperator, OpenAIBatchSubmitOperator
from airflow_openai_batch.sensors import OpenAIBatchSensor

BODY = {"model": "gpt-6-luna", "input": "Label: {text}", "max_output_tokens": 100}
ASK = dict(endpoint="/v1/responses", body=BODY)
ROWS = [{"text": f"secret {i}"} for i in range(30)]

def slow():
    pathlib.Path(os.environ["BEGUN"]).touch()
    for i in range(100_000):
        time.sleep(0.01)
        yield {"text": str(i)}

with DAG("planned", schedule="@daily", start_date=datetime.datetime(2026, 1, 1), params={"tone": "kind"}):
    OpenAIBatchSubmitOperator(task_id="listed", rows=ROWS, **ASK)
    OpenAIBatchPlanOperator(
        task_id="templated", rows=os.environ["ROWS"] + "/{{ ds }}-{{ dag_run.conf['part'] }}.jsonl",
        endpoint="/v1/responses", body={**BODY, "input": "{{ params.tone }} {{ data_interval_end | ds }}: {text}"},
    )
    OpenAIBatchOperator.partial(task_id="mapped", **ASK).expand(rows=[ROWS[:2], ROWS[:3]])
    OpenAIBatchOperator(task_id="again", rows=ROWS, reuse="labels", **ASK)
    OpenAIBatchSubmitOperator(task_id="too_dear", rows=ROWS, max_cost=0.000001, **ASK)
    OpenAIBatchSubmitOperator(task_id="wrong", rows=ROWS, endpoint="/v1/responses", body={**BODY, "input": "{txt}"})
    OpenAIBatchSubmitOperator(task_id="empty", rows=[], on_empty="skip", **ASK)
    OpenAIBatchSubmitOperator(task_id="slow", rows=slow, **ASK)
    OpenAIBatchSubmitOperator(task_id="unconnected", rows=ROWS, conn_id="nobody", **ASK)
    OpenAIBatchSubmitOperator(task_id="strange", rows="s4://lake/rows.parquet", **ASK)
    OpenAIBatchSubmitOperator(task_id="several", rows=["s4://lake/a.csv", "s4://lake/b.csv"], **ASK)
    OpenAIBatchSubmitOperator(task_id="jinja", rows=ROWS, endpoint="/v1/responses", body={**BODY, "input": "{{ txt }}"})

    @task
    def upstream():
        return ROWS

    OpenAIBatchSubmitOperator(task_id="after_rows", rows=upstream(), **ASK)
    body = {**BODY, "input": "{{ ti.xcom_pull('upstream') }} {text}"}
    OpenAIBatchSubmitOperator(task_id="after_body", rows=ROWS, endpoint="/v1/responses", body=body)

    @task.openai_batch(**ASK)
    def decorated(logical_date=None):
        return [{"text": str(logical_date.year)}] * 7

    made = decorated()
    OpenAIBatchSensor(task_id="wait", job={"dag_id": "x"})
"""


@pytest.fixture
def dag_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emulator) -> Path:
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "")
    monkeypatch.delenv("_AIRFLOW_PROCESS_CONTEXT")
    monkeypatch.setenv("ROWS", str(tmp_path))
    monkeypatch.setenv("BEGUN", str(tmp_path / "begun"))
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__STORAGE", str(tmp_path / "store"))
    file = tmp_path / "dags" / "planned.py"
    file.parent.mkdir()
    file.write_text(DAG)
    return file


def arguments(file: Path, task_id: str, *more: str) -> list[str]:
    return ["plan", "planned", task_id, "--file", str(file), *more]


def left(file: Path) -> list[Path]:
    return list((file.parents[1] / "store").rglob("*"))


def test_a_task_is_planned_and_nothing_is_left_or_sent(dag_file, emulator, capsys, tmp_path):
    first = tmp_path / "first.json"
    assert main(arguments(dag_file, "listed", "--requests", str(first))) == 0
    out = capsys.readouterr().out
    assert "to ask          30 requests in 1 batch" in out
    assert "output at most 3,000" in out
    assert f"first requests  {first}" in out
    assert "secret" not in out
    requests = json.loads(first.read_text())
    assert [request["body"]["input"] for request in requests] == [f"Label: secret {i}" for i in range(20)]
    assert left(dag_file) == []
    assert not emulator.ledger.batches
    assert not emulator.ledger.calls


def test_templates_see_the_runs_dates_conf_and_params(dag_file, capsys, tmp_path):
    (tmp_path / "2026-05-04-b.jsonl").write_text('{"text": "x"}\n')
    more = ("--logical-date", "2026-05-04", "--conf", '{"part": "b", "tone": "rude"}', "--json")
    assert main(arguments(dag_file, "templated", *more, "--requests", str(tmp_path / "f.json"))) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["rows"], plan["requests"], plan["batches"], plan["cap"]) == (1, 1, 1, None)
    assert plan["upper_cost"] > 0
    (request,) = json.loads((tmp_path / "f.json").read_text())
    assert request["body"]["input"] in ("rude 2026-05-04: x", "rude 2026-05-05: x")  # as the Airflow has it
    assert left(dag_file) == []


@pytest.mark.parametrize(
    ("task_id", "more", "n_rows"),
    [("decorated", (), 7), ("mapped", ("--map-index", "1"), 3), ("empty", (), 0)],
)
def test_every_kind_of_task_can_be_planned(dag_file, capsys, task_id, more, n_rows):
    assert main(arguments(dag_file, task_id, *more, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == n_rows
    assert left(dag_file) == []


def test_what_the_ledger_knows_is_counted_and_with_refresh_it_is_not_used(dag_file, capsys, tmp_path, emulator):
    store = JobStore(as_path(str(tmp_path / "store")), JobKey(dag_id="planned", run_id="last_night", task_id="again"))
    engine = Engine(store, Api(OpenAI(base_url=emulator.base_url, api_key="sk-emulator")))
    body = {"model": "gpt-6-luna", "input": "Label: {text}", "max_output_tokens": 100}
    rows = [{"text": f"secret {i}"} for i in range(20)]
    submit(engine, Request(rows, endpoint="/v1/responses", body=body), Policy(reuse="labels"))
    advance(engine)
    emulator.complete_all()
    assert isinstance(advance(engine), Done)
    n_batches = len(emulator.ledger.batches)
    for more, n_reused, n_requests in (((), 20, 10), (("--refresh",), 0, 30)):
        assert main(arguments(dag_file, "again", *more, "--json")) == 0
        plan = json.loads(capsys.readouterr().out)
        assert (plan["rows"], plan["reused"], plan["requests"]) == (30, n_reused, n_requests)
    assert len(emulator.ledger.batches) == n_batches


def test_a_cap_that_is_too_low_is_told_before_anything_is_paid(dag_file, capsys):
    assert main(arguments(dag_file, "too_dear")) == 0
    assert "cap     $0.000001: it does not fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task_id", "more", "problem"),
    [
        ("after_rows", (), "needs what upstream returns, and nothing has run. Plan it in a run: trigger the Dag with"),
        ("after_body", (), '"openai_batch_plan_only": true'),
        ("wrong", (), "txt"),
        ("unconnected", (), "nobody"),
        ("strange", (), "rows: nothing was sent. 's4://lake/rows.parquet' cannot be opened"),
        ("several", (), "rows: nothing was sent. 's4://lake/a.csv' cannot be opened"),
        ("jinja", (), "A column of the rows is written {column}"),
        ("mapped", (), "name the one of its instances that you mean with --map-index"),
        ("wait", (), "'wait' submits no job; what submits is listed, templated, mapped"),
        ("nowhere", (), "there is no task 'nowhere'"),
        ("listed", ("--conf", "{"), "--conf is no JSON"),
        ("listed", ("--conf", "[1]"), "--conf must be a JSON object"),
        ("listed", ("--logical-date", "soon"), "--logical-date 'soon' is no date"),
    ],
)
def test_what_cannot_be_planned_is_told_and_leaves_nothing(dag_file, capsys, task_id, more, problem):
    assert main(arguments(dag_file, task_id, *more)) == 1
    told = capsys.readouterr().err
    assert problem in told and "Traceback" not in told
    assert left(dag_file) == []


def test_a_dag_that_is_not_there_is_told_with_the_files_errors(dag_file, capsys):
    dag_file.write_text("import nothing_of_this_name  # a dag of airflow")
    assert main(arguments(dag_file, "listed")) == 1
    told = capsys.readouterr().err
    assert "There is no Dag 'planned'" in told
    assert "No module named 'nothing_of_this_name'" in told


def test_the_dag_is_found_in_the_folder_of_the_deployment(dag_file, capsys):
    folder = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    (folder / "planned.py").write_text(DAG)
    try:
        assert main(["plan", "planned", "listed", "--json"]) == 0
    finally:
        (folder / "planned.py").unlink()
    assert json.loads(capsys.readouterr().out)["requests"] == 30


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_plan_that_is_interrupted_leaves_nothing(dag_file, sign):
    command = [sys.executable, "-m", "airflow_openai_batch", *arguments(dag_file, "slow")]
    begun = Path(os.environ["BEGUN"])
    # Whoever runs the tests in the background has SIGINT ignored, and what they start inherits that.
    by_default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=by_default) as process:
        while not begun.exists():
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(sign)
        assert process.wait(60) != 0
    assert left(dag_file) == []
