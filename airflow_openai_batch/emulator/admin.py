"""Routes under `/_emulator`, by which another process controls the emulator and reads its ledger."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airflow_openai_batch.emulator.api_error import ApiError
from airflow_openai_batch.emulator.backend import Backend
from airflow_openai_batch.emulator.model import JsonObject


def admin_routes(backend: Backend) -> list[Route]:
    """Return the routes; they need no key, are not logged, and no fault applies to them."""
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
        """Return that the server is up, and its time in epoch seconds."""
        return JSONResponse({"status": "ok", "now": self._backend.clock.now()})

    async def ledger(self, request: Request) -> Response:
        """Return the batches and what they cost; with `?rows=1` every billed row too."""
        with_rows = request.query_params.get("rows") in ("1", "true")
        return JSONResponse(await asyncio.to_thread(self._ledger, with_rows))

    async def calls(self, _: Request) -> Response:
        """Return the log of calls."""
        return JSONResponse({"calls": [call._asdict() for call in self._backend.ledger.calls]})

    async def list_faults(self, _: Request) -> Response:
        """Return the active rules."""
        return JSONResponse({"faults": self._backend.faults.to_json()})

    async def add_faults(self, request: Request) -> Response:
        """Add a rule or a list of rules, and return the active ones.

        Raises:
            ApiError: 400, the body has something that is not a rule.
        """
        rules = await _body(request)
        try:
            self._backend.faults.add(*(rules if isinstance(rules, list) else [rules]))
        except ValueError as error:
            raise ApiError(400, str(error)) from error
        return await self.list_faults(request)

    async def clear_faults(self, request: Request) -> Response:
        """Remove every rule."""
        self._backend.faults.clear()
        return await self.list_faults(request)

    async def advance(self, request: Request) -> Response:
        """Move the clock forward: `{"advance": seconds}`.

        Raises:
            ApiError: 400, the body has no such number, or a negative one.
        """
        body = await _body(request)
        try:
            self._backend.clock.advance(float(body["advance"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ApiError(400, f"Expected {{'advance': seconds}}: {error}") from error
        return await self.health(request)

    async def reset(self, request: Request) -> Response:
        """Remove files, batches, faults and the ledger; settings and time stay."""
        await asyncio.to_thread(self._backend.reset)
        return await self.health(request)

    def _ledger(self, with_rows: bool) -> JsonObject:
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
        report: JsonObject = {
            "batches": batches,
            "live_batches": [batch.id for batch in ledger.live_batches()],
            "rows_billed": ledger.n_rows(),
            "invoice": ledger.invoice()._asdict(),
            "rows_billed_twice": [billing._asdict() for billing in ledger.rows_billed_twice()],
        }
        if with_rows:
            # Hashes as text: 64 bits are more than a JSON number holds elsewhere.
            report["rows"] = [{**row._asdict(), "body_hash": f"{row.body_hash:016x}"} for row in ledger.rows()]
        return report


async def _body(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except ValueError as error:
        raise ApiError(400, f"The body is not JSON: {error}") from error
