"""Answers from another server: each request of a batch becomes one call of an OpenAI-compatible API."""

from __future__ import annotations

import json
from collections import deque
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from airflow_openai_batch.emulator.answers import LineError, Malformed, Raw, Reply
from airflow_openai_batch.emulator.model import JsonObject

CONCURRENCY = 8


class Upstream:
    """An answer function that calls another server.

    The response's status and body become the line. A connection that fails is tried once more, then the row gets a
    line error. Give the emulator a `concurrency` too, such as `CONCURRENCY`.

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
        self._headers = {"content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        self._idle: deque[HTTPConnection] = deque()

    def __call__(self, endpoint: str, body: JsonObject, /) -> Reply:
        """Return the other server's response to a request."""
        path = self._prefix + endpoint.removeprefix("/v1")
        data = json.dumps(body).encode()
        for attempt in (1, 2):
            connection = self._connection()
            try:
                connection.request("POST", path, data, self._headers)
                response = connection.getresponse()
                status, answer = response.status, response.read()
            except TimeoutError:
                connection.close()
                return LineError("request_timeout", f"No answer within {self._timeout} seconds.")
            except (OSError, HTTPException) as error:
                connection.close()
                if attempt == 2:
                    return LineError("upstream_unreachable", f"{type(error).__name__}: {error}")
            else:
                self._idle.append(connection)
                return _as_reply(status, answer)
        raise AssertionError  # the loop returns

    def close(self) -> None:
        """Close the connections that are kept open."""
        while self._idle:
            self._idle.pop().close()

    def _connection(self) -> HTTPConnection:
        try:
            return self._idle.pop()
        except IndexError:
            connection_class = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
            return connection_class(self._parts.hostname or "", self._parts.port, timeout=self._timeout)


def _as_reply(status: int, answer: bytes) -> Reply:
    try:
        body = json.loads(answer)
    except ValueError:
        # What is not JSON is passed on unchanged, as one line.
        return (
            Malformed(answer.replace(b"\n", b" ")) if status == 200 else Raw({"raw": answer.decode("latin-1")}, status)
        )
    return Raw(body if isinstance(body, dict) else {"data": body}, status)
