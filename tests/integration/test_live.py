"""What Airflow's API shows of a job while its task is deferred: a real triggerer keeps it up to date."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_openai_batch.emulator import Emulator
from airflow_openai_batch.local_airflow.stack import AirflowStack
from airflow_openai_batch.reporting.trigger_progress import can_refresh

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_refresh(), reason="triggers of this Airflow cannot write progress"),
]
LISTING = "/dags/~/dagRuns/~/taskInstances/~/xcomEntries"


class Deferred:
    """A run whose task has deferred."""

    def __init__(self, stack: AirflowStack, emulator: Emulator, dag_id: str, task_id: str, owner_id: str) -> None:
        emulator.reset()
        self.stack, self.api, self.emulator = stack, stack.api, emulator
        self.dag_id, self.task_id, self.key = dag_id, task_id, f"openai_batch_progress.{owner_id}"
        self.api.unpause(dag_id)
        self.run_id = self.api.trigger(dag_id)

    def progress(self, map_index: int = -1) -> dict[str, Any]:
        key = self.key if map_index < 0 else f"{self.key}.{map_index}"
        found: dict[str, Any] = self.api.xcom(self.dag_id, self.run_id, self.task_id, key, map_index)
        return found

    def growing(self, n_times: int, step_s: float, map_index: int = -1) -> list[int]:
        """Let OpenAI work on step by step, and return the counts that were shown after each."""
        shown = [self.progress(map_index)["n_done"]]

        def has_grown() -> bool:
            return bool(self.progress(map_index)["n_done"] > shown[-1])

        for _ in range(n_times):
            self.emulator.clock.advance(step_s)  # type: ignore[attr-defined]
            self.stack.wait_until(has_grown, f"more rows to be done than {shown}")
            shown.append(self.progress(map_index)["n_done"])
        return shown

    def end(self) -> None:
        def has_ended() -> bool:
            self.emulator.complete_all()
            return bool(self.api.run_state(self.dag_id, self.run_id) not in ("queued", "running"))

        self.stack.wait_until(has_ended, "the run to end")
        self.api.wait_for_run(self.dag_id, self.run_id)


@pytest.mark.parametrize(
    ("dag_id", "task_id", "owner_id"), [("batch_three", "wait", "submit"), ("batch_one", "one", "one")]
)
def test_the_progress_of_a_deferred_task_grows_and_its_log_tells(
    airflow_stack: AirflowStack, emulator: Emulator, dag_id: str, task_id: str, owner_id: str
) -> None:
    job = Deferred(airflow_stack, emulator, dag_id, task_id, owner_id)
    airflow_stack.wait_until_parked(dag_id, job.run_id, task_id)
    before = job.progress()
    assert (before["phase"], before["live"], before["n_rows"], before["n_done"]) == ("waiting", True, 30, 0)
    assert job.growing(5, 8)[-1] < 30
    assert job.api.task_instance(dag_id, job.run_id, task_id)["state"] == "deferred"
    value = job.progress()
    assert value["updated_at"] > before["updated_at"] and value["rate_per_h"] > 0 and value["eta_at"] > 0
    assert value["batches"][0]["status"] == "in_progress"
    entries = job.api.call("GET", LISTING, params={"xcom_key_pattern": job.key, "order_by": "-timestamp", "limit": 1})
    newest = entries["xcom_entries"][0]
    assert (newest["run_id"], newest["task_id"], newest["key"]) == (job.run_id, task_id, job.key)
    job.end()
    log = job.api.task_log(dag_id, job.run_id, task_id)
    assert "0 of 30 rows (0%); 0 of 1 batch ended, 1 validating; " in log
    assert " of 30 rows (" in log and "/h, " in log and " left; 0 of 1 batch ended, 1 in_progress" in log
    assert log.count(" of 30 rows (") <= 26
    assert "could not be written" not in log
    last_task = "results" if dag_id == "batch_three" else task_id
    last = job.api.xcom(dag_id, job.run_id, last_task, job.key)
    assert (last["phase"], last["n_done"], last["by_status"]) == ("written", 30, {"succeeded": 30})
    assert "\nsucceeded               30   100.0%\n" in job.api.task_log(dag_id, job.run_id, last_task)


def test_mapped_tasks_are_told_apart(airflow_stack: AirflowStack, emulator: Emulator) -> None:
    job = Deferred(airflow_stack, emulator, "batch_mapped", "one", "one")
    for index in (0, 1):
        airflow_stack.wait_until_parked("batch_mapped", job.run_id, "one", map_index=index)
    job.growing(2, 14, map_index=1)
    values = [job.progress(index) for index in (0, 1)]
    assert [(value["n_rows"], value["job"]["map_index"]) for value in values] == [(10, 0), (20, 1)]
    assert 0 < values[0]["n_done"] <= 10
    job.end()
