"""The queue of enqueued tokens: back off, send the same file again, pay nothing twice."""

from __future__ import annotations

import pytest

from airflow_openai_batch.emulator.tokens import prompt_tokens
from airflow_openai_batch.engine.job.status import Held
from airflow_openai_batch.engine.model import Policy

TEXT = "ticket {} " + "word " * 40


def _tokens_per_row(w):
    return prompt_tokens({"input": "Label: " + TEXT.format(0)})


def _most_enqueued(w):
    """The largest number of tokens that the emulator ever held in its queue."""
    ran = [b for b in w.batches if b.verdict and not b.verdict.errors]
    return max(sum(b.holds(at.times.created_at)[0] for b in ran) for at in ran)


def test_a_full_queue_delays_shards_and_all_rows_are_billed_once(world):
    w = world()
    w.emu.settings.queue_limit = int(5 * _tokens_per_row(w))
    w.submit(w.rows(12, TEXT), per_shard=2)
    assert w.done().n_succeeded == 12
    assert any(b.status == "failed" for b in w.batches)
    assert sum(b.status == "completed" for b in w.batches) == 6
    assert w.n_calls("POST", "/v1/files") == 6, "the same files are sent again"
    w.assert_paid_once(12)
    w.assert_accounted(12)


def test_a_full_queue_is_probed_with_one_batch_at_a_time(world):
    w = world()
    w.emu.settings.queue_limit = int(3 * _tokens_per_row(w))
    w.submit(w.rows(20, TEXT), per_shard=2)
    assert w.done().n_succeeded == 20
    failed = sum(b.status == "failed" for b in w.batches)
    assert failed <= 9 + 10 * 5, "each refused try is a failed batch in the dashboard"
    w.assert_paid_once(20)


@pytest.mark.parametrize("status", [400, 429])
def test_a_full_queue_that_is_told_at_create_makes_no_batch(world, status):
    w = world()
    w.fault("batch", {"queue_limit": {"tokens": 5 * _tokens_per_row(w), "http": status}}, times=4)
    w.submit(w.rows(6, TEXT))
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
    assert w.n_calls("POST", "/v1/batches") == 5
    assert w.n_calls("POST", "/v1/files") == 1
    assert w.hours > 0.1
    w.assert_paid_once(6)


def test_other_peoples_work_in_the_queue_is_waited_for(world):
    w = world()
    w.emu.settings.queue_limit = int(4 * _tokens_per_row(w))
    w.submit(w.rows(3, TEXT))
    file_id = w.client().files.create(
        file=("x.jsonl", b"".join(w.store.read(w.job.shards[0].requests).splitlines(True))), purpose="batch"
    )
    w.client().batches.create(input_file_id=file_id.id, endpoint="/v1/responses", completion_window="24h")
    w.clock.advance(400)
    assert w.done().n_succeeded == 3
    assert {b.status for b in w.batches} == {"completed", "failed"}


@pytest.mark.parametrize("share", [1.0, 2.5])
def test_max_enqueued_tokens_is_never_exceeded(world, share):
    w = world()
    per_row = 110  # what the engine estimates for a whole request line, more than the emulator counts
    budget = int(share * 2 * per_row)
    w.submit(w.rows(12, TEXT), per_shard=2, policy=Policy(max_enqueued_tokens=budget))
    assert w.done().n_succeeded == 12
    assert all(shard.n_tokens <= budget for shard in w.job.shards)
    assert 0 < _most_enqueued(w) <= budget
    most = max(sum(b.times.created_at <= at.times.created_at < b.times.ended_at for b in w.batches) for at in w.batches)
    assert most == int(budget / max(shard.n_tokens for shard in w.job.shards))
    w.assert_paid_once(12)


def test_rounds_respect_the_token_budget_as_well(world):
    w = world()
    budget = 250
    w.submit(w.rows(8, TEXT), per_shard=2, policy=Policy(max_enqueued_tokens=budget))
    for i in (0, 2, 4, 6):
        w.fault("row", {"http_error": {"status": 500}}, match={"custom_id": f"t-{i}$"}, times=1)
    assert w.done().n_succeeded == 8
    assert _most_enqueued(w) <= budget
    w.assert_paid_once(8)


def test_a_shard_that_can_never_fit_is_held_says_what_to_set_and_then_completes(world):
    w = world()
    limit = 4 * 110
    w.emu.settings.queue_limit = limit
    w.submit(w.rows(20, TEXT))
    while not isinstance(reached := w.advance(), Held):
        w.clock.advance(min(reached.wake_at - w.clock.now(), 600))
        assert w.clock.now() - w.job.created_at < 3600 * 2
    reason = reached.reason
    assert f"max_enqueued_tokens={limit}" in reason and "never be sent" in reason
    assert "Nothing was billed" in reason
    assert w.billed() == {}
    w.submit(w.rows(20, TEXT), policy=Policy(max_enqueued_tokens=limit))
    assert w.done().n_succeeded == 20
    assert len(w.job.shards) > 1
    w.assert_paid_once(20)
    w.assert_accounted(20)


def test_lowering_the_budget_keeps_answers_that_exist(world):
    w = world()
    rows = [*w.rows(4), *({"id": i, "text": TEXT.format(i) * 4} for i in range(4, 12))]
    w.emu.settings.queue_limit = 1200
    w.submit(rows, per_shard=4)
    w.fault("batch", {"fail": "token_limit_exceeded"}, match={"batch": [2, 3, 4, 5]})
    w.advance()
    w.clock.advance(3700)
    w.advance()
    done = {row for row, n in w.billed().items() if n}
    assert done == {f"t-{i}" for i in range(4)}
    w.submit(rows, per_shard=4, policy=Policy(max_enqueued_tokens=600))
    summary = w.done()
    assert summary.n_succeeded == 12
    assert summary.n_carried == 4
    w.assert_paid_once(12)


def test_a_queue_full_after_an_account_error_is_held_for_money(world):
    w = world()
    w.submit(3)
    w.fault("batch", {"fail": {"code": "billing_hard_limit_reached", "message": "Hard limit."}}, times=1)
    reason = w.held()
    assert "Hard limit." in reason and "Nothing is lost" in reason
    assert w.done().n_succeeded == 3
    w.assert_paid_once(3)
