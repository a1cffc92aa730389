"""How long the engine's own work took is kept in the job, and is no reason for a commit of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from builders import Clock, World, rows

from airflow_openai_batch.engine.errors import CommitRefused, Unavailable
from airflow_openai_batch.engine.model import Job


def slow(clock: Clock, call: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Return a call that takes its time."""

    def slowly(*args: Any, **kwargs: Any) -> Any:
        clock.now += seconds
        return call(*args, **kwargs)

    return slowly


def slowed(world: World, **seconds: float) -> World:
    for verb, duration in seconds.items():
        setattr(world.api, verb, slow(world.clock, getattr(world.api, verb), duration))
    return world


def test_seconds_are_counted_by_verb_over_several_workers(world: World) -> None:
    slowed(world, upload=4.0, create=2.0, retrieve=1.0, download=8.0)
    world.submit(2)
    world.waits()
    assert world.job.work_s == {"upload": 4.0, "create": 2.0}
    world.api.finish("batch_0")
    world.engine = world.worker()
    world.done()
    assert world.job.work_s == {"upload": 4.0, "create": 2.0, "refresh": 1.0, "harvest": 8.0}


def test_planning_is_work_too(world: World) -> None:
    def take_long() -> Any:
        yield from rows(2)
        world.clock.now += 30.0

    world.submit(take_long)
    assert world.job.work_s == {"build": 30.0}
    assert world.job.created_at == world.clock.now


def test_time_alone_is_no_reason_for_a_commit(world: World) -> None:
    slowed(world, retrieve=1.0)
    world.submit(2)
    world.waits()
    number = world.number
    for _ in range(5):
        world.waits()
    assert (world.number, world.job.work_s) == (number, {})
    world.api.finish("batch_0")
    world.done()
    assert world.job.work_s == {"refresh": 7.0}  # told along with what had changed


def test_calls_that_fail_took_their_time(world: World) -> None:
    slowed(world, upload=4.0)
    world.api.script("upload", Unavailable("down"))
    world.submit(2)
    world.waits()
    world.later(3600)
    world.waits()
    assert world.job.work_s == {"upload": 8.0}


def test_work_that_another_worker_made_vain_is_counted_with_the_next_commit(world: World, monkeypatch: Any) -> None:
    slowed(world, upload=4.0)
    world.submit(2)
    right, refused = world.store.commit, []

    def commit(number: int, job: Job, now: float) -> tuple[int, Job]:
        if not refused:
            refused.append(number)
            raise CommitRefused("another worker was faster")
        return right(number, job, now)

    monkeypatch.setattr(world.store, "commit", commit)
    world.waits()
    assert world.job.work_s == {"upload": 8.0}


def test_starting_over_begins_to_count_anew(world: World) -> None:
    slowed(world, upload=4.0)
    world.submit(2)
    world.waits()
    world.submit(2, start_over="again")
    assert world.job.work_s == {}


def test_a_job_without_work_is_stored_as_before(world: World) -> None:
    world.submit(2)
    assert b"work_s" not in msgspec.json.encode(world.job)
