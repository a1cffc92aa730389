"""Files and counts that come later than the status of a batch: nothing that is on its way is asked again."""

from __future__ import annotations

import itertools

import pytest
from builders import World

from airflow_openai_batch.engine.job.status import Done, Held, Wait
from airflow_openai_batch.engine.model import LineError, Status

N = 6


def run(world: World, hours: float) -> Wait | Done | Held:
    """Advance and let time pass, for some hours at most. Batches that are created meanwhile end well."""
    until = world.clock() + hours * 3600
    while isinstance(reached := world.advance(), Wait) and world.clock() < until:
        world.later(min(max(reached.wake_at - world.clock(), 1.0), 900.0))
        for name in world.api.running:
            world.api.finish(name)
    return reached


def ended(world: World, status: str) -> tuple[str, bytes]:
    """Let a batch of six rows end with an answer for each. Returns its output file and what that will hold."""
    world.submit(N)
    world.waits()
    world.api.finish("batch_0", status=status)
    file_id = world.api.made["batch_0"].output_file_id or ""
    return file_id, world.api.files[file_id]


@pytest.mark.parametrize("status", ["expired", "cancelled", "failed"])
@pytest.mark.parametrize("n_lines", [0, 2, 5])
def test_a_file_that_is_still_written_after_an_early_end_is_waited_for(world: World, status: str, n_lines: int) -> None:
    file_id, whole = ended(world, status)
    world.api.files[file_id] = b"".join(whole.splitlines(keepends=True)[:n_lines])
    world.api.change("batch_0", n_completed=0)
    for _ in range(3):
        world.waits()
        world.later(60)
    world.api.files[file_id] = whole
    assert run(world, 3).summary.by_status == {Status.SUCCEEDED: N}
    assert len(world.api.made) == 1, "billed once"


@pytest.mark.parametrize("status", ["expired", "cancelled", "failed"])
def test_what_stays_the_same_for_minutes_after_an_early_end_is_all(world: World, status: str) -> None:
    file_id, whole = ended(world, status)
    world.api.files[file_id] = b"".join(whole.splitlines(keepends=True)[:2])
    world.api.change("batch_0", n_completed=1)
    began_at = world.clock()
    assert run(world, 3).summary.by_status == {Status.SUCCEEDED: N}
    assert [len(world.api.requests(name)) for name in world.api.made] == [N, 4]
    assert 600 <= world.clock() - began_at <= 3600


@pytest.mark.parametrize(
    "error",
    [
        LineError(code="server_error", message="internal error"),
        LineError(code="token_limit_exceeded", message="Enqueued token limit reached for m."),
        LineError(code="invalid_file", message="Cannot find file file-1"),
    ],
)
def test_a_batch_that_failed_while_it_ran_gives_its_answers_when_its_file_comes(world: World, error: LineError) -> None:
    file_id, _ = ended(world, "failed")
    world.api.change("batch_0", output_file_id=None, errors=(error,))
    for _ in range(3):
        world.waits()
        world.later(60)
    world.api.change("batch_0", output_file_id=file_id)
    assert run(world, 1).summary.by_status == {Status.SUCCEEDED: N}
    assert len(world.api.made) == 1, "billed once"


def test_a_batch_that_failed_while_it_ran_and_never_names_its_file_is_for_a_person(world: World) -> None:
    ended(world, "failed")
    world.api.change("batch_0", output_file_id=None, n_completed=4, errors=(LineError(code="x", message="internal"),))
    reached = run(world, 9)
    assert isinstance(reached, Held) and "OpenAI counts 4 completed" in reached.reason
    assert len(world.api.made) == 1


@pytest.mark.parametrize("line_s", [60, 240])
def test_a_file_and_counts_that_grow_together_behind_the_status_are_waited_for(world: World, line_s: float) -> None:
    file_id, whole = ended(world, "completed")
    lines = whole.splitlines(keepends=True)
    began_at = world.clock()
    while isinstance(reached := world.advance(), Wait):
        world.later(max(reached.wake_at - world.clock(), 1.0))
        n = min(N, 1 + int((world.clock() - began_at) / line_s))
        world.api.files[file_id] = b"".join(lines[:n])
        world.api.change("batch_0", n_completed=n)
        assert len(world.api.made) == 1, "billed once"
    assert reached.summary.by_status == {Status.SUCCEEDED: N}


def test_rows_that_a_completed_batch_never_counts_are_asked_again(world: World) -> None:
    file_id, whole = ended(world, "completed")
    world.api.files[file_id] = b"".join(whole.splitlines(keepends=True)[:4])
    world.api.change("batch_0", n_completed=4)
    began_at = world.clock()
    assert run(world, 2).summary.by_status == {Status.SUCCEEDED: N}
    assert [len(world.api.requests(name)) for name in world.api.made] == [N, 2]
    assert world.clock() - began_at <= 3600


def test_a_completed_batch_with_more_answers_than_it_counts_proves_nothing(world: World) -> None:
    file_id, whole = ended(world, "completed")
    world.api.files[file_id] = b"".join(whole.splitlines(keepends=True)[:4])
    world.api.change("batch_0", n_completed=2)
    world.waits()
    world.later(3600)
    world.waits()
    world.api.files[file_id] = whole
    assert run(world, 3).summary.by_status == {Status.SUCCEEDED: N}
    assert len(world.api.made) == 1


@pytest.mark.parametrize("n_pages", [2, 1000])
def test_pages_that_differ_each_time_hold_the_job_in_time_and_do_not_fill_the_store(world: World, n_pages: int) -> None:
    """As of a proxy, with the time or a request id in them; or two that take turns."""
    file_id, whole = ended(world, "completed")
    pages = itertools.cycle([b"<html>%d</html>" % n for n in range(n_pages)])
    began_at = world.clock()
    world.api.files[file_id] = next(pages)
    while isinstance(reached := world.advance(), Wait):
        world.api.files[file_id] = next(pages)
        world.later(max(reached.wake_at - world.clock(), 1.0))
    evidence = world.job.shards[0].evidence
    assert isinstance(reached, Held) and "accept-missing" in reached.reason
    assert world.clock() - began_at < 8 * 3600
    assert evidence is not None and 2 <= len(evidence.raw) <= 7
    assert [world.store.read(name) for name in evidence.raw[:2]] == [b"<html>0</html>", b"<html>1</html>"]
    world.api.files[file_id] = whole
    world.later(1800)
    assert world.done().summary.by_status == {Status.SUCCEEDED: N}, "the pages of before do no harm"
    assert len(world.api.made) == 1
