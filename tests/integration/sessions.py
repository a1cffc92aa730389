"""Processes in sessions of their own, so that all their descendants can be found, frozen and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil


class StackError(RuntimeError):
    """A process of the stack died or did not get ready; the message ends with the tail of its log."""


def free_ports(n: int) -> list[int]:
    """Return n loopback ports that nobody listens on; all are held until the last is chosen, so they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(n)]
        for candidate in sockets:
            candidate.bind(("127.0.0.1", 0))
        return [candidate.getsockname()[1] for candidate in sockets]


class SessionProcess:
    """One long-running command with its own session and log file."""

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path, cwd: Path, user: str | None = None
    ) -> None:
        self.name, self.command, self.env, self.log, self.cwd, self.user = (
            name,
            list(command),
            dict(env),
            log,
            cwd,
            user,
        )
        self.expected_to_run = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise StackError(f"{self.name} was never started")
        return self._process.pid

    def start(self) -> None:
        if self.is_running():
            raise StackError(f"{self.name} is running already (pid {self.pid})")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                env=self.env,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self.user,
                extra_groups=[] if self.user else None,
            )
        self.expected_to_run = True

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def session_pids(self) -> list[int]:
        """Return all live processes of the session; task runners have process groups of their own, but stay in it."""
        if self._process is None:
            return []
        self._process.poll()
        return [pid for pid in psutil.pids() if _session_of(pid) == self._process.pid]

    def signal_main(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def signal_session(self, number: signal.Signals) -> None:
        for pid in self.session_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait(self, timeout: float) -> bool:
        """Wait until the main process has ended; say whether it has."""
        if self._process is None:
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        return not self.is_running()

    def ask_to_stop(self) -> None:
        self.expected_to_run = False
        # A frozen process never sees a polite signal.
        self.signal_session(signal.SIGCONT)
        if self.is_running():
            # SIGINT is what Ctrl-C sends; Airflow's components end their children on it.
            self.signal_main(signal.SIGINT)

    def destroy(self, timeout: float = 10) -> None:
        """Kill whatever is left of the session; repeated, as a process may fork while we look."""
        self.expected_to_run = False
        deadline = time.monotonic() + timeout
        while self.session_pids():
            if time.monotonic() > deadline:
                raise StackError(f"{self.name}: processes {self.session_pids()} survive SIGKILL")
            self.signal_session(signal.SIGKILL)
            self.wait(0.05)
            time.sleep(0.02)

    def stop(self, timeout: float = 10) -> None:
        self.ask_to_stop()
        self.wait(timeout)
        self.destroy()

    def tail(self, lines: int = 40) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        state = "running" if self.is_running() else f"ended, exit code {self._process and self._process.returncode}"
        return f"--- {self.name} ({state}), end of {self.log}:\n" + "\n".join(text.splitlines()[-lines:])


def _session_of(pid: int) -> int | None:
    try:
        # A zombie can be neither frozen nor killed: it only waits for its parent to look.
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return None
        return os.getsid(pid)
    except (psutil.Error, ProcessLookupError, PermissionError):
        return None
