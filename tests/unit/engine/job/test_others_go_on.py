"""What goes wrong for one shard, or for an earlier epoch, does not stop the rest of the job."""

from __future__ import annotations

import pytest
from builders import BODY, World, cut

from airflow_openai_batch.engine.errors import ApiError, Denied, NotFound, Refused, Unavailable, Unclear, Unfetchable
from airflow_openai_batch.engine.job.status import Done, Held, Wait
from airflow_openai_batch.engine.model import Policy, State, Status

NEW = {**BODY, "input": "again: {text}"}


def run(world: World, hours: float) -> Wait | Done | Held:
    """Advance and let time pass, for some hours at most."""
    until = world.clock() + hours * 3600
    while isinstance(reached := world.advance(), Wait) and world.clock() < until:
        world.later(min(max(reached.wake_at - world.clock(), 1.0), 900.0))
    return reached


def refuse_for(world: World, monkeypatch: pytest.MonkeyPatch, verb: str, names: set[str], error: ApiError) -> None:
    """Let one verb go wrong for some batches, and for no other."""
    real = getattr(world.api, verb)

    def call(name: str) -> object:
        if name in names:
            raise error
        return real(name)

    monkeypatch.setattr(world.api, verb, call)


@pytest.mark.parametrize("error", [Denied("403: not yours", status=403), NotFound("404: unknown", status=404)])
def test_a_batch_that_is_refused_for_hours_holds_the_job_only_after_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch, error: ApiError
) -> None:
    world.submit(6, limits=cut(2))
    world.waits()
    refuse_for(world, monkeypatch, "retrieve", {"batch_0"}, error)
    assert isinstance(run(world, 1), Wait), "others run"
    world.api.finish("batch_1")
    world.api.finish("batch_2")
    reached = run(world, 3)
    assert isinstance(reached, Held) and str(error) in reached.reason
    assert reached.summary.by_status == {Status.SUCCEEDED: 4} and len(world.api.made) == 3
    monkeypatch.undo()
    world.api.finish("batch_0")
    world.later(3600)
    assert world.done().summary.by_status == {Status.SUCCEEDED: 6}


def test_a_create_that_is_denied_for_hours_leaves_what_runs_to_be_fetched(world: World) -> None:
    """As of one model among several that the project may not use."""
    world.submit(4, limits=cut(2))
    world.api.script("create", None, *[Denied("403: no access to the model", status=403)] * 200)
    assert isinstance(run(world, 2), Wait), "a batch runs"
    world.api.finish("batch_0")
    reached = run(world, 3)
    assert isinstance(reached, Held) and "no access to the model" in reached.reason
    assert reached.summary.by_status == {Status.SUCCEEDED: 2}
    world.api.forget_scripts()
    world.later(3600)
    world.waits()
    world.api.finish("batch_1")
    assert world.done().summary.by_status == {Status.SUCCEEDED: 4} and len(world.api.made) == 2


@pytest.mark.parametrize("parallel", [1, 4])
def test_a_key_that_is_no_longer_accepted_holds_a_job_of_many_shards_as_soon_as_one_of_few(
    world: World, parallel: int
) -> None:
    world.engine.parallel = parallel
    world.submit(30, limits=cut(1))
    world.waits()
    world.api.script("retrieve", *[Denied("401: revoked", status=401)] * 10_000)
    began_at, n_calls = world.clock(), world.api.calls["retrieve"]
    reached = run(world, 5)
    assert isinstance(reached, Held) and reached.reason.count("revoked") == 1
    assert 600 <= world.clock() - began_at <= 3600 and world.api.calls["retrieve"] - n_calls <= 100
    world.api.forget_scripts()
    for name in world.api.running:
        world.api.finish(name)
    world.later(3600)
    assert world.done().summary.by_status == {Status.SUCCEEDED: 30} and len(world.api.made) == 30


def test_an_account_without_money_holds_the_whole_job_at_once(world: World) -> None:
    world.submit(4, limits=cut(2))
    world.waits()
    world.api.script("retrieve", *[Denied("pay", status=429, code="insufficient_quota")] * 2)
    assert "pay" in world.held()


@pytest.mark.parametrize("n_failing", [4, 7])
def test_pauses_that_some_batches_are_asked_for_are_not_those_of_others(
    world: World, monkeypatch: pytest.MonkeyPatch, n_failing: int
) -> None:
    world.submit(20, limits=cut(1))
    world.waits()
    failing = {f"batch_{i}" for i in range(n_failing)}
    refuse_for(world, monkeypatch, "retrieve", failing, Unavailable("429", status=429, retry_after_s=3600.0))
    for name in set(world.api.running) - failing:
        world.api.finish(name)
    run(world, 0.2)
    assert sum(shard.state is State.SETTLED for shard in world.job.shards) == 20 - n_failing


@pytest.mark.parametrize(
    "error", [Unclear("500", status=500), Refused("405: no such route", status=405), Denied("403: may not", status=403)]
)
def test_a_batch_of_before_that_cannot_be_cancelled_holds_the_new_epoch_up_for_an_hour_at_most(
    world: World, error: ApiError
) -> None:
    world.submit(2)
    world.waits()
    world.submit(2, body=NEW)
    world.api.script("cancel", *[error] * 1000)
    run(world, 0.7)
    assert len(world.api.made) == 1, "its answers may still come"
    run(world, 0.5)
    assert len(world.api.made) == 2, "the new rows are asked"
    world.api.finish("batch_1")
    reached = run(world, 1)
    assert isinstance(reached, Done) and reached.summary.by_status == {Status.SUCCEEDED: 2}


def test_a_batch_of_before_whose_files_cannot_be_fetched_holds_the_new_epoch_up_for_an_hour_at_most(
    world: World,
) -> None:
    world.submit(2)
    world.waits()
    world.submit(2, body=NEW)
    world.api.finish("batch_0")
    world.api.change("batch_0", ended_at=None)
    world.api.script("download", *[Unclear("500", status=500)] * 1000)
    run(world, 3)
    assert len(world.api.made) == 2


def test_a_wrong_expiry_does_not_put_the_deadline_off_for_years(world: World) -> None:
    world.submit(2)
    world.waits()
    world.api.change("batch_0", status="in_progress", expires_at=4e9)
    for _ in range(40):
        world.later(24 * 3600)
        reached = world.advance()
    assert isinstance(reached, Held) and "batch_0" in reached.reason


def test_after_the_deadline_a_create_that_left_no_trace_is_no_proof_that_nothing_runs(world: World) -> None:
    world.submit(2, policy=Policy(deadline_s=600.0))
    world.api.script("create", Unclear("lost"), *[Unavailable("429", status=429)] * 100)
    reached = run(world, 2)
    assert isinstance(reached, Held) and "It is not known whether a batch runs for 0-00000" in reached.reason
    assert "Nothing runs" not in reached.reason


@pytest.mark.parametrize("address", ["https://x.blob.core.windows.net/out.jsonl", "/mnt/out.jsonl"])
def test_a_file_that_is_named_by_an_address_is_told_within_the_hour_and_others_go_on(
    world: World, address: str
) -> None:
    world.submit(4, limits=cut(2))
    world.waits()
    real = world.api.download

    def download(file_id: str, target: object) -> int:
        if file_id == address:
            raise Unfetchable(f"The server names {address!r} as a file of the batch.")
        return real(file_id, target)  # type: ignore[arg-type]

    world.api.download = download  # type: ignore[method-assign]
    world.api.finish("batch_0")
    right = world.api.made["batch_0"].output_file_id
    world.api.change("batch_0", output_file_id=address)
    world.api.finish("batch_1")
    began_at = world.clock()
    reached = run(world, 3)
    assert isinstance(reached, Held) and address in reached.reason and "gone" not in reached.reason
    assert world.clock() - began_at <= 3600 and reached.summary.by_status == {Status.SUCCEEDED: 2}
    world.api.change("batch_0", output_file_id=right)
    world.later(3600)
    assert world.done().summary.by_status == {Status.SUCCEEDED: 4} and len(world.api.made) == 2
