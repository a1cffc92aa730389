"""Routes under `/_emulator`, by which another process steers the emulator and reads its ledger."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airflow_openai_batch.emulator.api_error import ApiRefusal
from airflow_openai_batch.emulator.backend import Backend
from airflow_openai_batch.emulator.model import JsonObject


def admin_routes(backend: Backend) -> list[Route]:
    """Return the routes; they need no key and are neither logged nor disturbed."""
    admin = _Admin(backend)
    return [
        Route("/_emulator/health", admin.health, methods=["GET"]),
        Route("/_emulator/ledger", admin.ledger, methods=["GET"]),
        Route("/_emulator/calls", admin.calls, methods=["GET"]),
        Route("/_emulator/faults", admin.list_faults, methods=["GET"]),
        Route("/_emulator/faults", admin.add_faults, methods=["POST"]),
        Route("/_emulator/faults", admin.clear_faults, methods=["DELETE"]),
        Route("/_emulator/clock", admin.advance, methods=["POST"]),
        Route("/_emulator/reset", admin.reset, methods=["POST"]),
    ]


class _Admin:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def health(self, _: Request) -> Response:
        """Say that the server is there, and its time."""
        return JSONResponse({"status": "ok", "now": self._backend.clock.now()})

    async def ledger(self, request: Request) -> Response:
        """Show batches and what they cost; with `?rows=1` every billed row too."""
        has_rows = request.query_params.get("rows") in ("1", "true")
        return JSONResponse(await asyncio.to_thread(self._ledger, has_rows))

    async def calls(self, _: Request) -> Response:
        """Show the log of calls."""
        return JSONResponse({"calls": [call._asdict() for call in self._backend.ledger.calls]})

    async def list_faults(self, _: Request) -> Response:
        """Show the rules in force."""
        return JSONResponse({"faults": self._backend.faults.to_json()})

    async def add_faults(self, request: Request) -> Response:
        """Add a rule or a list of rules."""
        rules = await _body(request)
        try:
            self._backend.faults.add(*(rules if isinstance(rules, list) else [rules]))
        except ValueError as error:
            raise ApiRefusal(400, str(error)) from error
        return await self.list_faults(request)

    async def clear_faults(self, request: Request) -> Response:
        """Drop every rule."""
        self._backend.faults.clear()
        return await self.list_faults(request)

    async def advance(self, request: Request) -> Response:
        """Move the clock: `{"advance": seconds}`."""
        body = await _body(request)
        try:
            self._backend.clock.advance(float(body["advance"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ApiRefusal(400, f"Expected {{'advance': seconds}}: {error}") from error
        return await self.health(request)

    async def reset(self, request: Request) -> Response:
        """Forget everything but settings and time."""
        await asyncio.to_thread(self._backend.reset)
        return await self.health(request)

    def _ledger(self, has_rows: bool) -> JsonObject:
        ledger = self._backend.ledger
        batches = [
            {
                "id": batch.id,
                "status": batch.status.value,
                "endpoint": batch.endpoint,
                "input_file_id": batch.input_file_id,
                "metadata": batch.metadata,
                "created_at": batch.times.created_at,
                "rows_billed": ledger.n_rows(batch.id),
                "usage": batch.result.usage.to_json() if batch.result else None,
            }
            for batch in ledger.batches
        ]
        shown: JsonObject = {
            "batches": batches,
            "live_batches": [batch.id for batch in ledger.live_batches()],
            "rows_billed": ledger.n_rows(),
            "rows_billed_twice": [twice._asdict() for twice in ledger.rows_billed_twice()],
        }
        if has_rows:
            # Hashes as text: 64 bits are more than a JSON number holds elsewhere.
            shown["rows"] = [{**row._asdict(), "body_hash": f"{row.body_hash:016x}"} for row in ledger.rows()]
        return shown


async def _body(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except ValueError as error:
        raise ApiRefusal(400, f"The body is not JSON: {error}") from error
