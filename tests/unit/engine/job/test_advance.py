"""A job's whole life on a fake OpenAI: what is counted are batches, files and commits."""

from __future__ import annotations

import contextlib

import pytest
from builders import TIMING, World, answer, cut, failure, line_error

from airflow_openai_batch.engine.errors import StoreError, Unclear
from airflow_openai_batch.engine.identity import NONCE_KEY
from airflow_openai_batch.engine.job.advance import advance
from airflow_openai_batch.engine.job.commands import resume
from airflow_openai_batch.engine.job.status import Wait
from airflow_openai_batch.engine.model import Policy, State, Status

S = Status


def test_a_job_without_trouble_makes_one_batch_a_shard(world: World) -> None:
    world.submit(5, limits=cut(2))
    found = world.waits()
    assert found.batch_ids == ("batch_0", "batch_1", "batch_2") and not found.is_queued
    assert [[r["custom_id"] for r in world.api.requests(b)] for b in found.batch_ids] == [
        ["t0", "t1"],
        ["t2", "t3"],
        ["t4"],
    ]
    for name in found.batch_ids:
        world.api.finish(name)
    assert world.done().summary.by_status == {S.SUCCEEDED: 5}
    assert len(world.api.made) == 3 and world.api.calls["upload"] == 3


def test_a_batch_says_whose_it_is(world: World) -> None:
    world.submit(1, policy=Policy(metadata={"team": "support"}))
    world.waits()
    metadata = world.api.metadata["batch_0"]
    assert {k: v for k, v in metadata.items() if k != NONCE_KEY} == {
        "team": "support",
        "dag_id": "dag",
        "run_id": "manual__2026-01-01T00:00:00+00:00",
        "task_id": "ask",
    }
    assert world.job.shards[0].intent.nonce == metadata[NONCE_KEY]


def test_a_quiet_job_commits_nothing(world: World) -> None:
    world.submit(4, limits=cut(2))
    world.waits()
    for name in world.api.made:
        world.api.change(name, status="in_progress")
    world.waits()
    number = world.number
    for _ in range(3):
        world.later(60)
        world.waits()
    assert world.number == number
    for name in world.api.made:
        world.api.finish(name)
    world.done()
    number = world.number
    world.done()
    assert world.number == number


def test_a_batch_that_ended_is_harvested_while_others_run(world: World) -> None:
    world.submit(4, limits=cut(2))
    world.waits()
    world.api.finish("batch_1")
    found = world.waits()
    assert found.batch_ids == ("batch_0",) and found.summary.by_status == {S.SUCCEEDED: 2}


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_a_batch_that_ended_early_keeps_its_answers_and_asks_the_rest_again(world: World, status: str) -> None:
    world.submit(4)
    world.waits()
    world.api.finish(
        "batch_0",
        lambda i: answer(i) if i < "t2" else None,
        lambda i: line_error(i, f"batch_{status}") if i == "t2" else None,
        status=status,
    )
    world.waits()
    assert [r["custom_id"] for r in world.api.requests("batch_1")] == ["t2", "t3"]
    world.api.finish("batch_1")
    assert world.done().summary.by_status == {S.SUCCEEDED: 4}


def test_a_job_that_is_not_there_names_the_storage(world: World) -> None:
    with pytest.raises(StoreError, match="not shared between workers"):
        world.advance()


# -- two workers -----------------------------------------------------------------------------------------------------


def test_two_workers_at_once_never_create_twice(world: World) -> None:
    """Whenever one has created a batch, the other moves the job before the answer is written down."""
    other = world.worker()
    world.submit(6, limits=cut(2))
    depth = 0

    def interleave() -> None:
        nonlocal depth
        if depth < 3:
            depth += 1
            advance(other)

    world.api.on_create = interleave
    world.advance()
    world.advance()
    assert depth == 3
    assert len(world.api.running) == 3 == len(world.api.made)
    assert {s.batch.id for s in world.job.shards if s.batch} == set(world.api.running)


def test_a_worker_that_lost_the_race_goes_on_from_the_winners_snapshot(world: World) -> None:
    world.submit(2)
    uploads = world.api.upload

    def slow(*args: object) -> object:
        world.api.upload = uploads  # type: ignore[method-assign]
        advance(world.worker())
        return uploads(*args)  # type: ignore[arg-type]

    world.api.upload = slow  # type: ignore[assignment, method-assign]
    assert world.waits().batch_ids == ("batch_0",)
    assert len(world.api.made) == 1


def test_a_batch_that_appears_after_others_gave_it_up_is_cancelled(world: World) -> None:
    """The process was frozen between its last check and the call, for longer than the grace."""
    world.submit(2)

    def frozen() -> None:
        world.api.on_create = lambda: None
        world.api.hidden.add("batch_0")
        world.later(TIMING.grace_s)
        advance(world.worker())

    world.api.on_create = frozen
    found = world.advance()
    assert isinstance(found, Wait) and found.batch_ids == ("batch_1",)
    assert world.api.made["batch_0"].status == "cancelling" and world.api.running == ["batch_1"]


def test_a_worker_that_was_frozen_after_its_intent_does_not_post(world: World) -> None:
    world.submit(2)
    clock, commit = world.clock, world.store.commit

    def slow(number: int, job: object, now: float) -> object:
        done = commit(number, job, now)  # type: ignore[arg-type]
        if done[1].shards[0].state is State.CREATING and clock.now == now and not clock.slept:
            clock.slept.append(0.0)
            clock.now += TIMING.grace_s - TIMING.post_timeout_s + 1
        return done

    world.store.commit = slow  # type: ignore[assignment, method-assign]
    world.waits()
    assert world.api.calls["create"] == 0
    world.later(TIMING.grace_s)
    assert world.waits().batch_ids == ("batch_0",)
    assert len(world.api.made) == 1


@pytest.mark.parametrize("at", range(1, 9))
def test_a_worker_killed_at_any_commit_leaves_a_job_that_ends_well(world: World, at: int) -> None:
    class Killed(BaseException):
        pass

    world.submit(2)
    commit = world.store.commit
    n = 0

    def deadly(number: int, job: object, now: float) -> object:
        nonlocal n
        n += 1
        if n == at:
            raise Killed
        return commit(number, job, now)  # type: ignore[arg-type]

    world.store.commit = deadly  # type: ignore[assignment, method-assign]
    for _ in range(12):
        with contextlib.suppress(Killed):
            world.advance()
        for name in world.api.running:
            world.api.finish(name)
        world.later(TIMING.grace_s)
    assert world.done().summary.by_status == {S.SUCCEEDED: 2}
    assert len(world.api.made) == 1


# -- a person's commands -----------------------------------------------------------------------------------------------


def test_a_command_to_cancel_stops_what_runs_and_keeps_what_was_answered(world: World) -> None:
    world.submit(6, limits=cut(2), policy=Policy(max_enqueued_tokens=30))
    world.waits()
    running = list(world.api.running)
    assert 0 < len(running) < 3
    world.store.command("cancel")
    world.waits()
    assert world.api.running == [] and world.api.calls["cancel"] == len(running)
    for name in running:
        world.api.finish(name, lambda i: answer(i) if i == "t0" else None, status="cancelled")
    found = world.done().summary
    assert found.by_status == {S.SUCCEEDED: 1, S.CANCELLED: 5}
    assert len(world.api.made) == len(running)


def test_a_cancel_that_comes_too_late_harvests_everything(world: World) -> None:
    world.submit(2)
    world.waits()
    world.api.finish("batch_0")
    world.store.command("cancel")
    assert world.done().summary.by_status == {S.SUCCEEDED: 2}


def test_a_cancelled_job_goes_on_when_a_person_takes_the_command_back(world: World) -> None:
    world.submit(2)
    world.waits()
    world.store.command("cancel")
    world.waits()
    world.api.finish("batch_0", lambda i: answer(i) if i == "t0" else None, status="cancelled")
    world.done()
    world.submit(2)
    world.done()
    assert resume(world.store, world.clock)
    assert not resume(world.store, world.clock)
    world.submit(2)
    world.waits()
    assert [r["custom_id"] for r in world.api.requests("batch_1")] == ["t1"]
    world.api.finish("batch_1")
    assert world.done().summary.by_status == {S.SUCCEEDED: 2}


def test_after_the_deadline_the_job_is_held_and_nothing_new_is_sent(world: World) -> None:
    world.submit(4, limits=cut(2), policy=Policy(deadline_s=3600.0, max_enqueued_tokens=12))
    world.waits()
    assert world.api.running == ["batch_0"]
    world.later(4000)
    world.waits()  # a running batch keeps its own chance
    world.later(86_400 + TIMING.expiry_margin_s)
    reason = world.held()
    assert "deadline of 1 h has passed" in reason and "batch_0" in reason
    assert len(world.api.made) == 1


def test_a_job_taken_up_after_its_deadline_fetches_and_goes_on(world: World) -> None:
    policy = Policy(deadline_s=3600.0)
    world.submit(2, policy=policy)
    world.waits()
    world.later(3 * 86_400)
    world.held()
    world.submit(2, policy=policy)
    world.api.finish("batch_0", failure)
    world.waits()
    world.api.finish("batch_1")
    assert world.done().summary.by_status == {S.SUCCEEDED: 2}
    assert len(world.api.made) == 2


def test_the_wake_time_is_the_next_thing_to_do_and_at_the_latest_the_deadline(world: World) -> None:
    made = world.submit(2)
    world.api.script("create", Unclear("lost"))
    assert world.waits().wake_at == world.clock() + TIMING.grace_s
    world.later(TIMING.grace_s)
    found = world.waits()
    assert found.wake_at == made.deadline_from + made.policy.deadline_s
