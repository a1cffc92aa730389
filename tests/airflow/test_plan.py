"""Plan without sending: the plan operator, and a Dag run that only plans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_openai_batch.__main__ import main
from airflow_openai_batch.emulator import Rule
from airflow_openai_batch.engine.model import JobKey, State
from airflow_openai_batch.engine.store.job_store import JobStore
from airflow_openai_batch.exceptions import OpenAIBatchFailure
from airflow_openai_batch.hooks import as_path
from airflow_openai_batch.operators import OpenAIBatchPlanOperator

PLAN_ONLY = {"openai_batch_plan_only": True}
THREE = """
made = {operator}(task_id="made", rows=ROWS, max_requests_per_batch=8, **CHAT)
wait = OpenAIBatchSensor(task_id="wait", job=made.output)
results = OpenAIBatchResultsOperator(task_id="results", job=made.output)
wait >> results
"""


def sent(emulator) -> int:
    return len(emulator.ledger.batches) + sum(call.method == "POST" for call in emulator.ledger.calls)


def job_of(run, task_id: str = "made"):
    handle = run.xcom(task_id) or {}
    storage = handle.get("storage") or run.dag.task_dict[task_id].storage
    return JobStore(as_path(storage), JobKey(dag_id=run.dag.dag_id, run_id=run.run_id, task_id=task_id)).load().job


def test_the_sensor_sends_what_the_plan_operator_has_planned(run_dag, emulator):
    run = run_dag(THREE.format(operator="OpenAIBatchPlanOperator"))
    assert run.states == {"made": "success", "wait": "success", "results": "success"}
    assert [row["status"] for row in run.xcom("results")] == ["succeeded"] * 20
    assert emulator.ledger.n_rows() == 20
    handle = run.xcom("made")
    plan = handle["plan"]
    assert (plan["rows"], plan["requests"], plan["batches"], plan["sent"], plan["skipped"]) == (20, 20, 3, 0, 0)
    assert plan["bytes"] > 1000 and plan["input_tokens"] > 20
    assert plan["upper_cost"] is None and "max_output_tokens" in plan["cost_unknown"]
    assert "* **to ask**: 20 requests in 3 batches" in plan["text"]
    assert run.xcom("made", "openai_batch_plan") == plan


def test_the_plan_operator_sends_nothing_and_tells_what_submit_would_ask(run_dag, emulator, capfd):
    run = run_dag("""
        rows = [{"id": i, "text": f"secret {i}" if i else None} for i in range(50)]
        body = {"model": "gpt-6-luna", "input": "Label: {text}", "max_output_tokens": 100}
        OpenAIBatchPlanOperator(
            task_id="made", rows=rows, endpoint="/v1/responses", body=body, storage=STORE, max_cost=0.001,
            pilot_rows=10, prices={"gpt-6-luna": {"input": 1, "output": 2}},
        )
    """)
    assert run.states == {"made": "success"}
    assert sent(emulator) == 0
    plan = run.xcom("made")["plan"]
    assert (plan["rows"], plan["requests"], plan["skipped"], plan["pilot_rows"]) == (50, 49, 1, 10)
    assert plan["max_output_tokens"] == 49 * 100
    assert 49 * 200e-6 < plan["upper_cost"] < 49 * 230e-6
    assert (plan["max_cost"], plan["cap"]) == (0.001, "does not fit")
    first = json.loads(Path(plan["first_requests"].removeprefix("file://")).read_text())
    assert [request["body"]["input"] for request in first] == [f"Label: secret {i}" for i in range(1, 21)]
    assert "secret" not in json.dumps(plan)
    logged = "".join(capfd.readouterr())
    assert "secret" not in logged
    assert "pilot           10 rows first, and alone" in logged
    assert "cap             $0.001: it does not fit" in logged
    progress = run.xcom("made", "openai_batch_progress.made")
    assert (progress["phase"], progress["problem"]) == ("planned", None)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ('rows=[{"a": 1}], **CHAT', "text"),
        ("rows=[], **CHAT", "no rows"),
        ('rows=ROWS, **{**CHAT, "body": {"messages": []}}', "model"),
        ("rows=ROWS, max_cost=1, **CHAT", "max_cost needs a bound of each answer"),
    ],
)
def test_what_submit_would_refuse_the_plan_refuses(run_dag, emulator, arguments, problem):
    errors = []
    for operator in ("OpenAIBatchPlanOperator", "OpenAIBatchSubmitOperator"):
        try:
            run = run_dag(f'{operator}(task_id="made", {arguments})')
        except OpenAIBatchFailure as error:  # what is plain to see in the Dag file
            errors.append(str(error))
            continue
        assert run.states == {"made": "failed"}
        with pytest.raises(OpenAIBatchFailure, match=problem) as caught:
            run.execute(run.dag.task_dict["made"])
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    assert sent(emulator) == 0


def test_a_plan_whose_results_could_not_be_written_is_refused_as_submit_does(run_dag, emulator):
    run = run_dag("""
        made = OpenAIBatchPlanOperator(task_id="made", rows=ROWS, **CHAT)
        OpenAIBatchResultsOperator(task_id="results", job=made.output, drop_columns=["nothing"], output=OUT + "/x.csv")
    """)
    assert run.states["made"] == "failed"
    assert sent(emulator) == 0


def test_a_retry_and_a_clear_of_the_plan_after_sending_ask_nothing_twice(run_dag, emulator):
    run = run_dag(THREE.format(operator="OpenAIBatchPlanOperator"))
    made: OpenAIBatchPlanOperator = run.dag.task_dict["made"]
    for max_tries in (0, 1):
        told = run.execute(made, try_number=2, max_tries=max_tries)
        assert (told["plan"]["requests"], told["plan"]["done"]) == (0, 20)
        assert run.execute(run.dag.task_dict["wait"].__class__(task_id="wait", job=told), max_tries=max_tries)
    assert emulator.ledger.n_rows() == 20


def test_a_run_that_only_plans_sends_nothing_and_skips_the_tasks_that_would_wait(run_dag, emulator):
    run = run_dag(THREE.format(operator="OpenAIBatchSubmitOperator"), conf=PLAN_ONLY)
    assert run.states == {"made": "success", "wait": "skipped", "results": "skipped"}
    assert run.xcom("made")["plan"]["requests"] == 20
    assert sent(emulator) == 0
    assert {shard.state for shard in job_of(run).shards} == {State.PLANNED}


def test_a_single_task_only_plans_too_and_is_skipped(run_dag, emulator):
    run = run_dag(
        """
        OpenAIBatchOperator(task_id="single", rows=ROWS, **CHAT)

        @task.openai_batch(**CHAT)
        def decorated():
            return ROWS[:5]

        decorated()
        """,
        conf={"openai_batch_plan_only": "yes"},
    )
    assert run.states == {"single": "skipped", "decorated": "skipped"}
    assert [run.xcom(name, "openai_batch_plan")["requests"] for name in ("single", "decorated")] == [20, 5]
    assert sent(emulator) == 0


@pytest.mark.parametrize("no", [False, "false", 0, "", None, "No"])
def test_a_run_whose_conf_says_no_sends(run_dag, emulator, no):
    run = run_dag(
        'OpenAIBatchOperator(task_id="single", rows=ROWS[:2], **CHAT)', conf={"openai_batch_plan_only": no, "other": 1}
    )
    assert run.states == {"single": "success"}
    assert emulator.ledger.n_rows() == 2


def test_a_probe_that_is_refused_fails_the_task_at_once_and_nothing_is_uploaded(run_dag, emulator, capfd):
    emulator.faults.add(
        Rule(
            "POST /v1/chat/completions",
            {"status": {"code": 400, "error": {"message": "Unknown parameter: 'messages'.", "code": "unknown"}}},
        )
    )
    run = run_dag(
        """
        OpenAIBatchSubmitOperator(task_id="submit", rows=ROWS, probe=True, retries=2, custom_id="t-{id}", **CHAT)
        OpenAIBatchOperator(task_id="single", rows=ROWS, probe=True, retries=2, custom_id="t-{id}", **CHAT)
        plan = OpenAIBatchPlanOperator(task_id="plan", rows=ROWS, probe=True, custom_id="t-{id}", **CHAT)
        OpenAIBatchSensor(task_id="wait", job=plan.output)
        """
    )
    assert run.states == {"submit": "failed", "single": "failed", "plan": "success", "wait": "failed"}
    words = "OpenAI refuses the row 't-0', which was asked first (probe=True): HTTP 400: Unknown parameter: 'messages'."
    assert words in "".join(capfd.readouterr())
    assert run.xcom("plan")["plan"]["probe"] is True
    assert [call.path for call in emulator.ledger.calls if call.method == "POST"] == ["/v1/chat/completions"] * 3


def test_a_probe_goes_before_the_batches_of_a_plan(run_dag, emulator):
    run = run_dag(THREE.format(operator="OpenAIBatchPlanOperator").replace("rows=ROWS", "rows=ROWS, probe=True"))
    assert run.state == "success"
    posts = [call.path for call in emulator.ledger.calls if call.method == "POST"]
    assert posts[0] == "/v1/chat/completions" and posts.count("/v1/chat/completions") == 1
    assert emulator.ledger.n_rows() == 21


def test_reused_rows_are_told_before_anything_is_asked(run_dag, emulator, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    run_dag('OpenAIBatchOperator(task_id="single", rows=ROWS, reuse="labels", **CHAT)')
    more = 'rows=ROWS + [{"id": 99, "text": "new"}, {"id": 100, "text": "new"}], reuse="labels", **CHAT'
    run = run_dag(f'OpenAIBatchPlanOperator(task_id="made", {more})')
    plan = run.xcom("made")["plan"]
    assert (plan["rows"], plan["requests"], plan["equal"], plan["reused"], plan["carried_over"]) == (22, 1, 1, 20, 0)
    assert plan["saved_by_reuse"] * 10**12 == pytest.approx(emulator.ledger.invoice().picodollars)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["plan", run.dag.dag_id, "made", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {**again, "first_requests": None} == {name: plan[name] for name in again} | {"first_requests": None}
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    assert emulator.ledger.n_rows() == 20
