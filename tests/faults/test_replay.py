"""``replay``: rows that were given up are asked again, once for each command; good answers are kept."""

from __future__ import annotations

import pytest

from airflow_openai_batch.engine.job.status import Wait
from airflow_openai_batch.engine.model import Policy, State

BAD_REQUEST = {"http_error": {"status": 400, "code": "invalid_value", "message": "no"}}
BAD_LINES = {"fail": {"errors": [{"code": "invalid_url", "message": "Wrong URL.", "line": 2}]}}
LENIENT = Policy(max_bad_ratio=1.0)


def _with_bad_rows(world, n=9, bad="t-[258]$", fault=BAD_REQUEST, **policy):
    w = world()
    w.fault("row", fault, match={"custom_id": bad})
    w.submit(n, per_shard=3, policy=Policy(**policy))
    w.done()
    w.emu.faults.clear()
    return w


@pytest.mark.parametrize(
    ("fault", "status", "is_billed"),
    [
        (BAD_REQUEST, "failed", False),
        ({"refusal": {"text": "I will not."}}, "refused", True),
        ({"truncated": {"fraction": 0.5}}, "truncated", True),
        ({"line_error": {"code": "batch_expired", "message": "late"}}, "expired", False),
    ],
)
def test_exactly_the_bad_rows_are_sent_and_good_answers_stay(world, fault, status, is_billed):
    w = _with_bad_rows(world, fault=fault, max_rounds=0)
    assert w.statuses() == {f"t-{i}": status if i in (2, 5, 8) else "succeeded" for i in range(9)}
    before = {row["custom_id"]: row for row in w.table()}
    w.store.command("replay", at=w.clock.now())
    assert w.done().by_status == {"succeeded": 9}
    assert len(w.batches) == 6
    assert [w.asked(batch) for batch in w.batches[3:]] == [["t-2"], ["t-5"], ["t-8"]]
    billed = w.billed()
    assert all(billed[f"t-{i}"] == (2 if is_billed and i in (2, 5, 8) else 1) for i in range(9))
    after = {row["custom_id"]: row for row in w.table()}
    assert all(after[f"t-{i}"] == before[f"t-{i}"] for i in range(9) if i not in (2, 5, 8))
    w.assert_accounted(9)


def test_each_command_is_obeyed_once_whatever_runs_afterwards(world):
    w = _with_bad_rows(world, max_rounds=0)
    w.fault("row", BAD_REQUEST, match={"custom_id": "t-[258]$"})
    w.store.command("replay", at=w.clock.now())
    assert w.done().by_status == {"failed": 3, "succeeded": 6}
    for _ in range(3):  # clears and retries
        w.submit(9, per_shard=3, policy=Policy(max_rounds=0))
        assert w.done().by_status == {"failed": 3, "succeeded": 6}
    assert len(w.batches) == 6
    w.emu.faults.clear()
    w.store.command("replay", at=w.clock.now())
    w.store.command("replay", at=w.clock.now())  # twice before it was obeyed: once
    assert w.done().by_status == {"succeeded": 9}
    assert len(w.batches) == 9
    w.assert_paid_once(9)


def test_without_bad_rows_nothing_is_sent(world):
    w = world()
    w.submit(6)
    w.done()
    w.store.command("replay", at=w.clock.now())
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
    w.assert_paid_once(6)


def test_rows_of_a_refused_batch_are_sent_anew(world):
    w = world()
    w.fault("batch", BAD_LINES, match={"batch": 1})
    w.submit(6, per_shard=3, policy=LENIENT)
    assert w.done().rejections
    w.store.command("replay", at=w.clock.now())
    summary = w.done()
    assert summary.n_succeeded == 6 and not summary.rejections
    assert len(w.batches) == 3
    w.assert_paid_once(6)


def test_after_its_deadline_a_job_is_asked_again_all_the_same(world):
    w = _with_bad_rows(world, max_rounds=0)
    w.clock.advance(100 * 3600)
    w.store.command("replay", at=w.clock.now())
    assert isinstance(w.advance(), Wait)
    assert w.done().n_succeeded == 9
    w.assert_paid_once(9)


def test_a_cancelled_job_sends_nothing_before_it_is_resumed(world):
    from airflow_openai_batch.engine.job.commands import resume

    w = _with_bad_rows(world, max_rounds=0)
    w.store.command("cancel")
    w.store.command("replay", at=w.clock.now())
    assert w.done().by_status == {"failed": 3, "succeeded": 6}
    assert len(w.batches) == 3
    resume(w.store, w.clock.now)
    assert w.done().n_succeeded == 9
    w.assert_paid_once(9)


@pytest.mark.parametrize("n_workers", [2, 4])
def test_workers_that_obey_at_once_obey_once(world, n_workers):
    w = _with_bad_rows(world, max_rounds=0)
    w.store.command("replay", at=w.clock.now())
    engines = [w.engine() for _ in range(n_workers)]
    for _ in range(6):
        for engine in engines:
            w.advance(engine)
        w.clock.advance(900)
    assert w.done().n_succeeded == 9
    assert len(w.batches) == 6
    w.assert_paid_once(9)


@pytest.mark.parametrize("at", range(1, 26))
def test_a_process_that_dies_anywhere_asks_each_bad_row_once(world, fate, killed, at):
    w = _with_bad_rows(world, max_rounds=0)
    w.store.command("replay", at=w.clock.now())
    death = fate(at)
    mortal = w.mortal(death)
    for _ in range(20):
        try:
            if not isinstance(w.advance(mortal), Wait):
                break
        except killed:
            break
        w.clock.advance(900)
    assert w.done().n_succeeded == 9
    assert len([batch for batch in w.batches if batch.status == "completed"]) == 6
    assert w.billed() == {f"t-{i}": 1 for i in range(9)}
    assert all(shard.state is State.SETTLED for shard in w.job.shards)
    w.assert_accounted(9)
