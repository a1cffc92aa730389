"""Answers from another server: each request of a batch becomes one call of an OpenAI-compatible API."""

from __future__ import annotations

import contextlib
import json
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from airflow_openai_batch.emulator.answers import LineError, Malformed, Raw, Reply
from airflow_openai_batch.emulator.model import JsonObject

CONCURRENCY = 8

_CONNECT_TRIES = 3


class Upstream:
    """An answer function that calls another server.

    The response's status and body become the line. Each call has a connection of its own: on one that was kept open, a
    request that meets the server's closing of it gets no response, and nobody knows whether it was processed. What
    cannot be connected is tried again; a request that was sent is not, and its row gets a line error. Give the emulator
    a `concurrency` too, such as `CONCURRENCY`.

    Args:
        url: The other server's base URL, including `/v1` if it has one.
        key: Its API key.
        timeout: Seconds to wait for one response.

    Raises:
        ValueError: The URL is not one of an HTTP server.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 600.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"Not the URL of a server: {url}")
        self._parts = parts
        self._prefix = parts.path.rstrip("/")
        self._timeout = timeout
        self._headers = {"content-type": "application/json", "connection": "close"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    def __call__(self, endpoint: str, body: JsonObject, /) -> Reply:
        """Return the other server's response to a request."""
        path = self._prefix + endpoint.removeprefix("/v1")
        data = json.dumps(body).encode()
        try:
            connection = self._connected()
        except OSError as error:
            return LineError("upstream_unreachable", f"{type(error).__name__}: {error}")
        with contextlib.closing(connection):
            try:
                connection.request("POST", path, data, self._headers)
                response = connection.getresponse()
                return _as_reply(response.status, response.read())
            except TimeoutError:
                return LineError("request_timeout", f"No answer within {self._timeout} seconds.")
            except (OSError, HTTPException) as error:
                return LineError("upstream_lost", f"The answer was lost: {type(error).__name__}: {error}")

    def _connected(self) -> HTTPConnection:
        connection_class = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        for n_left in range(_CONNECT_TRIES - 1, -1, -1):
            connection = connection_class(self._parts.hostname or "", self._parts.port, timeout=self._timeout)
            try:
                connection.connect()
            except OSError:
                connection.close()
                if not n_left:
                    raise
            else:
                return connection
        raise AssertionError  # the loop returns


def _as_reply(status: int, answer: bytes) -> Reply:
    try:
        body = json.loads(answer)
    except ValueError:
        # What is not JSON is passed on unchanged, as one line.
        return (
            Malformed(answer.replace(b"\n", b" ")) if status == 200 else Raw({"raw": answer.decode("latin-1")}, status)
        )
    return Raw(body if isinstance(body, dict) else {"data": body}, status)
