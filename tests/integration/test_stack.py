"""A local Airflow keeps its promises: what it starts works, what it kills is dead. Nothing here is of this package."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from airflow_openai_batch.local_airflow.stack import AirflowStack

GATE_DAG, GATE_TASK = "stack_probe_gate", "wait"
HANG_DAG, HANG_TASK = "stack_probe_hang", "hang"

pytestmark = [pytest.mark.slow, pytest.mark.nightly]


class GatedRun:
    """A run of the probe Dag whose task is deferred until the test opens the gate."""

    def __init__(self, stack: AirflowStack, folder: Path) -> None:
        self.stack, self.gate = stack, folder / "gate"
        stack.api.unpause(GATE_DAG)
        self.run_id = stack.api.trigger(GATE_DAG, {"gate": str(self.gate)})
        stack.wait_until_parked(GATE_DAG, self.run_id, GATE_TASK)

    def open(self) -> None:
        self.gate.touch()

    def wait(self, state: str = "success") -> None:
        self.stack.api.wait_for_run(GATE_DAG, self.run_id, state)

    def log(self, try_number: int = 1) -> str:
        return self.stack.api.task_log(GATE_DAG, self.run_id, GATE_TASK, try_number)

    def fired_by(self) -> int:
        return self.stack.api.xcom(GATE_DAG, self.run_id, GATE_TASK)

    def wait_for_trigger(self) -> None:
        self.stack.wait_until(lambda: "gate trigger watches" in self.log(), "the trigger to start")


@pytest.fixture
def gated_run(airflow_stack: AirflowStack, tmp_path: Path) -> GatedRun:
    return GatedRun(airflow_stack, tmp_path)


def test_all_dag_files_import(airflow_stack: AirflowStack) -> None:
    airflow_stack.api.unpause(GATE_DAG)
    assert airflow_stack.api.import_errors() == {}


def test_deferred_task_takes_no_slot_and_can_be_read(airflow_stack: AirflowStack, gated_run: GatedRun) -> None:
    gated_run.wait_for_trigger()
    assert airflow_stack.api.used_slots() == 0
    assert airflow_stack.workers() == []
    assert airflow_stack.api.xcom(GATE_DAG, gated_run.run_id, GATE_TASK, "deferred_in_try") == 1
    gated_run.open()
    gated_run.wait()
    assert gated_run.fired_by() in airflow_stack.pids("triggerer")
    assert "gate is open" in gated_run.log()


def test_restarted_triggerer_takes_up_the_triggers_of_a_killed_one(
    airflow_stack: AirflowStack, gated_run: GatedRun
) -> None:
    gated_run.wait_for_trigger()
    killed = airflow_stack.pids("triggerer")
    airflow_stack.kill("triggerer", signal.SIGKILL)
    assert airflow_stack.pids("triggerer") == []
    airflow_stack.restart("triggerer")
    gated_run.open()
    gated_run.wait()
    assert gated_run.fired_by() not in killed


def test_second_triggerer_takes_over_from_a_frozen_one(airflow_stack: AirflowStack, gated_run: GatedRun) -> None:
    gated_run.wait_for_trigger()
    airflow_stack.pause("triggerer")
    gated_run.open()
    airflow_stack.start_triggerer("triggerer-2")
    gated_run.wait()
    assert gated_run.fired_by() in airflow_stack.pids("triggerer-2")
    airflow_stack.resume("triggerer")
    assert airflow_stack.is_running("triggerer")


def test_task_of_a_killed_worker_runs_again(airflow_stack: AirflowStack) -> None:
    api = airflow_stack.api
    api.unpause(HANG_DAG)
    run_id = api.trigger(HANG_DAG)
    airflow_stack.wait_until(
        lambda: airflow_stack.workers(HANG_DAG) and "hanging" in api.task_log(HANG_DAG, run_id, HANG_TASK),
        "the first try to hang",
    )
    assert api.used_slots() == 1
    (worker,) = airflow_stack.workers(HANG_DAG)
    os.kill(worker.runner_pid, signal.SIGKILL)
    api.wait_for_run(HANG_DAG, run_id)
    assert api.xcom(HANG_DAG, run_id, HANG_TASK) == 2


def test_deferred_task_can_be_marked_failed_and_cleared(airflow_stack: AirflowStack, gated_run: GatedRun) -> None:
    api = airflow_stack.api
    api.set_task_state(GATE_DAG, gated_run.run_id, GATE_TASK, "failed")
    gated_run.wait("failed")
    (cleared,) = api.clear(GATE_DAG, gated_run.run_id, [GATE_TASK])
    assert cleared["task_id"] == GATE_TASK
    airflow_stack.wait_until_parked(GATE_DAG, gated_run.run_id, GATE_TASK)
    assert api.xcom(GATE_DAG, gated_run.run_id, GATE_TASK, "deferred_in_try") == 2
    gated_run.open()
    gated_run.wait()
    api.delete_run(GATE_DAG, gated_run.run_id)


def test_deferred_run_can_be_marked_failed(airflow_stack: AirflowStack, gated_run: GatedRun) -> None:
    airflow_stack.api.set_run_state(GATE_DAG, gated_run.run_id, "failed")
    gated_run.wait("failed")
    assert airflow_stack.api.task_instance(GATE_DAG, gated_run.run_id, GATE_TASK)["state"] == "failed"
