"""Promise 8: a person's wish is obeyed: a cancel stops the spending, and going on is free."""

from __future__ import annotations

import pytest

from airflow_openai_batch.engine.job.status import Done
from airflow_openai_batch.engine.model import Policy


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


def test_clearing_a_cancelled_task_asks_only_what_is_open(world):
    w = world()
    w.submit(10)
    w.advance()
    w.clock.advance(1800)
    w.store.command("cancel")
    first = w.done()
    assert 0 < first.n_succeeded < 10
    w.submit(10)
    assert w.done().n_succeeded == 10
    w.assert_paid_once(10)


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
