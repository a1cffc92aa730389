"""Promise 8: a person's wish is obeyed: a cancel stops the spending, and going on is free."""

from __future__ import annotations

import pytest

from airflow_openai_batch.engine.job.commands import cancel, resume
from airflow_openai_batch.engine.job.status import Done
from airflow_openai_batch.engine.job.submit import submit
from airflow_openai_batch.engine.model import JobKey, Policy
from airflow_openai_batch.engine.store.job_store import JobStore


def test_a_wish_to_cancel_cancels_every_running_batch_and_sends_no_other(world):
    w = world()
    w.emu.settings.queue_limit = 28
    w.submit(12, per_shard=3)
    w.advance()
    w.clock.advance(400)
    w.advance()
    n_made = len(w.batches)
    w.store.command("cancel")
    summary = w.done()
    assert summary.by_status == {"cancelled": 12}
    assert len(w.batches) == n_made
    assert w.emu.ledger.live_batches() == []
    assert w.billed() == {}
    w.assert_accounted(12)


def test_what_was_finished_before_the_cancel_is_kept(world):
    w = world()
    w.submit(12, per_shard=6)
    w.fault("batch", {"stuck": 90_000}, match={"batch": 2})
    w.advance()
    w.clock.advance(4000)
    w.advance()
    w.store.command("cancel")
    summary = w.done()
    assert summary.n_succeeded >= 6
    assert summary.n_succeeded == len(w.billed())
    w.assert_accounted(12)


def half_done_and_cancelled(w, n=10):
    w.submit(n)
    w.advance()
    w.clock.advance(1800)
    w.store.command("cancel")
    n_succeeded = w.done().n_succeeded
    assert 0 < n_succeeded < n
    return n_succeeded


def test_clearing_a_cancelled_job_keeps_to_the_command_and_pays_for_nothing_more(world):
    w = world()
    n_finished = half_done_and_cancelled(w, 120)
    for max_tries in (1, 2, 2, None):  # cleared twice, a retry, and from a notebook
        submit(w.engine(), w.request(120), Policy(), max_tries=max_tries)
        assert w.done().n_succeeded == n_finished
    assert len(w.batches) == 1
    assert sum(w.billed().values()) == n_finished
    w.assert_accounted(120)


def test_a_changed_prompt_does_not_undo_a_cancel(world):
    w = world()
    n_finished = half_done_and_cancelled(w)
    w.submit(10, body={"model": "gpt-6-luna", "input": "Classify: {text}"})
    w.done()
    assert (w.job.epoch, sum(w.billed().values()), len(w.batches)) == (0, n_finished, 1)


def test_what_was_called_off_stays_unsent_when_the_task_is_cleared(world):
    w = world()
    w.submit(12, per_shard=4)
    w.store.command("cancel")
    w.submit(12, per_shard=4)
    assert w.done().by_status == {"cancelled": 12}
    assert w.batches == []
    assert resume(w.store, w.clock.now)
    w.submit(12, per_shard=4)
    assert w.done().n_succeeded == 12
    w.assert_paid_once(12)


def test_a_cancel_that_is_taken_back_asks_only_what_is_open(world):
    w = world()
    half_done_and_cancelled(w)
    assert resume(w.store, w.clock.now)
    w.submit(10)
    assert w.done().n_succeeded == 10
    w.assert_paid_once(10)


def test_taking_a_cancel_back_asks_no_more_than_the_policy_allows(world):
    w = world()
    w.submit(10, policy=Policy(max_rounds=0))
    w.advance()
    w.clock.advance(1800)
    w.store.command("cancel")
    n_finished = w.done().n_succeeded
    assert resume(w.store, w.clock.now)
    w.submit(10, policy=Policy(max_rounds=0))
    assert w.done().n_succeeded == n_finished
    assert len(w.batches) == 1


def test_starting_over_ends_a_cancel(world):
    w = world()
    half_done_and_cancelled(w)
    w.submit(10, start_over="again")
    assert w.done().n_succeeded == 10
    assert [len(w.asked(batch)) for batch in w.batches] == [10, 10]


def test_a_cancel_at_once_needs_no_task_and_can_be_given_twice(world):
    w = world()
    w.submit(12, per_shard=4, policy=Policy(max_enqueued_tokens=40))
    w.advance()
    w.clock.advance(1800)
    n_sent = len(w.batches)
    assert 0 < n_sent < 3
    for _ in range(2):
        cancel(w.engine())
    assert {str(batch.status) for batch in w.batches} <= {"cancelling", "cancelled"}
    assert len(w.store.commands()) == 1
    assert not resume(JobStore(w.root, JobKey(dag_id="other", run_id="r", task_id="t")))
    w.done()
    assert len(w.batches) == n_sent
    w.assert_accounted(12)


def test_a_cancel_during_a_lost_create_finds_the_batch_and_cancels_it(world):
    w = world()
    w.submit(6)
    w.fault("POST /v1/batches", "drop_response", times=1)
    w.fault("GET /v1/batches", {"status": 500}, times=1)
    w.advance()
    w.store.command("cancel")
    assert w.done().by_status == {"cancelled": 6}
    assert [b.status for b in w.batches] == ["cancelled"]


@pytest.mark.parametrize("fault", [{"status": 500}, "reset", {"status": {"code": 500, "after": True}}], ids=str)
def test_a_cancel_call_that_fails_is_repeated(world, fault):
    w = world()
    w.submit(6)
    w.advance()
    w.fault("POST /v1/batches/*/cancel", fault, times=2)
    w.store.command("cancel")
    assert w.done().by_status == {"cancelled": 6}
    assert [b.status for b in w.batches] == ["cancelled"]


@pytest.mark.parametrize("code", [404, 409])
def test_a_cancel_that_is_refused_while_the_batch_runs_is_repeated(world, code):
    """A proxy can answer anything once; 404 and 409 would mean that there is nothing to cancel."""
    w = world()
    w.submit(6)
    w.advance()
    w.fault("POST /v1/batches/*/cancel", {"status": code}, times=2)
    w.store.command("cancel")
    assert w.done().by_status == {"cancelled": 6}
    assert [b.status for b in w.batches] == ["cancelled"]
    assert w.billed() == {}


def test_a_server_that_refuses_every_cancel_is_waited_for(world):
    w = world()
    w.submit(6)
    w.advance()
    w.fault("POST /v1/batches/*/cancel", {"status": 404})
    w.store.command("cancel")
    assert w.done().by_status == {"succeeded": 6}
    assert w.n_calls("POST", f"/v1/batches/{w.batches[0].id}/cancel") == 3
    w.assert_paid_once(6)


def test_a_cancelled_job_is_not_asked_again_by_its_own_rounds(world):
    w = world()
    w.submit(6, policy=Policy(max_rounds=5))
    w.advance()
    w.store.command("cancel")
    w.done()
    for _ in range(3):
        w.clock.advance(5000)
        assert isinstance(w.advance(), Done)
    assert len(w.batches) == 1


def test_marking_failed_and_clearing_at_once_reattaches_for_free(world):
    """The batch runs on (cancel_on_kill is off, or the kill came too late): nothing is asked again."""
    w = world()
    w.submit(6)
    w.advance()
    w.submit(6)
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
