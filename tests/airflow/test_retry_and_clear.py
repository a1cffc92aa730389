"""What Airflow tells of a retry, of a clear and of a poke: real tasks, with max_tries as its server gives it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_openai_batch.emulator import Emulator, ManualClock, Rule

DYING = """
from airflow.providers.common.compat.sdk import AirflowException

def dies_before_the_third_try(operator):
    class Dying(operator):
        def execute(self, context):
            try:
                return super().execute(context)
            finally:
                if context["ti"].try_number < 3:
                    raise AirflowException("the pod is gone")
    return Dying
RETRIED = dict(retries=2, retry_delay=datetime.timedelta(0))
"""


@pytest.fixture
def clear_and_run(_airflow_db: None) -> Callable[[Any, str], str]:
    """Return a function that clears a task as Airflow does and runs it again, from its file as it is now."""

    def run_again(run: Any, task_id: str) -> str:
        from airflow.models.taskinstance import TaskInstance, clear_task_instances
        from airflow.sdk import timezone
        from airflow.sdk.definitions.dag import _run_task
        from airflow.utils.session import create_session
        from sqlalchemy import select

        file = Path(run.dag.fileloc)
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        task_instance = select(TaskInstance).where(
            TaskInstance.dag_id == file.stem, TaskInstance.run_id == run.run_id, TaskInstance.task_id == task_id
        )
        with create_session() as session:
            clear_task_instances([session.scalars(task_instance).one()], session)
        with create_session() as session:
            cleared = session.scalars(task_instance).one()
            cleared.try_number += 1  # as the scheduler does, here and for the run
            cleared.dag_run.start_date = cleared.dag_run.start_date or timezone.utcnow()
        with create_session() as session:
            ti = session.scalars(task_instance).one()
            session.expunge(ti)
        _run_task(ti=ti, task=module.dag.get_task(task_id), run_triggerer=True)
        with create_session() as session:
            return str(session.scalars(task_instance).one().state)

    return run_again


def asked(emulator: Any) -> list[int]:
    """The number of requests in each batch."""
    return [len(emulator.files[batch.input_file_id].read().splitlines()) for batch in emulator.ledger.batches]


@pytest.mark.parametrize("operator", ["OpenAIBatchSubmitOperator", "OpenAIBatchOperator"])
@pytest.mark.parametrize("prompt", ["{{ macros.datetime.now() }}", "{{ ti.try_number }}"])
def test_a_prompt_that_differs_with_each_try_is_paid_once_under_retries(run_dag, emulator, operator, prompt) -> None:
    run = run_dag(f"""{DYING}
body = {{"model": "gpt-6-luna", "messages": [{{"role": "user", "content": "{prompt} {{text}}"}}]}}
deferrable = {{}} if "Submit" in "{operator}" else dict(deferrable=False, poll_interval=0.2)
dies_before_the_third_try({operator})(task_id="asking", rows=ROWS, **deferrable, **{{**CHAT, "body": body}}, **RETRIED)
""")
    assert run.states == {"asking": "success"}
    assert run.dag.get_task("asking").retries == 2
    assert len(emulator.batches) == 1
    assert emulator.ledger.rows_billed_twice() == []


def test_a_retry_does_not_call_the_function_that_makes_the_rows(run_dag, emulator, tmp_path: Path) -> None:
    run = run_dag(f"""{DYING}
from airflow_openai_batch.decorators import _OpenAIBatchDecoratedOperator
def rows(ti=None):
    os.makedirs(OUT, exist_ok=True)
    with open(OUT + "/calls", "a") as file:
        file.write("called ")
    return [{{"text": f"try {{ti.try_number}}"}}]
asking = dict(task_id="asking", python_callable=rows, op_args=(), op_kwargs={{}}, deferrable=False, poll_interval=0.2)
dies_before_the_third_try(_OpenAIBatchDecoratedOperator)(**asking, **CHAT, **RETRIED)
""")
    assert run.states == {"asking": "success"}
    assert (tmp_path / "out" / "calls").read_text() == "called "
    assert len(emulator.batches) == 1
    assert [row["text"] for row in run.xcom("asking")] == ["try 1"]


def test_a_clear_compares_and_asks_only_what_differs(run_dag, emulator, clear_and_run, monkeypatch) -> None:
    monkeypatch.setenv("PROMPT", "old")
    run = run_dag("""
def body(row):
    prompt = os.environ["PROMPT"] if row["id"] == 3 else "Label"
    return {"model": "gpt-6-luna", "messages": [{"role": "user", "content": f"{prompt} {row['text']}"}]}
waiting = dict(retries=1, deferrable=False, poll_interval=0.2)
OpenAIBatchOperator(task_id="asking", rows=lambda: iter(ROWS), **waiting, **{**CHAT, "body": body})
""")
    assert run.states == {"asking": "success"}
    assert clear_and_run(run, "asking") == "success"
    assert asked(emulator) == [20]
    monkeypatch.setenv("PROMPT", "new")
    assert clear_and_run(run, "asking") == "success"
    assert asked(emulator) == [20, 1]
    assert emulator.ledger.rows_billed_twice() == []
    assert "new ticket 3" in run.xcom("asking")[3]["output"]


def test_a_clear_renders_a_prompt_anew(run_dag, emulator, clear_and_run) -> None:
    run = run_dag("""
body = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "{{ ti.try_number }} {text}"}]}
waiting = dict(deferrable=False, poll_interval=0.2)
OpenAIBatchOperator(task_id="asking", rows=ROWS, **waiting, **{**CHAT, "body": body})
""")
    assert run.states == {"asking": "success"}
    assert clear_and_run(run, "asking") == "success"
    assert asked(emulator) == [20, 20]


# -- the deadline, under a sensor that comes back


@pytest.mark.parametrize("mode", ["reschedule", "poke"])
def test_a_sensor_that_comes_back_ends_with_the_deadline(
    run_dag, clear_and_run, monkeypatch, tmp_path: Path, mode: str
) -> None:
    """Each look is a day later, by a clock that only moves so. OpenAI never says how the batch is."""
    from airflow_openai_batch import sensors
    from airflow_openai_batch.task import submitting
    from airflow_openai_batch.task.job import engine_for

    clock = ManualClock()
    began_at, hours = clock.now(), []

    def by_the_clock(*args: Any, **kwargs: Any) -> Any:
        engine = engine_for(*args, **kwargs)
        engine.clock = clock.now
        return engine

    poke = sensors.OpenAIBatchSensor.poke

    def later(self: Any, context: Any) -> Any:
        hours.append((clock.now() - began_at) / 3600)
        found = poke(self, context)
        clock.advance(24 * 3600)
        return found

    monkeypatch.setattr(submitting, "engine_for", by_the_clock)
    monkeypatch.setattr(sensors, "engine_for", by_the_clock)
    monkeypatch.setattr(sensors.OpenAIBatchSensor, "poke", later)
    with Emulator(clock=clock, duration=3600) as emulator:
        emulator.faults.add(Rule("GET /v1/batches/*", {"status": 500}))
        client = {"openai_client_kwargs": {"max_retries": 0}}
        connection = {"conn_type": "openai", "host": emulator.base_url, "password": "sk-emulator", "extra": client}
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(connection))
        run = run_dag(f"""
submit = OpenAIBatchSubmitOperator(task_id="submit", rows=ROWS, **CHAT)
OpenAIBatchSensor(task_id="wait", job=submit.output, deferrable=False, mode="{mode}", poke_interval=0.05, retries=2)
""")
        assert run.states == {"submit": "success", "wait": "failed"}
        assert hours == [0, 24, 48, 72]
        state = clear_and_run(run, "wait")
        assert hours[4:] == ([72] if mode == "reschedule" else [72, 96, 120, 144])
        assert state == ("up_for_reschedule" if mode == "reschedule" else "failed"), "a clear begins 72 hours anew"
        assert len(emulator.batches) == 1
