"""Promise 1: no row is paid for twice by accident."""

from __future__ import annotations

import threading
import time

import pytest

from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.errors import CommitRefused
from airflow_openai_batch.engine.job.status import Wait
from airflow_openai_batch.engine.model import State
from airflow_openai_batch.engine.store.job_store import JobStore

CREATE = "POST /v1/batches"


@pytest.mark.parametrize(
    "fault",
    [
        "drop_response",
        {"status": {"code": 500, "after": True}},
        {"status": {"code": 502, "after": True, "html": True}},
        {"delay": {"seconds": 1.0, "after": True}},
        "malformed_json",
        {"cut_body": 0.5},
    ],
    ids=["dropped", "500", "html_502", "timeout", "malformed", "cut"],
)
def test_a_batch_whose_create_answer_is_lost_is_adopted_not_repeated(world, fault):
    w = world()
    w.submit(6)
    w.fault(CREATE, fault, times=1)
    assert isinstance(w.advance(), Wait)
    assert len(w.batches) == 1
    assert w.job.shards[0].batch.id == w.batches[0].id
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
    w.assert_paid_once(6)


@pytest.mark.parametrize(
    "fault",
    ["reset", {"status": 503}, {"status": {"code": 502, "html": True}}, {"status": 409}, {"status": 408}],
    ids=["reset", "503", "html_502", "409", "408"],
)
def test_an_unclear_create_that_did_nothing_is_repeated_only_after_the_grace(world, fault):
    w = world()
    w.submit(6)
    w.fault(CREATE, fault, times=1)
    waited = w.advance()
    assert w.n_calls("POST", "/v1/batches") == 1
    assert waited.wake_at == w.clock.now() + w.timing.grace_s
    w.clock.advance(w.timing.grace_s - 1)
    w.advance()
    assert w.n_calls("POST", "/v1/batches") == 1
    w.clock.advance(1)
    w.advance()
    assert w.n_calls("POST", "/v1/batches") == 2
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
    w.assert_paid_once(6)


def test_a_create_that_acts_only_after_the_client_gave_up_is_found(world):
    w = world()
    w.submit(6)
    w.fault(CREATE, {"delay": 0.8}, times=1)
    w.advance()
    assert w.job.shards[0].state is State.CREATING
    deadline = time.monotonic() + 10
    while not w.batches and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(w.batches) == 1
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
    w.assert_paid_once(6)


def test_a_batch_that_the_listing_shows_late_is_adopted_within_the_grace(world):
    w = world()
    w.submit(6)
    w.fault("batch", {"listing_lag": 150}, times=1)
    w.fault(CREATE, "drop_response", times=1)
    w.advance()
    assert w.job.shards[0].state is State.CREATING
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
    w.assert_paid_once(6)


def test_a_listing_that_fails_during_the_look_never_counts_as_an_empty_one(world):
    w = world()
    w.submit(6)
    w.fault(CREATE, "drop_response", times=1)
    w.fault("GET /v1/batches", {"status": 500}, times=6)
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
    w.assert_paid_once(6)


def test_a_batch_far_down_the_listing_is_found(world):
    w = world()
    w.submit(6)
    w.fault(CREATE, "drop_response", match={"metadata": {"task_id": "ask"}}, times=1)
    w.fault("GET /v1/batches", {"status": 503}, times=1)  # the first look sees nothing
    w.advance()
    file_id = w.batches[0].input_file_id
    for _ in range(250):
        w.emu.backend.create(
            {"input_file_id": file_id, "endpoint": "/v1/responses", "completion_window": "24h", "metadata": {"a": "b"}}
        )
    w.clock.advance(200)
    w.advance()
    assert w.job.shards[0].batch.id == w.batches[0].id


def test_of_two_matching_batches_one_is_adopted_and_the_other_cancelled(world):
    w = world()
    w.submit(6)
    w.fault(CREATE, "drop_response", times=1)
    w.fault("GET /v1/batches", {"status": 500}, times=2)
    w.advance()
    first = w.batches[0]
    w.clock.advance(5)
    extra = w.client().batches.create(
        input_file_id=first.input_file_id,
        endpoint="/v1/responses",
        completion_window="24h",
        metadata=first.metadata,
    )
    w.clock.advance(w.timing.grace_s)
    w.advance()
    assert w.job.shards[0].batch.id == first.id
    assert w.n_calls("POST", f"/v1/batches/{extra.id}/cancel") == 1
    assert w.done().n_succeeded == 6
    assert [b.status for b in w.batches] == ["completed", "cancelled"]
    w.assert_paid_once(6)


def test_a_cancelled_extra_is_not_preferred_to_the_batch_that_runs(world):
    """An extra that was cancelled once stays in the listing; a later look must not take it for the batch."""
    w = world()
    w.submit(6)
    w.fault("batch", {"fail": "token_limit_exceeded"}, times=1)
    w.advance()
    known = w.batches[0]
    extra = w.client().batches.create(
        input_file_id=known.input_file_id,
        endpoint="/v1/responses",
        completion_window="24h",
        metadata=known.metadata,
    )
    w.client().batches.cancel(extra.id)
    w.fault(CREATE, "drop_response", times=1)
    assert w.done().n_succeeded == 6
    assert [b.status for b in w.batches] == ["failed", "cancelled", "completed"]
    assert w.job.shards[0].batch.id == w.batches[-1].id
    w.assert_paid_once(6)


def test_batches_of_other_jobs_are_not_taken_for_ours(world):
    w = world()
    w.submit(6)
    w.fault(CREATE, "reset", times=1)
    w.advance()
    file_id = w.client().files.create(file=("other.jsonl", b'{"custom_id":"t-0"}\n'), purpose="batch").id
    for metadata in (None, {}, {"airflow_openai_batch": "not/a/nonce"}, {"airflow_openai_batch": "x/0/0-00000/abc"}):
        w.client().batches.create(
            input_file_id=file_id, endpoint="/v1/responses", completion_window="24h", metadata=metadata
        )
    w.clock.advance(w.timing.grace_s)
    w.advance()
    assert len(w.batches) == 5
    assert w.job.shards[0].batch.id == w.batches[-1].id
    assert w.n_calls("POST", f"/v1/batches/{w.batches[0].id}/cancel") == 0


def test_a_batch_of_a_job_whose_store_was_wiped_is_not_taken_for_the_new_job(world):
    """The same run may be submitted again after its store was deleted, days later and with another prompt."""
    w = world()
    w.submit(3)
    w.done()
    old = w.batches[0].id
    w.root.fs.rm(str(w.root), recursive=True)
    w.clock.advance(86_400)
    w.submit(3, body={"model": "gpt-6-luna", "input": "Another prompt: {text}"})
    w.fault(CREATE, "reset", times=1)
    w.done()
    assert old not in [shard.batch.id for shard in w.job.shards]
    assert [row["output"] for row in w.table()] == [f"Echo: Another prompt: ticket {i}" for i in range(3)]


def _retry_one_row(w):
    w.fault("row", {"http_error": {"status": 429, "code": "rate_limit_exceeded"}}, match={"custom_id": "t-1$"}, times=1)


def test_a_process_killed_after_any_commit_or_call_pays_nothing_twice(world, fate, killed):
    """For every such moment of a job of two shards, of which one needs a second round."""
    w = world(duration=600)
    at = 0
    while True:
        at += 1
        w.emu.reset()
        w.root = w.root.parent / f"job-{at}"
        _retry_one_row(w)
        death = fate(at)
        engine = w.mortal(death)
        try:
            w.submit(4, per_shard=2, engine=engine)
            w.done(engine)
        except killed:
            w.submit(4, per_shard=2)
            assert w.done().n_succeeded == 4
        w.assert_paid_once(4)
        w.assert_accounted(4)
        assert len(w.batches) == 3, death.log[-1]
        if not death.has_struck:
            break
    assert at == len(death.log) + 1 > 30
    assert {moment.split()[0] for moment in death.log} == {
        "commit",
        "upload",
        "create",
        "batches",
        "retrieve",
        "download",
        "file_bytes",
    }


def test_a_process_killed_again_and_again_still_ends_and_pays_once(world, fate, killed):
    w = world(duration=600)
    _retry_one_row(w)
    for at in (3, 4, 5, 7, 2, 3, 6, 4, 5, 3, 9, 2, 8, 4, 11):
        engine = w.mortal(fate(at))
        try:
            w.submit(4, per_shard=2, engine=engine)
            w.advance(engine)
        except killed:
            w.clock.advance(100)
    w.submit(4, per_shard=2)
    assert w.done(step_s=120).n_succeeded == 4
    w.assert_paid_once(4)
    assert len(w.batches) == 3


@pytest.mark.parametrize("round_number", range(4))
def test_two_workers_that_advance_one_job_at_once_pay_once(world, round_number):
    w = world(duration=600)
    w.submit(12, per_shard=3)
    errors = []
    for _ in range(14):
        barrier = threading.Barrier(3)

        def work(barrier=barrier):
            engine = w.engine()
            barrier.wait()
            try:
                w.advance(engine)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        w.clock.advance(100)
    assert errors == []
    assert w.done().n_succeeded == 12
    w.assert_paid_once(12)
    assert sum(b.status == "completed" for b in w.batches) == 4


def test_workers_that_submit_one_job_at_once_make_one_plan(world):
    w = world(duration=600)
    errors = []
    barrier = threading.Barrier(3)

    def work():
        engine = w.engine()
        barrier.wait()
        try:
            w.submit(6, per_shard=2, engine=engine)
            w.advance(engine)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert w.done().n_succeeded == 6
    w.assert_paid_once(6)


def test_the_same_request_submitted_again_reattaches_and_sends_nothing(world):
    w = world()
    w.submit(6)
    w.advance()
    calls = len(w.emu.ledger.calls)
    snapshots = len(list((w.root / "labels").rglob("state/*.json")))
    w.submit(6)
    assert len(w.emu.ledger.calls) == calls
    assert len(list((w.root / "labels").rglob("state/*.json"))) == snapshots
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
    w.assert_paid_once(6)


def test_submitting_again_after_the_job_is_done_costs_nothing(world):
    w = world()
    w.submit(6)
    w.done()
    before = w.table()
    calls = len(w.emu.ledger.calls)
    w.submit(6)
    assert w.done().n_succeeded == 6
    assert len(w.emu.ledger.calls) == calls
    assert w.table() == before


def test_rows_from_a_callable_are_not_asked_again_by_a_retry(world):
    """Its rows have no version: the frozen rows stand, whatever it would return now."""
    w = world()
    w.submit(lambda: w.rows(6))
    w.advance()
    w.submit(lambda: w.rows(9, "changed {}"))
    assert w.done().n_rows == 6
    assert len(w.batches) == 1


class _SlowApi(Api):
    """An API whose process freezes just before the create call leaves the machine."""

    def create(self, **args):
        self.meanwhile()
        return super().create(**args)


def test_a_process_frozen_past_the_grace_before_its_second_look_at_the_clock_does_not_post(world):
    """It freezes right after its intent was committed; others look, find nothing and go on without it."""
    w = world()
    w.submit(6)
    has_frozen = []

    class Freezing(JobStore):
        def commit(self, number, job, now):
            done = super().commit(number, job, now)
            if job.shards[0].state is State.CREATING and not has_frozen:
                has_frozen.append(True)
                w.clock.advance(w.timing.grace_s + 1)
                w.advance()
            return done

    w.advance(w.engine(store=Freezing(w.root, w.key)))
    assert has_frozen
    assert w.n_calls("POST", "/v1/batches") == 1
    assert len(w.batches) == 1
    assert w.done().n_succeeded == 6
    w.assert_paid_once(6)


@pytest.mark.parametrize(("n_failures", "status"), [(0, 500), (3, 500), (1, 404), (2, 409)])
def test_a_process_frozen_past_the_grace_in_the_middle_of_its_post_cancels_the_batch_too_many(
    world, n_failures, status
):
    w = world()
    w.fault("POST /v1/batches/*/cancel", {"status": status}, times=n_failures)
    w.submit(6)
    api = _SlowApi(w.client())
    frozen = w.engine(api=api)
    n_times = []

    def meanwhile():
        if n_times:
            return
        n_times.append(1)
        w.clock.advance(w.timing.grace_s + 1)
        w.advance()

    api.meanwhile = meanwhile
    w.advance(frozen)
    assert len(w.batches) == 2
    assert w.job.shards[0].batch.id == w.batches[0].id
    assert [b.status for b in w.emu.ledger.live_batches()] in (["validating", "cancelling"], ["validating"])
    assert w.done().n_succeeded == 6
    w.assert_paid_once(6)


def test_what_a_frozen_process_left_behind_is_cancelled_by_the_next_look(world, killed):
    """The one hole without an idempotency key at OpenAI: a process posts after its grace, and dies of it."""
    w = world()
    w.submit(6)

    def meanwhile():
        w.clock.advance(w.timing.grace_s + 1)
        w.fault(CREATE, "drop_response", times=1)
        w.fault("GET /v1/batches", {"status": 500}, match={"nth": 2}, times=1)
        w.advance()  # looks, finds nothing, creates, loses the answer, and cannot look again

    class _Dying(_SlowApi):
        def create(self, **args):
            super().create(**args)
            raise killed

    dying = _Dying(w.client())
    dying.meanwhile = meanwhile
    with pytest.raises(killed):
        w.advance(w.engine(api=dying))
    assert len(w.batches) == 2
    w.clock.advance(w.timing.grace_s)
    w.advance()
    assert sorted(b.status for b in w.emu.ledger.live_batches() if b.status != "cancelling") == ["validating"]
    assert w.done().n_succeeded == 6
    w.assert_paid_once(6)


def test_a_worker_whose_snapshot_is_old_is_refused_and_takes_the_new_one(world):
    w = world()
    w.submit(6)
    number, old = w.store.load()
    w.advance()
    with pytest.raises(CommitRefused):
        w.store.commit(number + 1, old, w.clock.now())


def test_creates_never_go_through_the_sdks_own_retries(world):
    w = world()
    w.submit(6)
    w.fault(CREATE, {"status": {"code": 500, "headers": {"x-should-retry": "true"}}}, times=5)
    w.advance()
    assert w.n_calls("POST", "/v1/batches") == 1
