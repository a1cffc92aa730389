"""The stack with CeleryExecutor: Redis, and workers that share nothing but the network, as on machines of their own."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

from airflow_openai_batch.local_airflow.processes import PATIENCE_S, SessionProcess, StackError, free_ports
from airflow_openai_batch.local_airflow.stack import AirflowStack

_WORKER_SLOTS = 2


def find_redis() -> str | None:
    """Return the path of Redis' server program."""
    return shutil.which("redis-server", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/bin", "/usr/sbin"]))


class CeleryStack(AirflowStack):
    """Airflow on PostgreSQL and Redis with CeleryExecutor. Its workers are started one by one.

    Args:
        home: See ``AirflowStack``.
        dags_folder: Where the Dag files are. All machines see it, as they do with a shared volume or git-sync.
        options: See ``AirflowStack``.
        env: See ``AirflowStack``.

    Raises:
        StackError: There is no Redis on this machine.
    """

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        options: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        program = find_redis()
        if program is None:
            raise StackError("no Redis server found (redis-server)")
        (self._port,) = free_ports(1)
        ours = {
            "CORE__EXECUTOR": "CeleryExecutor",
            "CELERY__BROKER_URL": f"redis://127.0.0.1:{self._port}/0",
            "CELERY__WORKER_CONCURRENCY": _WORKER_SLOTS,
            # What a lost worker had reserved and not begun: handed to another after so long, by default 600 s.
            "SCHEDULER__TASK_QUEUED_TIMEOUT": 20,
            "SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": 2,
            # Logs go to a common place, as they do with remote logging.
            "LOGGING__BASE_LOG_FOLDER": home / "logs",
        }
        super().__init__(home, dags_folder, {**ours, **(options or {})}, env)
        self.env["AIRFLOW__CELERY__RESULT_BACKEND"] = f"db+{self.database_url}"
        command = [program, "--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--dir", str(home)]
        self.processes["redis"] = SessionProcess("redis", command, {"PATH": os.defpath}, self.logs / "redis.log")
        self._machines = Path(tempfile.mkdtemp(prefix="airflow-machines-"))

    def start(self, timeout: float = PATIENCE_S) -> None:
        """Start everything but the workers."""
        self.processes["redis"].start()
        self.wait_until(self._redis_answers, "Redis to answer", 20)
        super().start(timeout)

    def stop(self) -> None:
        """End all processes and remove the machines."""
        super().stop()
        shutil.rmtree(self._machines, ignore_errors=True)

    def start_machine(
        self, name: str, *, queue: str = "default", env: Mapping[str, str] | None = None, timeout: float = PATIENCE_S
    ) -> None:
        """Start a worker with an AIRFLOW_HOME and a disk of its own, and wait until it takes tasks.

        Args:
            name: What the machine is called, in Airflow too.
            queue: The queue that it serves.
            env: What its environment has besides the stack's.
            timeout: Seconds to wait.
        """
        if name not in self.processes:
            disk = self.disk(name)
            (disk / "tmp").mkdir(parents=True)
            own = {"AIRFLOW_HOME": str(disk), "TMPDIR": str(disk / "tmp"), "HOME": str(disk)}
            # So that the machines can be told apart in Airflow: this function returns what LOGNAME says.
            own |= {"AIRFLOW__CORE__HOSTNAME_CALLABLE": "getpass.getuser", "LOGNAME": name}
            arguments = ["celery", "worker", "--skip-serve-logs", "--celery-hostname", f"{name}@%h", "--queues", queue]
            arguments += ["--without-gossip", "--without-mingle"]
            self.declare(name, "-m", "airflow", *arguments, env={**own, **(env or {})})
        process = self.processes[name]
        seen = process.log.stat().st_size if process.log.exists() else 0
        process.start()
        self.wait_until(lambda: b" ready." in process.log.read_bytes()[seen:], f"{name} to take tasks", timeout)

    def disk(self, name: str) -> Path:
        """Return the folder that stands for the disk of a machine."""
        return self._machines / name

    def lose_machine(self, name: str) -> None:
        """End a worker with all that it runs (kill -9), and its disk with it."""
        self.kill(name)
        shutil.rmtree(self.disk(name))
        (self.disk(name) / "tmp").mkdir(parents=True)

    def _redis_answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
