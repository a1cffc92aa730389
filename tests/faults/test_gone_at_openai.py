"""What OpenAI no longer has: a batch or a result file that is answered 404 for good."""

from __future__ import annotations

import pytest

from airflow_openai_batch.engine.job.status import Held, Wait
from airflow_openai_batch.engine.model import State

OTHER = {"model": "gpt-6-luna", "input": "Classify: {text}"}
GONE = {"status": {"code": 404, "error": {"message": "No such object.", "code": "not_found"}}}
BAD_ROW = {"http_error": {"status": 400, "code": "invalid_value", "message": "Bad row."}}
NEW_EPOCHS = {"changed_prompt": {"body": OTHER}, "start_over": {"start_over": "monday"}}


def _lose_batch(w, batch, *, cancel=False):
    """Let OpenAI forget a batch for good."""
    w.fault(f"GET /v1/batches/{batch.id}", GONE)
    if cancel:
        w.fault(f"POST /v1/batches/{batch.id}/cancel", GONE)


def _lose_files(w, batch, kinds):
    w.fault("GET /v1/files/*/content", GONE, match={"file": f"{batch.id}_({kinds})"})
    w.fault("GET /v1/files/*", GONE, match={"file": f"{batch.id}_({kinds})"})


# -- a batch ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_batch_that_is_gone_does_not_stop_the_other_shards(world, which):
    w = world()
    w.submit(6, per_shard=2)
    w.advance()
    gone = w.batches[which]
    _lose_batch(w, gone)
    found = w.advance()
    assert isinstance(found, Wait), "the other batches still run"
    assert {b.id for b in w.batches} - {gone.id} <= set(found.batch_ids)
    reason = w.held()
    assert gone.id in reason
    states = [shard.state for shard in w.job.shards]
    assert states[which] is not State.SETTLED
    assert [s for i, s in enumerate(states) if i != which] == [State.SETTLED] * 2, "the others are harvested"
    assert w.job.deadline_from + w.job.policy.deadline_s > w.clock.now(), "the deadline is not waited for"
    w.emu.faults.clear()
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 3
    w.assert_paid_once(6)
    w.assert_accounted(6)


def test_a_batch_that_is_gone_alone_holds_the_job_and_is_named(world):
    w = world()
    w.submit(6)
    w.advance()
    _lose_batch(w, w.batches[0])
    assert w.batches[0].id in w.held(step_s=60)
    assert isinstance(w.advance(), Held), "asking again changes nothing"
    w.emu.faults.clear()
    assert w.done().n_succeeded == 6
    w.assert_paid_once(6)


def test_a_second_round_goes_on_while_another_batch_is_gone(world):
    w = world()
    w.submit(4, per_shard=2)
    w.fault("row", "missing", match={"custom_id": "t-3$"}, times=1)
    w.advance()
    _lose_batch(w, w.batches[0])
    assert w.batches[0].id in w.held()
    assert len(w.batches) == 3, "the missing row was asked again"
    w.emu.faults.clear()
    assert w.done().n_succeeded == 4
    w.assert_paid_once(4)


@pytest.mark.parametrize("cancel", [False, True], ids=["cancellable", "gone_for_the_cancel_too"])
@pytest.mark.parametrize("how", NEW_EPOCHS)
def test_a_batch_of_an_earlier_epoch_that_is_gone_never_holds_the_new_one(world, how, cancel):
    w = world()
    w.submit(6)
    w.advance()
    old = w.batches[0]
    _lose_batch(w, old, cancel=cancel)
    w.submit(6, **NEW_EPOCHS[how])
    assert w.job.epoch == 1
    assert w.done().n_succeeded == 6
    assert [b.status for b in w.batches if b is not old] == ["completed"]
    w.assert_accounted(6)


@pytest.mark.parametrize("how", NEW_EPOCHS)
def test_starting_over_helps_a_job_that_is_held_for_a_batch_that_is_gone(world, how):
    w = world()
    w.submit(6, per_shard=3)
    w.advance()
    _lose_batch(w, w.batches[0], cancel=True)
    w.held()
    w.submit(6, per_shard=3, **NEW_EPOCHS[how])
    assert w.done().n_succeeded == 6
    w.assert_accounted(6)


# -- result files ----------------------------------------------------------------------------------------------------


def test_without_the_error_file_the_answers_of_the_output_file_are_delivered(world):
    w = world()
    w.submit(6)
    w.fault("row", BAD_ROW, match={"custom_id": "t-[14]$"})
    w.advance()
    _lose_files(w, w.batches[0], "error")
    assert w.done().by_status == {"missing": 2, "succeeded": 4}
    told = {row["custom_id"]: (row["status"], row["error_code"]) for row in w.table()}
    assert told["t-1"] == told["t-4"] == ("missing", "file_gone")
    assert told["t-0"] == ("succeeded", None)
    assert len(w.batches) == 1, "nobody knows what they were answered: not asked again"
    w.assert_accounted(6)


def test_a_result_file_that_is_gone_does_not_stop_the_other_shards(world):
    w = world()
    w.submit(6, per_shard=3)
    w.advance()
    gone = w.batches[0]
    _lose_files(w, gone, "output|error")
    assert gone.id in w.held()
    assert w.job.shards[1].state is State.SETTLED
    w.emu.faults.clear()
    assert w.done().n_succeeded == 6
    w.assert_paid_once(6)


@pytest.mark.parametrize("how", NEW_EPOCHS)
def test_without_both_files_the_job_is_held_and_a_new_epoch_completes(world, how):
    w = world()
    w.submit(6)
    w.fault("row", BAD_ROW, match={"custom_id": "t-1$"}, times=1)
    w.advance()
    old = w.batches[0]
    _lose_files(w, old, "output|error")
    assert old.id in w.held()
    w.submit(6, **NEW_EPOCHS[how])
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 2
    w.assert_accounted(6)


def test_without_the_output_file_nothing_that_was_paid_for_is_written_off(world):
    w = world()
    w.submit(6)
    w.fault("row", BAD_ROW, match={"custom_id": "t-1$"})
    w.advance()
    _lose_files(w, w.batches[0], "output")
    assert w.batches[0].id in w.held()
    w.emu.faults.clear()
    assert w.done().by_status == {"failed": 1, "succeeded": 5}
    assert len(w.batches) == 1
    w.assert_accounted(6)


@pytest.mark.parametrize("kind", ["output", "error"])
def test_a_file_that_is_not_found_once_is_looked_for_again(world, kind):
    """A first 404 may be a replica that lags."""
    w = world()
    w.submit(6)
    w.fault("row", BAD_ROW, match={"custom_id": "t-1$"})
    w.advance()
    w.fault("GET /v1/files/*/content", GONE, match={"file": f"_{kind}"}, times=1)
    assert w.done().by_status == {"failed": 1, "succeeded": 5}
    assert w.table()[1]["error_code"] == "invalid_value"
    assert len(w.batches) == 1
    w.assert_accounted(6)
