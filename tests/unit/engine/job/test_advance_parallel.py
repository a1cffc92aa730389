"""Several shards at once: what goes on together, what one commit speaks of, and what an outage costs."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from builders import World, cut

from airflow_openai_batch.engine.errors import Unavailable
from airflow_openai_batch.engine.model import State


@pytest.fixture
def many(world: World) -> World:
    world.engine.parallel = 4
    world.submit(12, limits=cut(1))
    return world


def together(world: World, verb: str, n: int) -> list[int]:
    """Let calls of a verb wait until n of them are under way. Returns how many were seen at once."""
    call, seen = getattr(world.api, verb), []
    meeting = threading.Barrier(n, timeout=5)

    def slow(*args: Any) -> Any:
        seen.append(meeting.wait())
        return call(*args)

    setattr(world.api, verb, slow)
    return seen


def test_files_are_uploaded_side_by_side_and_batches_created_alone(many: World) -> None:
    seen = together(many, "upload", 4)
    creates: list[str] = []
    create = many.api.create

    def alone(**args: Any) -> Any:
        creates.append(threading.current_thread().name)
        return create(**args)

    many.api.create = alone  # type: ignore[method-assign]
    many.waits()
    assert len(seen) == 12 and len(many.api.made) == 12
    assert set(creates) == {"MainThread"}


def test_two_batches_are_fetched_side_by_side(many: World) -> None:
    many.waits()
    for batch in many.api.running:
        many.api.finish(batch)
    seen = together(many, "download", 2)
    assert many.done().summary.n_succeeded == 12
    assert len(seen) == 12


def test_one_commit_speaks_of_all_batches_that_were_looked_at(many: World) -> None:
    many.waits()
    number = many.number
    for batch in many.api.running:
        many.api.change(batch, n_completed=1)
    many.waits()
    assert many.number == number + 1


def test_an_outage_is_not_asked_about_for_every_batch(many: World) -> None:
    many.waits()
    calls: list[str] = []

    def away(batch_id: str) -> Any:
        calls.append(batch_id)
        raise Unavailable("no connection")

    retrieve, many.api.retrieve = many.api.retrieve, away  # type: ignore[method-assign, assignment]
    many.waits()
    assert len(calls) == 4
    assert {shard.not_before > many.clock() for shard in many.job.shards} == {True}
    many.api.retrieve = retrieve  # type: ignore[method-assign]
    many.ends_well(12)


def test_what_was_learned_beside_a_failure_is_kept(many: World) -> None:
    many.waits()
    retrieve = many.api.retrieve

    def sometimes(batch_id: str) -> Any:
        if batch_id == "batch_1":
            raise Unavailable("503")
        return retrieve(batch_id)

    for batch in many.api.running:
        many.api.finish(batch)
    many.api.retrieve = sometimes  # type: ignore[method-assign]
    many.waits()
    states = [shard.state for shard in many.job.shards]
    assert states.count(State.SETTLED) == 11 and states[1] is State.RUNNING
    many.api.retrieve = retrieve  # type: ignore[method-assign]
    many.ends_well(12)
