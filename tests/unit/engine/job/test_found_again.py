"""Batches that are found by what is left of their names: a server or a gateway may drop metadata, or change it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import Lost, World

from airflow_openai_batch.engine.errors import Unavailable, Unclear
from airflow_openai_batch.engine.job.status import Held, Wait
from airflow_openai_batch.engine.model import Batch, State

MANGLED: dict[str, Callable[[str], str | None]] = {
    "dropped": lambda nonce: None,
    "cut": lambda nonce: nonce[:20],
    "upper case": str.upper,
    "other separators": lambda nonce: nonce.replace("/", "_"),
    "another text": lambda nonce: "redacted",
    "cut at its end": lambda nonce: nonce[:-4],
}


def mangle(world: World, how: str) -> None:
    """Let the server show the nonces of all batches so far in another form."""
    for name, made in world.api.made.items():
        if made.nonce is not None and world.api.metadata[name].pop("is_mangled", None) is None:
            world.api.change(name, nonce=MANGLED[how](made.nonce))
            world.api.metadata[name]["is_mangled"] = "yes"


@pytest.mark.parametrize("how", MANGLED)
def test_a_lost_create_is_found_whatever_became_of_its_nonce(world: World, how: str) -> None:
    world.submit(2)
    world.api.script("create", Lost())
    world.api.on_create = lambda: mangle(world, how)
    world.ends_well()
    assert len(world.api.made) == 1, "billed once"


@pytest.mark.parametrize("how", MANGLED)
def test_a_store_that_was_set_back_finds_its_batch_whatever_became_of_the_nonce(
    world: World, how: str, tmp_path: Path
) -> None:
    world.submit(2)
    world.api.script("create", Unavailable("slow down", status=429))
    world.waits()
    assert world.job.shards[0].state is State.UPLOADED
    shutil.copytree(tmp_path / "store", tmp_path / "backup")
    world.later(3600)
    world.waits()
    mangle(world, how)
    assert len(world.api.made) == 1
    shutil.rmtree(tmp_path / "store")
    shutil.copytree(tmp_path / "backup", tmp_path / "store")
    world.engine = world.worker()
    world.ends_well()
    assert len(world.api.made) == 1, "billed once"


@pytest.mark.parametrize("how", MANGLED)
def test_a_batch_that_is_listed_after_it_was_created_again_is_cancelled(world: World, how: str) -> None:
    world.submit(2)
    world.api.script("create", Lost())

    def hide_the_first() -> None:
        mangle(world, how)
        world.api.hidden.add("batch_0")

    world.api.on_create = hide_the_first
    while len(world.api.made) < 2:
        world.later(60)
        world.waits()
    assert world.api.running == ["batch_0", "batch_1"]
    world.api.hidden.clear()
    world.waits()
    assert world.api.running == ["batch_1"]
    world.api.finish("batch_0", output=None, status="cancelled")
    world.ends_well()


@pytest.mark.parametrize("created_at", [1_000_000.0, None])
def test_batches_that_are_listed_without_any_name_are_not_taken_for_those_of_others(
    world: World, created_at: float | None
) -> None:
    world.submit(2)
    world.api.script("create", Lost())
    world.api.on_create = lambda: world.api.change("batch_0", nonce=None, input_file_id=None, created_at=created_at)
    began_at = world.clock()
    while isinstance(reached := world.advance(), Wait):
        world.later(max(reached.wake_at - world.clock(), 1.0))
    assert isinstance(reached, Held) and "batch_0" in reached.reason and "does not tell" in reached.reason
    assert len(world.api.made) == 1 and world.clock() - began_at < 8 * 3600
    world.api.change("batch_0", input_file_id="file-0")  # a gateway that was mended
    world.later(3600)
    world.ends_well()
    assert len(world.api.made) == 1, "billed once"


def test_old_batches_without_any_name_are_those_of_others(world: World) -> None:
    world.api.made["batch_0"] = Batch(id="batch_0", status="completed", created_at=world.clock() - 7200)
    world.submit(2)
    world.api.script("create", Unclear("lost"))
    world.waits()
    world.later(3600)
    world.waits()
    assert list(world.api.made) == ["batch_0", "batch_1"]


def test_an_input_file_that_two_jobs_share_does_not_make_one_job_of_them(world: World) -> None:
    """As of a server that stores equal files once."""
    world.submit(2)
    world.api.script("create", Lost())
    file_id = "file-0"
    world.api.on_create = lambda: world.api.hidden.add("batch_0")
    world.waits()
    other = "0123456789abcdef/0/0-00000-0123456789ab/u/c"
    world.api.change("batch_0", input_file_id=file_id, nonce=other)
    world.api.hidden.clear()
    world.later(3600)
    world.waits()
    assert world.job.shards[0].batch is not None and world.job.shards[0].batch.id == "batch_1"
    assert "batch_0" in world.api.running, "it is another job's, and left alone"
