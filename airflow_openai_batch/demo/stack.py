"""A local Airflow on SQLite, and the emulator beside it."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx

from airflow_openai_batch.examples import examples_folder
from airflow_openai_batch.local_airflow.processes import free_ports
from airflow_openai_batch.local_airflow.stack import AirflowStack

START_TIMEOUT_S = 150.0
_FAKE_KEY = "sk-demo-not-a-key"
_OPTIONS: dict[str, object] = {
    # The demo triggers its run itself; otherwise @daily would start one more as soon as the Dag is known.
    "SCHEDULER__USE_JOB_SCHEDULE": False,
    # In production a look per minute is enough: batches take hours.
    "OPENAI_BATCH__POLL_INTERVAL": 2,
}


class DemoError(Exception):
    """The demo cannot go on. The message is for the person at the terminal."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a demo runs, and how OpenAI behaves meanwhile.

    Attributes:
        batch_s: Seconds from the creation of a batch to its end.
        faults: Rules for the emulator.
        dags: The Dag files; none stands for all examples.
    """

    batch_s: float
    faults: Sequence[dict[str, Any]]
    dags: Sequence[Path] = field(default=())


class DemoStack(AirflowStack):
    """Airflow and the emulator.

    Args:
        home: Where everything is kept: database, logs, job store, row and label files.
        scene: What is run.
        say: Told what is being started.
    """

    def __init__(self, home: Path, scene: Scene, say: Callable[[str], None]) -> None:
        (port,) = free_ports(1)
        self._scene, self._emulator_url = scene, f"http://127.0.0.1:{port}"
        self._lock: IO[str] | None = None
        dags = home / "processes" / "dags" if scene.dags else examples_folder()
        connection = {"conn_type": "openai", "host": f"{self._emulator_url}/v1", "password": _FAKE_KEY}
        env = {"AIRFLOW_CONN_OPENAI_DEFAULT": json.dumps(connection)}
        super().__init__(home, dags, _OPTIONS, env, on_postgres=False, say=say)
        faults = self.logs / "faults.json"
        faults.write_text(json.dumps(list(scene.faults)), encoding="utf-8")
        answer = ("--answer", "airflow_openai_batch.demo.labeler:answer")
        how = ("--duration", str(scene.batch_s), "--faults", str(faults), "--port", str(port))
        self.declare("emulator", "-m", "airflow_openai_batch.emulator", *answer, *how)

    def start(self, timeout: float = START_TIMEOUT_S) -> None:
        """Start everything.

        Raises:
            DemoError: Another demo runs in the same folder.
            StackError: A process has ended.
            TimeoutError: Something does not get ready in time.
        """
        self._take_lock()
        self._copy_dags()
        self.processes["emulator"].start()
        self.wait_until(self.ledger, "the emulator to listen")
        self._say("emulator of OpenAI listens")
        super().start(timeout)

    def stop(self) -> None:
        """End all processes. Signals are ignored from here on."""
        # An impatient second Ctrl-C must not leave half of them behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        super().stop()
        if self._lock is not None:
            self._lock.close()

    def make_ready(self, dag_id: str) -> None:
        """Wait until the Dag has been parsed, and end the runs that an interrupted demo has left behind.

        Raises:
            StackError: A Dag file cannot be imported.
            TimeoutError: The Dag is not there in time.
        """
        self.api.unpause(dag_id, START_TIMEOUT_S)
        self.api.fail_unfinished_runs(dag_id)

    def trigger(self, dag_id: str) -> str:
        """Start a run for this moment and return its id."""
        # Without a logical date there would be no {{ ds }}.
        return self.api.trigger(dag_id, logical_date=datetime.datetime.now(datetime.UTC).isoformat())

    def batches(self) -> list[dict[str, Any]]:
        """Return the batches, oldest first, as OpenAI's API shows them."""
        batches: list[dict[str, Any]] = self._ask_emulator("/v1/batches")["data"]
        return batches[::-1]

    def ledger(self) -> dict[str, Any]:
        """Return what the emulator would have billed."""
        ledger: dict[str, Any] = self._ask_emulator("/_emulator/ledger")
        return ledger

    def _ask_emulator(self, path: str) -> Any:
        headers = {"Authorization": f"Bearer {_FAKE_KEY}"}
        answer = httpx.get(f"{self._emulator_url}{path}", headers=headers, timeout=10, trust_env=False)
        return answer.raise_for_status().json()

    def _copy_dags(self) -> None:
        if not self._scene.dags:
            return
        # Ours alone, even if the home is a user's AIRFLOW_HOME: files that an earlier version left would be run.
        folder = self.logs / "dags"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file in self._scene.dags:
            shutil.copy(file, folder)

    def _take_lock(self) -> None:
        self._lock = (self.home / "lock").open("w")
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        raise DemoError(f"A demo runs in {self.home} already. End it, or choose another folder with --home.")
