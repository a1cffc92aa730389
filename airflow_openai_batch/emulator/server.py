"""The HTTP server: the routes of the Files and Batches API, and those that answer at once. OpenAI: their parameters."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from airflow_openai_batch.emulator.admin import admin_routes
from airflow_openai_batch.emulator.api_error import ApiError, error_json
from airflow_openai_batch.emulator.backend import Backend
from airflow_openai_batch.emulator.checks import check_limit, check_upload, parse_expiration
from airflow_openai_batch.emulator.dialect import App
from airflow_openai_batch.emulator.direct import ENDPOINTS, ask
from airflow_openai_batch.emulator.http_faults import LISTING, FaultMiddleware
from airflow_openai_batch.emulator.model import Batch, JsonObject, Status, StoredFile

Handler = Callable[[Request], Awaitable[Response]]

_CHUNK_BYTES = 1 << 18
_MAX_DIGITS = 18
_MODELS = ("gpt-6-luna", "gpt-6-sol", "gpt-4o-mini", "text-embedding-3-small", "omni-moderation-latest")


def make_app(backend: Backend) -> App:
    """Return the ASGI application of an emulator."""
    api = _Api(backend)
    routes = [
        Route("/v1/files", api.authorized(api.create_file), methods=["POST"]),
        Route("/v1/files", api.authorized(api.list_files), methods=["GET"]),
        Route("/v1/files/{file_id}", api.authorized(api.get_file), methods=["GET"]),
        Route("/v1/files/{file_id}", api.authorized(api.delete_file), methods=["DELETE"]),
        Route("/v1/files/{file_id}/content", api.authorized(api.file_content), methods=["GET"]),
        Route("/v1/batches", api.authorized(api.create_batch), methods=["POST"]),
        Route("/v1/batches", api.authorized(api.list_batches), methods=["GET"]),
        Route("/v1/batches/{batch_id}", api.authorized(api.get_batch), methods=["GET"]),
        Route("/v1/batches/{batch_id}/cancel", api.authorized(api.cancel_batch), methods=["POST"]),
        Route("/v1/models", api.authorized(api.list_models), methods=["GET"]),
        *(Route(path, api.authorized(api.ask), methods=["POST"]) for path in ENDPOINTS),
        *admin_routes(backend),
    ]
    handlers: Any = {ApiError: _on_api_error, HTTPException: _on_http_exception}
    app = FaultMiddleware(Starlette(routes=routes, exception_handlers=handlers), backend)
    return backend.settings.dialect.app(app)


class _Json(JSONResponse):
    """JSON in ASCII, as a half surrogate pair has no other form."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()


class _Api:
    """One method per route."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def authorized(self, handler: Handler) -> Handler:
        """Return the handler for calls with an accepted key; for others it raises an `ApiError` with status 401."""

        async def checked(request: Request) -> Response:
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            keys = self._backend.settings.api_keys
            if scheme.lower() != "bearer" or not key:
                raise ApiError(401, "You didn't provide an API key.")
            if keys is not None and key not in keys:
                raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")
            return await handler(request)

        return checked

    async def create_file(self, request: Request) -> Response:
        """POST /v1/files. The form parser spools the file to disk, from where it is copied.

        Raises:
            ApiError: 400 or 413, the Files API would reject the upload.
        """
        async with request.form() as form:
            file, purpose = form.get("file"), form.get("purpose")
            for name, value, expected in (("file", file, UploadFile), ("purpose", purpose, str)):
                if not isinstance(value, expected):
                    message = f"Missing required parameter: '{name}'."
                    raise ApiError(400, message, code="missing_required_parameter", param=name)
            assert isinstance(file, UploadFile) and isinstance(purpose, str)  # noqa: S101 - for the type checker
            lifetime_s = parse_expiration(_expires_after(form), "expires_after", self._backend.settings.limits)
            stored = await asyncio.to_thread(self._store, file, purpose, lifetime_s)
        return _Json(stored.to_json(self._backend.clock.now()))

    async def list_files(self, request: Request) -> Response:
        """GET /v1/files."""
        query = request.query_params
        files = self._backend.file_store.all()
        if query.get("order", "desc") == "desc":
            files.reverse()
        if purpose := query.get("purpose"):
            files = [stored for stored in files if stored.purpose == purpose]
        return _page(
            [(stored.id, stored) for stored in files],
            query.get("after"),
            check_limit(query.get("limit"), 10_000, 10_000),
            lambda stored: stored.to_json(self._backend.clock.now()),
        )

    async def get_file(self, request: Request) -> Response:
        """GET /v1/files/{file_id}."""
        stored = self._backend.file_store.get(request.path_params["file_id"])
        return _Json(stored.to_json(self._backend.clock.now()))

    async def delete_file(self, request: Request) -> Response:
        """DELETE /v1/files/{file_id}."""
        file_id = request.path_params["file_id"]
        self._backend.delete_file(file_id)
        deletion = self._backend.settings.dialect.deletion(file_id)
        return Response(status_code=204) if deletion is None else _Json(deletion)

    async def file_content(self, request: Request) -> Response:
        """GET /v1/files/{file_id}/content, streamed."""
        stored = self._backend.file_store.get(request.path_params["file_id"])
        headers = {"content-disposition": f'attachment; filename="{stored.id}"'}
        if stored.faults:
            content = await asyncio.to_thread(stored.shown_content, self._backend.clock.now())
            return Response(content, media_type="application/octet-stream", headers=headers)
        headers["content-length"] = str(stored.size)
        return StreamingResponse(_chunks(stored), media_type="application/octet-stream", headers=headers)

    async def create_batch(self, request: Request) -> Response:
        """POST /v1/batches."""
        batch = await asyncio.to_thread(self._backend.create, await _json_body(request))
        return _Json(self._shown(batch, Status.VALIDATING))

    async def list_batches(self, request: Request) -> Response:
        """GET /v1/batches, newest first unless a fault says otherwise."""
        await self._settle()
        query, fault = request.query_params, request.scope[LISTING]
        limit = min(check_limit(query.get("limit"), 20, 100), fault.get("page", 100))
        after = None if fault.get("cursor") == "ignored" else query.get("after")
        batches = self._backend.listed(fault.get("order", "newest"), fault.get("lag", 0.0))
        return _page([(batch.id, batch) for batch in batches], after, limit, self._shown, fault.get("has_more"))

    async def get_batch(self, request: Request) -> Response:
        """GET /v1/batches/{batch_id}."""
        await self._settle(request.path_params["batch_id"])
        return _Json(self._shown(self._backend.get(request.path_params["batch_id"])))

    async def cancel_batch(self, request: Request) -> Response:
        """POST /v1/batches/{batch_id}/cancel."""
        await self._settle(request.path_params["batch_id"])
        batch = self._backend.get(request.path_params["batch_id"])
        status_before = batch.status
        self._backend.cancel(batch.id)
        return _Json(self._shown(batch, status_before if status_before is Status.CANCELLED else Status.CANCELLING))

    async def ask(self, request: Request) -> Response:
        """POST of a request that is answered at once."""
        reply = await asyncio.to_thread(ask, self._backend, request.url.path, await request.body())
        if isinstance(reply.body, bytes):
            return Response(reply.body, reply.status, media_type="application/json", headers=reply.headers)
        return _Json(reply.body, reply.status, headers=reply.headers)

    async def list_models(self, _: Request) -> Response:
        """GET /v1/models."""
        created = int(self._backend.clock.now())
        names = sorted(self._backend.settings.limits.models or _MODELS)
        data = [{"id": name, "object": "model", "created": created, "owned_by": "emulator"} for name in names]
        return _Json({"object": "list", "data": data})

    def _store(self, file: UploadFile, purpose: str, lifetime_s: float | None) -> StoredFile:
        file_store, settings = self._backend.file_store, self._backend.settings
        dialect = settings.dialect
        path = file_store.new_path()
        filename = file.filename or "upload"
        try:
            with path.open("wb") as target:
                shutil.copyfileobj(file.file, target, _CHUNK_BYTES)
            check_upload(path, filename, purpose, path.stat().st_size, settings.limits, dialect.mark)
            if purpose == "batch":
                dialect.check_file_count(file_store.all(), lifetime_s)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        default = dialect.file_lifetime_s if purpose == "batch" else None
        return file_store.add(path, filename, purpose, lifetime_s or default, pending_s=settings.pending_s)

    def _shown(self, batch: Batch, status: Status | None = None) -> JsonObject:
        return self._backend.settings.dialect.batch_json(batch, status)

    async def _settle(self, batch_id: str | None = None) -> None:
        """Wait for due work, but only for the settings' `patience`: then batches show the state before."""
        deadline = asyncio.get_running_loop().time() + self._backend.settings.patience
        while jobs := self._backend.progress.start_due(batch_id):
            remaining_s = deadline - asyncio.get_running_loop().time()
            waiting = [asyncio.wrap_future(job) for job in jobs]
            finished, pending = await asyncio.wait(waiting, timeout=max(0.0, remaining_s))
            for job in finished:
                job.result()
            if pending:
                return


def _expires_after(form: FormData) -> dict[str, Any] | None:
    """Return the expiration policy of an upload, None without one. A form has texts only: digits are a number."""
    names = {"anchor": "expires_after[anchor]", "seconds": "expires_after[seconds]"}
    policy: dict[str, Any] = {key: form[name] for key, name in names.items() if name in form}
    seconds = policy.get("seconds")
    if isinstance(seconds, str) and seconds.isdecimal() and len(seconds) <= _MAX_DIGITS:
        policy["seconds"] = int(seconds)
    return policy or None


async def _json_body(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except ValueError:
        raise ApiError(400, "We could not parse the JSON body of your request.") from None


async def _chunks(stored: StoredFile) -> AsyncIterator[bytes]:
    with stored.path.open("rb") as content:
        while chunk := await asyncio.to_thread(content.read, _CHUNK_BYTES):
            yield chunk


def _page(
    items: list[tuple[str, Any]],
    after: str | None,
    limit: int,
    show: Callable[[Any], Any],
    has_more: bool | None = None,
) -> Response:
    """Return one page of a listing.

    Args:
        items: Ids and items, in the order of the listing.
        after: The id after which the page starts; None starts with the first item.
        limit: The page size.
        show: Converts an item to JSON.
        has_more: What the page says of a next one; None is the truth.

    Raises:
        ApiError: 400, no item has the id `after`.
    """
    start = 0
    if after is not None:
        start = next((number for number, (item_id, _) in enumerate(items, 1) if item_id == after), 0)
        if not start:
            # Assumed: the response to an unknown cursor.
            raise ApiError(400, f"Invalid 'after': '{after}' was not found.", code="invalid_value", param="after")
    page = items[start : start + limit]
    first, last = (page[0][0], page[-1][0]) if page else (None, None)
    if has_more is None:
        has_more = start + limit < len(items)
    data = [show(item) for _, item in page]
    return _Json({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more})


async def _on_api_error(_: Request, error: ApiError) -> Response:
    return _Json(error.to_json(), error.status, headers=error.headers)


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    message = error.detail
    if error.status_code in (404, 405):
        message = f"Invalid URL ({request.method} {request.url.path})"
    return _Json(error_json(error.status_code, message), error.status_code)
