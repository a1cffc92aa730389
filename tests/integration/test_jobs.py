"""What happens to a job, and to the money, when something happens to Airflow. Real processes, real signals."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from airflow_openai_batch.emulator import Emulator, Rule
from airflow_openai_batch.local_airflow.settings import TRIGGERER_LOST_AFTER_S
from airflow_openai_batch.local_airflow.stack import AirflowStack

pytestmark = pytest.mark.slow
N_ROWS = 30


class Job:
    """A run of one of the Dags, and the batches that it made."""

    def __init__(self, stack: AirflowStack, emulator: Emulator, dag_id: str) -> None:
        self.stack, self.api, self.emulator, self.dag_id = stack, stack.api, emulator, dag_id
        self.task_id = "one" if dag_id in ("batch_one", "batch_mapped") else "wait"
        self.api.unpause(dag_id)
        self.run_id = self.api.trigger(dag_id)

    def wait_until_parked(self, **where: Any) -> None:
        self.stack.wait_until_parked(self.dag_id, self.run_id, self.task_id, **where)

    def wait_for_run(self, state: str = "success") -> None:
        self.api.wait_for_run(self.dag_id, self.run_id, state)

    def wait_for_task(self, state: str, **which: Any) -> None:
        self.api.wait_for_task(self.dag_id, self.run_id, self.task_id, state, **which)

    def mark(self, state: str, **where: Any) -> None:
        self.api.set_task_state(self.dag_id, self.run_id, self.task_id, state, **where)

    def clear(self) -> None:
        self.api.clear(self.dag_id, self.run_id, [self.task_id], include_downstream=True)

    def finish(self) -> None:
        """Let OpenAI finish, as often as the job asks."""
        deadline = time.monotonic() + 90
        while (state := self.api.run_state(self.dag_id, self.run_id)) in ("queued", "running"):
            assert time.monotonic() < deadline, self.stack.tails()
            if self.batches():
                self.emulator.complete_all()
            time.sleep(0.5)
        assert state == "success", self.stack.tails()

    def batches(self) -> list[Any]:
        return [b for b in self.emulator.batches.values() if b.metadata["run_id"] == self.run_id]

    def statuses(self) -> list[str]:
        return [b.status for b in self.batches()]

    def cancelled(self) -> list[str]:
        return [b.id for b in self.batches() if b.status in ("cancelling", "cancelled")]

    def wait_for_statuses(self, *statuses: str) -> None:
        def reached() -> bool:
            # A cancel takes some of OpenAI's time.
            self.emulator.clock.advance(1)
            return self.statuses() == list(statuses)

        self.stack.wait_until(reached, f"batches to be {statuses}, they are {self.statuses()}")

    def log(self, try_number: int = 1) -> str:
        return self.api.task_log(self.dag_id, self.run_id, self.task_id, try_number)


@pytest.fixture
def start(airflow_stack: AirflowStack, emulator: Emulator) -> Callable[[str], Job]:
    """Return a function that starts a Dag run with nothing left over from other tests at OpenAI."""
    emulator.reset()
    return lambda dag_id: Job(airflow_stack, emulator, dag_id)


def assert_paid_once(job: Job) -> None:
    assert job.emulator.ledger.rows_billed_twice() == []


def test_rows_in_labels_out_while_no_worker_slot_is_held(start, airflow_stack: AirflowStack, stack_env) -> None:
    job = start("batch_three")
    job.wait_until_parked()
    assert airflow_stack.api.used_slots() == 0
    assert airflow_stack.workers() == []
    assert airflow_stack.api.import_errors() == {}
    job.finish()
    frame = pd.read_parquet(Path(stack_env["OPENAI_BATCH_TEST_OUTPUT"]) / f"{job.run_id}.parquet")
    assert list(frame["id"]) == list(range(N_ROWS))
    assert set(frame["status"]) == {"succeeded"}
    assert len(job.batches()) == 1
    assert airflow_stack.api.xcom(job.dag_id, job.run_id, "results")["by_status"] == {"succeeded": N_ROWS}


def test_the_package_is_a_provider_and_its_dags_import(airflow_stack: AirflowStack) -> None:
    assert "airflow-openai-batch" in airflow_stack.run_cli("providers", "get", "airflow-openai-batch")
    assert "No data found" in airflow_stack.run_cli("dags", "list-import-errors")


def test_a_sensor_in_reschedule_mode_waits_without_a_worker(start) -> None:
    job = start("batch_reschedule")
    job.wait_for_task("up_for_reschedule")
    job.finish()
    assert len(job.batches()) == 1


@pytest.mark.parametrize("dag_id", ["batch_three", pytest.param("batch_one", marks=pytest.mark.oldest)])
def test_a_killed_triggerer_changes_nothing(start, airflow_stack: AirflowStack, dag_id: str) -> None:
    job = start(dag_id)
    job.wait_until_parked()
    airflow_stack.kill("triggerer", signal.SIGKILL)
    airflow_stack.restart("triggerer")
    job.finish()
    assert len(job.batches()) == 1


def test_a_paused_triggerer_that_loses_its_triggers_cancels_nothing(start, airflow_stack: AirflowStack) -> None:
    job = start("batch_one")
    job.wait_until_parked()
    airflow_stack.pause("triggerer")
    airflow_stack.start_triggerer("triggerer-2")
    time.sleep(TRIGGERER_LOST_AFTER_S + 3)
    airflow_stack.resume("triggerer")
    time.sleep(5)  # time enough to do wrong: the first triggerer now finds that its triggers are another's
    assert job.cancelled() == []
    job.finish()
    assert len(job.batches()) == 1


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "SIGTERM"])
@pytest.mark.parametrize("has_acted", [True, False], ids=["after OpenAI acted", "before OpenAI acted"])
def test_a_worker_lost_during_the_paid_call_pays_once(start, emulator, airflow_stack, has_acted, signal_number) -> None:
    # OpenAI keeps its answer back, and the worker dies between the paid call and knowing of it.
    emulator.faults.add(Rule(on="POST /v1/batches", do={"delay": {"seconds": 20, "after": has_acted}}, times=1))
    if not has_acted:
        emulator.faults.add(Rule(on="POST /v1/batches", do="reset", times=1))
    job = start("batch_one")
    is_submitting = lambda: job.emulator.ledger.n_calls("POST", "/v1/files") and airflow_stack.workers("batch_one")  # noqa: E731
    (worker, *_) = airflow_stack.wait_until(is_submitting, "the submission")
    time.sleep(1)
    os.kill(worker.runner_pid, signal_number)
    job.finish()
    assert_paid_once(job)
    assert job.statuses().count("completed") == 1


@pytest.mark.oldest
@pytest.mark.parametrize("state", ["failed", "success"])
def test_marking_the_waiting_task_cancels_its_batch(start, state: str) -> None:
    job = start("batch_one")
    job.wait_until_parked()
    job.mark(state)
    job.wait_for_statuses("cancelled")


@pytest.mark.oldest
def test_after_a_cancel_clearing_takes_up_the_job_and_pays_nothing_twice(start) -> None:
    job = start("batch_three")
    job.wait_until_parked()
    job.mark("failed")
    job.wait_for_statuses("cancelled")
    job.clear()
    job.finish()
    assert_paid_once(job)
    assert job.api.xcom(job.dag_id, job.run_id, "results")["by_status"] == {"succeeded": N_ROWS}


def test_clearing_the_waiting_task_keeps_its_batch(start) -> None:
    job = start("batch_one")
    job.wait_until_parked()
    job.clear()
    job.wait_for_task("deferred", try_number=2)
    time.sleep(3)  # the old trigger's on_kill runs after the new try has taken the batch up
    job.finish()
    assert len(job.batches()) == 1


def test_failing_the_dag_run_cancels_its_batch(start) -> None:
    job = start("batch_one")
    job.wait_until_parked()
    job.api.set_run_state(job.dag_id, job.run_id, "failed")
    job.wait_for_statuses("cancelled")


def test_deleting_a_failed_run_leaves_nothing_running(start) -> None:
    job = start("batch_one")
    job.wait_until_parked()
    job.api.set_run_state(job.dag_id, job.run_id, "failed")
    job.api.delete_run(job.dag_id, job.run_id)
    job.wait_for_statuses("cancelled")


def test_killing_one_mapped_task_cancels_only_its_own_batch(start) -> None:
    job = start("batch_mapped")
    job.wait_until_parked(map_index=0)
    job.wait_until_parked(map_index=1)
    mine = job.api.xcom(job.dag_id, job.run_id, "one", "openai_batch_ids", 0)
    job.mark("failed", map_index=0)
    job.stack.wait_until(lambda: job.cancelled(), "the cancel")
    time.sleep(3)
    assert job.cancelled() == mine
    job.emulator.complete_all()
    job.wait_for_task("success", map_index=1)


def test_a_sensor_that_times_out_leaves_the_batch_and_clearing_goes_on(start) -> None:
    job = start("batch_timeout")
    job.wait_for_run("failed")
    assert job.cancelled() == []
    job.clear()
    job.wait_until_parked()
    job.finish()
    assert len(job.batches()) == 1


def test_marked_failed_while_no_triggerer_lives_the_batch_runs_on_and_is_taken_up_later(start, airflow_stack) -> None:
    job = start("batch_one")
    job.wait_until_parked()
    airflow_stack.kill("triggerer", signal.SIGKILL)
    job.mark("failed")
    time.sleep(2)
    assert job.cancelled() == []
    airflow_stack.restart("triggerer")
    job.clear()
    job.finish()
    assert len(job.batches()) == 1
