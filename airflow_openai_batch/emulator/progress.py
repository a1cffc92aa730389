"""The work that becomes due as time passes: input files are validated, requests answered, output files written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from airflow_openai_batch.emulator.answers import LineError
from airflow_openai_batch.emulator.api_error import ApiError
from airflow_openai_batch.emulator.clock import Clock
from airflow_openai_batch.emulator.faults import Faults
from airflow_openai_batch.emulator.file_store import FileStore
from airflow_openai_batch.emulator.ledger import Ledger
from airflow_openai_batch.emulator.model import Batch, BatchError, Result, Status, Verdict
from airflow_openai_batch.emulator.settings import Settings
from airflow_openai_batch.emulator.worker import BatchTask, Stopped, Worker

_AFTER_WORK = frozenset({Status.FINALIZING, Status.COMPLETED, Status.EXPIRED, Status.CANCELLING, Status.CANCELLED})
_UNFINISHED_ERRORS = {
    True: LineError("batch_expired", "This request could not be executed before the completion window expired."),
    False: LineError("batch_cancelled", "This request was not executed because the batch was cancelled."),
}


class Progress:
    """Advances batches when their work is due. Slow work runs on separate threads.

    Args:
        settings: How the emulator behaves.
        clock: The emulator's time.
        file_store: The emulator's files.
        faults: The active rules.
        ledger: Records the bills.
        lock: Held during every change of a batch.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        file_store: FileStore,
        faults: Faults,
        ledger: Ledger,
        lock: threading.RLock,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._file_store = file_store
        self._faults = faults
        self._ledger = ledger
        self._lock = lock
        self._unsettled: dict[str, Batch] = {}
        self._inputs: dict[str, Path] = {}
        self._jobs: dict[str, Future[None]] = {}
        self._stop = threading.Event()
        # One thread, so that batches enter the token queue in the order of their creation.
        self._validators = ThreadPoolExecutor(1, "emulator-validate")
        self._workers = ThreadPoolExecutor(4, "emulator-work")

    def stop(self) -> None:
        """Abandon the work that runs."""
        self._stop.set()
        self._validators.shutdown(cancel_futures=True)
        self._workers.shutdown(cancel_futures=True)

    def track(self, batch: Batch) -> None:
        """Add a new batch."""
        self._unsettled[batch.id] = batch

    def is_reading(self, path: Path) -> bool:
        """Return whether a batch that has not ended reads the file."""
        with self._lock:
            return path in self._inputs.values()

    def clear(self) -> None:
        """Remove every batch."""
        self._unsettled.clear()
        self._inputs.clear()

    def settle(self) -> None:
        """Start all work that is due, and wait until it is done."""
        while jobs := self.start_due():
            for job in jobs:
                job.result()

    def start_due(self, batch_id: str | None = None) -> list[Future[None]]:
        """Start all work that is due, and return what runs, of one batch or of all."""
        with self._lock:
            if self._stop.is_set():
                return []
            now = self._clock.now()
            for batch in sorted(self._unsettled.values(), key=lambda b: (b.times.validated_at, b.number)):
                if batch.id not in self._jobs:
                    self._start(batch, now)
            return [job for owner, job in self._jobs.items() if batch_id in (None, owner)]

    def _start(self, batch: Batch, now: float) -> None:
        if batch.verdict is None:
            if now >= min(batch.times.validated_at, batch.times.ended_at):
                self._jobs[batch.id] = self._validators.submit(self._run, batch, self._validate)
        elif batch.verdict.errors:
            if now >= batch.times.validated_at:
                self.close(batch, Result())
        elif batch.times.phase(now) in _AFTER_WORK:
            self._jobs[batch.id] = self._workers.submit(self._run, batch, self._answer)

    def _run(self, batch: Batch, work: Callable[[Batch], None]) -> None:
        try:
            work(batch)
        except Stopped:
            pass
        finally:
            with self._lock:
                self._jobs.pop(batch.id, None)

    def close(self, batch: Batch, result: Result) -> None:
        """Set how a batch ended."""
        batch.result = result
        self._inputs.pop(batch.id, None)
        self._unsettled.pop(batch.id, None)
        if batch.verdict is not None:
            del batch.verdict.offsets[:]

    def _validate(self, batch: Batch) -> None:
        verdict = self._verdict(batch)
        with self._lock:
            if not verdict.errors and (queue_error := self._queue_error(batch, verdict)):
                verdict = Verdict([queue_error], verdict.model)
            if batch.result is None:
                batch.verdict = verdict

    def _verdict(self, batch: Batch) -> Verdict:
        if batch.quirks.fail:
            return Verdict(list(batch.quirks.fail))
        # The work may be done late, when the clock was advanced by much; what counts is when it was due.
        stored = self._file_store.find(batch.input_file_id, min(batch.times.validated_at, self._clock.now()))
        if stored is None:
            message = (
                f"Cannot find file {batch.input_file_id}, or organization org-emulator does not have access to it."
            )
            return Verdict([BatchError("invalid_request", message, "file_id")])
        self._inputs[batch.id] = stored.path
        return self._settings.dialect.check_input(stored.path, batch, self._settings.limits)

    def _queue_error(self, batch: Batch, verdict: Verdict) -> BatchError | None:
        """Return the error of a full queue. OpenAI: unfinished batches of the same model count."""
        at, quirks = batch.times.validated_at, batch.quirks
        others = [b for b in self._unsettled.values() if b is not batch and b.verdict]
        held = [b.holds(at) for b in others if b.verdict and b.verdict.model == verdict.model]
        n_tokens = verdict.tokens + sum(tokens for tokens, _ in held)
        n_requests = verdict.total + sum(requests for _, requests in held)
        is_own = quirks.queue_limit is not None or quirks.queue_requests is not None
        token_limit = quirks.queue_limit if is_own else self._settings.queue_limit
        model = verdict.model
        if token_limit is not None and n_tokens > token_limit:
            message = (
                f"Enqueued token limit reached for {model} in organization org-emulator. "
                f"Limit: {token_limit:,} enqueued tokens. "
                "Please try again once some in_progress batches have been completed."
            )
            return BatchError("token_limit_exceeded", message)
        if quirks.queue_requests is not None and n_requests > quirks.queue_requests:
            # Seen: the text, of embeddings (OpenAI's forum 1002388). Assumed: the code.
            message = (
                f"Enqueued request limit reached for {model} in organization org-emulator. "
                f"Limit: {quirks.queue_requests:,} enqueued requests."
            )
            return BatchError("request_limit_exceeded", message)
        return None

    def check_queue_at_create(self, batch: Batch, http: int) -> None:
        """Check the queue's limit when a batch is created. Seen: some regions and plans do (HTTP 400 or 429).

        Args:
            batch: The new batch.
            http: The HTTP status of the error.

        Raises:
            ApiError: The queue is full.
        """
        verdict = self._verdict(batch)
        if verdict.errors:
            return  # the asynchronous validation reports these
        if queue_error := self._queue_error(batch, verdict):
            raise ApiError(http, queue_error.message, code=queue_error.code)
        batch.verdict = verdict

    def _answer(self, batch: Batch) -> None:
        path = self._inputs[batch.id]
        output_path, error_path = self._file_store.new_path(), self._file_store.new_path()
        worker = Worker(self._settings.answer, self._faults, self._stop, self._settings.dialect)
        with output_path.open("wb", 1 << 20) as output, error_path.open("wb", 1 << 20) as error:
            tally = worker.run(self._task(batch, path), output, error)
        quirks = batch.quirks
        has_output = tally.n_output_lines and not quirks.no_output_file
        output_id = self._store_or_discard(batch, output_path, "output", has_output)
        has_errors = tally.n_error_lines or quirks.zero_byte_error_file
        error_id = self._store_or_discard(batch, error_path, "error", has_errors)
        with self._lock:
            self._ledger.record_bill(tally.bill)
            self.close(batch, Result(tally.completed, tally.failed, tally.usage, output_id, error_id))

    def _task(self, batch: Batch, path: Path) -> BatchTask:
        times, total = batch.times, batch.verdict.total if batch.verdict else 0
        n_answered = int(total * times.progress(min(times.ended_at, self._clock.now())) + 1e-9)
        unfinished_error = None if batch.quirks.drop_unfinished else _UNFINISHED_ERRORS[times.cancelling_at is None]
        return BatchTask(
            batch, path, n_answered, unfinished_error, self._settings.seed or 0, self._settings.concurrency
        )

    def _store_or_discard(self, batch: Batch, path: Path, suffix: str, is_wanted: object) -> str | None:
        """Return the id of a result file, None if there is none."""
        quirks = batch.quirks
        if not is_wanted:
            path.unlink()
            return self._file_store.new_id() if quirks.unwritten_file in (suffix, "both") else None
        faults = tuple(fault for fault in quirks.file_faults if fault.concerns(suffix))
        stored = self._file_store.add(
            path,
            f"{batch.id}_{suffix}.jsonl",
            "batch_output",
            batch.output_lifetime_s,
            faults,
            batch.times.ended_at,
            min(batch.times.ended_at, self._clock.now()),
        )
        return stored.id
