"""`python -m airflow_openai_batch.demo --ui`: jobs in all states can be looked at, and nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from airflow_openai_batch.demo.scenes import BUSY_NIGHT
from airflow_openai_batch.local_airflow.processes import PATIENCE_S
from airflow_openai_batch.local_airflow.rest import AirflowRest

pytestmark = pytest.mark.slow
PROGRESS = "openai_batch_progress"


class Shown:
    """The running program, as someone sees it who opens the address it prints."""

    def __init__(self, folder: Path) -> None:
        self.home, self._log = folder / "home", folder / "log"
        command = [sys.executable, "-m", "airflow_openai_batch.demo", "--ui", "--home", str(self.home)]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen([*command, "--duration", "15"], stdout=log, stderr=log)
        self.api: Any = None

    def log(self) -> str:
        return self._log.read_text()

    def wait_until(self, is_so: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := is_so()):
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, f"{what}\n{self.log()}"
            time.sleep(1)
        return found

    def find_airflow(self) -> None:
        found = self.wait_until(lambda: re.search(r"  Airflow +(http://\S+)", self.log()), "an address")
        self.api = AirflowRest(found[1])

    def phases(self) -> dict[str, set[str]]:
        """What became of the jobs of each Dag so far."""
        listed = f"/dags/~/dagRuns/~/taskInstances/~/xcomEntries?xcom_key_pattern={PROGRESS}&limit=200"
        found: dict[str, set[str]] = {}
        for entry in self.api.call("GET", listed)["xcom_entries"]:
            where = f"/dags/{entry['dag_id']}/dagRuns/{entry['run_id']}/taskInstances/{entry['task_id']}"
            map_index = f"?map_index={entry['map_index']}" if entry["map_index"] >= 0 else ""
            value = self.api.call("GET", f"{where}/xcomEntries/{entry['key']}{map_index}")["value"]
            found.setdefault(entry["dag_id"], set()).add(value["phase"])
        return found

    def processes(self) -> list[psutil.Process]:
        """All that was started: each of them has the folder in its environment or is a child of one that has."""
        return [process for process in psutil.process_iter() if _is_of(process, self.home)]


def _is_of(process: psutil.Process, home: Path) -> bool:
    try:
        is_running = process.status() != psutil.STATUS_ZOMBIE
        return is_running and process.environ().get("AIRFLOW_HOME") == str(home)
    except psutil.Error:
        return False


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Shown]:
    shown = Shown(tmp_path)
    yield shown
    if shown.process.poll() is None:
        shown.process.send_signal(signal.SIGTERM)
        shown.process.wait(PATIENCE_S)


@pytest.mark.nightly
@pytest.mark.timeout(6 * PATIENCE_S)
def test_jobs_in_all_states_are_there_to_look_at_and_nothing_is_left_writing(shown: Shown) -> None:
    shown.find_airflow()
    shown.wait_until(lambda: shown.phases().keys() == BUSY_NIGHT.keys(), "a job of each Dag")
    shown.wait_until(lambda: "bad" in shown.phases()["package_facts"], "bad rows")
    shown.wait_until(lambda: "written" in shown.phases()["nightly_labeling"], "a good end")
    both = ("package_slogans", "package_summaries")
    shown.wait_until(lambda: "queued" in set.union(*(shown.phases()[dag_id] for dag_id in both)), "a full queue")
    assert re.search(r"page of batches +http://\S+/plugin/openai-batches", shown.log())
    started = shown.processes()
    assert len(started) >= 4
    shown.process.send_signal(signal.SIGTERM)
    assert shown.process.wait(PATIENCE_S) == 130
    assert "Stopped." in shown.log()
    assert shown.processes() == []


def test_what_was_started_ends_if_one_of_it_does(shown: Shown) -> None:
    shown.wait_until(lambda: "starting Airflow" in shown.log(), "Airflow to be started")
    victim = next(process for process in shown.processes() if "airflow_openai_batch.emulator" in process.cmdline())
    os.kill(victim.pid, signal.SIGKILL)
    assert shown.process.wait(PATIENCE_S) == 1
    assert "emulator ended by itself" in shown.log()
    assert shown.processes() == []
