"""The wire between the real SDK and the emulator, without sockets: the ASGI application is called in this process.

Everything happens in the calling thread and in one order, so a schedule replays exactly. What the emulator does to a
connection (dropping, resetting, cutting it) reaches the SDK as the exception that `httpx2` raises for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx2


class Inline(ThreadPoolExecutor):
    """An executor that runs what it is given at once, in the calling thread."""

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:
            done.set_exception(error)
        return done


class _Lazy(Future[Any]):
    """Work that is done when somebody asks for it, in the asking thread."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self._work: Callable[[], Any] | None = work

    def run(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            try:
                self.set_result(work())
            except BaseException as error:
                self.set_exception(error)

    def result(self, timeout: float | None = None) -> Any:
        self.run()
        return super().result(timeout)

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        self.run()
        super().add_done_callback(fn)


class Lazily(ThreadPoolExecutor):
    """An executor without threads: the emulator notes a job as started before it may end."""

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return _Lazy(lambda: fn(*args, **kwargs))


class _Connection:
    """Stands for the TCP connection, which the emulator may close."""

    def __init__(self) -> None:
        self.is_closed = False
        self.is_reset = False

    def get_extra_info(self, name: str) -> Any:
        return self

    def setsockopt(self, *args: Any) -> None:
        """Set before a rude end only."""

    def abort(self) -> None:
        self.is_closed = self.is_reset = True

    def close(self) -> None:
        self.is_closed = True


class _Body(httpx2.SyncByteStream):
    """A response body; broken off in the end if the connection was."""

    def __init__(self, content: bytes, error: Exception | None) -> None:
        self._content = content
        self._error = error

    def __iter__(self) -> Iterator[bytes]:
        yield self._content
        if self._error is not None:
            raise self._error


class Wire(httpx2.BaseTransport):
    """Calls an ASGI application, one call at a time."""

    def __init__(self, app: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._loop = loop

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        content = request.read()
        connection = _Connection()
        heard = _Heard(connection, content)
        self._loop.run_until_complete(self._app(_scope(request, connection), heard.receive, heard.send))
        if heard.status is None:
            if connection.is_reset:
                raise httpx2.ReadError("[Errno 104] Connection reset by peer")
            raise httpx2.RemoteProtocolError("Server disconnected without sending a response.")
        error = None
        if connection.is_closed:
            error = httpx2.RemoteProtocolError("peer closed connection without sending complete message body")
        return httpx2.Response(heard.status, headers=heard.headers, stream=_Body(b"".join(heard.parts), error))


class _Heard:
    """Both directions of one call."""

    def __init__(self, connection: _Connection, content: bytes) -> None:
        self._connection = connection
        self._content: bytes | None = content
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []

    async def receive(self) -> dict[str, Any]:
        content, self._content = self._content, None
        if content is not None and not self._connection.is_closed:
            return {"type": "http.request", "body": content, "more_body": False}
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            self.parts.append(bytes(message.get("body", b"")))


def _scope(request: httpx2.Request, connection: _Connection) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.split(b"?")[0],
        "query_string": request.url.query,
        "server": (request.url.host, request.url.port),
        "client": ("127.0.0.1", 1),
        "root_path": "",
        "emulator.transport": connection,
    }


def make_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop whose threads are none."""
    loop = asyncio.new_event_loop()
    loop.set_default_executor(Inline())
    return loop
