"""A private PostgreSQL cluster on a free loopback port, for root and for ordinary users."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from airflow_openai_batch.local_airflow.processes import (
    PATIENCE_S,
    SessionProcess,
    StackError,
    free_ports,
    run,
    stop_all,
)

_NAME = "airflow"
"""Of the database and of its user."""


def find_postgres() -> Path | None:
    """Return the folder with initdb and postgres: from PATH, pg_config, or the newest that Debian keeps out of PATH."""
    candidates: list[Path] = []
    if initdb := shutil.which("initdb"):
        candidates.append(Path(initdb).resolve().parent)
    if pg_config := shutil.which("pg_config"):
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)  # noqa: S603
        candidates.append(Path(answer.stdout.strip()))
    versioned = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    candidates += sorted(versioned, key=lambda path: int("".join(re.findall(r"\d", str(path))) or 0), reverse=True)
    # pg_config comes with the client library too, whose folder has no server.
    return next((path for path in candidates if (path / "initdb").exists() and (path / "postgres").exists()), None)


class Postgres:
    """A cluster that lives in a temporary folder and is removed by `remove()`.

    Args:
        log: Where the server's output goes.

    Raises:
        StackError: There is no PostgreSQL on this machine, or nobody to run it as.
    """

    def __init__(self, log: Path) -> None:
        binaries = find_postgres()
        if binaries is None:
            raise StackError("no PostgreSQL server found (initdb and postgres)")
        self._binaries = binaries
        # The server refuses to run as root.
        self._user = _unprivileged_user() if os.geteuid() == 0 else None
        self._folder = _folder_for(self._user)
        (self._port,) = free_ports(1)
        self._env = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "HOME": str(self._folder)}
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self._port,
            # The path of a Unix socket is limited to about 100 bytes, which a temporary folder can exceed.
            "unix_socket_directories": "",
            "max_connections": 200,
            "shared_buffers": "64MB",
            # This cluster may lose everything in a power cut, so it need not wait for the disk.
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(binaries / "postgres"), "-D", str(self._folder / "data"), *options]
        self.process = SessionProcess("postgres", command, self._env, log, self._user)

    @property
    def url(self) -> str:
        """The database's address, as SQLAlchemy writes it."""
        return f"postgresql+psycopg2://{_NAME}@127.0.0.1:{self._port}/{_NAME}"

    def create(self) -> None:
        """Make the cluster, start it and make the database.

        Raises:
            StackError: It cannot be made.
        """
        options = ["-U", _NAME, "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
        self._run("initdb", "-D", str(self._folder / "data"), *options)
        self.process.start()
        self.wait_ready()
        self._run("createdb", *self._server, _NAME)

    def wait_ready(self, timeout: float = PATIENCE_S) -> None:
        """Wait until the server answers.

        Raises:
            StackError: It does not.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._run("pg_isready", "-q", *self._server, "-d", "postgres")
            except StackError:
                if not self.process.is_running() or time.monotonic() > deadline:
                    message = f"PostgreSQL does not answer on port {self._port}\n{self.process.tail()}"
                    raise StackError(message) from None
                time.sleep(0.05)
            else:
                return

    def remove(self) -> None:
        """End the server and delete its data."""
        stop_all([self.process])
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _server(self) -> list[str]:
        return ["-h", "127.0.0.1", "-p", str(self._port), "-U", _NAME]

    def _run(self, program: str, *arguments: str) -> None:
        run([str(self._binaries / program), *arguments], self._env, user=self._user)


def _unprivileged_user() -> str:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise StackError("PostgreSQL does not run as root, and there is no user `postgres` or `nobody` to run it as")


def _folder_for(user: str | None) -> Path:
    """Make a folder the server's user can reach: pytest's own temporary folders are closed to everybody else."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - mkdtemp makes a folder of our own there
        path = Path(parent).resolve()
        if user is None or all(step.stat().st_mode & 0o001 for step in (path, *path.parents)):
            folder = Path(tempfile.mkdtemp(prefix="airflow-postgres-", dir=path))
            if user:
                shutil.chown(folder, user)
            return folder
    raise StackError(f"no temporary folder is open to user {user}")
