"""Bounds of a call: its whole duration and the size of its response.

The HTTP library limits each read. A server that sends a byte a minute, or a megabyte of zeros in a kilobyte, is stopped
here, with clients of ``transport.bounded``.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import TypeVar

from airflow_openai_batch.engine import errors

T = TypeVar("T")

OBJECT_BYTES = 16 << 20
"""Largest JSON object. A batch object with 50,000 errors has about 10 MB."""

PAGE_BYTES = 64 << 20

ERROR_BYTES = 4 << 20
"""Largest response that is an error: the SDK reads it into memory, whatever was asked for."""

_MAX_RATIO, _RATIO_FROM_BYTES = 200, 1 << 30
"""A downloaded file that unpacks to more than 200 times its transfer is no result file, from 1 GB on: each line has ids
of its own, which do not pack. Files themselves may have any size."""

_SLOW_START_S, _SLOWEST_BYTES_PER_S = 600.0, 10_000.0
"""A download may take 10 minutes, and more if at least 10 kB arrive in each second."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of one call.

    Attributes:
        deadline: The time at which it must be over; monotonic clock.
        max_bytes: Largest size of the unpacked response.
        is_file: Whether the response is a file of any size: then the deadline moves with what arrives, and what it
            unpacks to is compared with that.
    """

    deadline: float = inf
    max_bytes: float = PAGE_BYTES
    is_file: bool = False

    def check(self, n_unpacked: int, n_received: int) -> None:
        """Raise unless the response may go on.

        Raises:
            Unclear: It is too long or too slow.
        """
        deadline = self.deadline + (n_received / _SLOWEST_BYTES_PER_S if self.is_file else 0.0)
        if time.monotonic() > deadline:
            raise errors.Unclear("The answer of OpenAI took too long.")
        if n_unpacked > self.max_bytes:
            raise errors.Unclear(f"The answer of OpenAI is larger than {self.max_bytes / 1e6:.0f} MB.")
        if self.is_file and n_unpacked > max(_RATIO_FROM_BYTES, _MAX_RATIO * n_received):
            raise errors.Unclear(f"The answer of OpenAI unpacks to {n_unpacked:,} bytes from {n_received:,}.")


_NO_BOUNDS = Bounds()

_bounds: contextvars.ContextVar[Bounds] = contextvars.ContextVar("bounds", default=_NO_BOUNDS)


def current_bounds() -> Bounds:
    """Return the bounds of the call that is being made."""
    return _bounds.get()


@contextmanager
def bounds_of_call(max_bytes: int) -> Iterator[None]:
    """Bound the response of an asynchronous call; its duration is bounded by ``asyncio.timeout``."""
    token = _bounds.set(Bounds(max_bytes=max_bytes))
    try:
        yield
    finally:
        _bounds.reset(token)


def within(
    seconds: float,
    call: Callable[[], T],
    *,
    max_bytes: float = OBJECT_BYTES,
    is_file: bool = False,
    undo: Callable[[T], object] | None = None,
) -> T:
    """Return the result of a call that is made in a thread of its own, and abandoned when it takes too long.

    Only so is everything bounded: looking up the host, connecting to each of its addresses, sending, and headers that
    arrive byte by byte. An abandoned call sends no request any more.

    Args:
        seconds: Longest duration.
        call: Makes the call, with a client of ``bounded``.
        max_bytes: Largest size of the unpacked response.
        is_file: Whether the response is a file, which is read afterwards: see ``Bounds``.
        undo: Called with the result of an abandoned call.

    Raises:
        Unclear: It took too long.
        Exception: What the call raises.
    """
    started = time.monotonic()
    deadline = started + (_SLOW_START_S if is_file else seconds)
    context = contextvars.copy_context()
    context.run(_bounds.set, Bounds(deadline, inf if is_file else max_bytes, is_file))
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(context.run(call))
        except BaseException as error:
            future.set_exception(error)

    # A daemon, so that a call that hangs does not keep the process alive.
    threading.Thread(target=work, name="openai-batch-call", daemon=True).start()
    is_done = False
    try:
        is_done = bool(wait([future], seconds).done)
    finally:
        if not is_done and undo is not None:
            future.add_done_callback(lambda late: late.exception() is None and undo(late.result()))
    if not is_done:
        raise errors.Unclear(f"The answer of OpenAI took longer than {seconds:g} seconds.")
    return future.result()
