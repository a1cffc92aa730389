"""One sample of a benchmark: the clock, the memory, and what came out."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Case:
    """One sample: what to work on, the clock, and what came out.

    Attributes:
        rows: How many rows.
        data: Folder of generated inputs, kept between runs.
        shared: Folder of one run, for what `prepare` makes.
        work: Folder of this sample alone, removed after it.
        options: The program's own options.
    """

    def __init__(self, rows: int, data: Path, shared: Path, work: Path, options: argparse.Namespace) -> None:
        self.rows, self.data, self.shared, self.work, self.options = rows, data, shared, work, options
        self.found: dict[str, Any] = {"checks": {}, "notes": {}}
        self._at = self._cpu_at = self._paused = self._cpu_paused = 0.0

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Measure what is inside: wall and CPU seconds with those of child processes, and the peak of memory."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again from here
        base = memory_mb("VmRSS")
        self._at, self._cpu_at = time.perf_counter(), _cpu_s()
        with contextlib.ExitStack() as stack:
            if self.options.profile:
                stack.enter_context(_profiled())
            if self.options.flame:
                stack.enter_context(_drawn(self.options.flame))
            yield
        seconds, cpu_s = time.perf_counter() - self._at, _cpu_s() - self._cpu_at
        self.found |= {
            "seconds": seconds - self._paused,
            "cpu_s": cpu_s - self._cpu_paused,
            "base_mb": base,
            "peak_mb": memory_mb("VmHWM"),
        }

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is inside, because it is not the method's."""
        at, cpu_at = time.perf_counter(), _cpu_s()
        yield
        self._paused += time.perf_counter() - at
        self._cpu_paused += _cpu_s() - cpu_at

    def check(self, **values: Any) -> None:
        """Say what came out; it must equal what other methods say under the same name."""
        self.found["checks"] |= values

    def note(self, **values: Any) -> None:
        """Say what else is worth telling, in numbers."""
        self.found["notes"] |= values


@contextlib.contextmanager
def _profiled() -> Iterator[None]:
    import cProfile
    import pstats

    with cProfile.Profile() as profile:
        yield
    pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(30)


@contextlib.contextmanager
def _drawn(path: Path) -> Iterator[None]:
    """Draw a flame graph of the block, by py-spy, which looks at the process from outside and slows it down little."""
    command = ["py-spy", "record", "--pid", str(os.getpid()), "--rate", "200", "--threads"]
    command += ["--output", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as spy:
        assert spy.stdout is not None
        print(spy.stdout.readline(), file=sys.stderr, flush=True)
        yield
        spy.send_signal(signal.SIGINT)
        print(spy.communicate()[0][-500:], file=sys.stderr)
    # As a still picture: without the script that it comes with, and what is for it.
    drawn = re.sub(r"<script.*?</script>|<!--.*?-->| onload=\"[^\"]*\"", "", path.read_text(), flags=re.DOTALL)
    drawn = re.sub(r'<text id="(unzoom|search|matched|details)".*?</text>', "", drawn, flags=re.DOTALL)
    path.write_text(re.sub(r'(<text id="title"[^>]*>)[^<]*', rf"\1{path.stem}", drawn))


def _cpu_s() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def memory_mb(key: str) -> float:
    """Return `VmRSS` or `VmHWM` of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise KeyError(key)
