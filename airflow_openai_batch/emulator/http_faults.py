"""HTTP-level trouble, around an application that knows nothing of it: calls dropped, delayed, refused or cut."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from airflow_openai_batch.emulator.api_error import error_json
from airflow_openai_batch.emulator.backend import Backend
from airflow_openai_batch.emulator.faults import Occasion, Rule
from airflow_openai_batch.emulator.ledger import Call

Scope = MutableMapping[str, Any]

Message = MutableMapping[str, Any]

Receive = Callable[[], Awaitable[Message]]

Send = Callable[[Message], Awaitable[None]]

App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)

_TRANSPORT = "emulator.transport"

_NOTE = "emulator.note"

_HTML = "<html><head><title>{0} Bad Gateway</title></head><body><h1>{0} Bad Gateway</h1></body></html>"


class LoosableProtocol(H11Protocol):
    """Uvicorn's HTTP protocol; hands the connection to the application, which may have to drop it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wrap the application of this one connection."""
        super().connection_made(transport)
        # asyncio leaves this out for listeners made elsewhere; without it each answer waits 40 ms for an ACK.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        app = self.app

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            scope[_TRANSPORT] = transport
            await app(scope, receive, send)

        self.app = with_transport


class _Note:
    """Logs a call once: before its answer or its end can be seen by the caller."""

    def __init__(self, backend: Backend, scope: Scope, fault: str) -> None:
        self._backend = backend
        self._scope = scope
        self._fault = fault
        self._is_done = False

    def __call__(self, status: int | None) -> None:
        if self._is_done:
            return
        self._is_done = True
        call = Call(self._backend.clock.now(), self._scope["method"], self._scope["path"], status, self._fault)
        self._backend.ledger.note_call(call)
        log.info("%s %s %s %s", call.method, call.path, call.status or "unanswered", call.fault)


class _Cut(Exception):
    """Enough of the body was sent."""


class Misbehave:
    """ASGI middleware: logs each call in the ledger and applies the fault rules that match it."""

    def __init__(self, app: App, backend: Backend) -> None:
        self._app = app
        self._backend = backend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        if scope["type"] != "http" or scope["path"].startswith("/_emulator"):
            await self._app(scope, receive, send)
            return
        receive, body = await _peeked(scope, receive)
        rules = self._backend.faults.for_call(self._occasion(scope, body))
        note = _Note(self._backend, scope, "+".join(rule.name for rule in rules))

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                note(message["status"])
                message["headers"] = [*message["headers"], (b"x-request-id", self._backend.ids.request().encode())]
            await send(message)

        for rule in rules:
            if rule.name == "delay" and not rule.args.get("after"):
                await asyncio.sleep(rule.args.get("seconds", 0.1))
        acting = next((rule for rule in rules if rule.name != "delay"), None)
        late_s = sum(rule.args.get("seconds", 0.1) for rule in rules if rule.name == "delay" and rule.args.get("after"))
        scope[_NOTE] = note
        await self._act(acting, late_s, scope, receive, noting)

    def _occasion(self, scope: Scope, body: bytes) -> Occasion:
        method, path = scope["method"], scope["path"]
        parts = path.strip("/").split("/")
        file = metadata = None
        if len(parts) >= 3 and parts[1] == "files":
            file = self._backend.shelf.find(parts[2])
        elif len(parts) >= 3 and parts[1] == "batches":
            metadata = next((b.metadata for b in self._backend.all() if b.id == parts[2]), None)
        elif body:
            metadata = _metadata(body)
        return Occasion(f"{method} {path}", body=body, metadata=metadata, file=file.filename if file else "")

    async def _act(self, rule: Rule | None, late_s: float, scope: Scope, receive: Receive, send: Send) -> None:
        match rule.name if rule else "":
            case "reset":
                await _drop(scope, receive, is_rude=True)
            case "drop_response":
                await self._app(scope, receive, _swallow)
                await asyncio.sleep(late_s)
                await _drop(scope, receive, is_rude=False)
            case "status" if rule is not None:
                if rule.args.get("after"):
                    await self._app(scope, receive, _swallow)
                else:
                    await _discard_body(receive)
                await asyncio.sleep(late_s)
                await _answer(rule, send)
            case "malformed_json":
                await self._app(scope, receive, _Halver(send))
            case "cut_body" if rule is not None:
                await self._cut(rule.args.get("fraction", 0.5), scope, receive, send)
            case _:
                await self._app(scope, receive, _Later(send, late_s))

    async def _cut(self, fraction: float, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, _Cutter(send, fraction))
        except _Cut:
            await _drop(scope, receive, is_rude=False)


async def _peeked(scope: Scope, receive: Receive) -> tuple[Receive, bytes]:
    """Return the body of a JSON call and a `receive` that gives it once more; uploads are left alone."""
    headers = dict(scope["headers"])
    if b"json" not in headers.get(b"content-type", b""):
        return receive, b""
    body = await _read_all(receive)
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again, body


async def _read_all(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _discard_body(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        pass


def _metadata(body: bytes) -> dict[str, Any] | None:
    try:
        request = json.loads(body)
    except ValueError:
        return None
    metadata = request.get("metadata") if isinstance(request, dict) else None
    return metadata if isinstance(metadata, dict) else None


async def _swallow(message: Message) -> None:
    """Send nothing."""


async def _drop(scope: Scope, receive: Receive, *, is_rude: bool) -> None:
    """Close the connection, rudely with a TCP reset, and wait until it is closed: uvicorn would answer 500 if not."""
    transport = scope[_TRANSPORT]
    scope[_NOTE](None)
    if is_rude:
        handle = transport.get_extra_info("socket")
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(rule: Rule, send: Send) -> None:
    args = rule.args
    code = args.get("code", 500)
    if args.get("html"):
        kind, body = b"text/html", _HTML.format(code).encode()
    else:
        error = error_json(code, f"The emulator was told to answer {code}.")
        error["error"].update(args.get("error") or {})
        kind, body = b"application/json", json.dumps(error).encode()
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    extra = {**(args.get("headers") or {})}
    if args.get("retry_after") is not None:
        extra["retry-after"] = str(args["retry_after"])
    headers += [(name.encode(), value.encode()) for name, value in extra.items()]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Later:
    """Sends after a delay."""

    def __init__(self, send: Send, delay_s: float) -> None:
        self._send = send
        self._delay_s = delay_s

    async def __call__(self, message: Message) -> None:
        if self._delay_s and message["type"] == "http.response.start":
            await asyncio.sleep(self._delay_s)
        await self._send(message)


class _Halver:
    """Sends half of the body under a length that fits, so that the JSON ends in the middle."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message = {}
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        half = self._body[: len(self._body) // 2]
        headers = [(name, value) for name, value in self._start["headers"] if name != b"content-length"]
        self._start["headers"] = [*headers, (b"content-length", str(len(half)).encode())]
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": half})


class _Cutter:
    """Announces the whole body and sends a fraction of it."""

    def __init__(self, send: Send, fraction: float) -> None:
        self._send = send
        self._fraction = fraction
        self._left = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            length = int(dict(message["headers"]).get(b"content-length", 0))
            self._left = int(length * self._fraction)
            await self._send(message)
            return
        body = message.get("body", b"")[: self._left]
        self._left -= len(body)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        if self._left <= 0:
            raise _Cut
