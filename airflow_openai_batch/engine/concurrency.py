"""Work beside the main thread, read ahead and written behind, and what keeps a worker's memory small."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_END: Any = object()

WRITE_BEHIND = "write-behind"
"""What the names of threads that write begin with."""


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """Yield the items, while a thread makes the next one."""
    iterator = iter(items)
    with ThreadPoolExecutor(1, "read-ahead") as pool:
        coming = pool.submit(next, iterator, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, iterator, _END)
            yield item


class SerialExecutor:
    """Does calls in their order in one thread. When too many are undone, the next one has to wait.

    After a call that failed nothing more is done: a file that lacks a block is not to be published.

    Args:
        most: How many may be undone.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pool = ThreadPoolExecutor(1, WRITE_BEHIND)
        self._undone: deque[Future[Any]] = deque()
        self._has_failed = False

    def __call__(self, function: Callable[..., Any], *args: Any) -> None:
        """Take a call.

        Raises:
            Exception: An earlier call failed.
        """
        self._undone.append(self._pool.submit(self._do, function, args))
        while self._undone and (len(self._undone) > self._most or self._undone[0].done()):
            self._undone.popleft().result()

    def wait(self) -> None:
        """Wait until everything is done.

        Raises:
            Exception: A call failed.
        """
        while self._undone:
            self._undone.popleft().result()

    def stop(self) -> None:
        """Take no more calls, and return when the last one has ended."""
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
    """Writes one file after another in a thread. A file is finished, which may wait for a disk, beside the next one.

    Args:
        most: How many calls may be undone.
    """

    def __init__(self, most: int) -> None:
        self.write = SerialExecutor(most)
        self._finish = SerialExecutor(1)

    def finish(self, function: Callable[[], Any]) -> None:
        """Let a file be finished once all that was given before is written."""
        self.write(self._finish, function)

    def wait(self) -> None:
        """Wait until everything is written and finished."""
        self.write.wait()
        self._finish.wait()

    def stop(self) -> None:
        """Take no more calls, and return when the last one has ended."""
        self.write.stop()
        self._finish.stop()


_CHOICE = "ARROW_DEFAULT_MEMORY_POOL"


def use_releasing_allocator() -> None:
    """Let Arrow give memory back to the system soon after use, unless the user has chosen its allocator.

    The one that Arrow chooses by itself keeps some 100 MB more, for a speed that does not show here. For the process
    of a task; it holds for all later use of Arrow in it.
    """
    if _CHOICE in os.environ:
        return
    is_first = "pyarrow" not in sys.modules and sys.platform == "linux"
    if is_first:
        # Arrow asks once, when it is loaded; its Parquet code keeps to that, whatever is set later.
        os.environ[_CHOICE] = "jemalloc"
    try:
        import pyarrow as pa
    finally:
        if is_first:
            del os.environ[_CHOICE]
    if "jemalloc" in pa.supported_memory_backends():
        pa.set_memory_pool(pa.jemalloc_memory_pool())


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Keep the cyclic collector from looking through what is made inside: many objects, soon gone, and no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
