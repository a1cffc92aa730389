"""Two large batches are read at once, by the task's process and a further one, whatever becomes of the latter."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from airflow_openai_batch.emulator import Emulator
from airflow_openai_batch.engine.answers import reader_process
from airflow_openai_batch.engine.concurrency import usable_cpus
from airflow_openai_batch.local_airflow.stack import AirflowStack

pytestmark = pytest.mark.slow

DAG_ID, TASK_ID = "batch_large", "one"
N_ROWS = 40_000


def reading_processes() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if reader_process.__name__ in process.cmdline():
                yield process


@pytest.mark.skipif(usable_cpus() < 2, reason="a task that may use one CPU reads by itself")
@pytest.mark.parametrize(
    "is_killed", [pytest.param(True, id="killed"), pytest.param(False, id="left alone", marks=pytest.mark.nightly)]
)
def test_two_batches_are_read_by_two_processes(
    airflow_stack: AirflowStack, emulator: Emulator, stack_env: dict[str, str], *, is_killed: bool
) -> None:
    emulator.reset()
    api = airflow_stack.api
    api.unpause(DAG_ID)
    run_id = api.trigger(DAG_ID)
    airflow_stack.wait_until_parked(DAG_ID, run_id, TASK_ID)
    assert len(emulator.batches) == 2
    emulator.complete_all()
    seen = _watched(lambda: api.run_state(DAG_ID, run_id) not in ("queued", "running"), is_killed=is_killed)
    assert api.run_state(DAG_ID, run_id) == "success", airflow_stack.tails()
    assert len(seen) == 1
    assert list(reading_processes()) == []
    assert ("A process that read answers is gone" in api.task_log(DAG_ID, run_id, TASK_ID, 1)) is is_killed
    frame = pd.read_parquet(Path(stack_env["OPENAI_BATCH_TEST_OUTPUT"]) / f"{run_id}.parquet")
    assert list(frame["id"]) == list(range(N_ROWS))
    assert set(frame["status"]) == {"succeeded"}
    assert list(frame["output"]) == [f"Echo: {text}" for text in frame["text"]]
    assert emulator.ledger.rows_billed_twice() == []
    assert len(emulator.batches) == 2


def _watched(is_over: Callable[[], Any], *, is_killed: bool) -> set[int]:
    """Return the reading processes that were seen until it was over; each is killed when it is seen, if so wished."""
    seen: set[int] = set()
    deadline, next_look = time.monotonic() + 120, 0.0
    while time.monotonic() < deadline:
        for process in reading_processes():
            seen.add(process.pid)
            if is_killed:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        if time.monotonic() >= next_look:
            if is_over():
                break
            next_look = time.monotonic() + 1
        time.sleep(0.01)
    return seen
