"""The state of the emulator and the rules of the API: files, batches and the work on them. No HTTP."""

from __future__ import annotations

import threading
from math import inf
from pathlib import Path
from typing import Any

from airflow_openai_batch.emulator.api_error import ApiError
from airflow_openai_batch.emulator.checks import check_create
from airflow_openai_batch.emulator.clock import Clock
from airflow_openai_batch.emulator.faults import Event, Faults
from airflow_openai_batch.emulator.file_store import FileStore
from airflow_openai_batch.emulator.ledger import Ledger
from airflow_openai_batch.emulator.model import Batch, IdGenerator, Result, Status
from airflow_openai_batch.emulator.progress import Progress
from airflow_openai_batch.emulator.rate_limit import RateLimiter
from airflow_openai_batch.emulator.settings import Settings, quirks_from_rules

_HOUR_S = 3_600


class Backend:
    """Files and batches. Safe to use from any thread; slow work runs on separate threads.

    Args:
        settings: The emulator's settings.
        clock: The emulator's time.
        directory: Where the contents of files are kept.
    """

    def __init__(self, settings: Settings, clock: Clock, directory: Path) -> None:
        self.settings = settings
        self.clock = clock
        self.ids = IdGenerator(settings.seed)
        self.file_store = FileStore(directory, clock, self.ids)
        self.faults = Faults(settings.seed or 0, clock.now)
        self.ledger = Ledger(self.settle)
        self.rate_limiter = RateLimiter(settings, clock)
        self._batches: dict[str, Batch] = {}
        self._lock = threading.RLock()
        self.progress = Progress(settings, clock, self.file_store, self.faults, self.ledger, self._lock)

    def settle(self) -> None:
        """Start all work that is due, and wait until it is done."""
        self.progress.settle()

    def complete_all(self) -> None:
        """Advance the clock until every batch has ended, except those that never end."""
        self.settle()
        while live := [batch for batch in self.all() if batch.is_live and batch.times.ended_at < inf]:
            ends_at = min(batch.times.ended_at for batch in live)
            self.clock.advance(max(0.0, ends_at - self.clock.now()))
            self.settle()

    def reset(self) -> None:
        """Remove files, batches, faults and the ledger's records; settings and time stay."""
        self.settle()
        with self._lock:
            self._batches.clear()
            self.progress.clear()
            self.faults.clear()
            self.ledger.clear()
            self.file_store.clear()

    def create(self, request: Any) -> Batch:
        """Create a batch. May read the whole input file: not for the event loop's thread.

        Raises:
            ApiError: 400, the request is invalid or the file pending; 429, too many batches this hour; or the queue is
                full.
        """
        dialect = self.settings.dialect
        params = check_create(request, self.settings.limits, dialect.endpoint_of)
        stored = self.file_store.find(params.input_file_id)
        if stored is not None and stored.purpose != "batch":
            # OpenAI: the purpose must be `batch`. Assumed: the error.
            message = f"The file '{stored.id}' has purpose '{stored.purpose}', not 'batch'."
            raise ApiError(400, message, code="invalid_value", param="input_file_id")
        dialect.check_file(stored, self.clock.now())
        with self._lock:
            now = self.clock.now()
            self._check_rate(now)
            number = len(self._batches) + 1
            event = Event(metadata=params.metadata, endpoint=params.endpoint, batch=number)
            quirks = quirks_from_rules(self.faults.for_batch(event), dialect.quirks)
            batch = Batch(
                id=self.ids.batch(),
                number=number,
                endpoint=params.endpoint,
                input_file_id=params.input_file_id,
                completion_window=params.completion_window,
                metadata=params.metadata,
                times=self.settings.timetable(now, quirks),
                clock=self.clock,
                quirks=quirks,
                output_lifetime_s=params.output_lifetime_s,
            )
            if quirks.input_file_gone and stored is not None:
                self.delete_file(stored.id)
            if quirks.queue_http is not None:
                self.progress.check_queue_at_create(batch, quirks.queue_http)
            self._batches[batch.id] = batch
            self.progress.track(batch)
            self.ledger.record_batch(batch)
        return batch

    def get(self, batch_id: str) -> Batch:
        """Return a batch.

        Raises:
            ApiError: 404, no batch has this id.
        """
        batch = self._batches.get(batch_id)
        if batch is None:
            raise ApiError(404, f"No batch found with id '{batch_id}'.")
        return batch

    def all(self) -> list[Batch]:
        """Return the batches, oldest first."""
        with self._lock:
            return list(self._batches.values())

    def listed(self, order: str = "newest", lag_s: float = 0.0) -> list[Batch]:
        """Return the batches of a listing. Seen: newest first.

        Args:
            order: `newest`, `oldest` or `unsorted`.
            lag_s: How old a batch must be to be listed, in seconds.
        """
        now = self.clock.now()
        batches = [b for b in self.all() if now >= b.times.created_at + max(b.quirks.listing_lag_s, lag_s)]
        if order == "unsorted":
            return sorted(batches, key=lambda batch: batch.id)
        return batches if order == "oldest" else batches[::-1]

    def cancel(self, batch_id: str) -> Batch:
        """Start to cancel a batch; one that is cancelling or cancelled does not change.

        Raises:
            ApiError: 404, no batch has this id; 409, it is completed, failed or expired.
        """
        with self._lock:
            batch = self.get(batch_id)
            status, now = batch.status, self.clock.now()
            if status in (Status.COMPLETED, Status.FAILED, Status.EXPIRED):
                # Seen: 409 for completed and failed, 200 for cancelled. Assumed: 409 for expired.
                raise ApiError(409, f"Cannot cancel a batch with status '{status}'.")
            if batch.times.cancelling_at is None and now < batch.times.ended_at:
                quirks = batch.quirks
                lag_s = quirks.stuck_s if quirks.stuck_state == "cancelling" else 0.0
                batch.times.cancelling_at = now
                batch.times.cancelled_at = now + self.settings.finalizing_s + lag_s
                if status is Status.VALIDATING:
                    self.progress.close(batch, Result())
            return batch

    def delete_file(self, file_id: str) -> None:
        """Delete a file. Assumed: a batch that has been validated goes on without it.

        Raises:
            ApiError: 404, the file does not exist.
        """
        path = self.file_store.get(file_id).path
        self.file_store.delete(file_id, keep_bytes=self.progress.is_reading(path))

    def _check_rate(self, now: float) -> None:
        limit = self.settings.limits.batches_per_hour
        for recent, batch in enumerate(reversed(self._batches.values()), 1):
            if batch.times.created_at <= now - _HOUR_S:
                return
            if recent >= limit:
                raise ApiError(429, f"Rate limit reached: {limit} batches per hour.", code="rate_limit_exceeded")
