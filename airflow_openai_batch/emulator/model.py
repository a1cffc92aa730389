"""Files and batches, and the state of a batch as a function of time. No HTTP, no disk."""

from __future__ import annotations

import random
import string
from array import array
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from pathlib import Path
from typing import Any

from airflow_openai_batch.emulator.clock import Clock
from airflow_openai_batch.emulator.file_faults import FileFault

JsonObject = dict[str, Any]

DAY_S = 86_400.0
FILE_LIFETIME_S = 30 * DAY_S
"""OpenAI: files of purpose `batch` expire 30 days after creation by default, and this is the maximum."""

ENDPOINTS = (
    "/v1/responses",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/completions",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
)


class Status(StrEnum):
    """The states of a batch. OpenAI: the names."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


TERMINAL = frozenset({Status.FAILED, Status.COMPLETED, Status.EXPIRED, Status.CANCELLED})


class IdGenerator:
    """Generator of ids in the shapes of the API. Seen: batch and file ids; with a seed the ids are repeatable."""

    def __init__(self, seed: int | None) -> None:
        self._random = random.Random(None if seed is None else f"ids:{seed}")  # noqa: S311 - no secrets here

    def batch(self) -> str:
        """Return `batch_` + 32 hex digits."""
        return f"batch_{self._random.getrandbits(128):032x}"

    def file(self) -> str:
        """Return `file-` + 22 letters and digits."""
        return "file-" + "".join(self._random.choices(string.ascii_letters + string.digits, k=22))

    def request(self) -> str:
        """Return `req_` + 32 hex digits, for the `x-request-id` header."""
        return f"req_{self._random.getrandbits(128):032x}"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file object and the path of its content."""

    id: str
    path: Path
    size: int
    created_at: float
    expires_at: float | None
    filename: str
    purpose: str
    faults: tuple[FileFault, ...] = ()
    faults_begin_at: float = 0.0
    processed_at: float = 0.0

    def read(self) -> bytes:
        """Return the whole content. For tests; the server streams it."""
        return self.path.read_bytes()

    def shown_content(self, now: float) -> bytes:
        """Return the content as its faults show it at a time."""
        content = self.read()
        for fault in self._faults_at(now):
            content = fault.apply(content)
        return content

    def to_json(self, now: float) -> JsonObject:
        """Return the file object as the API shows it at a time."""
        shown = {
            "object": "file",
            "id": self.id,
            "purpose": self.purpose,
            "filename": self.filename,
            "bytes": self._shown_size(now),
            "created_at": int(self.created_at),
            "expires_at": None if self.expires_at is None else int(self.expires_at),
            "status": "pending" if now < self.processed_at else "processed",
            "status_details": None,
        }
        return shown if shown["bytes"] is not None else {name: shown[name] for name in shown if name != "bytes"}

    def _faults_at(self, now: float) -> list[FileFault]:
        return [fault for fault in self.faults if now < self.faults_begin_at + fault.seconds]

    def _shown_size(self, now: float) -> int | None:
        faults = self._faults_at(now)
        size = faults[-1].size if faults else "whole"
        if size == "actual":
            return len(self.shown_content(now))
        return self.size if isinstance(size, str) else size


@dataclass(frozen=True, slots=True)
class BatchError:
    """One entry of a failed batch's `errors.data`."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def to_json(self) -> JsonObject:
        """Return the entry as the API shows it."""
        return {"code": self.code, "message": self.message, "param": self.param, "line": self.line}


@dataclass(slots=True)
class Verdict:
    """The result of validating an input file.

    Attributes:
        errors: The errors; none if the batch may run.
        model: The model that the lines name.
        tokens: Estimated input tokens, which count against the queue's limit.
        total: Number of requests.
        offsets: The offset of each request line and, last, the size of the file; emptied when the batch has ended.
    """

    errors: list[BatchError]
    model: str | None = None
    tokens: int = 0
    total: int = 0
    offsets: array[int] = field(default_factory=lambda: array("Q"))


@dataclass(frozen=True, slots=True)
class Usage:
    """Billed tokens of a batch."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def to_json(self) -> JsonObject:
        """Return the usage as the API shows it."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.input_tokens + self.output_tokens,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """Counts, usage and files of a batch that has ended."""

    completed: int = 0
    failed: int = 0
    usage: Usage = Usage()
    output_file_id: str | None = None
    error_file_id: str | None = None


@dataclass(frozen=True, slots=True)
class Quirks:
    """The faults of one batch, from the `batch` rules that applied when it was created."""

    fail: tuple[BatchError, ...] = ()
    expire_at: float | None = None
    window_s: float | None = None
    expiry_lag_s: float = 0.0
    stuck_state: str = ""
    stuck_s: float = 0.0
    late_output_file_id_s: float = 0.0
    is_error_file_id_late: bool = False
    has_zero_counts_meanwhile: bool = False
    listing_lag_s: float = 0.0
    empty_string_ids: bool = False
    zero_byte_error_file: bool = False
    no_output_file: bool = False
    drop_unfinished: bool = False
    counts: JsonObject | None = None
    queue_limit: int | None = None
    queue_http: int | None = None
    queue_requests: int | None = None
    file_faults: tuple[FileFault, ...] = ()
    unwritten_file: str = ""
    input_file_gone: bool = False
    drop_metadata: bool = False
    time_form: str = "epoch"
    time_zone_s: float = 0.0
    clock_ahead_s: float = 0.0
    status_names: tuple[tuple[str, str], ...] = ()
    relapse_s: float = 0.0
    relapse_after_s: float = 0.0
    never_expires: bool = False


@dataclass(slots=True)
class Timetable:
    """When a batch enters its states, in epoch seconds.

    Attributes:
        worked_at: When the last row is answered.
        ceiling: The share of rows that is answered at most, 0 to 1.
        is_cut_off: Whether it ends when it expires, whatever is not done then.
    """

    created_at: float
    validated_at: float
    worked_at: float
    finalizing_at: float
    completed_at: float
    expires_at: float
    expired_at: float
    ceiling: float = 1.0
    cancelling_at: float | None = None
    cancelled_at: float = inf
    is_cut_off: bool = True

    @property
    def is_expiring(self) -> bool:
        """Whether the window ends before the batch is completed."""
        return self.is_cut_off and self.completed_at > self.expires_at

    @property
    def ended_at(self) -> float:
        """Return when the batch ends if validation finds no error."""
        if self.cancelling_at is not None:
            return self.cancelled_at
        return self.expired_at if self.is_expiring else self.completed_at

    def phase(self, now: float) -> Status:
        """Return the state that follows from the time alone."""
        if self.cancelling_at is not None:
            return Status.CANCELLED if now >= self.cancelled_at else Status.CANCELLING
        if now >= self.ended_at:
            return Status.EXPIRED if self.is_expiring else Status.COMPLETED
        if now < self.validated_at:
            return Status.VALIDATING
        return Status.FINALIZING if now >= self.finalizing_at else Status.IN_PROGRESS

    def progress(self, now: float) -> float:
        """Return the share of rows that is answered at a time, 0 to 1."""
        now = min(now, self.expires_at) if self.is_cut_off else now
        if self.cancelling_at is not None:
            now = min(now, self.cancelling_at)
        if now < self.validated_at:
            return 0.0
        span_s = self.worked_at - self.validated_at
        share = 1.0 if now >= self.worked_at else (now - self.validated_at) / span_s
        return min(share, self.ceiling)


@dataclass(slots=True)
class Batch:
    """A batch: the request for it, its timetable, and its results so far."""

    id: str
    number: int
    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: dict[str, str] | None
    times: Timetable
    clock: Clock
    quirks: Quirks = Quirks()
    output_lifetime_s: float = FILE_LIFETIME_S
    verdict: Verdict | None = None
    result: Result | None = None

    @property
    def status(self) -> Status:
        """Return the current state; while due work is not done, the batch remains in the state before."""
        phase = self.times.phase(self.clock.now())
        if phase in (Status.CANCELLING, Status.CANCELLED):
            return phase if self.result is not None else Status.CANCELLING
        if self.verdict is None or phase is Status.VALIDATING:
            return Status.VALIDATING
        if self.verdict.errors:
            return Status.FAILED
        if phase in TERMINAL and self.result is None:
            return Status.FINALIZING if phase is Status.COMPLETED else Status.IN_PROGRESS
        return phase

    @property
    def is_live(self) -> bool:
        """Whether the batch may still run and cost money."""
        return self.status not in TERMINAL

    @property
    def errors(self) -> list[BatchError]:
        """Return the errors of the validation, none before it."""
        return self.verdict.errors if self.verdict is not None else []

    def holds(self, at: float) -> tuple[int, int]:
        """Return its enqueued tokens and requests at a time, zeros if it has ended or failed."""
        if self.verdict is None or self.verdict.errors or not self.times.created_at <= at < self.times.ended_at:
            return 0, 0
        return self.verdict.tokens, self.verdict.total
