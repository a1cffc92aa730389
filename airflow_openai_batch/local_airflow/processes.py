"""Processes in sessions of their own, so that all their descendants can be found, frozen and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

_KILL_S = 10.0

PATIENCE_S = 300.0
"""How long something is waited for. It only ends what hangs: a wait is over as soon as it is there."""


class StackError(RuntimeError):
    """A process died or did not get ready; the message ends with the end of its log."""


def free_ports(n: int) -> list[int]:
    """Return n loopback ports that nobody listens on; all are held until the last is chosen, so they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(n)]
        for candidate in sockets:
            candidate.bind(("127.0.0.1", 0))
        return [candidate.getsockname()[1] for candidate in sockets]


def run(command: Sequence[str], env: Mapping[str, str], timeout: float = PATIENCE_S, user: str | None = None) -> str:
    """Run a command to its end and return its standard output.

    Args:
        command: Program and arguments.
        env: Its whole environment.
        timeout: Seconds it may take.
        user: Who runs it; by default who runs this.

    Raises:
        StackError: It fails.
    """
    done = subprocess.run(  # noqa: S603 - our own command
        command,
        env=env,
        cwd="/",
        user=user,
        extra_groups=[] if user else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        output = f"{done.stdout}{done.stderr}"[-8000:]
        raise StackError(f"{' '.join(command)} ended with exit code {done.returncode}:\n{output}")
    return done.stdout


class SessionProcess:
    """One long-running command with its own session and log file.

    Args:
        name: What messages call it.
        command: Program and arguments.
        env: Its whole environment.
        log: Where its output goes; begins anew with the first start.
        user: Who runs it; by default who runs this.
    """

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path, user: str | None = None
    ) -> None:
        self.name, self.command, self.log = name, list(command), log
        self._env, self._user = dict(env), user
        self.expected_to_run = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the main process."""
        if self._process is None:
            raise StackError(f"{self.name} was never started")
        return self._process.pid

    def start(self) -> None:
        """Start it.

        Raises:
            StackError: It runs.
        """
        if self.is_running():
            raise StackError(f"{self.name} is running already (pid {self.pid})")
        with self.log.open("ab" if self._process else "wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self.command,
                env=self._env,
                # Python's -m puts the working directory on the path: no package may lie there.
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self._user,
                extra_groups=[] if self._user else None,
            )
        self.expected_to_run = True

    def is_running(self) -> bool:
        """Return whether the main process runs."""
        return self._process is not None and self._process.poll() is None

    def check(self) -> None:
        """Raise if it has ended by itself.

        Raises:
            StackError: It has.
        """
        if self.expected_to_run and not self.is_running():
            raise StackError(f"{self.name} ended by itself\n{self.tail(80)}")

    def session_pids(self) -> list[int]:
        """Return all live processes of the session; task runners have process groups of their own, but stay in it."""
        if self._process is None:
            return []
        self._process.poll()
        return [pid for pid in psutil.pids() if _session_of(pid) == self._process.pid]

    def signal_main(self, number: signal.Signals) -> None:
        """Send a signal to the main process alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def signal_session(self, number: signal.Signals) -> None:
        """Send a signal to every process of the session."""
        for pid in self.session_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait(self, timeout: float) -> bool:
        """Wait until the main process has ended, and return whether it has."""
        if self._process is None:
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        return not self.is_running()

    def ask_to_stop(self) -> None:
        """Send what Ctrl-C sends: Airflow's components end their children on it, and leave some behind on SIGTERM."""
        self.expected_to_run = False
        # A frozen process never sees a polite signal.
        self.signal_session(signal.SIGCONT)
        if self.is_running():
            self.signal_main(signal.SIGINT)

    def destroy(self) -> None:
        """Kill whatever is left of the session; repeated, as a process may fork while we look.

        Raises:
            StackError: Something survives it.
        """
        self.expected_to_run = False
        deadline = time.monotonic() + _KILL_S
        while self.session_pids():
            if time.monotonic() > deadline:
                raise StackError(f"{self.name}: processes {self.session_pids()} survive SIGKILL")
            self.signal_session(signal.SIGKILL)
            self.wait(0.05)
            time.sleep(0.02)

    def tail(self, lines: int = 40) -> str:
        """Return the end of the log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        state = "running" if self.is_running() else f"ended, exit code {self._process and self._process.returncode}"
        return f"--- {self.name} ({state}), end of {self.log}:\n" + "\n".join(text.splitlines()[-lines:])


def stop_all(processes: Iterable[SessionProcess], timeout: float = 4) -> None:
    """End processes: all are asked at once, then what is left of their sessions is killed.

    Args:
        processes: What to end.
        timeout: Seconds that all of them have together. A triggerer may take 10; nothing it does is worth waiting for.
    """
    processes = list(processes)
    for process in processes:
        process.ask_to_stop()
    deadline = time.monotonic() + timeout
    for process in processes:
        process.wait(max(0.0, deadline - time.monotonic()))
    for process in processes:
        process.destroy()


def _session_of(pid: int) -> int | None:
    try:
        # A zombie can be neither frozen nor killed: it only waits for its parent to look.
        return None if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else os.getsid(pid)
    except (psutil.Error, OSError):
        return None
