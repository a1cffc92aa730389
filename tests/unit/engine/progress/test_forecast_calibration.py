"""A forecast is counted on simulated nights that it has not seen: one half before the first moment, nine of ten before
the second; also while the job runs, with few nights and many, slow nights together, and nights that were cut off."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import pytest
from builders import batch, job, shard

from airflow_openai_batch.engine.job.spans import EarlierDurations, JobRecord, ModelRecord, Span
from airflow_openai_batch.engine.model import Intent, Job, State
from airflow_openai_batch.engine.progress.forecast import forecast_of

DAY_S, HOUR_S = 86_400.0, 3600.0
NOW = 20_000 * DAY_S
LUNA = "gpt-6-luna"
N_TRIALS = 400

Night = list[float]
"""Seconds that each batch of one night took."""


class Counted(NamedTuple):
    """Which part of the held-out nights was over in time, and of how many trials something was told."""

    p50: float
    p90: float
    told_p50: int
    told_p90: int


def steady(rng: random.Random, n: int) -> Night:
    """Every batch takes its own time; some take ten times as long."""
    return [HOUR_S * rng.lognormvariate(0.5, 0.8) for _ in range(n)]


def together(rng: random.Random, n: int) -> Night:
    """The whole night is fast or slow, and its batches differ little."""
    pace = rng.lognormvariate(0.5, 0.7)
    return [HOUR_S * pace * rng.lognormvariate(0, 0.2) for _ in range(n)]


def two_kinds(rng: random.Random, n: int) -> Night:
    """One night of four is a night in which OpenAI has hardly any room."""
    slow = rng.random() < 0.25
    return [HOUR_S * (rng.uniform(12, 23) if slow else rng.uniform(0.5, 3)) for _ in range(n)]


KINDS: list[Callable[[random.Random, int], Night]] = [steady, together, two_kinds]


def job_of(n: int) -> Job:
    intent = Intent(nonce="n", at=NOW)
    made = [batch("in_progress", f"b{i}", created_at=NOW) for i in range(n)]
    return job(
        *(
            shard(State.RUNNING, f"0-{i:05}", n_requests=10, model=LUNA, batch=b, intent=intent)
            for i, b in enumerate(made)
        )
    )


def by_task(nights: list[Night], n: int, cut_s: float | None = None) -> EarlierDurations:
    def record(k: int, seconds: float) -> JobRecord:
        is_cut = cut_s is not None and seconds > cut_s
        span = Span(started_at=NOW - DAY_S * k, seconds=cut_s if is_cut and cut_s else seconds, is_cut=is_cut)
        return JobRecord(endpoint="/v1/responses", models=(LUNA,), n_requests=10 * n, span=span)

    return EarlierDurations(jobs=tuple(record(k, max(night)) for k, night in enumerate(nights, 1)))


def by_model(nights: list[Night]) -> EarlierDurations:
    def record(k: int, night: Night) -> ModelRecord:
        spans = tuple(Span(started_at=NOW - DAY_S * k, seconds=seconds) for seconds in night)
        return ModelRecord(endpoint="/v1/responses", batches=spans)

    return EarlierDurations(models={LUNA: tuple(record(k, night) for k, night in enumerate(nights, 1))})


def counted(
    kind: Callable[[random.Random, int], Night],
    made: Callable[[list[Night]], EarlierDurations],
    *,
    n_nights: int,
    n_batches: int,
    after_s: float = 0.0,
    n_before: int | None = None,
) -> Counted:
    """Count over many worlds: some nights to learn from, and one that is held out and runs for so long already."""
    rng = random.Random(20)
    on_paper = job_of(n_batches)
    hits: dict[str, list[bool]] = {"p50": [], "p90": []}
    for _ in range(N_TRIALS):
        earlier = made([kind(rng, n_before or n_batches) for _ in range(n_nights)])
        over_at = NOW + max(kind(rng, n_batches))
        if over_at <= NOW + after_s:
            continue
        forecast = forecast_of(on_paper, earlier, NOW + after_s)
        if forecast is None:
            continue
        if forecast.p50_at is not None:
            hits["p50"].append(over_at <= forecast.p50_at)
        if forecast.p90_at is not None:
            hits["p90"].append(over_at <= forecast.p90_at)
    p50, p90 = (sum(hits[name]) / max(1, len(hits[name])) for name in ("p50", "p90"))
    return Counted(p50, p90, len(hits["p50"]), len(hits["p90"]))


@pytest.mark.parametrize("n_nights", [9, 19, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_nine_of_ten_nights_are_over_before_the_second_moment(
    kind: Callable[[random.Random, int], Night], n_nights: int
) -> None:
    found = counted(kind, lambda nights: by_task(nights, 4), n_nights=n_nights, n_batches=4)
    assert found.told_p50 == found.told_p90 == N_TRIALS
    assert 0.47 <= found.p50 <= 0.56, found
    assert 0.87 <= found.p90 <= 0.94, found


@pytest.mark.parametrize("kind", KINDS)
def test_it_holds_for_jobs_that_run_for_an_hour_and_a_half_already(
    kind: Callable[[random.Random, int], Night],
) -> None:
    found = counted(kind, lambda nights: by_task(nights, 4), n_nights=40, n_batches=4, after_s=1.5 * HOUR_S)
    assert found.told_p90 > 100
    assert 0.43 <= found.p50 <= 0.58, found
    assert 0.87 <= found.p90 <= 0.96, found


@pytest.mark.parametrize("n_batches", [1, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_the_batches_of_other_tasks_tell_the_same(kind: Callable[[random.Random, int], Night], n_batches: int) -> None:
    """They come from jobs of twelve batches, whatever the size of the one that is foretold.

    Where each batch takes its own time, all nights are alike, and the moment is a little later than it need be.
    """
    found = counted(kind, by_model, n_nights=19, n_batches=n_batches, n_before=12)
    assert found.told_p50 > 0.9 * N_TRIALS
    assert 0.42 <= found.p50 <= 0.6, found
    assert 0.87 <= found.p90 <= 0.98, found


def test_nights_that_finish_by_cut_off_do_not_make_the_forecast_too_early() -> None:
    """Every fifth of these nights is cancelled after eight hours. Where nine of ten cannot be known, it is not told."""
    found = counted(two_kinds, lambda nights: by_task(nights, 4, cut_s=8 * HOUR_S), n_nights=40, n_batches=4)
    assert 0.47 <= found.p50 <= 0.56, found
    assert found.told_p90 < 0.05 * N_TRIALS
    left_out = counted(
        two_kinds,
        lambda nights: by_task([night for night in nights if max(night) <= 8 * HOUR_S], 4),
        n_nights=40,
        n_batches=4,
    )
    assert left_out.p90 < 0.8, "to leave them out would be wrong, so this test sees the difference"
