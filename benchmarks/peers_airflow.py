"""A whole Airflow for the benchmark: SQLite, API server, scheduler, Dag processor and triggerer on loopback ports."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import psutil

from airflow_openai_batch.demo.processes import Component, stop_all

T = TypeVar("T")

_POLL_S = 0.3
_START_TIMEOUT_S = 240.0
_OPTIONS: dict[str, object] = {
    "CORE__EXECUTOR": "LocalExecutor",
    "CORE__PARALLELISM": 6,
    "CORE__LOAD_EXAMPLES": False,
    "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,
    "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.3,
    # A worker that has deferred leaves at its next heartbeat.
    "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,
    "TRIGGERER__JOB_HEARTBEAT_SEC": 1,
    "DAG_PROCESSOR__PARSING_PROCESSES": 1,
    "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 6000,
    "API__HOST": "127.0.0.1",
    "API__WORKERS": 1,
    "LOGGING__COLORED_CONSOLE_LOG": False,
}


class Airflow:
    """Airflow's processes and the calls of its REST API that the benchmark makes.

    Args:
        home: Where database and logs are kept.
        dags: The folder of the Dag files.
        env: More environment variables for all processes.
    """

    def __init__(self, home: Path, dags: Path, env: Mapping[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        options = _OPTIONS | {
            "CORE__DAGS_FOLDER": dags,
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "API__PORT": port,
            "API__BASE_URL": url,
            "CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "API__SECRET_KEY": secrets.token_hex(32),
            "API_AUTH__JWT_SECRET": secrets.token_hex(32),
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "OPENAI"))}
        self._env = kept | {f"AIRFLOW__{name}": str(value) for name, value in options.items()} | dict(env)
        self._env |= {"AIRFLOW_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        self._home = home
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False)
        self._components: list[Component] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            stop_all(self._components)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        stop_all(self._components)
        self._http.close()

    def trigger(self, dag_id: str, run_id: str) -> None:
        """Start a run under a name of our own."""
        self._call("POST", f"/dags/{dag_id}/dagRuns", json={"logical_date": None, "dag_run_id": run_id})

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run."""
        return str(self._call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def task(self, dag_id: str, run_id: str, task_id: str = "batch") -> dict[str, Any]:
        """Return a task instance."""
        found: dict[str, Any] = self._call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}")
        return found

    def clear(self, dag_id: str, run_id: str, task_id: str = "batch") -> None:
        """Clear a task and what comes after it, as the button in the UI does."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": [task_id],
            "include_downstream": True,
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self._call("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)

    def mark_failed(self, dag_id: str, run_id: str, task_id: str = "batch") -> None:
        """Mark a task failed, as the button in the UI does."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        self._call("PATCH", path, json={"new_state": "failed"})

    def end_run(self, dag_id: str, run_id: str) -> None:
        """Mark a run failed that takes too long."""
        self._call("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})

    def kill_worker(self, dag_id: str, run_id: str, task_id: str = "batch") -> None:
        """Kill the process that runs the operator's code, as the kernel does when memory runs out."""
        wanted = self.task(dag_id, run_id, task_id)["id"]
        found = [process for process in psutil.process_iter() if wanted in _title(process)]
        # A fork carries its parent's title until it sets its own.
        (supervisor,) = [process for process in found if wanted not in _title(process.parent())]
        for runner in supervisor.children():
            runner.send_signal(signal.SIGKILL)

    def wait_until(self, probe: Callable[[], T], what: str, timeout_s: float) -> T:
        """Wait until a probe returns something true.

        Raises:
            TimeoutError: It never does.
        """
        deadline = time.monotonic() + timeout_s
        while not (found := probe()):
            for component in self._components:
                component.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"Waited {timeout_s:.0f} s for {what}.")
            time.sleep(_POLL_S)
        return found

    def _start(self) -> None:
        migrate = self._launch("db-migrate", "db", "migrate")
        if migrate.wait(_START_TIMEOUT_S):
            raise RuntimeError(migrate.tail())
        self._components.remove(migrate)
        self._launch("api-server", "api-server")
        self._launch("dag-processor", "dag-processor")
        self._launch("scheduler", "scheduler", "--skip-serve-logs")
        self._launch("triggerer", "triggerer", "--skip-serve-logs")
        self.wait_until(self._is_healthy, "Airflow to be healthy", _START_TIMEOUT_S)
        self.wait_until(self._has_dags, "the Dags to be parsed", _START_TIMEOUT_S)

    def _launch(self, name: str, *arguments: str) -> Component:
        component = Component(name, [sys.executable, "-m", "airflow", *arguments], self._env, self._home)
        self._components.append(component)
        component.start()
        return component

    def _is_healthy(self) -> bool:
        try:
            parts = self._http.get("/api/v2/monitor/health").raise_for_status().json()
        except httpx.HTTPError:
            return False
        return all((parts.get(name) or {}).get("status") == "healthy" for name in ("scheduler", "triggerer"))

    def _has_dags(self) -> bool:
        errors = self._call("GET", "/importErrors")["import_errors"]
        if errors:
            raise RuntimeError(errors[0]["stack_trace"])
        return len(self._call("GET", "/dags")["dags"]) == 3

    def _call(self, method: str, path: str, **options: Any) -> Any:
        if "Authorization" not in self._http.headers:
            token = self._http.get("/auth/token").raise_for_status().json()["access_token"]
            self._http.headers["Authorization"] = f"Bearer {token}"
        answer = self._http.request(method, f"/api/v2{path}", **options)
        if answer.is_error:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json()


def _title(process: psutil.Process | None) -> str:
    try:
        return " ".join(process.cmdline()) if process else ""
    except psutil.Error:
        return ""
