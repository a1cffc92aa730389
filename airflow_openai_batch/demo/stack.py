"""A whole Airflow on SQLite and the emulator, each in processes of its own, on free loopback ports."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import httpx

from airflow_openai_batch.demo.airflow_rest import AirflowRest
from airflow_openai_batch.demo.processes import Component, DemoError, stop_all

WORKER_SLOTS = 4
_START_TIMEOUT_S = 150.0
_FAKE_KEY = "sk-demo-not-a-key"
_KEY = {"Authorization": f"Bearer {_FAKE_KEY}"}

_OPTIONS: dict[str, object] = {
    "CORE__EXECUTOR": "LocalExecutor",
    "CORE__PARALLELISM": WORKER_SLOTS,
    "CORE__LOAD_EXAMPLES": False,
    "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,
    "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
    # The demo triggers its run itself; otherwise @daily would start one more as soon as the Dag is known.
    "SCHEDULER__USE_JOB_SCHEDULE": False,
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.3,
    # A worker that has deferred leaves at its next heartbeat.
    "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,
    "DAG_PROCESSOR__PARSING_PROCESSES": 1,
    "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 600,
    "API__HOST": "127.0.0.1",
    "API__WORKERS": 1,
    "LOGGING__COLORED_CONSOLE_LOG": False,
    # In production a look per minute is enough: batches take hours.
    "OPENAI_BATCH__POLL_INTERVAL": 2,
}


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


class DemoStack:
    """The emulator and Airflow's API server, scheduler, Dag processor and triggerer.

    Args:
        home: Where everything is kept: database, logs, job store, row and label files.
        scene: What is run.
        say: Told what is being started.
    """

    def __init__(self, home: Path, scene: Scene, say: Callable[[str], None]) -> None:
        self.home = home
        self.logs = home / "processes"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.openai_url = ""
        self.airflow_url = f"http://127.0.0.1:{_free_port()}"
        self.rest = AirflowRest(self.airflow_url)
        self._say, self._scene = say, scene
        self._components: list[Component] = []
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process."""
        if self._components:
            self._say("stopping all processes")
        stop_all(self._components)
        self._components.clear()
        self.rest.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def check(self) -> None:
        """Raise if a process has ended by itself.

        Raises:
            DemoError: One has.
        """
        for component in self._components:
            component.check()

    def knows_all(self, dag_ids: Iterable[str]) -> bool:
        """Say whether the Dags have been parsed.

        Raises:
            DemoError: A Dag file cannot be imported.
        """
        for error in self.rest.import_errors():
            raise DemoError(f"A Dag file cannot be imported:\n{error}")
        return all(self.rest.knows(dag_id) for dag_id in dag_ids)

    def batches(self) -> list[dict[str, Any]]:
        """Return the batches, oldest first, as OpenAI's API shows them."""
        answer = httpx.get(f"{self.openai_url}/batches", headers=_KEY, timeout=10, trust_env=False)
        found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
        return found[::-1]

    def ledger(self) -> dict[str, Any]:
        """Return what the emulator would have billed."""
        url = self.openai_url.removesuffix("/v1") + "/_emulator/ledger"
        found: dict[str, Any] = httpx.get(url, timeout=10, trust_env=False).raise_for_status().json()
        return found

    def _start(self) -> None:
        self._take_lock()
        env = _clean_environment()
        self._start_emulator(env)
        env |= self._airflow_environment()
        migrate = self._launch("airflow-db-migrate", ["airflow", "db", "migrate"], env)
        self._say("emulator of OpenAI listens; creating Airflow's database")
        if migrate.wait(_START_TIMEOUT_S):
            raise DemoError(f"Airflow's database could not be made.\n{migrate.tail()}")
        self._components.remove(migrate)
        # Without their log servers, which would listen on fixed ports; the API server reads the log files itself.
        for name, *options in (
            ("api-server",),
            ("dag-processor",),
            ("scheduler", "--skip-serve-logs"),
            ("triggerer", "--skip-serve-logs"),
        ):
            self._launch(name, ["airflow", name, *options], env)
        self._say("starting Airflow: API server, scheduler, Dag processor, triggerer")
        self.wait_until(self.rest.is_up, "Airflow's API server to answer")

    def wait_until(self, probe: Callable[[], bool], what: str, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Wait until the probe returns true.

        Raises:
            DemoError: It never does, or a process has ended.
        """
        deadline = time.monotonic() + timeout_s
        while not _holds(probe):
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"Waited {timeout_s:.0f} s for {what}. The logs are in {self.logs}.")
            time.sleep(0.3)

    def _launch(self, name: str, arguments: list[str], env: dict[str, str]) -> Component:
        component = Component(name, [sys.executable, "-m", *arguments], env, self.logs)
        self._components.append(component)
        component.start()
        return component

    def _start_emulator(self, env: dict[str, str]) -> None:
        path = self.logs / "faults.json"
        path.write_text(json.dumps(list(self._scene.faults)), encoding="utf-8")
        command = ["airflow_openai_batch.emulator", "--answer", "airflow_openai_batch.demo.labeler:answer"]
        command += ["--duration", str(self._scene.batch_s), "--faults", str(path)]
        emulator = self._launch("emulator", command, env)

        def has_told_its_url() -> bool:
            found = re.search(r"^(http://\S+)\n", emulator.log.read_text(errors="replace"), re.MULTILINE)
            self.openai_url = found[1].rstrip("/") if found else ""
            return bool(found)

        self.wait_until(has_told_its_url, "the emulator to listen", 60)

    def _airflow_environment(self) -> dict[str, str]:
        connection = {"conn_type": "openai", "host": self.openai_url, "password": _FAKE_KEY}
        options = _OPTIONS | {
            "CORE__DAGS_FOLDER": self._dags_folder(),
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home}/airflow.db",
            "API__PORT": self.airflow_url.rpartition(":")[2],
            # Workers find the API by these, not by the port.
            "API__BASE_URL": self.airflow_url,
            "CORE__EXECUTION_API_SERVER_URL": f"{self.airflow_url}/execution/",
            "API__SECRET_KEY": secrets.token_hex(32),
            "API_AUTH__JWT_SECRET": secrets.token_hex(32),
        }
        return {f"AIRFLOW__{name}": str(value) for name, value in options.items()} | {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW_CONN_OPENAI_DEFAULT": json.dumps(connection),
        }

    def _dags_folder(self) -> Path:
        if not self._scene.dags:
            return dags_folder()
        # Ours alone, even if the home is a user's AIRFLOW_HOME: files that an earlier version left would be run.
        folder = self.logs / "dags"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file in self._scene.dags:
            shutil.copy(file, folder)
        return folder

    def _take_lock(self) -> None:
        self._lock = (self.home / "lock").open("w")
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        raise DemoError(f"A demo runs in {self.home} already. End it, or choose another folder with --home.")


def dags_folder() -> Path:
    """Return the folder of the example Dags: in the wheel they are beside this module, in a checkout at its top.

    Raises:
        DemoError: They are in neither place.
    """
    here = Path(__file__).resolve()
    for folder in (here.parent / "dags_examples", here.parents[2] / "dags_examples"):
        if (folder / "nightly_labeling.py").exists():
            return folder
    raise DemoError("The example Dags are not installed. Run the demo in a checkout of the project.")


def _holds(probe: Callable[[], bool]) -> bool:
    # Servers that are just starting on a busy machine may answer late or with an error.
    with contextlib.suppress(httpx.HTTPError):
        return probe()
    return False


def _clean_environment() -> dict[str, str]:
    """Return this process's environment without settings of another Airflow, and without keys: nothing can leak."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "OPENAI", "LABELING"))}
    env["NO_PROXY"] = env["no_proxy"] = "127.0.0.1,localhost"
    env["PYTHONUNBUFFERED"] = "1"
    # Seven processes import Airflow; without compiled modules each takes three times as long.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
