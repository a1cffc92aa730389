"""Runs an emulator inside a process, on a separate thread."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn

from airflow_openai_batch.emulator.answers import Answer, default_answer
from airflow_openai_batch.emulator.backend import Backend
from airflow_openai_batch.emulator.clock import Clock, SystemClock
from airflow_openai_batch.emulator.dialect import dialect_of
from airflow_openai_batch.emulator.faults import Faults, Rule
from airflow_openai_batch.emulator.http_faults import DroppableProtocol
from airflow_openai_batch.emulator.ledger import Ledger
from airflow_openai_batch.emulator.model import DAY_S, Batch, StoredFile
from airflow_openai_batch.emulator.server import make_app
from airflow_openai_batch.emulator.settings import Settings
from airflow_openai_batch.emulator.validate import Limits

_TICK_S = 0.02
_WORK_INTERVAL_S = 0.25
_START_TIMEOUT_S = 30.0


class Emulator:
    """A running emulator.

    Use it as a context manager or call `start` and `stop`. With the default settings nothing takes time: a batch has
    ended when it is first retrieved. With a `ManualClock` time stands still until the clock is advanced.

    Args:
        answer: The function that answers requests; by default a valid instance of the JSON schema, or an echo.
        clock: Its source of time; by default the system's.
        faults: The rules that are active from the start.
        duration: Seconds from creation to completed: validating, in_progress and finalizing together.
        validating: Seconds of it spent validating; None is a tenth.
        finalizing: Seconds of it spent finalizing, and seconds a cancel takes; None is a tenth.
        window: Seconds in place of the 24 hours after which a batch expires.
        seed: Determines the order of lines, the random faults and, unless None, the ids.
        limits: The limits of a batch.
        queue_limit: Enqueued tokens per model; None is no limit.
        requests_per_minute: Synchronous requests in a minute; None is no limit.
        tokens_per_minute: Their tokens in a minute; None is no limit.
        api_keys: The keys that are accepted; None accepts any.
        concurrency: Requests of one batch answered at the same time, for answer functions that wait.
        patience: Real seconds a call waits for due work before it returns the state before.
        dialect: Whose API is spoken: `openai` or `azure`.
        deployments: Model by deployment, for `azure`: names that requests may give, and the models that answer. None
            takes any name, and answers name it too.
        pending: Seconds for which an uploaded file is pending; None is none, and for `azure` a tenth of the duration,
            at most a minute.
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.
        data_dir: In which directory a temporary one for the files' contents is made; by default the system's.

    Raises:
        ValueError: One of the faults is not a rule, or there is no such dialect.
    """

    _server: _Server | None = None
    _thread: threading.Thread | None = None

    def __init__(
        self,
        *,
        answer: Answer = default_answer,
        clock: Clock | None = None,
        faults: Iterable[Rule | Mapping[str, Any]] = (),
        duration: float = 0.0,
        validating: float | None = None,
        finalizing: float | None = None,
        window: float = DAY_S,
        seed: int | None = None,
        limits: Limits | None = None,
        queue_limit: int | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        api_keys: Collection[str] | None = None,
        concurrency: int = 1,
        patience: float = 1.0,
        dialect: str = "openai",
        deployments: Mapping[str, str] | None = None,
        pending: float | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        data_dir: Path | None = None,
    ) -> None:
        spoken = dialect_of(dialect, deployments)
        limits = limits or spoken.limits
        if deployments is not None:
            limits = replace(limits, models=frozenset(deployments))
        self.settings = Settings(
            answer=answer,
            duration=duration,
            validating=validating,
            finalizing=finalizing,
            window=window,
            seed=seed,
            limits=limits,
            queue_limit=queue_limit,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            api_keys=api_keys,
            concurrency=concurrency,
            patience=patience,
            pending=pending,
            dialect=spoken,
        )
        self.clock: Clock = clock or SystemClock()
        self._address = (host, port)
        rules = [rule if isinstance(rule, Rule) else Rule.from_json(rule) for rule in faults]
        self._temporary = tempfile.TemporaryDirectory(prefix="openai-batch-emulator-", dir=data_dir)
        self.backend = Backend(self.settings, self.clock, Path(self._temporary.name))
        self.backend.faults.add(*rules)

    @property
    def base_url(self) -> str:
        """Return the URL for the SDK's `base_url`."""
        return f"{self._root}{self.settings.dialect.prefix}/v1"

    @property
    def admin_url(self) -> str:
        """Return the base URL of the emulator's own routes."""
        return f"{self._root}/_emulator"

    @property
    def _root(self) -> str:
        host, port = self._address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def faults(self) -> Faults:
        """Return the active rules."""
        return self.backend.faults

    @property
    def ledger(self) -> Ledger:
        """Return the record of batches, billed rows and calls."""
        return self.backend.ledger

    @property
    def batches(self) -> dict[str, Batch]:
        """Return the batches by id, oldest first, after all due work is done."""
        self.backend.settle()
        return {batch.id: batch for batch in self.backend.all()}

    @property
    def files(self) -> dict[str, StoredFile]:
        """Return the files by id, oldest first, after all due work is done."""
        self.backend.settle()
        return {stored.id: stored for stored in self.backend.file_store.all()}

    def complete_all(self) -> None:
        """Advance the clock until every batch has ended, except those that never end."""
        self.backend.complete_all()

    def reset(self) -> None:
        """Remove files, batches, faults and the ledger's records; settings and time stay."""
        self.backend.reset()

    def start(self) -> Self:
        """Start the server, and return when it answers calls.

        Raises:
            OSError: The address cannot be listened on.
            RuntimeError: The server did not start in time.
        """
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family, backlog=512)
        except OSError:
            self.stop()
            raise
        self._address = (host, listener.getsockname()[1])
        config = uvicorn.Config(
            make_app(self.backend),
            http=DroppableProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            timeout_keep_alive=60,
        )
        self._server = _Server(config, self.backend)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="emulator", daemon=True)
        self._thread.start()
        if not self._server.is_up.wait(_START_TIMEOUT_S):
            raise RuntimeError("The emulator's server did not start.")
        return self

    def stop(self) -> None:
        """Close every connection, abandon the work that runs and delete the files."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
        self.backend.progress.stop()
        self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Server(uvicorn.Server):
    """Uvicorn's server with its own main loop, which also starts the work that is due."""

    def __init__(self, config: uvicorn.Config, backend: Backend) -> None:
        super().__init__(config)
        self.is_up = threading.Event()
        self._backend = backend

    async def main_loop(self) -> None:
        """Wait until the server has to exit, and advance batches that nobody retrieves."""
        self.is_up.set()
        waited_s = 0.0
        while not self.should_exit:
            await asyncio.sleep(_TICK_S)
            waited_s += _TICK_S
            if waited_s >= _WORK_INTERVAL_S and isinstance(self._backend.clock, SystemClock):
                waited_s = 0.0
                self._backend.progress.start_due()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close every connection at once, so that the end of a test does not wait for clients."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=1.0)
        await asyncio.sleep(0)
