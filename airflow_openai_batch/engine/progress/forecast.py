"""When a job will be over, by how long earlier ones took. Pure: times are arguments.

**What is predicted** is the moment at which the last batch of the job ends, as a distribution, of which two moments are
told: by the first one half of all such jobs are over, by the second nine of ten.

**From what.** First of all from earlier jobs of the same task that began at about the same hour (UTC) and asked a
similar number of requests: how long each was at OpenAI, from its first batch to the end of its last. This has
everything in it: waiting for room, rounds, and that the batches of one night are slow together. Where there are fewer
than five of them, from earlier jobs of any task that asked the same model through the same connection at about the same
hour: the batches of each such night have a distribution of their own, and a job's batches, each of its own age, are
taken to be drawn from that of one night, so that the last of many is later than the only one of a single batch. Nothing
is told in this way of a job of which something waits to be sent: nobody knows when it will be.

**How sure.** Each earlier night is as likely as the night to come to be its like (they are exchangeable), so the chance
to be over by the k-th shortest of n nights is k in n + 1: the one more is the new night, which may take longer than all
before it. So the half needs five nights here, and the nine of ten need nine; with fewer a moment is not told rather
than guessed. This holds for any distribution, and is the rule of conformal prediction (Vovk, Gammerman and Shafer,
*Algorithmic Learning in a Random World*, 2005). ``tests/unit/engine/progress/test_forecast_calibration.py`` counts it
on simulated nights that the forecast has not seen.

**While it runs**, nights that were over sooner count no more, and the chances of the others grow in proportion. A night
that was cancelled, or whose batches expired, took at least as long as it did: it counts until then and not beyond
(Kaplan and Meier's estimate).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from airflow_openai_batch.engine.job.spans import (
    EarlierDurations,
    JobRecord,
    Span,
    first_sent_at,
    hour_of,
    is_near,
    models_of,
    n_first_requests,
)
from airflow_openai_batch.engine.model import AT_OPENAI, ENDED_STATUSES, UNSENT, Batch, Job, Shard, State, Value

ENOUGH = 5
"""Earlier jobs, of which something is told."""

_SIMILAR = 3.0
"""By which factor the requests of two jobs may differ of which one says how long the other takes."""

_MOST_STEPS = 40

_SAME_AGE_S = 60.0
"""Batches created within this time are taken for equally old."""

_HALF, _NINE_OF_TEN = 0.5, 0.9

_DAY_S = 86_400

_TINY = 1e-6
"""A sum of chances may miss its exact value by so much."""


class Forecast(Value, frozen=True, kw_only=True, omit_defaults=False):
    """When a job will be over, by how long earlier ones took."""

    basis: Literal["jobs", "batches"]
    """Earlier jobs of the same task, or the batches of earlier jobs that asked the same model."""
    n_earlier: int
    """How many earlier jobs it stands on."""
    n_shorter: int = 0
    """How many of them were over after less time than this job has taken; told of ``jobs`` only."""
    p50_at: float | None = None
    """By then one half of all such jobs are over, in epoch seconds; None if there are too few to say."""
    p90_at: float | None = None
    """By then nine of ten are."""
    steps: tuple[tuple[float, float], ...] = ()
    """Moments in epoch seconds, and the chance from 0 to 1 that the job is over by then, as long as nothing newer is
    known; for ``as_of``."""


def forecast_of(job: Job, earlier: EarlierDurations, now: float) -> Forecast | None:
    """Return when a job will be over; None if too little is known. Of a job that is only planned: if it is sent now.

    Args:
        job: The newest snapshot's job.
        earlier: How long earlier jobs took.
        now: Epoch seconds.
    """
    if all(shard.state is State.SETTLED for shard in job.shards) or not models_of(job):
        return None
    forecast = _by_jobs(job, earlier, now) or _by_batches(job, earlier, now)
    return as_of(forecast, now) if forecast is not None else None


def as_of(forecast: Forecast, now: float) -> Forecast:
    """Return a forecast of a job that is not over at a later moment.

    Args:
        forecast: The forecast.
        now: Epoch seconds.
    """
    is_past = [step for step in forecast.steps if step[0] <= now]
    gone = max((chance for _, chance in is_past), default=0.0)
    left = tuple(((at, (chance - gone) / (1 - gone)) for at, chance in forecast.steps if at > now)) if gone < 1 else ()
    n_shorter = forecast.n_shorter + (len(is_past) if forecast.basis == "jobs" else 0)
    left = tuple((round(at, 1), round(chance, 7)) for at, chance in left)
    p50_at, p90_at = _moment(left, _HALF), _moment(left, _NINE_OF_TEN)
    return msgspec.structs.replace(forecast, n_shorter=n_shorter, p50_at=p50_at, p90_at=p90_at, steps=left)


def _moment(steps: Iterable[tuple[float, float]], chance: float) -> float | None:
    return next((at for at, reached in steps if reached >= chance - _TINY), None)


def forecast_text(forecast: Forecast | None, now: float) -> str:
    """Return a forecast in words, with moments in UTC; empty if there is nothing to tell.

    Args:
        forecast: The forecast, or None.
        now: Epoch seconds.
    """
    if forecast is None:
        return ""
    if forecast.p50_at is None:
        n_shorter, n_earlier = forecast.n_shorter, forecast.n_earlier
        return f"takes longer than {n_shorter} of {n_earlier} earlier runs" if n_shorter else ""
    text = f"probably over at {_clock(forecast.p50_at, now, ' UTC')}"
    return text if forecast.p90_at is None else f"{text}, nine of ten before {_clock(forecast.p90_at, now)}"


def _clock(at: float, now: float, zone: str = "") -> str:
    """Return a moment as people say it: the time, with the day if it is not the same."""
    minutes, days = int(at // 60) % (24 * 60), int(at // _DAY_S) - int(now // _DAY_S)
    day = "" if not days else " the next day" if days == 1 else f" {days} days later"
    return f"{minutes // 60:02d}:{minutes % 60:02d}{zone}{day}"


# -- by earlier jobs of the task ---------------------------------------------------------------------------------------


def _by_jobs(job: Job, earlier: EarlierDurations, now: float) -> Forecast | None:
    if any(shard.is_replayed for shard in job.shards):
        return None  # a person asked for more of it: no night before was like that
    started_at = first_sent_at(job) or now
    n_requests = n_first_requests(job)
    spans = [r.span for r in earlier.jobs if _is_similar(r, n_requests) and _is_like(r.span, started_at)]
    if sum(not span.is_cut for span in spans) < ENOUGH:
        return None
    steps = [(started_at + seconds, chance) for seconds, chance in _curve(spans, n_more=1)]
    return Forecast(basis="jobs", n_earlier=len(spans), steps=tuple(steps))


def _is_similar(record: JobRecord, n_requests: int) -> bool:
    return record.n_requests <= n_requests * _SIMILAR and n_requests <= record.n_requests * _SIMILAR


def _is_like(span: Span, started_at: float) -> bool:
    return span.seconds > 0 and is_near(hour_of(span.started_at), hour_of(started_at))


def _curve(spans: Sequence[Span], n_more: int = 0) -> list[tuple[float, float]]:
    """Return after which seconds which part is over: Kaplan and Meier's estimate, with ``n_more`` that never are."""
    n_left = len(spans) + n_more
    rest, curve = 1.0, []
    for span in sorted(spans, key=lambda span: (span.seconds, span.is_cut)):
        if not span.is_cut:
            rest *= 1 - 1 / n_left
            curve.append((span.seconds, 1 - rest))
        n_left -= 1
    return curve


# -- by the batches of earlier jobs ------------------------------------------------------------------------------------


class _Night:
    """The batches of one earlier job and model: after which seconds which part of them had ended."""

    def __init__(self, spans: Sequence[Span]) -> None:
        curve = _curve(spans)
        self.seconds = [seconds for seconds, _ in curve]
        self._chances = [chance for _, chance in curve]

    def ended(self, seconds: float) -> float:
        """Return which part of the batches had ended after some seconds."""
        i = bisect_right(self.seconds, seconds)
        return self._chances[i - 1] if i else 0.0


def _by_batches(job: Job, earlier: EarlierDurations, now: float) -> Forecast | None:
    groups = _awaited(job, now)
    forecasts = [_of_model(groups[model], earlier, model, now) for model in groups]
    known = [forecast for forecast in forecasts if forecast is not None]
    if not known or len(known) < len(forecasts):
        return None
    return max(known, key=_lateness)  # with several models, the job is over when the slowest is


def _lateness(forecast: Forecast) -> tuple[float, int]:
    return _moment(forecast.steps, _HALF) or float("inf"), -forecast.n_earlier


def _awaited(job: Job, now: float) -> dict[str, dict[float, int]]:
    """Return how many batches were created when, by model; none if some cannot be told yet."""
    unsent = [shard for shard in job.shards if shard.state in UNSENT and shard.is_asked]
    if unsent and not _is_sent_at_once(job, unsent):
        return {}
    times: dict[str, list[float]] = {}
    for shard in job.shards:
        batch = shard.batch
        is_awaited = shard.is_asked and shard.state in AT_OPENAI | UNSENT
        if shard.model is None or not is_awaited or (batch is not None and batch.status in ENDED_STATUSES):
            continue
        times.setdefault(shard.model, []).append(_created_at(batch, shard, now))
    return {model: _grouped(created_at) for model, created_at in times.items()}


def _grouped(times: list[float]) -> dict[float, int]:
    """Return how many there are of each time, those within a minute taken together."""
    groups: dict[float, int] = {}
    first_at = float("-inf")
    for at in sorted(times):
        if at - first_at >= _SAME_AGE_S:
            first_at = at
        groups[first_at] = groups.get(first_at, 0) + 1
    return groups


def _is_sent_at_once(job: Job, unsent: list[Shard]) -> bool:
    """Return whether what is not sent yet will be sent together as soon as anything is."""
    is_first = len(unsent) == sum(shard.is_asked for shard in job.shards)
    is_free = job.policy.max_enqueued_tokens is None and not any(s.is_pilot or s.backoff.n_waits for s in unsent)
    return is_first and is_free


def _created_at(batch: Batch | None, shard: Shard, now: float) -> float:
    if shard.intent is not None:
        return min(shard.intent.at, now)
    return min(now, batch.created_at if batch is not None and batch.created_at is not None else now)


def _of_model(ages: dict[float, int], earlier: EarlierDurations, model: str, now: float) -> Forecast | None:
    first_at, last_at = min(ages), max(ages)
    near = [[s for s in record.batches if _is_like(s, first_at)] for record in earlier.models.get(model, ())]
    nights = [night for spans in near if (night := _Night(spans)).seconds]
    if len(nights) < ENOUGH:
        return None
    # A night whose slowest batch ended sooner than this one's oldest has its like no more.
    alive = [night for night in nights if first_at + night.seconds[-1] > now]
    seconds = sorted({s for night in alive for s in night.seconds})
    moments = sorted({at for s in _some(seconds) if (at := last_at + s) > now})
    steps = [(at, sum(_all_ended(night, ages, at, now) for night in alive) / (len(alive) + 1)) for at in moments]
    return Forecast(basis="batches", n_earlier=len(nights), steps=tuple(steps))


def _all_ended(night: _Night, ages: dict[float, int], at: float, now: float) -> float:
    """Return the chance that all batches have ended by a moment, if they are of this night's kind and run now."""
    chance = 1.0
    for created_at, n in ages.items():
        gone = night.ended(now - created_at)
        if gone < 1:
            chance *= ((night.ended(at - created_at) - gone) / (1 - gone)) ** n
    return chance


def _some(seconds: list[float]) -> list[float]:
    """Return at most so many of them as there are steps: spread evenly, the last one among them."""
    if len(seconds) <= _MOST_STEPS:
        return seconds
    last = len(seconds) - 1
    return [seconds[round(i * last / (_MOST_STEPS - 1))] for i in range(_MOST_STEPS)]
