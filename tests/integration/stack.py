"""A whole Airflow in separate processes: Postgres, API server, scheduler, Dag processor and triggerers.

Everything listens on free loopback ports and ends with the stack. A test drives it by REST (`stack.api`) and hurts it
by signals (`stack.kill`, `stack.pause`, `stack.worker_pids`).
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
from airflow_api import AirflowApi, ApiError
from postgres import Postgres, find_binaries
from sessions import SessionProcess, StackError, free_ports

COMPONENTS = ("postgres", "api-server", "scheduler", "dag-processor", "triggerer")
JOB_TYPES = {"scheduler": "SchedulerJob", "dag-processor": "DagProcessorJob", "triggerer": "TriggererJob"}
# A lost or frozen machine takes all processes of a component at once; other signals are for its main process.
WHOLE_SESSION = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT}
WORKER_TITLE = re.compile(r"airflow worker -- LocalExecutor\S*: ([0-9a-f-]{36})")

# A triggerer whose last heartbeat is older than this loses its triggers to the next one that looks.
TRIGGERER_LOST_AFTER_S = 6
# A running task whose supervisor is silent for so long is failed (or retried) by the scheduler.
TASK_LOST_AFTER_S = 15
# Several passes of the scheduler's loop.
SCHEDULER_SETTLES_S = 1

QUICK = {
    "CORE__DEFAULT_TASK_RETRY_DELAY": 1,
    "CORE__KILLED_TASK_CLEANUP_TIME": 5,
    "CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": 1,
    "SCHEDULER__JOB_HEARTBEAT_SEC": 1,
    "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": 1,
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": 10,
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.2,
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": 5,
    "SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": 1,
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": TASK_LOST_AFTER_S,
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": 2,
    # A worker that has deferred exits only at its next heartbeat, so this is also how long parking takes.
    "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,
    "TRIGGERER__JOB_HEARTBEAT_SEC": 1,
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": TRIGGERER_LOST_AFTER_S,
    "DAG_PROCESSOR__REFRESH_INTERVAL": 5,
    "DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": 1,
    # Changed files are parsed at once in any case; parsing the others again and again only takes the processor away.
    "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 600,
}
SMALL = {
    # LocalExecutor forks so many workers at its start.
    "CORE__PARALLELISM": 4,
    "API__WORKERS": 1,
    "DAG_PROCESSOR__PARSING_PROCESSES": 1,
    "CORE__LOAD_EXAMPLES": False,
}


@dataclass(frozen=True)
class Worker:
    """A task that LocalExecutor runs now: the supervisor sends heartbeats, its child runs the operator's code."""

    task_instance_id: str
    supervisor_pid: int
    runner_pid: int


class AirflowStack:
    """Airflow on PostgreSQL with LocalExecutor and everybody an admin.

    Args:
        home: folder for AIRFLOW_HOME and the logs of the processes (`<name>.log`); created if absent.
        dags_folder: where the Dag files are.
        env: additional environment of all Airflow processes; wins over the stack's own settings.
    """

    def __init__(self, home: Path, dags_folder: Path, env: Mapping[str, str] | None = None) -> None:
        binaries = find_binaries()
        if binaries is None:
            raise StackError("no PostgreSQL server found (initdb and postgres)")
        self.home, self.dags_folder = Path(home), Path(dags_folder)
        self.home.mkdir(parents=True, exist_ok=True)
        self.postgres = Postgres(binaries, self.home / "postgres.log")
        (port,) = free_ports(1)
        self.base_url = f"http://127.0.0.1:{port}"
        self.env = self._environment(port, env or {})
        self.api = AirflowApi(self.base_url, check=self._check_alive, describe=self.tails)
        self._processes = {"postgres": self.postgres.process}
        # Log servers would listen on fixed ports of all interfaces; the API server reads the log files itself.
        self._declare("api-server", "api-server")
        self._declare("scheduler", "scheduler", "--skip-serve-logs")
        self._declare("dag-processor", "dag-processor")
        self._declare("triggerer", "triggerer", "--skip-serve-logs")

    # --- life

    def start(self, timeout: float = 180) -> None:
        """Start everything and return once the health page finds nothing wrong; ends everything if that fails."""
        try:
            self.postgres.create()
            self._migrate(timeout)
            for name in COMPONENTS[1:]:
                self._processes[name].start()
            self.api.wait_until(self._is_healthy, "all components to be healthy", timeout)
        except BaseException:
            self.stop()
            raise

    def stop(self, timeout: float = 4) -> None:
        """End all processes: a request to all of them at once, then SIGKILL to whatever is left of their sessions.

        A triggerer may take 10 s to follow the request; nothing here is worth waiting for it.
        """
        components = [process for name, process in self._processes.items() if name != "postgres"]
        for process in components:
            process.ask_to_stop()
        deadline = time.monotonic() + timeout
        for process in components:
            process.wait(max(0.0, deadline - time.monotonic()))
        for process in components:
            process.destroy()
        self.postgres.remove()
        self.api.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- one process

    @property
    def names(self) -> list[str]:
        return list(self._processes)

    def start_triggerer(self, name: str, timeout: float = 60) -> None:
        """Start one more triggerer under a name of its own and wait for its heartbeat."""
        if name not in self._processes:
            self._declare(name, "triggerer", "--skip-serve-logs")
        self._start_and_wait(name, timeout)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL, *, whole_session: bool | None = None) -> None:
        """Send a signal to a component and, if it is a deadly one, wait for the end.

        SIGKILL, SIGSTOP and SIGCONT go to the whole session (a machine is lost or freezes), the others to the main
        process alone (as from systemd or Kubernetes), unless `whole_session` says otherwise.
        """
        process = self._processes[name]
        to_all = number in WHOLE_SESSION if whole_session is None else whole_session
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            process.expected_to_run = False
        (process.signal_session if to_all else process.signal_main)(number)
        if number == signal.SIGKILL and not process.wait(10):
            raise StackError(f"{name} survives SIGKILL")
        if number == signal.SIGKILL and to_all:
            process.destroy()

    def pause(self, name: str) -> None:
        """Freeze a component with all its children (SIGSTOP)."""
        self.kill(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.kill(name, signal.SIGCONT)

    def restart(self, name: str, timeout: float = 60) -> None:
        """Start a component again, ending it first if it still runs, and wait until it works."""
        process = self._processes[name]
        process.stop()
        self._start_and_wait(name, timeout)

    def heal(self) -> None:
        """Undo what a test did to the processes: thaw the frozen, start the dead, end the additional triggerers."""
        for name, process in list(self._processes.items()):
            process.signal_session(signal.SIGCONT)
            if name not in COMPONENTS:
                process.destroy()
                del self._processes[name]
            elif not process.is_running():
                self.restart(name)

    def is_running(self, name: str) -> bool:
        return self._processes[name].is_running()

    def pids(self, name: str) -> list[int]:
        """All processes of a component, its children included."""
        return self._processes[name].session_pids()

    # --- workers

    def workers(self, dag_id: str | None = None) -> list[Worker]:
        """Return the tasks that have a worker process now, of one Dag or of all.

        LocalExecutor's busy workers carry the task instance's id in their title. Never kill an idle one: one of them
        holds the lock of the task queue while it waits.
        """
        found = []
        for task_instance_id, process in self._busy_supervisors().items():
            with contextlib.suppress(psutil.NoSuchProcess):
                children = [child for child in process.children() if child.status() != psutil.STATUS_ZOMBIE]
                found += [Worker(task_instance_id, process.pid, child.pid) for child in children[:1]]
        if dag_id is None or not found:
            return found
        path = f"/dags/{dag_id}/dagRuns/~/taskInstances"
        ids = {instance["id"] for instance in self.api.call("GET", path)["task_instances"]}
        return [worker for worker in found if worker.task_instance_id in ids]

    def worker_pids(self, dag_id: str | None = None) -> list[int]:
        """Process ids of the running operators' code, ready for `os.kill`."""
        return [worker.runner_pid for worker in self.workers(dag_id)]

    def wait_for_worker(self, dag_id: str, timeout: float = 60) -> Worker:
        return self.api.wait_until(lambda: self.workers(dag_id), f"a worker of {dag_id}", timeout)[0]

    def wait_until_parked(
        self, dag_id: str, run_id: str, task_id: str, timeout: float = 60, map_index: int = -1
    ) -> None:
        """Wait until the task is deferred and its worker is gone.

        A worker needs some seconds to exit after it has deferred; Airflow fails a task whose trigger fires within them.
        """
        self.api.wait_for_task(dag_id, run_id, task_id, "deferred", timeout, map_index=map_index)
        mine = self.api.task_instance(dag_id, run_id, task_id, map_index)["id"]
        self.api.wait_until(lambda: mine not in self._busy_supervisors(), f"the worker of {dag_id} to exit", timeout)
        # The scheduler must also have read the worker's result; it looks several times a second.
        time.sleep(SCHEDULER_SETTLES_S)

    # --- the rest

    def run_cli(self, *arguments: str, timeout: float = 120) -> str:
        """Run an `airflow` command in the stack's environment and return its standard output."""
        command = [sys.executable, "-m", "airflow", *arguments]
        done = subprocess.run(
            command, env=self.env, cwd=self.home, capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise StackError(f"airflow {' '.join(arguments)} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
        return done.stdout

    def wait_until(self, probe: Callable[[], Any], what: str, timeout: float = 60) -> Any:
        """Poll until the probe returns something true; the error shows the ends of all logs."""
        return self.api.wait_until(probe, what, timeout)

    def tails(self, lines: int = 25) -> str:
        """Return the end of each process's log."""
        return "\n".join(process.tail(lines) for process in self._processes.values())

    def _busy_supervisors(self) -> dict[str, psutil.Process]:
        busy = {}
        for pid in self.pids("scheduler"):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                # The runner, a fork, carries its parent's title until it sets its own.
                if (task_instance_id := _busy_title(process)) and not _busy_title(process.parent()):
                    busy[task_instance_id] = process
        return busy

    def executor_options(self) -> dict[str, object]:
        """Return the settings that choose the executor; PostgreSQL's address is known by then."""
        return {"CORE__EXECUTOR": "LocalExecutor"}

    def _declare(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "airflow", *arguments]
        env = {**self.env, **(env or {})}
        self._processes[name] = SessionProcess(name, command, env, self.home / f"{name}.log", self.home)

    def _start_and_wait(self, name: str, timeout: float) -> None:
        process = self._processes[name]
        job_type = JOB_TYPES.get(name, "TriggererJob" if "triggerer" in process.command else None)
        if name == "postgres":
            process.start()
            self.postgres.wait_ready(timeout)
        elif job_type is None:
            process.start()
            self.api.wait_until(self.api.health, f"{name} to answer", timeout)
        else:
            # A killed component looks alive for some seconds more: only a job that is new is its successor.
            before = self.api.live_jobs(job_type)
            process.start()
            self.api.wait_until(lambda: self.api.live_jobs(job_type) - before, f"{name} to have a heartbeat", timeout)

    def _is_healthy(self) -> bool:
        try:
            parts = self.api.health()
        except ApiError:
            return False
        needed = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        return all((parts.get(part) or {}).get("status") == "healthy" for part in needed)

    def _check_alive(self) -> None:
        dead = [p for p in self._processes.values() if p.expected_to_run and not p.is_running()]
        if dead:
            raise StackError("died unexpectedly: " + "\n".join(process.tail(80) for process in dead))

    def _migrate(self, timeout: float) -> None:
        log = self.home / "migrate.log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", "airflow", "db", "migrate"]
            done = subprocess.run(
                command, env=self.env, cwd=self.home, stdout=out, stderr=out, timeout=timeout, check=False
            )
        if done.returncode:
            raise StackError(f"airflow db migrate failed:\n{log.read_text(errors='replace')[-8000:]}")

    def _environment(self, port: int, more: Mapping[str, str]) -> dict[str, str]:
        # Other tests of the same session set AIRFLOW__… in this process; none of it may leak in.
        env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        options = {
            **QUICK,
            **SMALL,
            "CORE__DAGS_FOLDER": self.dags_folder,
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,
            "CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            # The name server has no part in these tests.
            "CORE__HOSTNAME_CALLABLE": "socket.gethostname",
            "DATABASE__SQL_ALCHEMY_CONN": self.postgres.url,
            "API__HOST": "127.0.0.1",
            "API__PORT": port,
            "API__SECRET_KEY": secrets.token_hex(32),
            "API_AUTH__JWT_SECRET": secrets.token_hex(32),
            # Workers find the execution API through these, not through the port.
            "API__BASE_URL": self.base_url,
            "CORE__EXECUTION_API_SERVER_URL": f"{self.base_url}/execution/",
            "LOGGING__COLORED_CONSOLE_LOG": False,
            # Our polling would fill the tails that errors show.
            "LOGGING__NAMESPACE_LEVELS": "http.access=WARNING",
            **self.executor_options(),
        }
        env |= {f"AIRFLOW__{name}": str(value) for name, value in options.items()}
        env["AIRFLOW_HOME"] = str(self.home)
        env["NO_PROXY"] = env["no_proxy"] = "127.0.0.1,localhost"
        env["PYTHONUNBUFFERED"] = "1"
        if env.pop("PYTHONDONTWRITEBYTECODE", None):
            # Without compiled modules each process takes three times as long to start; these go away with the stack.
            env["PYTHONPYCACHEPREFIX"] = str(self.home / "pycache")
        # The triggerer imports triggers by name, so helpers beside the Dags must be importable everywhere.
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(self.dags_folder), env.get("PYTHONPATH")]))
        if "PYTHONPATH" in more:
            more = {**more, "PYTHONPATH": os.pathsep.join([more["PYTHONPATH"], env["PYTHONPATH"]])}
        return env | dict(more)


def _busy_title(process: psutil.Process | None) -> str | None:
    """Return the id of the task instance that a LocalExecutor worker carries in its title, None for other processes."""
    try:
        match = WORKER_TITLE.search(" ".join(process.cmdline())) if process else None
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return match[1] if match else None
