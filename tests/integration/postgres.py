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

from sessions import SessionProcess, StackError, free_ports

DATABASE = USER = "airflow"


def find_binaries() -> Path | None:
    """Return the folder with initdb and postgres: from PATH, pg_config, or the newest that Debian keeps out of PATH."""
    candidates: list[Path] = []
    if initdb := shutil.which("initdb"):
        candidates.append(Path(initdb).resolve().parent)
    if pg_config := shutil.which("pg_config"):
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        candidates.append(Path(answer.stdout.strip()))
    versioned = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    candidates += sorted(versioned, key=_version, reverse=True)
    # pg_config comes with the client library too, whose folder has no server.
    return next((path for path in candidates if (path / "initdb").exists() and (path / "postgres").exists()), None)


def _version(path: Path) -> int:
    return int("".join(re.findall(r"\d", str(path))) or 0)


class Postgres:
    """A cluster that lives in a temporary folder and is removed by `remove()`."""

    def __init__(self, binaries: Path, log: Path) -> None:
        # The server refuses to run as root.
        self._user = _unprivileged_user() if os.geteuid() == 0 else None
        self._binaries = binaries
        self._folder = _folder_for(self._user)
        (self.port,) = free_ports(1)
        self._env = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "HOME": str(self._folder)}
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            # The path of a Unix socket is limited to about 100 bytes, which a temporary folder can exceed.
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            # A test cluster may lose everything in a power cut, so it need not wait for the disk.
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self.process = SessionProcess(
            "postgres",
            [str(binaries / "postgres"), "-D", str(self._folder / "data"), *options],
            self._env,
            log,
            self._folder,
            self._user,
        )

    @property
    def url(self) -> str:
        return f"postgresql+psycopg2://{USER}@127.0.0.1:{self.port}/{DATABASE}"

    def create(self) -> None:
        options = ["-U", USER, "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
        self._run("initdb", "-D", str(self._folder / "data"), *options)
        self.process.start()
        self.wait_ready()
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, DATABASE)

    def wait_ready(self, timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while not self._is_ready():
            if not self.process.is_running() or time.monotonic() > deadline:
                raise StackError(f"PostgreSQL does not answer on port {self.port}\n{self.process.tail()}")
            time.sleep(0.05)

    def remove(self) -> None:
        self.process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _is_ready(self) -> bool:
        command = [
            str(self._binaries / "pg_isready"),
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            USER,
            "-d",
            "postgres",
        ]
        return subprocess.run(command, env=self._env, check=False).returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._binaries / program), *arguments],
            env=self._env,
            cwd=self._folder,
            user=self._user,
            extra_groups=[] if self._user else None,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StackError(f"{program} failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}")


def _unprivileged_user() -> str:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise StackError("PostgreSQL does not run as root, and there is no user `postgres` or `nobody` to run it as")


def _folder_for(user: str | None) -> Path:
    """Make a folder the server's user can reach: pytest's own temporary folders are closed to everybody else."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        path = Path(parent).resolve()
        if user is None or all(step.stat().st_mode & 0o001 for step in (path, *path.parents)):
            folder = Path(tempfile.mkdtemp(prefix="stack-postgres-", dir=path))
            if user:
                shutil.chown(folder, user)
            return folder
    raise StackError(f"no temporary folder is open to user {user}")
