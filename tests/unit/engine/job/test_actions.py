"""Every verb of the API gone wrong in every way: what is lost, what is paid, what is said."""

from __future__ import annotations

import itertools

import pytest
from builders import TIMING, World, cut

from airflow_openai_batch.engine.errors import ApiError, Denied, NotFound, QueueFull, Refused, Unavailable, Unclear
from airflow_openai_batch.engine.model import Status

S = Status
FULL = "Enqueued token limit reached for m in organization o. Limit: 2,000,000 enqueued tokens."
PASSING = [Unavailable("429", status=429), Unclear("502", status=502), Unavailable("x", retry_after_s=500.0)]
FREE = ["upload", "retrieve", "download", "cancel", "batches"]
LATER = 3600.0


def sent(world: World, n: int = 2) -> None:
    world.submit(n)
    world.waits()


# -- calls that cost nothing -----------------------------------------------------------------------------------------


def before(world: World, verb: str) -> None:
    """Bring a job to where its next call is this one."""
    world.submit(2)
    if verb == "batches":
        world.api.script("create", Unclear("lost"))
    elif verb != "upload":
        world.waits()
    if verb == "download":
        world.api.finish("batch_0")
    if verb == "cancel":
        world.store.command("cancel")


@pytest.mark.parametrize(
    ("verb", "error"),
    [
        *itertools.product(FREE, [*PASSING, QueueFull("full")]),
        *itertools.product(FREE[1:], [Refused("413", status=413)]),  # a refused upload: see below
    ],
)
def test_a_call_that_went_wrong_is_made_again_later(world: World, verb: str, error: ApiError) -> None:
    before(world, verb)
    world.api.script(verb, *[error] * 3)
    found = world.waits()
    assert found.wake_at >= world.clock() + max(TIMING.backoff_s, error.retry_after_s or 0.0)
    if verb != "cancel":
        world.ends_well()
        return
    for _ in range(3):
        world.later(LATER)
        world.waits()
    assert world.api.made["batch_0"].status == "cancelling"


def test_pauses_grow_while_a_call_keeps_failing(world: World) -> None:
    world.submit(2)
    pauses = []
    for _ in range(4):
        world.api.script("upload", Unavailable("down"))
        pauses.append(world.waits().wake_at - world.clock())
        world.later(pauses[-1])
    assert pauses == [30.0, 60.0, 120.0, 240.0]


@pytest.mark.parametrize("verb", FREE)
def test_wrong_credentials_hold_the_job_and_lose_nothing(world: World, verb: str) -> None:
    before(world, verb)
    if verb != "upload":  # of a job that OpenAI has accepted files of, a refusal is believed after minutes
        world.api.script(verb, *[Denied("Incorrect API key", status=401)] * 20)
        waits_until_held(world)
    else:
        world.api.script(verb, Denied("Incorrect API key", status=401))
    reason = world.held()
    assert "Incorrect API key" in reason and "without paying twice" in reason
    world.api.forget_scripts()
    if verb != "cancel":
        world.ends_well()


def waits_until_held(world: World) -> None:
    """Let time pass until the refusals have agreed for as long as it takes to believe them."""
    began_at = world.clock()
    while world.clock() < began_at + TIMING.belief_s:
        world.later(world.waits().wake_at - world.clock())


@pytest.mark.parametrize("error", [Denied("no", status=401), Denied("no", status=403), NotFound("no", status=404)])
@pytest.mark.parametrize("verb", ["retrieve", "download"])
def test_a_refusal_of_some_minutes_is_a_blip(world: World, verb: str, error: ApiError) -> None:
    before(world, verb)
    world.api.script(verb, *[error] * 4)  # at 0, 30, 90 and 210 s
    if verb == "download" and isinstance(error, NotFound):
        world.api.script(verb, *[error] * 4)  # a 404 of a file is asked for once more in place
    world.ends_well()
    assert world.api.calls["create"] == 1


def test_one_answer_between_refusals_begins_the_minutes_anew(world: World) -> None:
    sent(world)
    no = NotFound("no such batch", status=404)
    world.api.script("retrieve", *[no] * 4, None, *[no] * 4)
    for _ in range(12):
        world.later(max(world.waits().wake_at - world.clock(), 1.0) if world.job.shards[0].refused_at else 60.0)
    world.ends_well()


def test_a_key_of_another_region_is_told_what_to_set(world: World) -> None:
    world.submit(2)
    world.api.script("upload", Denied("no", status=401, code="incorrect_hostname"))
    assert "set the connection's host" in world.held()


def test_an_upload_that_is_refused_again_and_again_ends_the_shard_unpaid(world: World) -> None:
    world.submit(2)
    world.api.script("upload", *[Refused("HTTP 400: Invalid file format", status=400)] * 3)
    for _ in range(2):  # a proxy can answer anything once
        world.later(world.waits().wake_at - world.clock())
    found = world.done().summary
    assert found.by_status == {S.FAILED: 2} and len(world.api.made) == 0
    assert found.rejections[0].code == "http_400" and "Invalid file format" in found.rejections[0].message


def test_one_404_may_be_a_lagging_replica(world: World) -> None:
    sent(world)
    world.api.script("retrieve", NotFound("no", status=404))
    found = world.waits()
    assert found.batch_ids == () and found.wake_at == world.clock() + TIMING.backoff_s
    world.later(TIMING.backoff_s)
    assert world.waits().batch_ids == ("batch_0",)


def test_a_confirmed_404_holds_the_job_and_sends_nothing_again(world: World) -> None:
    sent(world)
    world.api.script("retrieve", *[NotFound("no such batch", status=404)] * 20)
    waits_until_held(world)
    assert "does not know batch batch_0" in world.held()
    assert len(world.api.made) == 1
    world.api.forget_scripts()
    world.ends_well()


def test_result_files_that_are_gone_hold_the_job(world: World) -> None:
    sent(world)
    world.api.finish("batch_0")
    name = world.api.made["batch_0"].output_file_id or ""
    del world.api.files[name]
    waits_until_held(world)
    assert "result files of batch batch_0 are gone" in world.held()


def test_a_request_file_that_a_power_cut_left_short_is_not_sent(world: World) -> None:
    from pathlib import Path

    world.submit(4, limits=cut(2))
    short = Path(str(world.store)) / world.job.shards[1].requests
    whole = short.read_bytes()
    short.write_bytes(whole[:-7])
    world.waits()
    world.api.finish("batch_0")
    reason = world.held()
    assert "is damaged: it has" in reason and "None of its 2 rows was sent" in reason
    assert len(world.api.made) == 1
    short.write_bytes(whole)
    world.ends_well(4)
