"""A task begins to wait: a plan is sent, and a deadline that has passed runs anew. A retry changes neither."""

from __future__ import annotations

import msgspec
import pytest
from builders import BODY, RESPONSES, TIMING, World, cut, rows

from airflow_openai_batch.engine.job.commands import cancel, resume
from airflow_openai_batch.engine.job.planner import deadline_at
from airflow_openai_batch.engine.job.status import Done, Held
from airflow_openai_batch.engine.job.submit import Request, submit
from airflow_openai_batch.engine.job.waiting import begin_waiting
from airflow_openai_batch.engine.model import Job, Policy, State, Status
from airflow_openai_batch.engine.store.job_store import Snapshot


def test_an_extended_deadline_makes_a_late_job_wait_again(world: World) -> None:
    world.submit(2)
    world.waits()
    world.later(80 * 3600)
    assert "deadline" in world.held()
    begin_waiting(world.engine)
    assert world.job.deadline_from == world.clock.now
    assert deadline_at(world.job, TIMING) > world.clock.now
    world.waits()
    assert len(world.api.made) == 1, "nothing is sent again"


def test_the_deadline_of_a_job_in_time_is_not_extended(world: World) -> None:
    world.submit(2)
    world.waits()
    world.later(10 * 3600)
    before = world.store.load()
    begin_waiting(world.engine)
    assert world.store.load() == before


def test_an_extended_deadline_keeps_a_policy_that_is_not_the_default(world: World) -> None:
    policy = Policy(deadline_s=3600.0, max_rounds=0, max_bad_rows=1)
    world.submit(2, policy=policy)
    world.waits()
    world.later(40 * 3600)
    begin_waiting(world.engine)
    assert world.job.policy == policy
    assert world.job.deadline_from == world.clock.now


HOUR = 3600.0


def test_looking_again_does_not_extend_the_deadline_and_a_clear_does(world: World) -> None:
    """A sensor with mode="reschedule" comes back every few minutes, with the same ``max_tries``."""
    first = world.submit(2)
    world.waits()
    n_hours = 0
    while not isinstance(world.advance(), Held):
        world.later(HOUR)
        n_hours += 1
        begin_waiting(world.engine, "wait", 3)
    assert n_hours == 72
    assert world.job.deadline_from == first.deadline_from
    begin_waiting(world.engine, "wait", 4)
    assert world.job.deadline_from == world.clock.now
    world.waits()
    world.later(73 * HOUR)
    for _ in range(3):
        begin_waiting(world.engine, "wait", 4)
    assert "deadline" in world.held()


def test_looking_again_commits_nothing(world: World) -> None:
    world.submit(2)
    begin_waiting(world.engine, "wait", 0)
    number = world.number
    for _ in range(5):
        world.later(HOUR)
        begin_waiting(world.engine, "wait", 0)
    assert world.number == number


def test_each_task_that_waits_has_its_own_clears(world: World) -> None:
    world.submit(2)
    world.waits()
    for task in ("first", "second"):
        begin_waiting(world.engine, task, 0)
    world.later(80 * HOUR)
    for task in ("first", "second"):
        begin_waiting(world.engine, task, 0)
    assert "deadline" in world.held()
    begin_waiting(world.engine, "second", 1)
    world.waits()


def test_a_retry_of_the_submitting_task_does_not_extend_the_deadline(world: World) -> None:
    request = Request(rows(2), endpoint=RESPONSES, body=BODY, custom_id="{id}")
    first = submit(world.engine, request, Policy(), max_tries=2)
    world.waits()
    world.later(80 * HOUR)
    assert submit(world.engine, request, Policy(), max_tries=2).deadline_from == first.deadline_from
    assert submit(world.engine, request, Policy(), max_tries=3).deadline_from == world.clock.now


def test_a_clear_extends_the_deadline_although_another_process_moves_the_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.submit(2)
    world.waits()
    world.later(80 * HOUR)
    commit = world.store.commit
    rivals: list[Job] = []

    def beaten(number: int, job: Job, now: float) -> Snapshot:
        if not rivals:
            rivals.append(commit(number, msgspec.structs.replace(world.job, work_s={"look": 1.0}), now).job)
        return commit(number, job, now)

    monkeypatch.setattr(world.store, "commit", beaten)
    begin_waiting(world.engine, "wait", 1)
    assert (world.job.deadline_from, world.job.work_s) == (world.clock.now, {"look": 1.0})


def plan(world: World, n: int = 4, *, max_tries: int = 0, is_first_try: bool = False, **args: object) -> Job:
    """What the plan operator does, in a run of its own or once more."""
    request = Request(rows(n), endpoint=RESPONSES, body=args.pop("body", BODY), custom_id="{id}", limits=cut(2))
    return submit(
        world.engine, request, Policy(), is_plan_only=True, max_tries=max_tries, is_first_try=is_first_try, **args
    )


def assert_planned(world: World) -> Held:
    reached = world.advance()
    assert isinstance(reached, Held) and reached.is_plan
    assert "nothing of it is sent before a task that waits for it begins" in reached.reason
    return reached


def test_what_is_only_planned_is_sent_by_nobody_before_a_task_waits_for_it(world: World) -> None:
    plan(world)
    assert_planned(world)
    world.later(100 * HOUR)
    assert_planned(world)  # no deadline runs while a person thinks
    assert not world.api.calls
    begin_waiting(world.engine, "wait", 0)
    assert world.job.deadline_from == world.clock.now
    world.waits()
    assert len(world.api.made) == 2


def test_cancelling_what_is_only_planned_costs_nothing_and_resuming_sends_nothing(world: World) -> None:
    plan(world)
    reached = cancel(world.engine)
    assert isinstance(reached, Done)
    assert reached.summary.by_status == {Status.CANCELLED: 4}
    assert resume(world.store)
    assert_planned(world)
    assert not world.api.calls
    begin_waiting(world.engine, "wait", 0)
    world.waits()
    assert sum(s.n_requests for s in world.job.shards if s.state is State.RUNNING) == 4


def test_a_retry_and_a_clear_of_the_plan_re_attach_once_it_is_being_sent(world: World) -> None:
    plan(world)
    begin_waiting(world.engine, "wait", 0)
    world.waits()
    for max_tries in (0, 1):
        plan(world, max_tries=max_tries)
        world.waits()
    assert len(world.api.made) == 2 and world.job.epoch == 0


def test_a_plan_made_anew_is_not_sent_by_a_task_that_began_before_it(world: World) -> None:
    plan(world)
    begin_waiting(world.engine, "wait", 0)
    plan(world, max_tries=1, body={**BODY, "input": "Better: {text}"})
    assert world.job.epoch == 1
    begin_waiting(world.engine, "wait", 0)  # its retry
    assert_planned(world)
    assert not world.api.made
    begin_waiting(world.engine, "wait", 1)  # cleared by a person
    world.waits()
    assert len(world.api.made) == 2


def test_a_plan_made_anew_while_its_first_batches_run_cancels_them_and_sends_nothing(world: World) -> None:
    plan(world)
    begin_waiting(world.engine, "wait", 0)
    world.waits()
    plan(world, max_tries=1, body={**BODY, "input": "Better: {text}"})
    world.waits()  # for what was cancelled
    assert len(world.api.made) == 2
    for batch_id in world.api.made:
        world.api.finish(batch_id, status="cancelled")
    world.later(HOUR)
    assert_planned(world)
    assert len(world.api.made) == 2


def test_the_tasks_of_a_run_that_was_made_anew_are_new_ones(world: World) -> None:
    plan(world)
    begin_waiting(world.engine, "wait", 0)
    plan(world, is_first_try=True, body={**BODY, "input": "Better: {text}"})
    assert_planned(world)
    begin_waiting(world.engine, "wait", 0)
    world.waits()


def test_a_command_to_start_over_makes_a_plan_of_it_again(world: World) -> None:
    plan(world)
    begin_waiting(world.engine, "wait", 0)
    world.store.command("start_over")
    plan(world, max_tries=1)
    assert_planned(world)
    assert not world.api.made


def test_a_submission_that_is_no_plan_sends_what_was_only_planned(world: World) -> None:
    plan(world)
    submit(world.engine, Request(rows(4), endpoint=RESPONSES, body=BODY, custom_id="{id}"), Policy(), max_tries=1)
    world.waits()
    assert len(world.api.made) == 2
