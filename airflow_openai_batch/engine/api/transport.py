"""The HTTP layer below the SDK: keeps the bounds of a call, and refuses headers that cannot be sent."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.api.bounds import ERROR_BYTES, Bounds, current_bounds
from airflow_openai_batch.engine.api.errors import BAD_KEY
from airflow_openai_batch.engine.redaction import remember_headers, remember_secrets


def bounded(client: Any) -> Any:
    """Return a copy of an ``OpenAI`` or ``AsyncOpenAI`` client whose calls keep their bounds, without retries.

    Its requests go through the HTTP client of the original, with its proxies and certificates.
    """
    _remember_secrets(client)
    once = client.with_options(max_retries=0)
    http = once._client
    if type(once.workload_identity).__name__.startswith("X509"):
        return once  # bound to its own HTTP client, which has the certificate
    if not isinstance(http, httpx2.Client | httpx2.AsyncClient):
        return once  # the SDK also takes clients of httpx
    same: dict[str, Any] = {
        name: getattr(http, name) for name in ("headers", "cookies", "params", "timeout", "follow_redirects")
    }
    if isinstance(http, httpx2.Client):
        return once.with_options(http_client=httpx2.Client(transport=_Transport(http), **same))
    return once.with_options(http_client=httpx2.AsyncClient(transport=_AsyncTransport(http), **same))


def _remember_secrets(client: Any) -> None:
    """Remember the client's own secrets; those that it gets later are known when a request is signed with them."""
    values = [getattr(client, name, None) for name in ("api_key", "admin_api_key", "webhook_secret")]
    remember_secrets(value for value in values if isinstance(value, str))
    remember_secrets(map(str, client._custom_query.values()))
    own = {name: value for name, value in client._custom_headers.items() if isinstance(value, str)}
    remember_headers(own, by_look=True)


class _Transport(httpx2.BaseTransport):
    def __init__(self, http: httpx2.Client) -> None:
        self._http = http

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        _check_headers(request)
        bounds = current_bounds()
        request.extensions["trace"] = _TooLate(bounds.deadline)
        response = self._http.send(request, stream=True)
        return _rebuilt(response, _Body(response, _for_status(bounds, response)))


class _AsyncTransport(httpx2.AsyncBaseTransport):
    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        _check_headers(request)
        response = await self._http.send(request, stream=True)
        return _rebuilt(response, _AsyncBody(response, _for_status(current_bounds(), response)))


class _TooLate:
    """Keeps a request from being sent after its deadline: others may have concluded that it had no effect."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def __call__(self, event: str, _: dict[str, Any]) -> None:
        # Events of httpcore, as documented for its `trace` extension.
        if time.monotonic() > self._deadline and event.endswith(
            ("send_request_headers.started", "connect_tcp.started")
        ):
            raise errors.Unavailable("No connection to OpenAI in time; nothing was sent.")


class _Body(httpx2.SyncByteStream):
    """The unpacked body of a response, within its bounds."""

    def __init__(self, response: httpx2.Response, bounds: Bounds) -> None:
        self._response, self._bounds = response, bounds

    def __iter__(self) -> Iterator[bytes]:
        n = 0
        for chunk in self._response.iter_bytes():
            n += len(chunk)
            self._bounds.check(n, self._response.num_bytes_downloaded)
            yield chunk

    def close(self) -> None:
        self._response.close()


class _AsyncBody(httpx2.AsyncByteStream):
    """The unpacked body of a response, within its bounds."""

    def __init__(self, response: httpx2.Response, bounds: Bounds) -> None:
        self._response, self._bounds = response, bounds

    async def __aiter__(self) -> AsyncIterator[bytes]:
        n = 0
        async for chunk in self._response.aiter_bytes():
            n += len(chunk)
            self._bounds.check(n, self._response.num_bytes_downloaded)
            yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()


def _for_status(bounds: Bounds, response: httpx2.Response) -> Bounds:
    return Bounds(bounds.deadline, ERROR_BYTES) if response.is_error else bounds


def _rebuilt(response: httpx2.Response, body: Any) -> httpx2.Response:
    """Return a response with the same head and an unpacked body."""
    headers = [
        (name, value)
        for name, value in response.headers.multi_items()
        if name.lower() not in ("content-encoding", "content-length", "transfer-encoding")
    ]
    return httpx2.Response(response.status_code, headers=headers, stream=body)


_UNSENDABLE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]|^\s|\s$")

_TOKEN = re.compile(rb"([A-Za-z]+ )?[\x21-\x7e]*")


def _check_headers(request: httpx2.Request) -> None:
    """Remember secret headers, and refuse those that cannot be sent: the HTTP library quotes them in its error.

    Raises:
        Denied: One holds a space, a line end or the like.
    """
    remember_headers(request.headers)
    for name, value in request.headers.raw:
        is_key = name.lower() in (b"authorization", b"api-key")
        if _UNSENDABLE.search(value) or (is_key and not _TOKEN.fullmatch(value)):
            raise errors.Denied(BAD_KEY)
