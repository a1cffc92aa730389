"""An account of batches behind a client of the SDK whose transport is a function, and an event loop that never waits.

There is no socket, every request is counted, and hours of waiting pass in no time.
"""

from __future__ import annotations

import asyncio
import json
import selectors
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx2
from openai import AsyncOpenAI

PAGE = 100
BEGINNING = 1_000_000_000.0


def now() -> float:
    """The time, of the event loop and of the calendar."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return BEGINNING


class Time:
    """In place of the module `time`."""

    monotonic = time = staticmethod(now)


class _Selector(selectors.SelectSelector):
    """Lets time pass instead of waiting for it."""

    loop: HurriedLoop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen again"
            self.loop.now += max(timeout, 1e-6)  # less would not change a number of this size
        return ready


class HurriedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next thing there is to do."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        self.now = BEGINNING
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """At once: time must not fly while a thread works."""
        done = self.create_future()
        done.set_result(func(*args))
        return done


class Account:
    """Batches, newest first in the listing, and what may be odd about the server.

    Attributes:
        status: Status by batch id, in the order of creation.
        unlisted: Batches that the listing lacks.
        listing: `normal`, `endless` (ignores the cursor), `oldest_first`, or an HTTP status.
        failing: HTTP status of retrieves, by batch id.
        down: HTTP status of every answer, or None.
        keys: Accepted keys.
        headers: Added to answers that are errors.
        delay_s: Seconds that each answer takes.
    """

    def __init__(self, n: int = 0) -> None:
        self.status: dict[str, str] = {}
        self.created_at: dict[str, float] = {}
        self.counts: dict[str, tuple[int, int]] = {}
        self.unlisted: set[str] = set()
        self.listing: str | int = "normal"
        self.failing: dict[str, int] = {}
        self.down: int | None = None
        self.keys = {"old"}
        self.headers: dict[str, str] = {}
        self.delay_s = 0.0
        self.calls: list[tuple[float, str]] = []
        self.add(n)

    def add(self, n: int, prefix: str = "batch") -> list[str]:
        """Make batches, each a second younger than the one before."""
        first = len(self.status)
        made = [f"{prefix}_{first + number}" for number in range(n)]
        for number, batch_id in enumerate(made, first):
            self.status[batch_id] = "in_progress"
            self.created_at[batch_id] = now() - 100_000 + number
        return made

    def end(self, *batch_ids: str, status: str = "completed") -> None:
        for batch_id in batch_ids:
            self.status[batch_id] = status

    def n(self, kind: str = "", since: float = 0.0) -> int:
        """Count the requests: `list`, `retrieve` or both, or those for one batch by its id."""
        return sum(
            at >= since and (not kind or what.split()[0] == kind or what.endswith(kind)) for at, what in self.calls
        )

    def of(self) -> Counter[str]:
        return Counter(what.split()[0] for _, what in self.calls)

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        batch_id = request.url.path.partition("/batches")[2].strip("/")
        self.calls.append((now(), f"retrieve {batch_id}" if batch_id else "list"))
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if request.headers["authorization"].removeprefix("Bearer ") not in self.keys:
            return self._error(401)
        if self.down is not None:
            return self._error(self.down)
        if not batch_id:
            return self._list(dict(request.url.params))
        if batch_id in self.failing:
            return self._error(self.failing[batch_id])
        if batch_id not in self.status:
            return self._error(404)
        return httpx2.Response(200, json=self._show(batch_id))

    def _error(self, status: int) -> httpx2.Response:
        return httpx2.Response(status, json={"error": {"message": "no"}}, headers=self.headers)

    def _list(self, query: dict[str, str]) -> httpx2.Response:
        if isinstance(self.listing, int):
            return self._error(self.listing)
        ids = [batch_id for batch_id in self.status if batch_id not in self.unlisted]
        if self.listing != "oldest_first":
            ids.reverse()
        start = ids.index(query["after"]) + 1 if "after" in query and self.listing != "endless" else 0
        page = ids[start : start + int(query["limit"])]
        has_more = self.listing == "endless" or start + len(page) < len(ids)
        body = {"object": "list", "data": [self._show(batch_id) for batch_id in page], "has_more": has_more}
        return httpx2.Response(200, content=json.dumps(body).encode(), headers={"content-type": "application/json"})

    def _show(self, batch_id: str) -> dict[str, Any]:
        done, total = self.counts.get(batch_id, (0, 10))
        return {
            "id": batch_id,
            "status": self.status[batch_id],
            "created_at": int(self.created_at[batch_id]),
            "request_counts": {"total": total, "completed": done, "failed": 0},
        }


class FakeConnection:
    """A connection as a trigger's hook offers it.

    Attributes:
        key: What the back end of connections says now.
        n_read: How often it was read.
    """

    def __init__(self, account: Account, conn_id: str = "openai_default") -> None:
        self.conn_id = conn_id
        self.account = account
        self.key = "old"
        self.n_read = 0
        self.on_read: Callable[[], None] = lambda: None
        self._client: AsyncOpenAI | None = None

    async def get_async_conn(self) -> AsyncOpenAI:
        if self._client is None:
            self.n_read += 1
            self.on_read()
            http = httpx2.AsyncClient(transport=httpx2.MockTransport(self.account.answer))
            self._client = AsyncOpenAI(api_key=self.key, base_url="http://openai/v1", http_client=http, max_retries=0)
        return self._client

    def forget_async_conn(self) -> None:
        self._client = None
