"""Faults of responses that are otherwise answered: what is sent in place of what the application sends.

Each class stands for the ASGI `send` of one call.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow_openai_batch.emulator.api_error import error_json
from airflow_openai_batch.emulator.model import JsonObject

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_HTML = "<html><head><title>{0} Bad Gateway</title></head><body><h1>{0} Bad Gateway</h1></body></html>"


async def send_error(args: JsonObject, send: Send) -> None:
    """Send an error instead of calling the application.

    Args:
        args: The parameters of the fault `status`.
        send: The call's `send`.
    """
    code = args.get("code", 500)
    content_type = "application/json"
    if args.get("html"):
        content_type, text = "text/html", _HTML.format(code)
    elif "body" in args:
        content_type, text = "text/plain", args["body"]
    else:
        error = error_json(code, f"The emulator was told to answer {code}.")
        error["error"].update(args.get("error") or {})
        text = json.dumps(error)
    headers = {"content-type": content_type, **(args.get("headers") or {})}
    if args.get("retry_after") is not None:
        headers["retry-after"] = str(args["retry_after"])
    await _send_whole(send, code, [(name.encode(), value.encode()) for name, value in headers.items()], text.encode())


async def send_redirect(location: str, send: Send) -> None:
    """Send a redirection to a path of this server."""
    await _send_whole(send, 302, [(b"location", location.encode())], b"")


async def _send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    headers = [(name, value) for name, value in headers if name != b"content-length"]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def discard(message: Message) -> None:
    """Send nothing."""


class DelayedSender:
    """Sends the response after a delay."""

    def __init__(self, send: Send, delay_s: float) -> None:
        self._send = send
        self._delay_s = delay_s

    async def __call__(self, message: Message) -> None:
        """Send one message."""
        if self._delay_s and message["type"] == "http.response.start":
            await asyncio.sleep(self._delay_s)
        await self._send(message)


class BodyCut(Exception):
    """The wanted part of the body was sent."""


class PartialBodySender:
    """Sends the content-length of the whole body and a fraction of the body."""

    def __init__(self, send: Send, fraction: float) -> None:
        self._send = send
        self._fraction = fraction
        self._remaining = 0

    async def __call__(self, message: Message) -> None:
        """Send one message, or a part of it.

        Raises:
            BodyCut: The wanted part was sent.
        """
        if message["type"] == "http.response.start":
            length = int(dict(message["headers"]).get(b"content-length", 0))
            self._remaining = int(length * self._fraction)
            await self._send(message)
            return
        body = message.get("body", b"")[: self._remaining]
        self._remaining -= len(body)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        if self._remaining <= 0:
            raise BodyCut


class _WholeBodySender:
    """Collects the response, and sends it when it is complete."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message = {}
        self._body = b""

    async def __call__(self, message: Message) -> None:
        """Collect one message."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if not message.get("more_body"):
            await self._finish(self._start["status"], list(self._start["headers"]), self._body)

    async def _finish(self, status: int, headers: Headers, body: bytes) -> None:
        raise NotImplementedError


class HalfBodySender(_WholeBodySender):
    """Sends half of the body with a matching content-length, so that the JSON is incomplete."""

    async def _finish(self, status: int, headers: Headers, body: bytes) -> None:
        await _send_whole(self._send, status, headers, body[: len(body) // 2])


class GzipSender(_WholeBodySender):
    """Sends the body compressed, with some newlines appended.

    Args:
        send: The call's `send`.
        padding: Bytes that are appended: they compress to a thousandth.
    """

    def __init__(self, send: Send, padding: int) -> None:
        super().__init__(send)
        self._padding = padding

    async def _finish(self, status: int, headers: Headers, body: bytes) -> None:
        packed = gzip.compress(body + b"\n" * self._padding, mtime=0)
        await _send_whole(self._send, status, [*headers, (b"content-encoding", b"gzip")], packed)


class DrippingSender(_WholeBodySender):
    """Sends the body in small pieces.

    Args:
        send: The call's `send`.
        seconds: The pause before each piece.
        size: Bytes of a piece.
    """

    def __init__(self, send: Send, seconds: float, size: int) -> None:
        super().__init__(send)
        self._seconds = seconds
        self._size = size

    async def _finish(self, status: int, headers: Headers, body: bytes) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        for start in range(0, len(body), self._size):
            await asyncio.sleep(self._seconds)
            piece = body[start : start + self._size]
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})


class EditedSender(_WholeBodySender):
    """Sends JSON with other fields: of the object, or of each object in a page of a listing. Errors stay as they are.

    Args:
        send: The call's `send`.
        edits: The parameters of each fault `edit`.
    """

    def __init__(self, send: Send, edits: list[JsonObject]) -> None:
        super().__init__(send)
        self._edits = edits

    async def _finish(self, status: int, headers: Headers, body: bytes) -> None:
        if status < 400 and b"json" in dict(headers).get(b"content-type", b""):
            value = json.loads(body)
            for edit in self._edits:
                value = _edited(value, edit)
            body = json.dumps(value).encode()  # in ASCII: a half surrogate pair has no other form
        await _send_whole(self._send, status, headers, body)


def _edited(value: JsonObject, edit: JsonObject) -> JsonObject:
    if value.get("object") == "list" and isinstance(value.get("data"), list):
        return {**value, "data": [_edited(item, edit) for item in value["data"]]}
    dropped = edit.get("drop") or ()
    kept = {name: item for name, item in value.items() if name not in dropped}
    changed = {**kept, **(edit.get("set") or {})}
    return {edit["wrap"]: changed} if edit.get("wrap") else changed
