"""When a job will be over, by how long earlier ones took."""

from __future__ import annotations

from typing import Any

import pytest
from builders import batch, job, shard

from airflow_openai_batch.engine.job.spans import EarlierDurations, JobRecord, ModelRecord, Span, is_near
from airflow_openai_batch.engine.model import Intent, Job, Policy, Shard, State
from airflow_openai_batch.engine.progress.forecast import Forecast, as_of, forecast_of, forecast_text

S = State
DAY_S, HOUR_S, MIN_S = 86_400.0, 3600.0, 60.0
NOW = 20_000 * DAY_S + 22 * HOUR_S
"""22:00 UTC."""

LUNA = "gpt-6-luna"


def night(seconds: float, n_requests: int = 100, started_at: float = NOW - DAY_S, **span: Any) -> JobRecord:
    """A job of the same task, and how long it took."""
    times = Span(started_at=started_at, seconds=seconds, **span)
    return JobRecord(endpoint="/v1/responses", models=(LUNA,), n_requests=n_requests, span=times)


def nights(*hours: float, **record: Any) -> EarlierDurations:
    return EarlierDurations(jobs=tuple(night(hour * HOUR_S, **record) for hour in hours))


def others(*batches: list[float], started_at: float = NOW - DAY_S, is_cut: bool = False) -> EarlierDurations:
    """Jobs of other tasks with the hours that their batches took."""
    spans = [tuple(Span(started_at=started_at, seconds=h * HOUR_S, is_cut=is_cut) for h in one) for one in batches]
    return EarlierDurations(models={LUNA: tuple(ModelRecord(endpoint="/v1/responses", batches=one) for one in spans)})


def running(name: str = "0-00000", n: int = 100, created_at: float = NOW, model: str = LUNA) -> Shard:
    intent = Intent(nonce="nonce", at=created_at)
    made = batch("in_progress", f"batch_{name}", created_at=created_at)
    return shard(S.RUNNING, name, n_rows=n, n_requests=n, model=model, batch=made, intent=intent)


def planned(name: str = "0-00000", n: int = 100, **changes: Any) -> Shard:
    return shard(S.PLANNED, name, n_rows=n, n_requests=n, model=LUNA, **changes)


def hours(forecast: Forecast | None) -> tuple[float | None, float | None]:
    """The two moments in hours from 22:00."""
    assert forecast is not None
    return tuple(None if at is None else round((at - NOW) / HOUR_S, 6) for at in (forecast.p50_at, forecast.p90_at))  # type: ignore[return-value]


def of(earlier: EarlierDurations, now: float = NOW, *shards: Shard, **changes: Any) -> Forecast | None:
    return forecast_of(job(*(shards or (running(),)), **changes), earlier, now)


NINE = (1, 2, 3, 4, 5, 6, 7, 8, 9)


def test_half_of_nine_nights_and_nine_of_ten() -> None:
    found = of(nights(*NINE))
    assert hours(found) == (5, 9)
    assert found is not None and (found.basis, found.n_earlier, found.n_shorter) == ("jobs", 9, 0)


def test_with_five_nights_only_the_half_is_told_and_with_four_nothing() -> None:
    assert hours(of(nights(1, 2, 3, 4, 5))) == (3, None)
    assert of(nights(1, 2, 3, 4)) is None
    assert of(EarlierDurations()) is None


def test_nights_that_were_over_sooner_count_no_more() -> None:
    found = of(nights(*range(1, 20)), NOW + 10.5 * HOUR_S)
    assert hours(found) == (15, 19) and found is not None and (found.n_shorter, found.n_earlier) == (10, 19)
    late = of(nights(*NINE), NOW + 8.5 * HOUR_S)
    assert hours(late) == (9, None)
    later = of(nights(*NINE), NOW + 10 * HOUR_S)
    assert hours(later) == (None, None)
    assert forecast_text(later, NOW) == "takes longer than 9 of 9 earlier runs"


def test_a_forecast_that_is_looked_at_later_is_the_same_as_one_made_then() -> None:
    for earlier in (nights(*range(1, 20)), others(*[[h] for h in range(1, 20)])):
        made = of(earlier)
        assert made is not None
        for passed in (0.5, 3, 10.2, 18.5, 30):
            again, fresh = as_of(made, NOW + passed * HOUR_S), of(earlier, NOW + passed * HOUR_S)
            assert fresh is not None
            assert hours(again) == hours(fresh)
            assert again.n_shorter == fresh.n_shorter


def test_a_night_of_another_size_or_hour_says_nothing() -> None:
    assert of(nights(*NINE, n_requests=301)) is None
    assert of(nights(*NINE, n_requests=33)) is None
    assert of(nights(*NINE, n_requests=300)) is not None
    assert of(nights(*NINE, started_at=NOW - 10 * HOUR_S)) is None
    assert of(nights(*NINE, started_at=NOW - DAY_S + 2 * HOUR_S)) is not None, "midnight lies between 22 and 0 o'clock"
    assert is_near(23, 1) and is_near(1, 23) and not is_near(23, 2)


def test_a_night_that_was_cancelled_took_longer_than_it_did() -> None:
    """Those that finish_by cut off at 6 h are not taken for nights of 6 h, nor left out as if they had not been."""
    whole = nights(1, 2, 3, 4, 5, 6, 7, 8, 9)
    cut = EarlierDurations(jobs=(*nights(1, 2, 3, 4, 5).jobs, *nights(6, 6, 6, 6, is_cut=True).jobs))
    assert hours(of(whole)) == (5, 9)
    assert hours(of(cut)) == (5, None)
    assert of(EarlierDurations(jobs=nights(6, 6, 6, 6, 6, is_cut=True).jobs)) is None


def test_the_first_of_its_task_learns_from_the_batches_of_others() -> None:
    found = of(others(*[[hour] for hour in NINE]))
    assert hours(found) == (5, 9)
    assert found is not None and (found.basis, found.n_earlier) == ("batches", 9)


def test_the_last_of_many_batches_is_later_than_the_only_one() -> None:
    spread = others(*[[hour, hour + 1, hour + 2, hour + 3] for hour in range(1, 20)])
    one = of(spread)
    many = of(spread, NOW, *(running(f"0-0000{i}") for i in range(8)))
    assert one is not None and many is not None and one.p50_at is not None
    assert (many.p50_at or 0) > one.p50_at


def test_batches_of_one_night_are_one_night_however_many_there_were() -> None:
    assert of(others([1.0 * i for i in range(1, 100)])) is None


def test_all_batches_cut_off_say_nothing() -> None:
    assert of(others(*[[hour] for hour in NINE], is_cut=True)) is None


def test_a_job_with_something_left_to_send_is_not_told_by_batches() -> None:
    earlier = others(*[[hour] for hour in NINE])
    assert of(earlier, NOW, running(), planned("0-00001")) is None
    assert of(earlier, NOW, planned("0-00000", is_pilot=True), planned("0-00001")) is None
    assert of(earlier, NOW, planned(), planned("0-00001"), policy=Policy(max_enqueued_tokens=9)) is None


def test_a_plan_is_told_as_if_it_were_sent_now() -> None:
    assert hours(of(nights(*NINE), NOW, planned())) == (5, 9)
    assert hours(of(others(*[[hour] for hour in NINE]), NOW, planned())) == (5, 9)


def test_a_job_that_asks_several_models_is_over_when_the_slowest_is() -> None:
    fast, slow = others(*[[hour / 10] for hour in NINE]).models[LUNA], others(*[[hour] for hour in NINE]).models[LUNA]
    both = EarlierDurations(models={LUNA: fast, "gpt-6-sol": slow})
    assert hours(of(both, NOW, running(), running("0-00001", model="gpt-6-sol"))) == (5, 9)
    assert of(EarlierDurations(models={LUNA: fast}), NOW, running(), running("0-00001", model="gpt-6-sol")) is None


def test_what_is_over_or_asked_again_by_a_person_or_of_no_known_model_has_no_forecast() -> None:
    settled = shard(S.SETTLED, n_requests=100, model=LUNA)
    assert of(nights(*NINE), NOW, settled) is None
    again = shard(S.SETTLED, "0-00001", n_requests=100, model=LUNA, is_replayed=True)
    assert of(nights(*NINE), NOW, running(), again) is None
    nameless = shard(S.RUNNING, n_requests=100, model=None, batch=batch("in_progress", created_at=NOW))
    assert of(nights(*NINE), NOW, nameless) is None


def test_a_broken_record_of_no_or_negative_length_is_left_out() -> None:
    assert hours(of(nights(*NINE, -3, 0))) == (5, 9)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, ""),
        (nights(1, 2, 3, 4, 5), "probably over at 01:00 UTC the next day"),
        (
            nights(*[h / 60 for h in range(10, 100, 10)]),
            "probably over at 22:50 UTC, nine of ten before 23:30",
        ),
        (nights(*NINE), "probably over at 03:00 UTC the next day, nine of ten before 07:00 the next day"),
    ],
)
def test_in_words(found: EarlierDurations | None, text: str) -> None:
    assert forecast_text(of(found) if found is not None else None, NOW) == text


def test_a_forecast_of_many_batches_over_many_nights_is_small_and_quickly_made() -> None:
    import msgspec

    many = others(*[[1 + i / 7 + h / 90 for h in range(100)] for i in range(40)])
    big: Job = job(*(running(f"0-{i:05}", created_at=NOW + i) for i in range(300)))
    found = forecast_of(big, many, NOW + HOUR_S)
    assert found is not None and found.p90_at is not None
    assert len(found.steps) <= 40 and len(msgspec.json.encode(found)) < 2500
