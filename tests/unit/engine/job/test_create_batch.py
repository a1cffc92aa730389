"""The one call that costs money, gone wrong in every way: what counts are batches."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import KEY, TIMING, Lost, World, answer, cut
from upath import UPath

from airflow_openai_batch.engine.errors import (
    Denied,
    QueueFull,
    Refused,
    Unavailable,
    Unclear,
)
from airflow_openai_batch.engine.job.state_machine import MAX_FILE_RETRIES, MAX_UPLOADS
from airflow_openai_batch.engine.model import LineError, Policy, State, Status
from airflow_openai_batch.engine.store.job_store import JobStore

S = Status
FULL = "Enqueued token limit reached for m in organization o. Limit: 2,000,000 enqueued tokens."
PASSING = [Unavailable("429", status=429), Unclear("502", status=502), Unavailable("x", retry_after_s=500.0)]
FREE = ["upload", "retrieve", "download", "cancel", "batches"]
LATER = 3600.0


def sent(world: World, n: int = 2) -> None:
    world.submit(n)
    world.waits()


def test_lost_create_response_is_adopted_not_repeated(world: World) -> None:
    world.submit(2)
    world.api.script("create", Lost())
    assert world.waits().batch_ids == ("batch_0",)
    assert world.api.calls["create"] == 1
    world.ends_well()
    assert len(world.api.made) == 1


def test_a_batch_that_the_list_shows_late_is_adopted(world: World) -> None:
    world.submit(2)
    world.api.script("create", Lost())
    world.api.hidden.add("batch_0")
    assert world.waits().batch_ids == ()
    world.later(TIMING.grace_s - 1)
    world.waits()
    world.api.hidden.clear()
    world.later(1)
    assert world.waits().batch_ids == ("batch_0",)
    assert len(world.api.made) == 1


def test_an_absent_batch_is_created_again_only_after_the_grace(world: World) -> None:
    world.submit(2)
    world.api.script("create", Unclear("timeout"))
    world.waits()
    world.later(TIMING.grace_s - 1)
    world.waits()
    assert len(world.api.made) == 0
    world.later(1)
    assert world.waits().batch_ids == ("batch_0",)


def test_extra_batches_of_one_shard_are_cancelled(world: World) -> None:
    world.submit(2)
    world.api.script("create", Lost())
    world.api.on_create = lambda: world.api.made.update(
        extra=type(world.api.made["batch_0"])(
            id="extra",
            status="in_progress",
            created_at=world.clock() + 1,
            nonce=world.api.made["batch_0"].nonce,
            input_file_id="file-0",
        )
    )
    assert world.waits().batch_ids == ("batch_0",)
    assert world.api.made["extra"].status == "cancelling"
    assert world.api.running == ["batch_0"]


def test_batches_of_others_are_left_alone(world: World) -> None:
    world.submit(4, limits=cut(2))
    world.api.script("create", None, Unclear("timeout"))
    world.waits()
    world.later(TIMING.grace_s)
    assert world.waits().batch_ids == ("batch_0", "batch_1")
    assert world.api.calls["cancel"] == 0


def test_a_create_that_did_not_happen_is_made_again_later(world: World) -> None:
    world.submit(2)
    world.api.script("create", Unavailable("429: 2,000 batches an hour", status=429, retry_after_s=90.0))
    assert world.waits().wake_at == world.clock() + 90.0
    assert world.job.shards[0].state is State.UPLOADED
    world.ends_well()
    assert world.api.calls["batches"] == 2  # only once in each process for what its store does not know


def test_credentials_that_may_not_create_hold_the_job(world: World) -> None:
    world.submit(2)
    world.api.script("create", *[Denied("Missing scopes: api.batch.write", status=401)] * 20)
    began_at = world.clock()
    while world.clock() < began_at + TIMING.belief_s:
        world.later(world.waits().wake_at - world.clock())
    assert "Missing scopes" in world.held()
    world.api.forget_scripts()
    world.ends_well()


def test_a_refused_create_ends_the_shard_unpaid(world: World) -> None:
    world.submit(2)
    world.api.script("create", Refused("Invalid endpoint", status=400, code="invalid_value"))
    assert world.done().summary.rejections[0].code == "invalid_value"
    assert len(world.api.made) == 0


@pytest.mark.parametrize("how", ["at create", "in the batch"])
def test_a_full_queue_is_waited_out_with_the_same_file(world: World, how: str) -> None:
    world.submit(2)
    for _ in range(3):
        if how == "at create":
            world.api.script("create", QueueFull(FULL, status=429))
        found = world.waits()
        if how == "in the batch":
            error = LineError(code="token_limit_exceeded", message=FULL)
            world.api.change(found.batch_ids[-1], status="failed", errors=(error,))
            found = world.waits()
        assert found.is_queued and found.batch_ids == () and found.wake_at > world.clock()
        world.later(found.wake_at - world.clock())
    world.waits()
    assert world.api.calls["upload"] == 1
    assert {b.input_file_id for b in world.api.made.values()} == {"file-0"}
    world.ends_well()


def test_pauses_grow_while_the_queue_stays_full(world: World) -> None:
    world.submit(2)
    pauses = []
    for _ in range(4):
        name = world.waits().batch_ids[-1]
        world.api.change(name, status="failed", errors=(LineError(code="token_limit_exceeded", message=FULL),))
        pauses.append(world.waits().wake_at - world.clock())
        world.later(pauses[-1])
    assert pauses == [30.0, 60.0, 120.0, 240.0]


def test_only_one_batch_tries_a_full_queue(world: World) -> None:
    world.submit(6, limits=cut(2))
    for name in world.waits().batch_ids:
        world.api.change(name, status="failed", errors=(LineError(code="token_limit_exceeded", message=FULL),))
    world.waits()
    world.later(TIMING.backoff_max_s)
    world.waits()
    assert len(world.api.running) == 1 and len(world.api.made) == 4
    world.api.change(world.api.running[0], status="in_progress")
    world.waits()
    assert len(world.api.running) == 2


def test_a_shard_that_never_fits_says_what_to_set_and_is_cut_anew(world: World) -> None:
    world.submit(20)
    world.waits()
    small = FULL.replace("2,000,000", "45")
    world.api.change("batch_0", status="failed", errors=(LineError(code="token_limit_exceeded", message=small),))
    assert "Set max_enqueued_tokens=45" in world.held()
    world.submit(20, policy=Policy(max_enqueued_tokens=50))
    for _ in range(20):
        world.waits()
        for name in world.api.running:
            world.api.finish(name)
        if world.job.shards[-1].state is State.RUNNING:
            break
    assert world.done().summary.by_status == {S.SUCCEEDED: 20}


def test_an_account_without_money_holds_the_job(world: World) -> None:
    sent(world)
    error = LineError(code="billing_hard_limit_reached", message="Billing hard limit has been reached.")
    world.api.change("batch_0", status="failed", errors=(error,))
    assert "Billing hard limit" in world.held()
    world.ends_well()


@pytest.mark.parametrize("how", ["at create", "in the batch"])
def test_a_file_that_is_not_found_is_tried_again_uploaded_again_and_given_up(world: World, how: str) -> None:
    message = "Cannot find file file-0, or organization org does not have access to it."
    world.submit(2)
    for _ in range(50):
        if how == "at create":
            world.api.script("create", Refused(message, status=400))
        found = world.advance()
        for name in world.api.running:
            world.api.change(name, status="failed", errors=(LineError(code="invalid_request", message=message),))
        world.later(TIMING.backoff_max_s)
        if found.summary.n_settled:
            break
    found_summary = world.done().summary
    assert found_summary.by_status == {S.FAILED: 2} and "Cannot find file" in found_summary.rejections[0].message
    assert world.api.calls["create"] == MAX_FILE_RETRIES * MAX_UPLOADS
    assert world.api.calls["upload"] == MAX_UPLOADS


def test_refused_lines_are_named_and_not_asked_again(world: World) -> None:
    sent(world, 4)
    error = LineError(code="duplicate_custom_id", message="duplicate", n=2, line=3, param="custom_id")
    world.api.change("batch_0", status="failed", errors=(error,))
    found = world.done().summary
    assert (found.rejections[0].custom_id, found.by_status) == ("t2", {S.FAILED: 4})
    assert len(world.api.made) == 1


def test_an_answer_is_kept_though_the_file_id_came_late(world: World) -> None:
    sent(world)
    world.api.finish("batch_0", answer)
    name = world.api.made["batch_0"].output_file_id
    world.api.change("batch_0", output_file_id=None)
    found = world.waits()
    assert found.batch_ids == ()  # nothing to watch for: the next look has its time
    world.later(found.wake_at - world.clock())
    world.api.change("batch_0", output_file_id=name)
    assert world.done().summary.by_status == {S.SUCCEEDED: 2}


def test_an_extra_batch_is_cancelled_though_the_first_tries_fail(world: World) -> None:
    world.submit(2)

    def frozen() -> None:
        world.api.on_create = lambda: None
        world.api.hidden.add("batch_0")
        world.later(TIMING.grace_s)
        world.advance()

    world.api.on_create = frozen
    world.api.script("cancel", Unclear("502"), Unavailable("429"))
    world.waits()
    assert world.api.running == ["batch_1"]


def test_a_wiped_store_adopts_the_batch_of_the_same_requests(world: World) -> None:
    world.submit(2)
    world.waits()
    world.later(7200)
    again = World(JobStore(UPath("memory://create-wiped"), KEY))
    again.clock, again.api, again.engine.api, again.engine.clock = world.clock, world.api, world.api, world.clock  # type: ignore[assignment]
    again.submit(2)
    assert again.waits().batch_ids == ("batch_0",) and len(world.api.made) == 1
    again.ends_well()


def test_a_store_that_was_set_back_adopts_what_it_has_forgotten(world: World) -> None:
    world.submit(4, limits=cut(2))
    n_before = world.number
    world.waits()
    for number in range(n_before + 1, world.number + 1):  # a backup of before anything was sent
        Path(str(world.store), f"state/{number:06d}.json").unlink()
    assert world.waits().batch_ids == ("batch_0", "batch_1") and len(world.api.made) == 2
    world.ends_well(4)


def test_what_an_explicit_start_over_left_is_not_adopted(world: World) -> None:
    world.submit(2)
    world.waits()
    world.submit(2, start_over="again")
    world.advance()
    assert world.api.calls["create"] == 2 and world.api.made["batch_0"].status == "cancelling"


def test_the_batch_of_other_requests_is_not_adopted(world: World) -> None:
    """The store was deleted and the same run submitted again: what ran then answered other rows."""
    world.submit(2)
    world.waits()
    old = world.api.made["batch_0"]
    world.later(7200)
    again = World(JobStore(UPath("memory://create-again"), KEY))
    again.clock, again.api, again.engine.api, again.engine.clock = world.clock, world.api, world.api, world.clock  # type: ignore[assignment]
    again.submit([{"id": "t0", "text": "another"}, {"id": "t1", "text": "one"}])
    world.api.script("create", Unclear("timeout"))
    again.waits()
    again.later(TIMING.grace_s)
    assert again.waits().batch_ids == ("batch_1",)
    assert old.nonce is not None and len(world.api.made) == 2


def test_a_batch_that_is_listed_twice_is_not_one_too_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server does that ignores the cursor: the batch must not be adopted and cancelled at once."""
    world.submit(2)
    world.api.script("create", Lost())
    listed = world.api.batches
    monkeypatch.setattr(world.api, "batches", lambda since: iter([*listed(since), *listed(since)]))
    world.waits()
    assert world.job.shards[0].state is State.RUNNING
    assert world.api.calls["cancel"] == 0
    monkeypatch.undo()
    world.ends_well(2)
