"""A whole Airflow in separate processes: database, API server, scheduler, Dag processor and triggerers.

Everything listens on free loopback ports and ends with the stack. One drives it by REST (`stack.api`) and hurts it by
signals (`stack.kill`, `stack.pause`, `stack.worker_pids`).
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from airflow_openai_batch.local_airflow import settings
from airflow_openai_batch.local_airflow.postgres import Postgres
from airflow_openai_batch.local_airflow.processes import PATIENCE_S, SessionProcess, free_ports, run, stop_all
from airflow_openai_batch.local_airflow.rest import AirflowRest

COMPONENTS: dict[str, tuple[str, ...]] = {
    # Log servers would listen on fixed ports of all interfaces; the API server reads the log files itself.
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
"""Airflow's processes and their commands."""
_JOB_TYPES = {"scheduler": "SchedulerJob", "dag-processor": "DagProcessorJob", "triggerer": "TriggererJob"}
_HEALTHY = ("metadatabase", "scheduler", "triggerer", "dag_processor")
# A lost or frozen machine takes all processes of a component at once; other signals are for its main process.
_WHOLE_SESSION = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT}
_WORKER_TITLE = re.compile(r"airflow worker -- LocalExecutor\S*: ([0-9a-f-]{36})")
# Several passes of the scheduler's loop.
_SCHEDULER_SETTLES_S = 1


@dataclass(frozen=True)
class Worker:
    """A task that LocalExecutor runs now: the supervisor sends heartbeats, its child runs the operator's code."""

    task_instance_id: str
    supervisor_pid: int
    runner_pid: int


class AirflowStack:
    """Airflow with LocalExecutor and everybody an admin.

    Args:
        home: AIRFLOW_HOME; the processes' logs are in its folder `processes`. Created if absent.
        dags_folder: Where the Dag files are.
        options: More of Airflow's options, `SECTION__KEY` to value; see `settings` for what is set anyway.
        env: More of the environment of all processes; wins over the options.
        on_postgres: On PostgreSQL, and not on SQLite.
        say: Told what is being started and ended.
    """

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        options: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
        *,
        on_postgres: bool = True,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.home, self.logs, self._say = home, home / "processes", say
        self.logs.mkdir(parents=True, exist_ok=True)
        self.postgres = Postgres(self.logs / "postgres.log") if on_postgres else None
        self.database_url = self.postgres.url if self.postgres else f"sqlite:///{home}/airflow.db"
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.env = settings.environment(home, dags_folder, self.database_url, port, options or {}) | dict(env or {})
        self.api = AirflowRest(self.url, check=self.check, describe=self.tails)
        self.processes = {"postgres": self.postgres.process} if self.postgres else {}

    # --- life

    def start(self, timeout: float = PATIENCE_S) -> None:
        """Start everything and return once the health page finds nothing wrong.

        Raises:
            StackError: A process has ended.
            TimeoutError: Airflow does not become healthy in time.
        """
        self._say("creating Airflow's database")
        if self.postgres:
            self.postgres.create()
        self.run_cli("db", "migrate")
        self._say("starting Airflow: API server, scheduler, Dag processor, triggerer")
        for name, arguments in COMPONENTS.items():
            self.declare(name, "-m", "airflow", *arguments).start()
        self.api.wait_until(self._is_healthy, "all components to be healthy", timeout)

    def stop(self) -> None:
        """End all processes."""
        if any(map(self.is_running, self.processes)):
            self._say("stopping all processes")
        stop_all(process for name, process in self.processes.items() if name != "postgres")
        if self.postgres:
            self.postgres.remove()
        self.api.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def check(self) -> None:
        """Raise if a process has ended by itself.

        Raises:
            StackError: One has.
        """
        for process in list(self.processes.values()):
            process.check()

    # --- one process

    def declare(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> SessionProcess:
        """Return a further Python process of the stack, not yet started; it ends with the stack.

        Args:
            name: How the stack calls it from now on.
            arguments: What Python is given.
            env: What its environment has besides the stack's.
        """
        command = [sys.executable, *arguments]
        self.processes[name] = SessionProcess(name, command, {**self.env, **(env or {})}, self.logs / f"{name}.log")
        return self.processes[name]

    def start_triggerer(self, name: str, timeout: float = PATIENCE_S) -> None:
        """Start one more triggerer under a name of its own and wait for its heartbeat."""
        self.declare(name, "-m", "airflow", *COMPONENTS["triggerer"])
        self._start_and_wait(name, timeout)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a component and, if it is SIGKILL, wait for the end.

        SIGKILL, SIGSTOP and SIGCONT go to the whole session (a machine is lost or freezes), the others to the main
        process alone (as from systemd or Kubernetes).
        """
        process = self.processes[name]
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            process.expected_to_run = False
        (process.signal_session if number in _WHOLE_SESSION else process.signal_main)(number)
        if number == signal.SIGKILL:
            process.destroy()

    def pause(self, name: str) -> None:
        """Freeze a component with all its children (SIGSTOP)."""
        self.kill(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a frozen component go on."""
        self.kill(name, signal.SIGCONT)

    def restart(self, name: str, timeout: float = PATIENCE_S) -> None:
        """Start a component again, ending it first if it still runs, and wait until it works."""
        stop_all([self.processes[name]], 10)
        self._start_and_wait(name, timeout)

    def heal(self) -> None:
        """Undo what was done to the processes: thaw the frozen, start the dead, end the additional triggerers."""
        for name, process in list(self.processes.items()):
            process.signal_session(signal.SIGCONT)
            if name != "postgres" and name not in COMPONENTS:
                process.destroy()
                del self.processes[name]
            elif not process.is_running():
                self.restart(name)

    def is_running(self, name: str) -> bool:
        """Return whether a process of the stack runs."""
        return self.processes[name].is_running()

    def pids(self, name: str) -> list[int]:
        """Return all processes of a component, its children included."""
        return self.processes[name].session_pids()

    # --- workers

    def workers(self, dag_id: str | None = None) -> list[Worker]:
        """Return the tasks that have a worker process now, of one Dag or of all.

        LocalExecutor's busy workers carry the task instance's id in their title. Never kill an idle one: one of them
        holds the lock of the task queue while it waits.
        """
        workers = []
        for task_instance_id, process in self._busy_supervisors().items():
            with contextlib.suppress(psutil.NoSuchProcess):
                children = [child for child in process.children() if child.status() != psutil.STATUS_ZOMBIE]
                workers += [Worker(task_instance_id, process.pid, child.pid) for child in children[:1]]
        if dag_id is None or not workers:
            return workers
        ids = {instance["id"] for instance in self.api.task_instances(dag_id, "~")}
        return [worker for worker in workers if worker.task_instance_id in ids]

    def wait_until_parked(
        self, dag_id: str, run_id: str, task_id: str, timeout: float = PATIENCE_S, map_index: int = -1
    ) -> None:
        """Wait until the task is deferred and its worker is gone.

        A worker needs some seconds to exit after it has deferred; Airflow fails a task whose trigger fires within them.

        Args:
            dag_id: The Dag.
            run_id: Its run.
            task_id: The task.
            timeout: Seconds to wait.
            map_index: Which of a mapped task's instances, from 0; -1 if it is not mapped.
        """
        self.api.wait_for_task(dag_id, run_id, task_id, "deferred", timeout, map_index=map_index)
        mine = self.api.task_instance(dag_id, run_id, task_id, map_index)["id"]
        self.api.wait_until(lambda: mine not in self._busy_supervisors(), f"the worker of {dag_id} to exit", timeout)
        # The scheduler must also have read the worker's result; it looks several times a second.
        time.sleep(_SCHEDULER_SETTLES_S)

    # --- the rest

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """Run Python in the stack's environment to its end and return its standard output.

        Args:
            arguments: What Python is given.
            env: What its environment has besides the stack's.

        Raises:
            StackError: It fails.
        """
        return run([sys.executable, *arguments], {**self.env, **(env or {})})

    def run_cli(self, *arguments: str) -> str:
        """Run an `airflow` command; see `run`."""
        return self.run("-m", "airflow", *arguments)

    def wait_until(self, probe: Callable[[], Any], what: str, timeout: float = PATIENCE_S) -> Any:
        """Poll until the probe returns something true; see ``AirflowRest.wait_until``.

        Args:
            probe: What is waited for.
            what: The same in words, for the message, which shows the ends of all logs too.
            timeout: Seconds to wait.
        """
        return self.api.wait_until(probe, what, timeout)

    def tails(self, lines: int = 25) -> str:
        """Return the end of each process's log."""
        return "\n".join(process.tail(lines) for process in self.processes.values())

    def _busy_supervisors(self) -> dict[str, psutil.Process]:
        busy = {}
        for pid in self.pids("scheduler"):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                # The runner, a fork, carries its parent's title until it sets its own.
                if (task_instance_id := _busy_title(process)) and not _busy_title(process.parent()):
                    busy[task_instance_id] = process
        return busy

    def _start_and_wait(self, name: str, timeout: float) -> None:
        process = self.processes[name]
        job_type = _JOB_TYPES.get(name, "TriggererJob" if "triggerer" in process.command else None)
        if self.postgres and process is self.postgres.process:
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
        parts = self.api.health()
        return all((parts.get(part) or {}).get("status") == "healthy" for part in _HEALTHY)


def _busy_title(process: psutil.Process | None) -> str | None:
    """Return the id of the task instance that a LocalExecutor worker carries in its title, None for other processes."""
    try:
        match = _WORKER_TITLE.search(" ".join(process.cmdline())) if process else None
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return match[1] if match else None
