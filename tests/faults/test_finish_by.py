"""finish_by: at the moment batches are cancelled, their answers used, and the rest is asked synchronously."""

from __future__ import annotations

import re
import shutil
import threading
from collections import Counter
from typing import Any

import msgspec
import pytest

from airflow_openai_batch.emulator import Raw
from airflow_openai_batch.engine.errors import CommitRefused, InputError, StoreError
from airflow_openai_batch.engine.job.advance import advance
from airflow_openai_batch.engine.job.commands import cancel, resume
from airflow_openai_batch.engine.job.status import Done, Held, Wait
from airflow_openai_batch.engine.job.submit import submit
from airflow_openai_batch.engine.job.waiting import begin_waiting
from airflow_openai_batch.engine.model import Job, Policy, State, Status, Timing
from airflow_openai_batch.engine.progress.compute import progress_of
from airflow_openai_batch.engine.progress.log_format import line, table

BODY = {"model": "gpt-6-luna", "input": "Label: {text}", "max_output_tokens": 1000}
N_ROWS, PER_SHARD = 40, 10
FINISH = Policy(finish_by="6 h", finish_parallel=4)
SIX_HOURS = 6 * 3600.0
ASKED = ("POST", "/v1/responses")
STUCK = {"expire_at": {"fraction": 0.6}}
"""A batch that answers 60 of 100 rows, and then nothing more before it expires."""


def start(w, rows=N_ROWS, *, policy: Policy = FINISH, engine=None, after_s: float = SIX_HOURS, **args):
    given = {"body": BODY, "per_shard": PER_SHARD, **args}
    return submit(engine or w.engine(), w.request(rows, **given), policy, finish_at=lambda now: now + after_s)


def long_answers(endpoint, body):
    """Answer each row with as many tokens as it may have."""
    return Raw(
        {
            "model": body["model"],
            "status": "completed",
            "output": [{"type": "message", "content": [{"type": "output_text", "text": "fine"}]}],
            "usage": {"input_tokens": 10, "output_tokens": 1000},
        }
    )


def stuck_world(world, **settings):
    w = world(duration=3600, finalizing=60, **settings)
    w.fault("batch", STUCK)
    return w


def until_the_moment(w) -> None:
    """Let the job go on as workers and triggers would, up to the moment of finish_by."""
    while w.clock.now() < w.job.finish_at:
        reached = w.advance()
        assert isinstance(reached, Wait), reached
        assert reached.wake_at <= w.job.finish_at, "the trigger wakes a worker at the moment"
        w.clock.advance(max(1.0, min(reached.wake_at - w.clock.now(), 900.0)))


def n_asked(w) -> int:
    return w.n_calls(*ASKED)


def paid(w) -> Counter[int]:
    """How often each request was paid for, in whatever way."""
    return Counter(row.body_hash for row in w.emu.ledger.rows())


def n_paid_twice(w) -> int:
    return sum(n - 1 for n in paid(w).values())


def assert_all_answered_once(w, n: int = N_ROWS) -> None:
    assert w.statuses() == {f"t-{i}": "succeeded" for i in range(n)}
    assert len(paid(w)) == n
    assert set(paid(w).values()) == {1}
    assert w.job.n_maybe_paid_twice == 0
    assert w.emu.ledger.live_batches() == []


def test_every_row_has_an_answer_soon_after_the_moment(world, caplog) -> None:
    caplog.set_level("INFO")
    w = stuck_world(world)
    start(w)
    until_the_moment(w)
    assert n_asked(w) == 0
    summary = w.done(step_s=60)
    assert w.hours <= 6.1
    assert_all_answered_once(w)
    table_ = w.table()
    via = Counter(row["via"] for row in table_)
    assert via == {"batch": 24, "direct": 16}
    assert n_asked(w) == 16
    assert summary.n_direct == 16
    # What the batches had answered is used, and each way has its own price.
    invoice = w.emu.ledger.invoice()
    assert summary.cost.picodollars == invoice.picodollars == round(sum(float(r["cost"]) for r in table_) * 1e12)
    assert summary.direct_picodollars == w.emu.ledger.invoice("direct").picodollars
    assert {row["batch_id"] is None for row in table_ if row["via"] == "direct"} == {True}
    assert "asking 4 requests synchronously (service tier default, 4 at a time)" in caplog.text
    assert "ticket" not in caplog.text


def test_flex_is_asked_and_priced_as_flex(world) -> None:
    w = stuck_world(world)
    start(w, policy=msgspec.structs.replace(FINISH, finish_tier="flex"))
    until_the_moment(w)
    summary = w.done(step_s=60)
    assert_all_answered_once(w)
    assert summary.cost.picodollars == w.emu.ledger.invoice().picodollars
    costs = {(row["via"], row["input_tokens"], row["output_tokens"]): row["cost"] for row in w.table()}
    assert {key[0] for key in costs} == {"batch", "direct"}


def test_rows_that_were_never_sent_are_asked(world) -> None:
    """OpenAI's queue is full all night."""
    w = world()
    w.fault("batch", {"queue_limit": {"requests": 5}})
    start(w)
    until_the_moment(w)
    w.done(step_s=60)
    assert w.hours <= 6.1
    assert_all_answered_once(w)
    assert n_asked(w) == N_ROWS
    assert {row["via"] for row in w.table()} == {"direct"}


def test_a_job_that_is_done_before_asks_nothing(world) -> None:
    w = world()
    start(w)
    assert w.done().n_direct == 0
    assert w.hours < 2
    assert n_asked(w) == 0
    w.assert_paid_once(N_ROWS)
    w.clock.advance(SIX_HOURS)
    assert isinstance(w.advance(), Done)
    assert n_asked(w) == 0


def test_without_a_moment_nothing_changes(world) -> None:
    w = stuck_world(world)
    start(w, policy=Policy(max_rounds=0))
    assert w.job.finish_at is None
    summary = w.done()
    assert w.hours >= 24
    assert n_asked(w) == 0
    assert summary.by_status == {Status.SUCCEEDED: 24, Status.EXPIRED: 16}


@pytest.mark.parametrize("max_rounds", [0, 2])
def test_what_is_cut_short_is_asked_whatever_the_rounds_and_only_once(world, max_rounds) -> None:
    w = stuck_world(world)
    w.fault(" ".join(ASKED), {"status": {"code": 400}}, match={"body": "ticket 9"})
    start(w, policy=msgspec.structs.replace(FINISH, max_rounds=max_rounds))
    until_the_moment(w)
    summary = w.done(step_s=60)
    n_bad = summary.by_status.get(Status.FAILED, 0)
    assert n_bad <= 1
    assert summary.n_succeeded == N_ROWS - n_bad
    assert n_asked(w) == 16
    assert max(row["round"] for row in w.table()) == 1


def test_the_moment_before_anything_is_sent(world) -> None:
    w = world()
    start(w, after_s=60)
    w.clock.advance(61)
    assert isinstance(w.advance(), Done)
    assert w.batches == []
    assert w.n_calls("POST", "/v1/files") == 0
    assert_all_answered_once(w)


def test_the_moment_passes_while_batches_are_sent(world) -> None:
    """The first batch is created, and then the worker is slow."""
    w = world()
    engine = w.engine()
    start(w, engine=engine, after_s=60)
    create = engine.api.create

    def slow(**args):
        w.clock.advance(40)
        return create(**args)

    engine.api.create = slow
    advance(engine)
    w.done(step_s=60)
    assert 0 < len(w.batches) < N_ROWS // PER_SHARD
    assert_all_answered_once(w)


@pytest.mark.parametrize("at", range(1, 60))
def test_killed_after_any_commit_or_call(world, fate, killed, at) -> None:
    """At most what was on its way is paid twice, and it is counted."""
    w = stuck_world(world)
    start(w, 20)
    until_the_moment(w)
    death = fate(at)
    mortal = w.mortal(death)
    try:
        while isinstance(reached := advance(mortal), Wait):
            w.clock.advance(max(1.0, min(reached.wake_at - w.clock.now(), 60.0)))
    except killed:
        pass
    w.done(step_s=60)
    assert w.statuses() == {f"t-{i}": "succeeded" for i in range(20)}
    assert n_paid_twice(w) <= w.job.n_maybe_paid_twice <= 4
    if not death.has_struck:
        assert n_paid_twice(w) == 0


def test_a_worker_that_died_is_waited_for_as_long_as_its_lease(world, fate, killed) -> None:
    w = stuck_world(world)
    w.fault("batch", STUCK)
    start(w, policy=msgspec.structs.replace(FINISH, max_rounds=0))
    until_the_moment(w)
    w.advance()
    w.clock.advance(120)
    death = fate(10_000)
    mortal = w.mortal(death)
    ask, all_asked = mortal.api.ask, threading.Barrier(FINISH.finish_parallel)

    def dies(*args):
        ask(*args)
        all_asked.wait()
        raise killed

    object.__setattr__(mortal.api, "ask", dies)
    with pytest.raises(killed):
        advance(mortal)
    n_before = n_asked(w)
    assert n_before == 4
    reached = w.advance()
    assert isinstance(reached, Wait)
    assert n_asked(w) == n_before, "another process may be at it"
    assert w.clock.now() < reached.wake_at <= w.clock.now() + Timing().lease_s
    w.clock.advance(reached.wake_at - w.clock.now())
    summary = w.done(step_s=60)
    assert w.statuses() == {f"t-{i}": "succeeded" for i in range(N_ROWS)}
    assert 0 < n_paid_twice(w) <= summary.n_maybe_paid_twice <= 4
    text = table(progress_of(w.job, w.clock.now(), w.timing, phase="written"))
    assert f"up to {summary.n_maybe_paid_twice} may have been paid twice" in text


def test_two_workers_at_once_pay_once(world) -> None:
    w = stuck_world(world)
    start(w)
    until_the_moment(w)
    w.advance()
    w.clock.advance(120)
    meeting = threading.Barrier(2)

    def work() -> None:
        meeting.wait()
        advance(w.engine())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    w.done(step_s=60)
    assert_all_answered_once(w)


def test_a_frozen_worker_sends_nothing_when_it_wakes(world) -> None:
    """It is frozen between two requests for longer than its lease; another goes on meanwhile."""
    w = stuck_world(world)
    start(w, policy=msgspec.structs.replace(FINISH, finish_parallel=1))
    until_the_moment(w)
    w.advance()
    w.clock.advance(120)
    sleeper = w.engine()
    ask, n = sleeper.api.ask, 0

    def ask_and_freeze(*args):
        nonlocal n
        n += 1
        reply = ask(*args)
        if n == 3:
            w.clock.advance(w.timing.lease_s + 1)
            assert isinstance(advance(w.engine()), Done)
        return reply

    sleeper.api.ask = ask_and_freeze
    advance(sleeper)
    assert n == 3
    w.done(step_s=60)
    assert w.statuses() == {f"t-{i}": "succeeded" for i in range(N_ROWS)}
    assert n_paid_twice(w) <= 1 == w.job.n_maybe_paid_twice


@pytest.mark.parametrize("limits", [{"requests_per_minute": 6}, {"tokens_per_minute": 120}])
def test_rate_limits_are_obeyed(world, limits) -> None:
    w = stuck_world(world)
    start(w)
    until_the_moment(w)
    for name, value in limits.items():
        setattr(w.emu.settings, name, value)
    w.done(step_s=60)
    assert_all_answered_once(w)
    refused = [call for call in w.emu.ledger.calls if call.path == "/v1/responses" and call.status == 429]
    assert len(refused) <= 8, "the headers tell when nothing is left"


def test_a_storm_of_429_frees_the_worker_and_gives_up_no_row(world) -> None:
    w = stuck_world(world)
    w.fault(" ".join(ASKED), {"status": {"code": 429, "error": {"code": "rate_limit_exceeded"}}}, lasts=3 * 3600)
    start(w)
    until_the_moment(w)
    waits = 0
    while isinstance(reached := w.advance(), Wait):
        waits += 1
        w.clock.advance(max(1.0, min(reached.wake_at - w.clock.now(), 900.0)))
    assert isinstance(reached, Done)
    assert 9 <= w.hours <= 11
    assert waits < 60
    assert_all_answered_once(w)
    assert n_asked(w) < 16 + 100, "it is not asked again and again"


def test_retry_after_holds_all_back(world) -> None:
    w = stuck_world(world)
    w.fault(" ".join(ASKED), {"status": {"code": 429, "retry_after": 30}}, times=1)
    start(w, policy=msgspec.structs.replace(FINISH, finish_parallel=1))
    until_the_moment(w)
    w.done(step_s=60)
    times = [call.at for call in w.emu.ledger.calls if call.path == "/v1/responses"]
    assert times[1] - times[0] >= 30
    assert_all_answered_once(w)


def test_a_row_that_is_refused_while_others_are_answered_is_given_up(world) -> None:
    """OpenAI: a request larger than the limit of a minute gets a 429, every time."""
    w = world()
    w.fault(" ".join(ASKED), {"status": {"code": 429}}, match={"body": "ticket 7\\b"})
    start(w, 12, after_s=60)
    w.clock.advance(61)
    summary = w.done(step_s=60)
    assert summary.by_status == {Status.SUCCEEDED: 11, Status.FAILED: 1}
    assert w.statuses()["t-7"] == "failed"
    assert n_asked(w) <= 12 + 8


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_error_is_asked_again_and_not_counted_as_paid(world, status) -> None:
    w = world()
    w.fault(" ".join(ASKED), {"status": {"code": status}}, times=6)
    start(w, 12, after_s=60)
    w.clock.advance(61)
    w.done(step_s=60)
    assert_all_answered_once(w, 12)


@pytest.mark.parametrize(
    "fault", ["drop_response", {"status": {"code": 504, "html": True, "after": True}}, {"cut_body": 0.5}]
)
def test_an_answer_that_is_lost_after_it_was_billed_is_counted(world, fate, fault) -> None:
    w = world()
    w.fault(" ".join(ASKED), fault, times=3)
    start(w, 12, after_s=60)
    w.clock.advance(61)
    summary = w.done(step_s=60)
    assert summary.n_succeeded == 12
    assert n_paid_twice(w) == 3 == summary.n_maybe_paid_twice


def test_a_row_whose_answer_is_always_lost_is_given_up(world) -> None:
    w = world()
    w.fault(" ".join(ASKED), "drop_response", match={"body": "ticket 7\\b"})
    start(w, 12, after_s=60)
    w.clock.advance(61)
    summary = w.done(step_s=60)
    assert summary.by_status == {Status.SUCCEEDED: 11, Status.FAILED: 1}
    (row,) = [row for row in w.table() if row["status"] == "failed"]
    assert row["error_code"] == "answer_lost"
    assert n_paid_twice(w) == 2 == summary.n_maybe_paid_twice


def test_a_cap_holds_and_raising_it_goes_on(world) -> None:
    w = stuck_world(world, answer=long_answers)
    start(w, policy=msgspec.structs.replace(FINISH, max_cost=10**12))
    until_the_moment(w)
    w.advance()
    w.clock.advance(120)
    spent = w.emu.ledger.invoice().picodollars
    cap = spent + 3_500 * 500_000  # room for three answers
    start(w, policy=msgspec.structs.replace(FINISH, max_cost=cap))
    reached = w.finish(step_s=60)
    assert isinstance(reached, Held)
    assert reached.limit is not None and reached.limit.by == "cap"
    assert "the next synchronous request may cost" in reached.reason
    assert w.emu.ledger.invoice().picodollars <= cap
    n_before = n_asked(w)
    assert n_before == 3
    assert isinstance(w.advance(), Held)
    assert n_asked(w) == n_before
    start(w, policy=msgspec.structs.replace(FINISH, max_cost=10**12))
    w.done(step_s=60)
    assert_all_answered_once(w)
    assert n_asked(w) == 16


@pytest.mark.parametrize("seed", range(10))
def test_the_cap_is_never_passed(world, seed) -> None:
    w = stuck_world(world, seed=seed, answer=long_answers)
    start(w, policy=msgspec.structs.replace(FINISH, max_cost=10**12))
    until_the_moment(w)
    w.advance()
    w.clock.advance(120)
    cap = w.emu.ledger.invoice().picodollars + (seed + 1) * 700 * 500_000
    start(w, policy=msgspec.structs.replace(FINISH, max_cost=cap))
    if seed % 2:
        w.fault(" ".join(ASKED), "drop_response", times=2)
    reached = w.finish(step_s=60)
    assert w.emu.ledger.invoice().picodollars <= cap
    assert isinstance(reached, Done | Held)


def test_a_cap_without_a_synchronous_price_is_refused_before_anything_is_sent(world) -> None:
    w = world()
    prices = {"mine": {"input": 1, "output": 2, "standard": {"input": 2, "output": 4}}}
    policy = Policy(finish_by="6 h", finish_tier="flex", max_cost=10**12, prices=prices)
    with pytest.raises(InputError, match="finish_by needs to know what 'mine' costs synchronously"):
        start(w, body={**BODY, "model": "mine"}, policy=policy)
    assert w.emu.ledger.calls == []
    start(w, body={**BODY, "model": "mine"}, policy=msgspec.structs.replace(policy, finish_tier="default"))


def test_a_moment_that_has_passed_is_refused(world) -> None:
    w = world()
    with pytest.raises(InputError, match="that moment has passed"):
        start(w, after_s=-1)
    assert w.store.load() is None


def test_a_pilot_comes_first_also_when_it_is_asked_synchronously(world) -> None:
    w = world()
    start(w, policy=msgspec.structs.replace(FINISH, pilot_rows=3), after_s=60)
    w.clock.advance(61)
    w.done(step_s=60)
    assert_all_answered_once(w)


def test_a_bad_pilot_holds_the_rest(world) -> None:
    w = world()
    w.fault(" ".join(ASKED), {"status": {"code": 400}})
    start(w, policy=msgspec.structs.replace(FINISH, pilot_rows=3), after_s=60)
    w.clock.advance(61)
    assert "The pilot of 3 rows is not good enough" in w.held()
    assert n_asked(w) == 3


def test_a_person_cancels_while_it_is_asked(world) -> None:
    w = stuck_world(world)
    start(w, policy=msgspec.structs.replace(FINISH, finish_parallel=1))
    until_the_moment(w)
    w.advance()
    w.clock.advance(120)
    worker = w.engine()
    ask, n = worker.api.ask, 0

    def ask_slowly(*args):
        nonlocal n
        n += 1
        reply = ask(*args)
        if n == 2:
            assert isinstance(cancel(w.engine()), Wait), "what is on its way is let finish"
        w.clock.advance(6)
        return reply

    worker.api.ask = ask_slowly
    assert isinstance(advance(worker), Done)
    assert n == 2
    counts = Counter(w.statuses().values())
    assert counts == {"succeeded": 24 + 2, "cancelled": 14}
    assert n_paid_twice(w) == 0
    # Taken back, the rest is asked.
    resume(w.store, w.clock.now)
    w.done(step_s=60)
    assert_all_answered_once(w)
    assert n_asked(w) == 16


@pytest.mark.parametrize("n", range(1, 5))
def test_a_process_that_was_frozen_after_a_commit_does_not_hold_the_job_for_what_it_saw_before(world, n) -> None:
    """A batch ends long after its cancel, while the process that saw it cancelling is frozen."""
    w = world()
    w.emu.settings.duration = SIX_HOURS - 1  # all others end just before the moment, with all their answers
    w.fault("batch", {"stuck": {"state": "cancelling", "seconds": 7200}}, times=1)
    w.fault("batch", STUCK, times=1)
    start(w)
    until_the_moment(w)
    worker = w.engine()
    tell, n_commits = worker.observer.committed, 0

    def frozen_after(job, changes) -> None:
        nonlocal n_commits
        tell(job, changes)
        n_commits += 1
        if n_commits == n:
            w.clock.advance(3 * 3600)

    worker.observer.committed = frozen_after
    while n_commits < n:
        found = advance(worker)
        assert isinstance(found, Wait | Done), found
        w.clock.advance(60)
    w.done(step_s=60)
    assert_all_answered_once(w)


def test_a_batch_that_never_ends_after_its_cancel_is_for_a_person(world) -> None:
    w = world()
    w.fault("batch", {"stuck": {"state": "cancelling"}}, times=1)
    w.fault("batch", STUCK)
    start(w)
    until_the_moment(w)
    reason = w.held(step_s=60)
    assert 7 <= w.hours <= 7.2
    assert re.search(r"OpenAI, asked to cancel batch_\w+ 1 h ago, has not ended that\. [\d,]+ requests may", reason)
    n_before = n_asked(w)
    assert n_before == 12, "all others are asked"
    assert isinstance(w.advance(), Held)
    assert n_asked(w) == n_before
    assert n_paid_twice(w) == 0


@pytest.mark.parametrize("code", [429, 503, 404])
def test_a_look_that_fails_when_that_hour_is_over_holds_nothing(world, code: int) -> None:
    w = world()
    w.fault("batch", {"stuck": {"state": "cancelling", "seconds": 1800}}, times=1)
    w.fault("batch", STUCK)
    start(w)
    until_the_moment(w)
    w.advance()
    n_before = n_asked(w)
    w.clock.advance(2 * 3600)  # it has ended meanwhile
    w.fault("GET /v1/batches/*", {"status": {"code": code}}, times=1)
    assert isinstance(w.advance(), Wait)
    w.done(step_s=60)
    assert_all_answered_once(w)
    assert n_asked(w) > n_before
    assert n_paid_twice(w) == 0


def test_what_was_seen_when_another_worker_was_faster_is_looked_at_again(world) -> None:
    w = world()
    w.fault("batch", {"stuck": {"state": "cancelling", "seconds": 5400}}, times=1)
    w.fault("batch", STUCK)
    start(w)
    until_the_moment(w)
    w.advance()
    w.clock.advance(3000)
    w.fault("GET /v1/batches/*", {"status": {"code": 503}}, times=1)  # what it knows of that is to be committed
    engine = w.engine()
    real = engine.store.commit

    def overtaken(number: int, job: Job, at: float) -> Any:
        """Another worker commits first, and this one stands still until the batch has ended."""
        engine.store.commit = real
        real(number, msgspec.structs.replace(w.job, waits={"another": 1}), at)
        w.clock.advance(2 * 3600)
        raise CommitRefused("another worker was faster")

    engine.store.commit = overtaken
    assert not isinstance(w.advance(engine), Held)
    assert engine.store.commit is real
    w.done(step_s=60)
    assert_all_answered_once(w)
    assert n_paid_twice(w) == 0


def test_a_wrong_key_stops_it_and_nothing_is_lost(world) -> None:
    w = stuck_world(world)
    start(w)
    until_the_moment(w)
    w.advance()
    w.clock.advance(120)
    w.fault(" ".join(ASKED), {"status": {"code": 401}}, match={"nth": list(range(6, 1000))})
    assert "refused the credentials or the account" in w.held(step_s=60)
    n_answered = 5
    assert sum(row.batch_id == "direct" for row in w.emu.ledger.rows()) == n_answered
    w.emu.faults.clear()
    w.done(step_s=60)
    assert_all_answered_once(w)


def test_an_empty_account_stops_it_at_once(world) -> None:
    w = stuck_world(world)
    start(w)
    until_the_moment(w)
    w.fault(" ".join(ASKED), {"status": {"code": 429, "error": {"code": "insufficient_quota"}}})
    assert "insufficient_quota" not in (reason := w.held(step_s=60))
    assert "refused the credentials or the account" in reason
    assert w.hours < 6.2


def test_a_store_that_fails_for_a_while_loses_no_answer(world) -> None:
    w = stuck_world(world)
    start(w)
    until_the_moment(w)
    w.advance()
    w.clock.advance(120)
    engine = w.engine()
    create, n = engine.store.create, 0

    def shaky(name, data):
        nonlocal n
        if "/answers/" in name:
            n += 1
            if n in (2, 3, 5):
                raise StoreError("away")
        return create(name, data)

    engine.store.create = shaky
    advance(engine)
    w.done(step_s=60)
    assert_all_answered_once(w)


def test_a_store_that_stays_away_is_told_and_what_was_on_its_way_counted(world) -> None:
    w = stuck_world(world)
    start(w)
    until_the_moment(w)
    w.advance()
    w.clock.advance(120)
    engine = w.engine()
    create = engine.store.create

    def gone(name, data):
        if "/answers/" in name or (asked_before and "state/" in name):
            raise StoreError("away")
        return create(name, data)

    asked_before: list[int] = []
    engine.store.create = gone
    with pytest.raises(StoreError):
        advance(engine)
    n_before = n_asked(w)
    assert 0 < n_before <= 4
    w.clock.advance(w.timing.lease_s)
    w.done(step_s=60)
    assert w.statuses() == {f"t-{i}": "succeeded" for i in range(N_ROWS)}
    assert n_paid_twice(w) <= w.job.n_maybe_paid_twice <= 8


def test_starting_over_in_the_middle_keeps_what_was_asked(world) -> None:
    w = stuck_world(world)
    start(w, policy=msgspec.structs.replace(FINISH, finish_parallel=2))
    until_the_moment(w)
    w.advance()
    w.clock.advance(120)
    w.fault(" ".join(ASKED), {"status": {"code": 429, "retry_after": 600}}, match={"nth": list(range(6, 100))})
    assert isinstance(w.advance(), Wait)
    n_before = sum(row.batch_id == "direct" for row in w.emu.ledger.rows())
    assert n_before == 5
    w.emu.faults.clear()
    rows = [{"id": i, "text": f"ticket {i}" if i < 36 else "another"} for i in range(N_ROWS)]
    start(w, rows)
    summary = w.done()
    assert summary.n_carried >= 24 * 36 // N_ROWS + 0
    assert summary.n_succeeded == N_ROWS
    assert n_paid_twice(w) <= 4, "rows of the same text"


def test_without_the_moment_any_more_the_rest_goes_into_batches(world) -> None:
    w = stuck_world(world)
    start(w, policy=msgspec.structs.replace(FINISH, finish_parallel=2))
    until_the_moment(w)
    w.advance()
    w.clock.advance(120)
    w.fault(" ".join(ASKED), {"status": {"code": 429, "retry_after": 600}}, match={"nth": list(range(6, 100))})
    assert isinstance(w.advance(), Wait)
    w.emu.faults.clear()
    start(w, policy=Policy())
    assert w.job.finish_at is None
    w.done()
    assert_all_answered_once(w)
    assert n_asked(w) <= 5 + 2, "the others wait too"
    assert Counter(row["via"] for row in w.table())["direct"] == 5


def test_a_clear_keeps_the_moment_and_another_setting_moves_it(world) -> None:
    w = stuck_world(world)
    moment = start(w).finish_at
    w.clock.advance(3600)
    assert start(w).finish_at == moment
    later = start(w, policy=msgspec.structs.replace(FINISH, finish_by="8 h"), after_s=8 * 3600).finish_at
    assert later == w.clock.now() + 8 * 3600


def test_a_plan_that_is_approved_after_the_moment_is_not_asked_at_once(world) -> None:
    w = world()
    submit(w.engine(), w.request(5), FINISH, is_plan_only=True, finish_at=lambda now: now + 60)
    assert isinstance(w.advance(), Held), "a plan waits for a person, not for its moment"
    w.clock.advance(3600)
    assert isinstance(w.advance(), Held)
    assert n_asked(w) == 0
    begin_waiting(w.engine())
    assert w.job.finish_at is None
    w.done()
    assert n_asked(w) == 0


def test_the_ledger_learns_what_was_asked_synchronously(world) -> None:
    w = stuck_world(world)
    start(w, policy=msgspec.structs.replace(FINISH, reuse="labels"))
    until_the_moment(w)
    w.done(step_s=60)
    n_before = len(list(w.emu.ledger.rows()))
    w.key = msgspec.structs.replace(w.key, run_id="next")
    start(w, policy=msgspec.structs.replace(FINISH, reuse="labels"))
    assert w.done().n_reused == N_ROWS
    assert len(list(w.emu.ledger.rows())) == n_before


def test_answers_are_held_against_the_schema(world) -> None:
    schema = {
        "type": "object",
        "properties": {"label": {"type": "string"}},
        "required": ["label"],
        "additionalProperties": False,
    }
    w = stuck_world(world)
    start(w, response_model=schema)
    until_the_moment(w)
    w.fault("row", "invalid", match={"body": "ticket 19"})
    summary = w.done(step_s=60)
    assert summary.by_status == {Status.SUCCEEDED: N_ROWS - 1, Status.INVALID: 1}
    row = w.table()[19]
    assert (row["status"], row["via"]) == ("invalid", "direct")
    assert float(row["cost"]) > 0


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/chat/completions", {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "{text}"}]}),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "{text}"}),
        ("/v1/moderations", {"model": "omni-moderation-latest", "input": "{text}"}),
    ],
)
def test_other_endpoints_are_asked_too(world, endpoint, body) -> None:
    w = stuck_world(world)
    start(w, endpoint=endpoint, body=body)
    until_the_moment(w)
    summary = w.done(step_s=60)
    assert summary.n_succeeded == N_ROWS
    assert summary.n_direct == 16
    assert n_paid_twice(w) == 0


def test_ready_made_lines_are_asked_too(world) -> None:
    w = stuck_world(world)
    lines = [
        {"custom_id": f"t-{i}", "method": "POST", "url": "/v1/responses", "body": {**BODY, "input": f"x {i}"}}
        for i in range(N_ROWS)
    ]
    start(w, lines, body=None, custom_id=None)
    until_the_moment(w)
    w.done(step_s=60)
    assert_all_answered_once(w)


def test_many_small_files_are_put_together(world, monkeypatch) -> None:
    monkeypatch.setattr("airflow_openai_batch.engine.direct.answer_log._MAX_FILES", 3)
    w = world()
    start(w, 60, per_shard=60, after_s=60)
    w.clock.advance(61)
    w.done(step_s=60)
    assert_all_answered_once(w, 60)
    names = w.store.answer_files("0-00000")
    assert any("merged" in name for name in names)
    assert len(names) <= 60 // 4 // 3 + 3


def test_progress_is_told_while_it_is_asked(world) -> None:
    w = stuck_world(world)
    start(w, policy=msgspec.structs.replace(FINISH, finish_parallel=1))
    until_the_moment(w)
    w.advance()
    w.clock.advance(120)
    worker = w.engine()
    seen = []

    class Watcher(type(worker.observer)):
        def committed(self, job, changes):
            progress = progress_of(job, w.clock.now(), w.timing)
            if progress.phase == "asking":
                seen.append((progress.n_done, progress.n_asking, line(progress)))

    worker.observer = Watcher()
    ask = worker.api.ask

    def ask_slowly(*args):
        w.clock.advance(w.timing.renew_s / 2)
        return ask(*args)

    worker.api.ask = ask_slowly
    advance(worker)
    w.done(step_s=60)
    counts = [n_done for n_done, _, _ in seen]
    assert counts == sorted(counts)
    assert len(set(counts)) > 8
    assert "asking 4 rows synchronously" in seen[0][2]


def test_a_job_is_told_of_by_its_state(world) -> None:
    w = stuck_world(world)
    start(w)
    until_the_moment(w)
    w.done(step_s=60)
    assert {shard.state for shard in w.job.shards} == {State.SETTLED}
    assert w.job.lease is None


def test_a_create_without_an_answer_is_looked_for_before_its_rows_are_asked(world) -> None:
    w = world(duration=3600, finalizing=60)
    w.fault("POST /v1/batches", "drop_response")
    w.fault("batch", {"listing_lag": 120})
    start(w, after_s=60)
    w.advance()
    assert State.CREATING in {shard.state for shard in w.job.shards}
    w.clock.advance(61)
    w.done(step_s=60)
    assert w.batches
    assert_all_answered_once(w)


def test_a_store_that_was_wiped_finds_its_batches_before_anything_is_asked(world) -> None:
    w = stuck_world(world)
    start(w)
    w.advance()
    w.clock.advance(3600)
    shutil.rmtree(w.root.path)
    start(w, after_s=60)
    w.clock.advance(61)
    w.done(step_s=60)
    assert len(w.batches) == N_ROWS // PER_SHARD
    assert_all_answered_once(w)
    assert n_asked(w) == 16


@pytest.mark.nightly
def test_twenty_thousand_rows_and_a_worker_that_dies_in_the_middle(world, killed) -> None:
    n = 20_000
    w = stuck_world(world)
    policy = msgspec.structs.replace(FINISH, finish_parallel=16, max_cost=10**13)
    start(w, n, per_shard=5_000, policy=policy)
    until_the_moment(w)
    w.advance()
    w.clock.advance(120)
    mortal = w.engine()
    ask, n_before = mortal.api.ask, 0

    def dies(*args):
        nonlocal n_before
        n_before += 1
        if n_before == 3_000:
            raise killed
        return ask(*args)

    mortal.api.ask = dies
    with pytest.raises(killed):
        advance(mortal)
    summary = w.done(step_s=60)
    assert w.hours <= 6.2
    assert summary.by_status == {Status.SUCCEEDED: n}
    assert summary.n_direct == n * 4 // 10
    assert n_paid_twice(w) <= summary.n_maybe_paid_twice <= 16
    assert w.emu.ledger.invoice().picodollars <= policy.max_cost
    assert len([name for shard in w.job.shards for name in w.store.answer_files(shard.id)]) < 1_000
