"""Threads that make calls side by side. They are daemons: a call that hangs does not keep a process alive."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Called(NamedTuple, Generic[T, R]):
    """A call that has ended: what it was made with, and its result or its error."""

    item: T
    result: R | None
    error: BaseException | None


class Callers(Generic[T, R]):
    """Makes calls in up to so many threads. Used by one thread.

    Attributes:
        n_out: Calls whose end was not taken yet.

    Args:
        n_threads: The number of threads.
        call: Makes a call.
    """

    def __init__(self, n_threads: int, call: Callable[[T], R]) -> None:
        self.n_out = 0
        self._n_threads, self._call = n_threads, call
        self._threads: list[threading.Thread] = []
        self._todo: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Called[T, R]] = queue.SimpleQueue()

    def submit(self, item: T) -> None:
        """Begin a call as soon as a thread is free."""
        self.n_out += 1
        if len(self._threads) < min(self.n_out, self._n_threads):
            context = copy_context()  # the caller's trace, and what is bound to its log
            thread = threading.Thread(
                target=context.run, args=(self._work,), name=f"openai-direct-{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._todo.put(item)

    def ended(self, timeout_s: float) -> list[Called[T, R]]:
        """Return the calls that have ended since the last time; none if none does in time.

        Args:
            timeout_s: How long to wait for the first, in seconds.
        """
        ended: list[Called[T, R]] = []
        try:
            ended.append(self._ended.get(timeout=timeout_s))
            while True:
                ended.append(self._ended.get_nowait())
        except queue.Empty:
            self.n_out -= len(ended)
            return ended

    def stop(self) -> None:
        """Let the threads end after their calls. Nobody waits for them."""
        for _ in self._threads:
            self._todo.put(None)

    def _work(self) -> None:
        while (item := self._todo.get()) is not None:
            try:
                called = Called[T, R](item, self._call(item), None)
            except BaseException as error:  # whatever it is, it ends in the thread that waits for the call
                called = Called[T, R](item, None, error)
            self._ended.put(called)
