"""How long jobs and batches were at OpenAI, as values, and which of them are alike. Pure: times are arguments."""

from __future__ import annotations

import msgspec

from airflow_openai_batch.engine.model import Job, Shard, Value

HOURS_APART = 2
"""How many hours of the day may lie between two jobs of which one says how long the other takes."""

_HOUR_S = 3600


class Span(Value, frozen=True, kw_only=True):
    """How long something was at OpenAI."""

    started_at: float
    """Epoch seconds."""
    seconds: float
    is_cut: bool = False
    """Whether it was cancelled or expired, so that to its end it would have taken longer than that."""


class JobRecord(Value, frozen=True, kw_only=True):
    """What is kept of a job for the next ones of its task."""

    owner: str = ""
    endpoint: str
    models: tuple[str, ...]
    n_requests: int
    """Requests of the first round."""
    span: Span


class ModelRecord(Value, frozen=True, kw_only=True):
    """What is kept of a job's batches for others that ask the same model through the same connection."""

    owner: str = ""
    endpoint: str
    batches: tuple[Span, ...]


class EarlierDurations(Value, frozen=True, kw_only=True):
    """What earlier jobs tell of how long one will take."""

    jobs: tuple[JobRecord, ...] = ()
    """Jobs of the same task, with the same endpoint and models."""
    models: dict[str, tuple[ModelRecord, ...]] = msgspec.field(default_factory=dict)
    """Jobs of any task, by the model that they asked."""


def hour_of(at: float) -> int:
    """Return the hour of a moment in UTC, 0 to 23."""
    return int(at // _HOUR_S) % 24


def is_near(hour: int, other: int) -> bool:
    """Return whether two hours of the day lie close to each other."""
    apart = abs(hour - other) % 24
    return min(apart, 24 - apart) <= HOURS_APART


def first_sent_at(job: Job) -> float | None:
    """Return when the first batch of the job's epoch was created, by our clock where it is known; None before that."""
    times = [at for shard in job.shards if (at := _sent_at(shard)) is not None]
    return min(times, default=None)


def _sent_at(shard: Shard) -> float | None:
    if shard.batch is None:
        return None
    return shard.intent.at if shard.intent is not None else shard.batch.created_at


def n_first_requests(job: Job) -> int:
    """Return the requests of the job's first round."""
    return sum(shard.n_requests for shard in job.shards if shard.is_asked and not shard.round)


def models_of(job: Job) -> tuple[str, ...]:
    """Return the models that the job asks, in alphabetical order; empty if that is not known of all its shards."""
    models = {shard.model for shard in job.shards if shard.is_asked}
    return () if None in models else tuple(sorted(model for model in models if model is not None))
