"""Work that goes on beside the main thread: reading ahead, and writing behind. Errors come out where one waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()
WRITE_BEHIND = "write-behind"
"""What the names of threads that write begin with."""


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield the items, while a thread makes the next one."""
    iterator = iter(items)
    with ThreadPoolExecutor(1, "read-ahead") as pool:
        coming = pool.submit(next, iterator, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, iterator, _END)
            yield item


class Behind:
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
        self.write = Behind(most)
        self._finish = Behind(1)

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
