"""People are told by a real Airflow: of a night that is late while its task waits, and of a task that failed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_openai_batch.emulator import Emulator, Rule
from airflow_openai_batch.local_airflow.processes import PATIENCE_S
from airflow_openai_batch.local_airflow.stack import AirflowStack

pytestmark = pytest.mark.slow
DAG_ID, TASK_ID = "alerted_night", "labels"


@pytest.fixture
def told(stack_env: dict[str, str]) -> Callable[[str], list[str]]:
    """Return a function that returns what the notifier was given that has a word in it."""
    file = Path(stack_env["OPENAI_BATCH_TEST_OUTPUT"]) / "notifications.jsonl"

    def texts(word: str) -> list[str]:
        lines = file.read_text().splitlines() if file.exists() else []
        return [text for text in map(json.loads, lines) if word in text]

    return texts


def wait_for(stack: AirflowStack, texts: Callable[[], list[str]]) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while not texts():
        assert time.monotonic() < deadline, stack.tails()
        time.sleep(0.5)
    (text,) = texts()
    return text


@pytest.mark.oldest
def test_a_night_that_is_late_is_told_while_its_task_still_waits(
    airflow_stack: AirflowStack, emulator: Emulator, told: Callable[[str], list[str]]
) -> None:
    emulator.reset()
    airflow_stack.api.unpause(DAG_ID)
    run_id = airflow_stack.api.trigger(DAG_ID)
    airflow_stack.wait_until_parked(DAG_ID, run_id, TASK_ID, 120)
    text = wait_for(airflow_stack, lambda: told(f"run {run_id}: not over in time"))
    assert f"{airflow_stack.url}/openai-batch/?dag_id={DAG_ID}&run_id=" in text
    assert airflow_stack.api.task_instance(DAG_ID, run_id, TASK_ID)["state"] == "deferred", "the alert ends nothing"
    emulator.complete_all()
    airflow_stack.api.wait_for_run(DAG_ID, run_id, "success")


@pytest.mark.oldest
def test_a_task_that_failed_is_told_with_its_reason(
    airflow_stack: AirflowStack, emulator: Emulator, told: Callable[[str], list[str]]
) -> None:
    emulator.reset()
    emulator.faults.add(Rule(on="row", do="refusal", match={"custom_id": "alert"}))
    airflow_stack.api.unpause(DAG_ID)
    run_id = airflow_stack.api.trigger(DAG_ID)
    airflow_stack.wait_until_parked(DAG_ID, run_id, TASK_ID, 120)
    emulator.complete_all()
    airflow_stack.api.wait_for_run(DAG_ID, run_id, "failed")
    text = wait_for(airflow_stack, lambda: told(f"too many rows without a good answer (run {run_id})"))
    assert "20 refused" in text and f"{airflow_stack.url}/openai-batch/?dag_id={DAG_ID}" in text
    emulator.reset()
