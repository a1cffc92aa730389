"""Processes in sessions of their own: whatever they fork can be found and ended with them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own

# Their work ends within a second; some interpreters linger for ten more.
_POLITE_S = 3.0
_KILL_S = 5.0


class DemoError(Exception):
    """The demo cannot go on. The message is for the person at the terminal."""


class Component:
    """A long-running command with its own session and log file.

    Args:
        name: What it is called on the screen; its log is `<name>.log`.
        command: Program and arguments.
        env: Its whole environment.
        folder: Where the log goes and the command runs.
    """

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command, self._env, self._folder = list(command), dict(env), folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it. Its log begins anew."""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self._command,
                env=self._env,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal must reach the demo alone, which then ends the others in order.
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise if it has ended by itself.

        Raises:
            DemoError: It has; the message shows the end of its log.
        """
        if self._process is not None and self._process.poll() is not None:
            raise DemoError(f"{self.name} ended with exit code {self._process.returncode}.\n{self.tail()}")

    def wait(self, timeout_s: float) -> int:
        """Wait until it ends and return its exit code.

        Raises:
            DemoError: It takes too long.
        """
        if self._process is None:
            raise DemoError(f"{self.name} was never started.")
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise DemoError(f"{self.name} does not end within {timeout_s:.0f} s.\n{self.tail()}") from None

    def tail(self, lines: int = 15) -> str:
        """Return the end of the log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join([f"End of {self.log}:", *text.splitlines()[-lines:]])

    def ask_to_stop(self) -> None:
        """Send what Ctrl-C sends: Airflow's components end their children on it, and leave some behind on SIGTERM."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def ends_within(self, timeout_s: float) -> bool:
        """Wait for the main process and say whether it has ended."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        return self._process is None or self._process.poll() is not None

    def kill_rest(self) -> None:
        """Kill what is left of the session; repeated, as a process may fork while we look."""
        deadline = time.monotonic() + _KILL_S
        while (left := self._session()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.ends_within(0.05)

    def _session(self) -> list[int]:
        return [pid for pid in psutil.pids() if _session_of(pid) == self._process.pid] if self._process else []


def stop_all(components: Iterable[Component]) -> None:
    """End components: all are asked at once, then what is left is killed. Signals are ignored from here on."""
    components = list(components)
    # An impatient second Ctrl-C must not leave half of them behind.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for component in components:
        component.ask_to_stop()
    deadline = time.monotonic() + _POLITE_S
    for component in components:
        component.ends_within(max(0.0, deadline - time.monotonic()))
    for component in components:
        component.kill_rest()


def _session_of(pid: int) -> int | None:
    try:
        # A zombie cannot be killed: it only waits for its parent to look.
        return None if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else os.getsid(pid)
    except (psutil.Error, OSError):
        return None
