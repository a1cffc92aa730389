"""Where a job stands, as a person wants to see it: a value for Airflow's XCom and a trigger's arguments."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from airflow_openai_batch.engine.model import JobKey, Usage, Value
from airflow_openai_batch.engine.progress.forecast import Forecast
from airflow_openai_batch.engine.progress.rate import Moments

VERSION = 1

MAX_BATCHES, MAX_ERRORS, MAX_EXAMPLES = 20, 10, 3

MAX_PROBLEM, MAX_MESSAGE = 500, 200

MAX_ID = 64


class Phase(StrEnum):
    """What a job is doing."""

    PLANNED = "planned"
    """Nothing is sent before a task that waits for it begins."""
    WAITING = "waiting"
    """Batches run."""
    ASKING = "asking"
    """The moment of ``finish_by`` has come, and a worker asks what is left synchronously."""
    QUEUED = "queued"
    """Nothing runs: what is left waits for room or for its time."""
    HELD = "held"
    """It needs manual intervention."""
    DONE = "done"
    """Every row has its outcome."""
    WRITTEN = "written"
    """The results are written."""
    BAD = "bad"
    """They are written, and worse than the thresholds allow."""


OVER = (Phase.DONE, Phase.WRITTEN, Phase.BAD)
"""Phases in which nothing is left to wait for."""


class Owner(JobKey, frozen=True, kw_only=True, omit_defaults=False):
    """The task that the job belongs to."""


class Tokens(Usage, frozen=True, kw_only=True, omit_defaults=False):
    """What was used."""


class Seen(Value, frozen=True, kw_only=True, omit_defaults=False):
    """A batch that runs, as it was last seen."""

    id: str
    status: str
    n_total: int
    n_completed: int
    n_failed: int
    in_progress_at: float | None = None
    """When it was validated and began to run, in epoch seconds."""

    @property
    def n_done(self) -> int:
        """Requests that OpenAI reports as finished; counts can lie, and must not exceed their own total."""
        n_done = max(0, self.n_completed) + max(0, self.n_failed)
        return min(n_done, self.n_total) if self.n_total > 0 else n_done


class Failed(Value, frozen=True, kw_only=True, omit_defaults=False):
    """How often an error ended a row."""

    status: str
    code: str
    n: int
    custom_ids: tuple[str, ...]
    message: str | None = None
    """Of the first such row, without what it quotes of the row."""


class Logged(Value, frozen=True, kw_only=True):
    """What the log said last of a job."""

    at: float
    """Epoch seconds."""
    n_done: int
    percent: float
    state: str
    """All but the counts of rows, as ``log_format.state_of`` writes it."""


class Look(Value, frozen=True, kw_only=True, omit_defaults=False):
    """What is remembered from one look at a job to the next: for the rate, and for the log."""

    n_done: int
    moments: Moments = ()
    """When the counts were seen to move in the last minutes, and ``n_done`` then."""
    logged: Logged | None = None


class Progress(Value, frozen=True, kw_only=True, omit_defaults=False):
    """Where a job stands. Small enough for a trigger's arguments, and without content of rows."""

    version: int = VERSION
    job: Owner
    phase: Phase
    problem: str | None = None
    """The last thing that went wrong, for a person; of a held job, what to do."""
    limit: str | None = None
    """What keeps rows back, if it is not OpenAI: ``cap``, ``probe``, or ``pilot``, which runs or did not go well."""
    updated_at: float
    created_at: float
    deadline_at: float
    expires_at: float | None = None
    """The latest expiry of the batches that run."""
    live: bool = False
    """Whether it is kept up to date while the job waits."""
    cancel_on_kill: bool = True
    """Whether marking the waiting task failed cancels the batches."""
    endpoint: str
    model: str | None = None
    """None if it differs from row to row."""
    n_rows: int
    n_done: int
    """Rows with an outcome, and rows that OpenAI reports as finished."""
    n_running_done: int = 0
    """Of these, the rows in batches that still run."""
    by_status: dict[str, int]
    """Rows with an outcome."""
    rate_per_h: float | None = None
    """Rows in an hour, as the counts were seen to move in the last minutes."""
    eta_at: float | None = None
    """When all rows will be done at this rate, in epoch seconds."""
    forecast: Forecast | None = None
    """When the job will be over, by how long earlier ones took; None if too few are known."""
    finish_at: float | None = None
    """The moment from which rows without an answer are asked synchronously, in epoch seconds; None if there is none."""
    n_shards: int
    n_settled: int
    n_unsent: int
    """Shards that wait for room at OpenAI, or for their turn."""
    round: int
    usage: Tokens
    cost: float | None = None
    """US dollars, as far as prices are known; None if none is."""
    cost_of_bad_rows: float = 0.0
    """Of these, for answers that are not good."""
    saved: float = 0.0
    """How many dollars more the same answers cost synchronously."""
    rows_without_price: int = 0
    """Answers that are not in these sums, as their price is not known."""
    max_cost: float | None = None
    """The job's cap in dollars; None if it has none."""
    expected_cost: float | None = None
    """What all answers will have cost in the end, in dollars; None if that is not known, or they are all there."""
    upper_cost: float | None = None
    """The most that they will have cost, by the bodies' bound."""
    estimate_basis: str = ""
    """What the expectation stands on: ``own`` answers, an ``earlier`` job, the ``bound``, or nothing."""
    estimate_unknown: str | None = None
    """Why one of these is not known, and what to do."""
    reused_rows: int = 0
    """Of the rows that succeeded, those whose answer came from another job, or from an equal request of this one."""
    saved_by_reuse: float = 0.0
    """What these answers cost, in dollars, when they were asked."""
    direct_rows: int = 0
    """Rows that were answered synchronously, as the moment of ``finish_by`` had come."""
    cost_of_direct: float = 0.0
    maybe_paid_twice: int = 0
    """Synchronous requests that may have been paid twice, as a process died or an answer was lost."""
    n_asking: int = 0
    """Requests that are asked synchronously now, and have no answer yet."""
    batches: tuple[Seen, ...] = ()
    """Those that run, at most ``MAX_BATCHES``."""
    n_batches: int
    n_running: int
    errors: tuple[Failed, ...] = ()
    phases_s: dict[str, float]
    """Seconds of own work, by phase; ``wait`` are those in which OpenAI had a batch of the job."""
    output: str | None = None
    dead_letter: str | None = None
    """Where the raw lines of rows that were given up are."""
    n_dead_letter: int = 0
    files_deleted: int | None = None
    """Files of the job that are deleted at OpenAI (``delete_files``); None if they were not to be deleted."""
    files_left: int = 0
    """Of those that were to be deleted, the files that are still there; the log says why."""
    advice: tuple[str, ...] = ()
    """What a person can do about bad rows."""
    host: str = ""

    @property
    def percent(self) -> float:
        """Finished rows of a hundred, rounded to a tenth: 0 only if there is none, and 100 only if it is all."""
        if self.n_done >= self.n_rows:
            return 100.0
        return min(99.9, max(0.1, round(100 * self.n_done / self.n_rows, 1))) if self.n_done else 0.0

    @property
    def is_written(self) -> bool:
        """Whether the results are written."""
        return self.phase in (Phase.WRITTEN, Phase.BAD)

    @property
    def n_ended(self) -> int:
        """Batches that ended."""
        return self.n_batches - self.n_running

    def is_other_than(self, before: Progress) -> bool:
        """Return whether anything has changed but the time: a rate counts if it is lost, or a fifth lower."""
        if (self.n_done, self.n_running, self.batches) != (before.n_done, before.n_running, before.batches):
            return True
        return before.rate_per_h is not None and (self.rate_per_h or 0.0) < 0.8 * before.rate_per_h


def encoded(value: Any) -> dict[str, Any]:
    """Return a value as Airflow's XCom and a trigger's arguments take it: lists, dicts, texts and numbers."""
    # Through JSON: a tuple in XCom shows as a wrapped class in Airflow's API and UI.
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return plain


def decoded_progress(value: Any) -> Progress | None:
    """Return what ``encoded`` made of a progress; None if it is nothing of the kind, or of a version to come."""
    try:
        progress = msgspec.convert(value, Progress)
    except msgspec.ValidationError:
        return None
    return progress if progress.version == VERSION else None


def decoded_look(value: Any) -> Look | None:
    """Return what ``encoded`` made of a look; None if it is nothing of the kind."""
    try:
        return msgspec.convert(value, Look)
    except msgspec.ValidationError:
        return None
