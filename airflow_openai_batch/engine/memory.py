"""What keeps a worker's memory small."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator

_CHOICE = "ARROW_DEFAULT_MEMORY_POOL"


def give_back() -> None:
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
def uncollected() -> Iterator[None]:
    """Keep the cyclic collector from looking through what is made inside: many objects, soon gone, and no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
