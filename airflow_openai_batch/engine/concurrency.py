"""Background threads that read ahead and write behind, and settings that keep a worker's memory small."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_END: Any = object()

WRITE_BEHIND = "write-behind"
"""Prefix of the names of writing threads."""


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """Yield the items of an iterable, while a thread computes the next one."""
    iterator = iter(items)
    with ThreadPoolExecutor(1, "read-ahead") as pool:
        coming = pool.submit(next, iterator, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, iterator, _END)
            yield item


class SerialExecutor:
    """Runs calls one after another in one thread, with a bounded queue: submitting blocks while the queue is full.

    After a call that failed no further call runs, so that a file that lacks a block is never published.

    Args:
        most: Number of calls that may be pending.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pool = ThreadPoolExecutor(1, WRITE_BEHIND)
        self._undone: deque[Future[Any]] = deque()
        self._has_failed = False

    def __call__(self, function: Callable[..., Any], *args: Any) -> None:
        """Submit a call.

        Args:
            function: The function to call in the thread; its result is dropped.
            *args: Its arguments.

        Raises:
            Exception: An earlier call failed.
        """
        self._undone.append(self._pool.submit(self._do, function, args))
        while self._undone and (len(self._undone) > self._most or self._undone[0].done()):
            self._undone.popleft().result()

    def wait(self) -> None:
        """Wait until all submitted calls have run.

        Raises:
            Exception: A call failed.
        """
        while self._undone:
            self._undone.popleft().result()

    def stop(self) -> None:
        """Accept no more calls, and return when the last one has ended."""
        self._pool.shutdown()

    def _do(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if self._has_failed:
            return
        try:
            function(*args)
        except BaseException:
            self._has_failed = True
            raise


class FileWriter:
    """Writes one file after another in a thread; a second thread closes each file while the next one is written.

    Args:
        most: Number of writes that may be pending.
    """

    def __init__(self, most: int) -> None:
        self.write = SerialExecutor(most)
        self._finish = SerialExecutor(1)

    def finish(self, function: Callable[[], Any]) -> None:
        """Call a function that closes a file, after all writes submitted before."""
        self.write(self._finish, function)

    def wait(self) -> None:
        """Wait until everything is written and closed."""
        self.write.wait()
        self._finish.wait()

    def stop(self) -> None:
        """Accept no more calls, and return when the last one has ended."""
        self.write.stop()
        self._finish.stop()


_ALLOCATOR_VARIABLE = "ARROW_DEFAULT_MEMORY_POOL"


_QUOTAS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
"""Where the kernel tells how many microseconds of CPU time a container has in a period, and that period: by its
documentation of cgroup v2 ("max" for no limit), and of v1 (-1)."""


def usable_cpus() -> int:
    """Return how many CPUs this process may use: those it may run on, or as much as its container may have of them."""
    try:
        n = len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux has it
        n = os.cpu_count() or 1
    for names in _QUOTAS:
        try:
            quota, period = map(
                int, " ".join(Path("/sys/fs/cgroup", name).read_text("ascii") for name in names).split()
            )
        except (OSError, ValueError):
            continue
        return max(1, min(n, quota // period)) if quota > 0 else n
    return n


def use_releasing_allocator() -> None:
    """Make Arrow use an allocator that returns memory to the system soon, unless the user has chosen an allocator.

    Arrow's default allocator keeps about 100 MB more, without being measurably faster here. This affects the whole
    process and is meant for the process of a task.
    """
    if _ALLOCATOR_VARIABLE in os.environ:
        return
    is_first = "pyarrow" not in sys.modules and sys.platform == "linux"
    if is_first:
        # Arrow reads the variable once, on import; its Parquet code keeps that allocator, whatever is set later.
        os.environ[_ALLOCATOR_VARIABLE] = "jemalloc"
    try:
        import pyarrow as pa
    finally:
        if is_first:
            del os.environ[_ALLOCATOR_VARIABLE]
    if "jemalloc" in pa.supported_memory_backends():
        pa.set_memory_pool(pa.jemalloc_memory_pool())


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the cyclic garbage collector in a block that creates many short-lived objects without cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
