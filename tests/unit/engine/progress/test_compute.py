from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from builders import SNAPSHOT_V1, TIMING, batch, job, shard

from airflow_openai_batch.engine.job.spans import EarlierDurations, JobRecord, Span
from airflow_openai_batch.engine.model import Backoff, Batch, LineError, Shard, Spec, State, Status, Usage
from airflow_openai_batch.engine.progress.compute import look_after, progress_of, with_batches
from airflow_openai_batch.engine.progress.model import (
    Failed,
    Look,
    Phase,
    Progress,
    decoded_look,
    decoded_progress,
    encoded,
)
from airflow_openai_batch.engine.progress.rate import WINDOW_S
from airflow_openai_batch.engine.store.job_store import decode_job

S = State
NOW = 1_000_000.0


def of(*shards: Shard, now: float = NOW, look: Look | None = None, **known: Any) -> Progress:
    return progress_of(job(*shards), now, TIMING, look=look, **known)


def running(name: str, n: int, n_rows: int = 100, status: str = "in_progress", **changes: Any) -> Shard:
    found = batch(status, f"batch_{name}", n_total=n_rows, n_completed=n, **changes)
    return shard(S.RUNNING, name, n_rows=n_rows, n_requests=n_rows, batch=found)


def looks(*moves: tuple[float, int], n_rows: int = 1000, status: str = "in_progress") -> tuple[Progress, Look]:
    """Return the progress of a job with one batch that was looked at several times, and what is remembered of it."""
    made: Progress | None = None
    look: Look | None = None
    for at, n in moves:
        made = of(running("a", n, n_rows, status), now=NOW + at, look=look)
        look = look_after(look, made)
    assert made is not None and look is not None
    return made, look


def seen(*moves: tuple[float, int], n_rows: int = 1000, status: str = "in_progress") -> Progress:
    return looks(*moves, n_rows=n_rows, status=status)[0]


def test_rows_are_done_when_they_have_an_outcome_or_openai_says_so() -> None:
    settled = shard(S.SETTLED, "0-00000", n_rows=10, n_requests=10, tally={Status.SUCCEEDED: 9, Status.FAILED: 1})
    fetched = shard(S.ENDED, "0-00001", n_rows=10, n_requests=10, batch=batch("completed", "b1", n_completed=10))
    unsent = shard(S.UPLOADED, "0-00003", n_rows=10, n_requests=10)
    found = of(settled, fetched, running("0-00002", 4, 10), unsent)
    assert (found.n_rows, found.n_done, found.n_running_done, found.percent) == (40, 24, 4, 60.0)
    assert (found.n_shards, found.n_settled, found.n_unsent, found.n_batches, found.n_running) == (4, 1, 1, 2, 1)
    assert found.by_status == {"succeeded": 9, "failed": 1}
    assert [(b.id, b.n_completed) for b in found.batches] == [("batch_0-00002", 4)]


def test_rows_that_are_asked_again_are_not_done() -> None:
    parent = shard(
        S.SETTLED,
        n_rows=10,
        n_requests=10,
        tally={Status.SUCCEEDED: 6, Status.EXPIRED: 4},
        retryable={Status.EXPIRED: 4},
        child="0-00000.1",
    )
    child = shard(S.RUNNING, "0-00000.1", round=1, n_rows=4, n_requests=4, parent="0-00000", batch=batch("validating"))
    found = of(parent, child)
    assert (found.n_rows, found.n_done, found.round) == (10, 6, 1)


def test_counts_that_lie_never_make_more_rows_than_there_are() -> None:
    found = of(running("a", 500, 100, n_failed=-7))
    assert found.n_done == 100
    over = with_batches(found, {"batch_a": batch("in_progress", "batch_a", n_total=9000, n_completed=9000)}, NOW, None)
    assert over.n_done == 100


@pytest.mark.parametrize(
    ("shards", "phase", "problem"),
    [
        ([running("a", 1)], Phase.WAITING, None),
        ([shard(S.UPLOADED, n_waits=1, problem="The queue is full")], Phase.QUEUED, "The queue is full"),
        ([running("a", 1), shard(S.UPLOADED, "b", n_waits=1, problem="full")], Phase.WAITING, "full"),
    ],
)
def test_the_phase_of_a_job_that_goes_on(shards: list[Shard], phase: Phase, problem: str | None) -> None:
    assert (of(*shards).phase, of(*shards).problem) == (phase, problem)


def test_a_problem_of_a_settled_shard_is_past() -> None:
    assert of(shard(S.SETTLED, problem="old"), running("b", 0)).problem is None


def test_a_problem_is_cut() -> None:
    found = of(running("a", 0), phase=Phase.HELD, problem="x" * 900)
    assert found.problem is not None and len(found.problem) == 500 and found.problem.endswith("…")


@pytest.mark.parametrize(
    ("body", "model"),
    [
        ('{"input":"{text}","model":"gpt-6-luna"}', "gpt-6-luna"),
        ('{"model":"{model}"}', None),
        ('{"model":7}', None),
        ('{"input":"x"}', None),
        ("", None),
        ("callable:0123", None),
        ("[1]", None),
    ],
)
def test_the_model_is_shown_if_it_is_the_same_for_all_rows(body: str, model: str | None) -> None:
    spec = Spec(endpoint="/v1/responses", body=body)
    assert progress_of(job(running("a", 0), spec=spec), NOW, TIMING).model == model


# -- the rate


def test_nothing_is_known_before_the_counts_have_moved_twice() -> None:
    assert seen((0, 0)).rate_per_h is None
    assert seen((0, 0), (60, 0)).rate_per_h is None
    # 100 rows within a minute, or within the hour before it?
    first = seen((0, 0), (60, 100))
    assert (first.rate_per_h, first.eta_at) == (None, None)


def test_the_rate_is_what_came_between_the_first_and_the_last_movement() -> None:
    found = seen((0, 0), (600, 400), (660, 500), (720, 600))
    assert found.rate_per_h == pytest.approx(6000)
    assert found.eta_at == pytest.approx(NOW + 720 + 240)


def test_a_movement_that_is_late_slows_the_rate_and_a_standstill_ends_it() -> None:
    moves = (0, 0), (60, 100), (120, 200), (180, 300)
    rates = [seen(*moves, (at, 300)).rate_per_h for at in (181, 240, 300, 600, 900)]
    known = [rate for rate in rates if rate is not None]
    assert known[0] == known[1] == pytest.approx(6000)
    assert known == sorted(known, reverse=True) and known[-1] < 2000
    assert seen(*moves, (180 + WINDOW_S + 1, 300)).rate_per_h is None


def test_counts_that_go_back_make_no_negative_rate() -> None:
    found = seen((0, 0), (60, 100), (120, 40), (180, 60), (240, 80))
    assert found.rate_per_h == pytest.approx(40 / 180 * 3600)
    assert seen((0, 100), (60, 50), (120, 10)).rate_per_h is None


@pytest.mark.parametrize("status", ["validating", "completed"])
def test_nothing_is_known_while_nothing_is_in_progress(status: str) -> None:
    assert seen((0, 0), (60, 100), (120, 200), status=status).rate_per_h is None


def test_at_the_end_there_is_no_time_left_to_tell() -> None:
    found = seen((0, 0), (60, 500), (120, 1000))
    assert found.rate_per_h is not None
    assert found.eta_at is None


def test_an_hour_of_looks_makes_few_moments_and_the_rate_of_the_last_minutes() -> None:
    slow = [(float(at), at) for at in range(0, 1800, 15)]
    fast = [(1800.0 + at, 1800 + 10 * at) for at in range(0, 1800, 15)]
    found, remembered = looks(*slow, *fast, n_rows=100_000)
    assert len(remembered.moments) <= 22
    assert found.rate_per_h == pytest.approx(36_000, rel=0.02)


# -- what a trigger sees


def base(*shards: Shard) -> Progress:
    return of(shard(S.SETTLED, "s", n_rows=50, n_requests=50, tally={Status.SUCCEEDED: 50}), *shards)


def watched(at: Progress, *batches: Batch, now: float, before: Progress | None = None) -> Progress:
    """Return what a trigger sees of a job, some time after the last look at it."""
    return with_batches(at, {b.id: b for b in batches}, now, look_after(look_after(None, at), before or at))


def test_what_is_seen_of_batches_is_laid_over_what_the_worker_left() -> None:
    left = base(running("a", 10), running("b", 20))
    a, b = batch("in_progress", "batch_a", n_total=100, n_completed=30), batch("completed", "batch_b", n_total=100)
    b = msgspec.structs.replace(b, n_completed=95, n_failed=5)
    one = watched(left, a, now=NOW + 60)
    assert (one.n_done, one.n_running, one.phases_s["wait"]) == (100, 2, left.phases_s["wait"] + 60)
    assert {found.id: found.n_completed for found in one.batches} == {"batch_a": 30, "batch_b": 20}
    both = watched(left, a, b, now=NOW + 120, before=one)
    assert (both.n_done, both.n_running, both.n_ended) == (180, 1, 1)
    assert [found.id for found in both.batches] == ["batch_a"]
    assert both.rate_per_h == pytest.approx(80 / 60 * 3600)
    assert both.by_status == {"succeeded": 50}


def test_of_many_batches_those_not_yet_looked_at_are_not_forgotten() -> None:
    left = base(*(running(f"{i:03}", 10) for i in range(100)))
    assert (len(left.batches), left.n_running, left.n_done) == (20, 100, 1050)
    few = watched(
        left, *(batch("in_progress", f"batch_{i:03}", n_total=100, n_completed=20) for i in range(10)), now=NOW
    )
    assert few.n_done == 1050
    made = [batch("in_progress", f"batch_{i:03}", n_total=100, n_completed=11) for i in range(100)]
    assert watched(left, *made, now=NOW + 60, before=few).n_done == 50 + 1100


def test_only_what_a_person_would_see_is_a_change() -> None:
    left = base(running("a", 10))
    same = watched(left, batch("in_progress", "batch_a", n_total=100, n_completed=10), now=NOW + 60)
    assert not same.is_other_than(left)
    more = watched(left, batch("in_progress", "batch_a", n_total=100, n_completed=11), now=NOW + 60)
    assert more.is_other_than(left)
    fast = seen((0, 0), (60, 100), (120, 200))
    assert seen((0, 0), (60, 100), (120, 200), (150, 200)).is_other_than(fast) is False
    assert seen((0, 0), (60, 100), (120, 200), (600, 200)).is_other_than(fast) is True


# -- time


def with_work(now: float, **changes: Any) -> dict[str, float]:
    work_s = {"build": 7.0, "upload": 3.0, "create": 2.0, "look": 1.0, "refresh": 5.0, "harvest": 4.0, "reshard": 1.0}
    on_paper = job(running("a", 0), created_at=NOW, work_s=work_s, committed_at=NOW + 50, **changes)
    return progress_of(on_paper, now, TIMING).phases_s


def test_waiting_is_what_is_left_of_the_time() -> None:
    assert with_work(NOW + 100) == {"build": 7.0, "upload": 3.0, "create": 3.0, "wait": 89.0, "harvest": 5.0}
    assert with_work(NOW + 1)["wait"] == 0.0


def test_waiting_ends_when_the_last_outcome_is_known() -> None:
    ended = batch("completed", created_at=NOW, ended_at=NOW + 40)
    on_paper = job(shard(S.SETTLED, batch=ended), created_at=NOW, committed_at=NOW + 50, work_s={"harvest": 10.0})
    found = progress_of(on_paper, NOW + 5000, TIMING, phase=Phase.WRITTEN, results_s=2.0)
    assert found.phases_s["wait"] == 40.0
    assert found.phases_s["results"] == 2.0


@pytest.mark.parametrize(
    ("spans", "waited_s"),
    [
        ([(0, 100)], 100),
        ([(0, 100), (50, 150)], 150),
        ([(0, 100), (3600, 3700)], 200),  # a second round that a person began an hour later
        ([(0, 100), (20, 30)], 100),
        ([(-500, 100)], 100),  # a server whose clock is slow
        ([], 0),  # held, and never sent
    ],
)
def test_only_time_at_openai_is_a_wait_for_it(spans: list[tuple[float, float]], waited_s: float) -> None:
    shards = [
        shard(S.SETTLED, str(i), batch=batch("completed", created_at=NOW + start, ended_at=NOW + end))
        for i, (start, end) in enumerate(spans)
    ] or [shard(S.UPLOADED)]
    on_paper = job(*shards, created_at=NOW, committed_at=NOW + 86_400)
    assert progress_of(on_paper, NOW + 9e6, TIMING, phase=Phase.WRITTEN).phases_s["wait"] == waited_s
    held = progress_of(on_paper, NOW + 9e6, TIMING, phase=Phase.HELD)
    assert held.phases_s["wait"] == waited_s, "nobody waits while a person is waited for"


def test_a_full_queue_is_waited_for() -> None:
    waiting = job(shard(S.UPLOADED, backoff=Backoff(n_waits=2, n_full=2)), created_at=NOW)
    assert progress_of(waiting, NOW + 500, TIMING).phases_s["wait"] == 500


def test_no_time_is_counted_in_a_job_of_an_older_version() -> None:
    loaded = decode_job(SNAPSHOT_V1.read_bytes())
    assert loaded.work_s == {}
    assert progress_of(loaded, loaded.created_at + 9, TIMING).phases_s["wait"] == 9.0


# -- the value


def worst() -> Progress:
    """The largest progress that can be."""
    shards = [running(f"0-{i:05}-{'x' * 30}", 49_999, 50_000) for i in range(100)]
    errors = tuple(Failed(status="truncated", code="c" * 60, n=10**6, custom_ids=("i" * 64,) * 3) for _ in range(10))
    return of(*shards, problem="p" * 900, errors=errors, output="s3://" + "o" * 200, host="h" * 60)


def test_it_survives_xcom_and_a_triggers_arguments() -> None:
    for made in (worst(), of(running("a", 3)), seen((0, 0), (60, 100), (120, 200))):
        value = json.loads(json.dumps(encoded(made)))
        assert decoded_progress(value) == made
    assert isinstance(encoded(worst())["batches"], list)


def test_every_field_of_the_contract_is_there_even_where_it_has_its_default() -> None:
    value = encoded(of(running("a", 0)))
    assert {"version", "problem", "expires_at", "live", "rate_per_h", "eta_at", "errors", "output"} <= set(value)
    assert value["job"]["map_index"] == -1
    assert value["usage"] == dict.fromkeys(Usage.__struct_fields__, 0)
    assert (value["cost"], value["cost_of_bad_rows"], value["saved"], value["rows_without_price"]) == (None, 0, 0, 0)


def test_it_is_small() -> None:
    waiting = msgspec.structs.replace(worst(), errors=(), output=None)
    assert len(json.dumps(encoded(waiting))) < 6000
    written = msgspec.structs.replace(worst(), batches=())
    assert len(json.dumps(encoded(written))) < 6000


@pytest.mark.parametrize("value", [None, {}, [], "x", {"version": 1}, {**encoded(of(running("a", 0))), "version": 2}])
def test_what_is_no_progress_of_ours_is_nothing(value: Any) -> None:
    assert decoded_progress(value) is None


def test_what_a_trigger_saw_goes_on_where_it_measured() -> None:
    seen_by_trigger = decoded_look(json.loads(json.dumps(encoded(looks((0, 0), (60, 100), (120, 200))[1]))))
    after = progress_of(job(running("a", 300, 1000)), NOW + 180, TIMING, look=seen_by_trigger)
    assert after.rate_per_h == pytest.approx(6000)
    assert decoded_look(None) is decoded_look({"n_done": "many"}) is decoded_look([]) is None


def test_fields_of_a_version_to_come_are_no_hindrance() -> None:
    made = of(running("a", 0))
    assert decoded_progress({**encoded(made), "some_new_field": 1}) == made


def test_no_content_of_rows_is_in_it() -> None:
    spec = Spec(endpoint="/v1/responses", body='{"instructions":"a secret prompt","model":"m"}')
    refused = shard(
        S.REJECTED,
        rejections=(LineError(code="invalid", message="m", custom_id="t-1"),),
        usage=Usage(input_tokens=1),
    )
    assert "secret" not in json.dumps(encoded(progress_of(job(refused, spec=spec), NOW, TIMING)))


def test_a_forecast_goes_with_a_job_that_waits_and_stays_true_while_the_trigger_looks() -> None:
    span = Span(started_at=NOW - 86_400, seconds=3600)
    record = JobRecord(endpoint="/v1/responses", models=("gpt-6-luna",), n_requests=100, span=span)
    longer = [
        msgspec.structs.replace(record, span=Span(started_at=NOW - 86_400 * k, seconds=3600.0 * k))
        for k in range(1, 20)
    ]
    earlier = EarlierDurations(jobs=tuple(longer))
    waiting = msgspec.structs.replace(running("a", 5, created_at=NOW), model="gpt-6-luna")
    made = progress_of(job(waiting), NOW, TIMING, earlier=earlier)
    assert made.forecast is not None and made.forecast.p50_at == NOW + 10 * 3600
    assert decoded_progress(encoded(made)) == made
    later = with_batches(made, {}, NOW + 9.5 * 3600, None)
    assert later.forecast is not None and later.forecast.p50_at == NOW + 15 * 3600 and later.forecast.n_shorter == 9
    for phase in (Phase.HELD, Phase.DONE, Phase.WRITTEN, Phase.PLANNED):
        assert progress_of(job(waiting), NOW, TIMING, earlier=earlier, phase=phase).forecast is None
    assert progress_of(job(waiting), NOW, TIMING).forecast is None


def test_the_moment_of_finish_by_is_told_once_jobs_have_one() -> None:
    assert of(running("a", 5)).finish_at is None


def test_a_batch_that_runs_tells_when_it_began_to() -> None:
    assert of(running("a", 5, in_progress_at=NOW - 60)).batches[0].in_progress_at == NOW - 60
