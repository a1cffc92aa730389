"""Odd answers that must not be believed too soon, or never: creates, earlier epochs, pauses, and what is told."""

from __future__ import annotations

import msgspec
import pytest
from builders import TIMING, World, answer, batch, cut, job, rows, shard

from airflow_openai_batch.engine.errors import Unavailable, Unclear
from airflow_openai_batch.engine.job.planner import MAX_ABSENT
from airflow_openai_batch.engine.job.status import Held, Wait, rest
from airflow_openai_batch.engine.model import Batch, State, Status

S = State


def run(world: World, hours: float) -> Wait | Held | object:
    """Advance and let time pass, for some hours at most."""
    until = world.clock() + hours * 3600
    while isinstance(reached := world.advance(), Wait) and world.clock() < until:
        world.later(min(max(reached.wake_at - world.clock(), 1.0), 900.0))
    return reached


# -- creates ---------------------------------------------------------------------------------------------------------


def test_a_server_that_hides_what_it_creates_is_not_paid_for_three_days(world: World) -> None:
    """As one that wraps its answer, keeps no metadata and names no input file in its listing."""
    world.api.on_create = lambda: world.api.hidden.update(world.api.made)
    world.api.script("create", *[Unclear("no id")] * 100)
    world.submit(2)
    reached = run(world, 72)
    assert isinstance(reached, Held) and "no batch of its 3 creates is listed" in reached.reason
    assert world.api.calls["create"] == MAX_ABSENT
    world.api.forget_scripts()
    world.submit(2)  # a person has looked
    world.ends_well()


def test_a_lost_create_is_found_by_its_input_file_where_metadata_is_dropped(world: World) -> None:
    from builders import Lost

    world.submit(2)
    world.api.script("create", Lost())
    world.api.on_create = lambda: world.api.change("batch_0", nonce=None, created_at=1.0)  # and a clock of its own
    world.waits()
    assert world.job.shards[0].state is S.RUNNING and world.api.calls["create"] == 1
    world.ends_well()


def test_one_good_answer_ends_the_pauses_of_others(world: World) -> None:
    world.submit(6, limits=cut(2))
    world.api.script("create", Unavailable("429: slow down", status=429, retry_after_s=900.0), None, None)
    reached = world.waits()
    assert world.api.calls["create"] == 4, "the first is tried again as soon as another was answered"
    assert len(reached.batch_ids) == 3


def test_plain_429s_delay_only_the_calls_that_they_answer(world: World) -> None:
    world.submit(20, limits=cut(2))
    world.api.script("create", *[Unavailable("429", status=429), None] * 5)
    world.waits()
    assert len(world.api.running) == 10, "nobody waited for a batch to leave `validating`"


# -- earlier epochs --------------------------------------------------------------------------------------------------


def stuck_in_cancelling(world: World) -> Batch:
    """A batch of before that is asked to cancel and never ends."""
    world.submit(2)
    world.waits()
    return world.api.made["batch_0"]


def test_a_changed_prompt_is_asked_though_the_old_batch_never_ends(world: World) -> None:
    stuck_in_cancelling(world)
    world.submit(2, body={"model": "gpt-6-luna", "input": "Other: {text}"})
    reached = world.waits()
    assert world.api.made["batch_0"].status == "cancelling"
    assert reached.wake_at - world.clock() <= TIMING.earlier_epoch_s
    world.later(reached.wake_at - world.clock())
    world.waits()
    world.api.finish("batch_1")
    world.later(60)
    assert world.done().summary.by_status == {Status.SUCCEEDED: 2}
    assert reached.n_earlier == 1


def test_answers_of_the_old_batch_that_ends_in_time_are_carried_over(world: World) -> None:
    stuck_in_cancelling(world)
    world.submit([{"id": "t0", "text": "ticket 0"}, {"id": "t1", "text": "changed"}])
    world.waits()
    world.later(TIMING.earlier_epoch_s / 2)
    world.api.finish("batch_0", lambda i: answer(i) if i == "t0" else None, status="cancelled")
    world.waits()
    assert [r["custom_id"] for r in world.api.requests("batch_1")] == ["t1"]


# -- what wakes, and what may act -------------------------------------------------------------------------------------


def test_a_batch_whose_look_is_put_off_wakes_nobody_before_its_time(world: World) -> None:
    world.submit(4, limits=cut(2))
    world.waits()
    world.later(60)
    world.api.script("retrieve", Unavailable("429", status=429, retry_after_s=300.0))
    reached = world.waits()
    assert reached.batch_ids == ("batch_1",)
    assert reached.wake_at == world.clock() + 300.0


# -- what is told ----------------------------------------------------------------------------------------------------


def late(world: World, *shards: object) -> str:
    reached = rest(world.engine, job(*shards), 10**9, {})  # type: ignore[arg-type]
    assert isinstance(reached, Held)
    return reached.reason


@pytest.mark.parametrize(
    ("of", "told", "not_told"),
    [
        (shard(S.CREATING, nonce="n"), "It is not known whether a batch runs for 0-00000", "Nothing runs"),
        (shard(S.ENDED, batch=batch("completed")), "Ended and not fetched: batch_1", "Nothing runs"),
        (shard(S.RUNNING, batch=batch("in_progress")), "Batches still at OpenAI: batch_1", "Nothing runs"),
        (shard(S.UPLOADED), "Nothing runs at OpenAI", "batch_1"),
    ],
)
def test_after_the_deadline_only_what_is_known_is_told(world: World, of: object, told: str, not_told: str) -> None:
    world.submit(2)
    reason = late(world, of)
    assert told in reason and not_told not in reason
    assert "2 requests open" in reason


@pytest.mark.parametrize("status", ["finished", "ended", "archived"])
def test_a_status_that_nobody_knows_is_told_by_its_name_at_once(world: World, status: str) -> None:
    world.submit(2)
    world.waits()
    world.api.change("batch_0", status=status)
    world.later(60)
    reached = world.waits()
    assert status in (reached.job.shards[0].problem or "")
    world.api.finish("batch_0")
    world.later(60)
    assert world.done().job.shards[0].problem is None


# -- names that change -------------------------------------------------------------------------------------------------


def test_a_poll_that_names_another_id_leaves_the_batch_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel would go to the other id, and the batch run on."""
    world.submit(2)
    world.waits()
    real = world.api.retrieve
    monkeypatch.setattr(world.api, "retrieve", lambda name: msgspec.structs.replace(real(name), id="7"))
    world.later(3600)
    world.waits()
    held_batch = world.job.shards[0].batch
    assert held_batch is not None and held_batch.id == "batch_0"
    world.ends_well()


@pytest.mark.parametrize("wrong", ["file-of-another", "output.jsonl"])
def test_a_wrong_file_id_of_one_poll_is_mended_by_the_next(world: World, wrong: str) -> None:
    world.submit(2)
    world.waits()
    world.api.finish("batch_0")
    right = world.api.made["batch_0"].output_file_id
    world.api.change("batch_0", output_file_id=wrong)
    world.later(3600)
    world.waits()
    assert world.job.shards[0].state is S.ENDED
    world.api.change("batch_0", output_file_id=right)
    world.ends_well()


# -- earlier epochs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [0.0, 30.0])
def test_answers_of_an_earlier_epoch_are_waited_for_from_the_new_ones_beginning(world: World, hours: float) -> None:
    """However long ago its batch has ended: one failed download must not cost what was paid for."""
    world.submit(2)
    world.waits()
    world.api.finish("batch_0")
    world.later(3600)
    world.api.script("download", *[Unclear("lost")] * 4)
    world.waits()
    assert world.job.shards[0].state is S.ENDED
    world.later(hours * 3600)
    world.api.forget_scripts()
    world.submit([*rows(2), {"id": "t9", "text": "new"}])
    world.api.script("download", *[Unclear("lost")] * 4)
    run(world, 0.5)
    assert world.api.calls["create"] == 2
    assert len(world.api.requests("batch_1")) == 1, "only the new row is asked"
