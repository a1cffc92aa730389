"""The stack with CeleryExecutor: Redis, and workers that share nothing but the network, as on machines of their own."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from sessions import SessionProcess, StackError, free_ports
from stack import AirflowStack

SLOTS = 2
"""Tasks that a worker runs at a time."""


def find_redis() -> str | None:
    """Return the path of Redis' server program."""
    return shutil.which("redis-server", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/bin", "/usr/sbin"]))


class CeleryStack(AirflowStack):
    """Airflow on PostgreSQL and Redis with CeleryExecutor. Its workers are started by the test.

    Args:
        home: See ``AirflowStack``.
        dags_folder: Where the Dag files are. All machines see it, as they do with a shared volume or git-sync.
        env: See ``AirflowStack``.
    """

    def __init__(self, home: Path, dags_folder: Path, env: Mapping[str, str] | None = None) -> None:
        program = find_redis()
        if program is None:
            raise StackError("no Redis server found (redis-server)")
        (self.redis_port,) = free_ports(1)
        super().__init__(home, dags_folder, env)
        settings = ["--port", str(self.redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.home)]
        self._processes["redis"] = SessionProcess(
            "redis", [program, *settings], {"PATH": os.defpath}, self.home / "redis.log", self.home
        )
        self._machines = Path(tempfile.mkdtemp(prefix="stack-machines-"))

    def executor_options(self) -> dict[str, object]:
        """Return the settings of CeleryExecutor."""
        return {
            "CORE__EXECUTOR": "CeleryExecutor",
            "CORE__HOSTNAME_CALLABLE": "machine.name",
            "CELERY__BROKER_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "CELERY__RESULT_BACKEND": f"db+{self.postgres.url}",
            "CELERY__WORKER_CONCURRENCY": SLOTS,
            # What a lost worker had reserved and not begun: handed to another after so long, by default 600 s.
            "SCHEDULER__TASK_QUEUED_TIMEOUT": 20,
            "SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": 2,
            # Logs go to a common place, as they do with remote logging.
            "LOGGING__BASE_LOG_FOLDER": self.home / "logs",
        }

    def start(self, timeout: float = 180) -> None:
        """Start everything but the workers."""
        try:
            self._processes["redis"].start()
            deadline = time.monotonic() + 20
            while not self._redis_answers():
                if time.monotonic() > deadline or not self.is_running("redis"):
                    raise StackError(f"Redis does not answer\n{self._processes['redis'].tail()}")
                time.sleep(0.05)
        except BaseException:
            self.stop()
            raise
        super().start(timeout)

    def stop(self, timeout: float = 4) -> None:
        """End all processes and remove the machines."""
        super().stop(timeout)
        shutil.rmtree(self._machines, ignore_errors=True)

    def start_machine(
        self, name: str, *, queue: str = "default", env: Mapping[str, str] | None = None, timeout: float = 90
    ) -> None:
        """Start a worker with an AIRFLOW_HOME and a disk of its own, and wait until it takes tasks.

        Args:
            name: What the machine is called, in Airflow too.
            queue: The queue that it serves.
            env: What its environment has besides the stack's.
            timeout: Seconds to wait.
        """
        if name not in self._processes:
            disk = self.disk(name)
            (disk / "tmp").mkdir(parents=True)
            own = {"AIRFLOW_HOME": str(disk), "TMPDIR": str(disk / "tmp"), "HOME": str(disk), "STACK_MACHINE": name}
            arguments = ["celery", "worker", "--skip-serve-logs", "--celery-hostname", f"{name}@%h", "--queues", queue]
            self._declare(name, *arguments, "--without-gossip", "--without-mingle", env={**own, **(env or {})})
        process = self._processes[name]
        seen = process.log.stat().st_size if process.log.exists() else 0
        process.start()

        def is_ready() -> bool:
            with process.log.open("rb") as log:
                log.seek(seen)
                return b" ready." in log.read()

        self.api.wait_until(is_ready, f"{name} to take tasks", timeout)

    def disk(self, name: str) -> Path:
        """Return the folder that stands for the disk of a machine."""
        return self._machines / name

    def lose_machine(self, name: str) -> None:
        """End a worker with all that it runs (kill -9), and its disk with it."""
        self.kill(name)
        for entry in self.disk(name).iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        (self.disk(name) / "tmp").mkdir()

    def _redis_answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.redis_port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
