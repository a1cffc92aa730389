"""Faults of HTTP calls, as ASGI middleware: connections dropped, responses delayed, replaced or truncated."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from airflow_openai_batch.emulator.backend import Backend
from airflow_openai_batch.emulator.dialect import PREFIX
from airflow_openai_batch.emulator.faults import COMBINABLE, Event, Rule
from airflow_openai_batch.emulator.ledger import Call
from airflow_openai_batch.emulator.response_faults import (
    BodyCut,
    DelayedSender,
    DrippingSender,
    EditedSender,
    GzipSender,
    HalfBodySender,
    Message,
    PartialBodySender,
    Send,
    discard,
    send_error,
    send_redirect,
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)

# Keys of the ASGI scope.
_TRANSPORT = "emulator.transport"
_RECORDER = "emulator.recorder"
_EDITS = "emulator.edits"
LISTING = "emulator.listing"
"""The parameters of the faults `listing` that apply to a call."""

_REDIRECTED = b"redirected"
"""The query of the place to which a redirection leads."""


class DroppableProtocol(H11Protocol):
    """Uvicorn's HTTP protocol, which passes the connection to the application so that a fault can drop it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Put the transport into the scope of each call on this connection."""
        super().connection_made(transport)
        # asyncio does not set this for listeners made elsewhere; without it each response waits 40 ms for an ACK.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        app = self.app

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            scope[_TRANSPORT] = transport
            await app(scope, receive, send)

        self.app = with_transport


class _CallRecorder:
    """Records a call once, before the caller can see its response or its end."""

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
        self._backend.ledger.record_call(call)
        log.info("%s %s %s %s", call.method, call.path, call.status or "unanswered", call.fault)


class FaultMiddleware:
    """ASGI middleware that records each call in the ledger and applies the fault rules that match it.

    Args:
        app: The application.
        backend: Has the fault rules and the ledger.
    """

    def __init__(self, app: App, backend: Backend) -> None:
        self._app = app
        self._backend = backend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        if scope["type"] != "http" or scope["path"].startswith("/_emulator"):
            await self._app(scope, receive, send)
            return
        receive, body = await _buffer_json_body(scope, receive)
        rules = self._backend.faults.for_call(self._event(scope, body))
        record = _CallRecorder(self._backend, scope, "+".join(rule.name for rule in rules))

        async def send_and_record(message: Message) -> None:
            if message["type"] == "http.response.start":
                record(message["status"])
                message["headers"] = [*message["headers"], (b"x-request-id", self._backend.ids.request().encode())]
            await send(message)

        if delay_s := _delay_s(rules, is_after=False):
            await asyncio.sleep(delay_s)
        fault = next((rule for rule in rules if rule.name not in COMBINABLE), None)
        delay_after_s = _delay_s(rules, is_after=True)
        scope[_RECORDER] = record
        scope[_EDITS] = [rule.args for rule in rules if rule.name == "edit"]
        scope[LISTING] = {name: value for rule in rules if rule.name == "listing" for name, value in rule.args.items()}
        await self._apply(fault, delay_after_s, scope, receive, send_and_record)

    def _event(self, scope: Scope, body: bytes) -> Event:
        method, path = scope["method"], scope["path"]
        parts = path.strip("/").split("/")
        file = metadata = None
        if len(parts) >= 3 and parts[1] == "files":
            file = self._backend.file_store.find(parts[2])
        elif len(parts) >= 3 and parts[1] == "batches":
            metadata = next((b.metadata for b in self._backend.all() if b.id == parts[2]), None)
        elif body:
            metadata = _metadata(body)
        return Event(f"{method} {path}", body=body, metadata=metadata, file=file.filename if file else "")

    async def _apply(self, rule: Rule | None, delay_after_s: float, scope: Scope, receive: Receive, send: Send) -> None:
        args = rule.args if rule else {}
        match rule.name if rule else "":
            case "reset":
                await _drop(scope, receive, with_reset=True)
            case "drop_response":
                await self._app(scope, receive, discard)
                await asyncio.sleep(delay_after_s)
                await _drop(scope, receive, with_reset=False)
            case "status":
                if args.get("after"):
                    await self._app(scope, receive, discard)
                else:
                    await _discard_body(receive)
                await asyncio.sleep(delay_after_s)
                await send_error(args, send)
            case "redirect" if args.get("loop") or scope["query_string"] != _REDIRECTED:
                await send_redirect(f"{scope.get(PREFIX, '')}{scope['path']}?{_REDIRECTED.decode()}", send)
            case "malformed_json":
                await self._respond(scope, receive, HalfBodySender(send))
            case "cut_body":
                await self._cut(args.get("fraction", 0.5), scope, receive, send)
            case "drip":
                sender = DrippingSender(send, args.get("seconds", 0.01), args.get("bytes", 1))
                await self._respond(scope, receive, sender)
            case "gzip":
                await self._respond(scope, receive, GzipSender(send, args.get("padding", 0)))
            case _:
                await self._respond(scope, receive, DelayedSender(send, delay_after_s))

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, with the edits that apply to its response."""
        edits = scope[_EDITS]
        await self._app(scope, receive, EditedSender(send, edits) if edits else send)

    async def _cut(self, fraction: float, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._respond(scope, receive, PartialBodySender(send, fraction))
        except BodyCut:
            await _drop(scope, receive, with_reset=False)


def _delay_s(rules: list[Rule], *, is_after: bool) -> float:
    """Return the seconds to wait before the call is processed, or after it."""
    delays = (rule.args for rule in rules if rule.name == "delay")
    return sum((float(args.get("seconds", 0.1)) for args in delays if bool(args.get("after")) is is_after), 0.0)


async def _buffer_json_body(scope: Scope, receive: Receive) -> tuple[Receive, bytes]:
    """Return a `receive` that repeats the body of a JSON call, and the body; uploads are not read."""
    headers = dict(scope["headers"])
    if b"json" not in headers.get(b"content-type", b""):
        return receive, b""
    body = await _read_all(receive)
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay, body


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


async def _drop(scope: Scope, receive: Receive, *, with_reset: bool) -> None:
    """Close the connection, perhaps with a TCP reset, and wait until it is closed, or uvicorn would answer 500."""
    transport = scope[_TRANSPORT]
    scope[_RECORDER](None)
    if with_reset:
        handle = transport.get_extra_info("socket")
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass
