"""How much of a job's past stays: the newest snapshots whole, of the others the names."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import KEY, World, cut, job, shard
from upath import UPath

from airflow_openai_batch.engine.errors import CommitRefused, StoreError
from airflow_openai_batch.engine.model import State
from airflow_openai_batch.engine.store.job_store import FULL_SNAPSHOTS, JobStore

JOB = job(shard(State.PLANNED))


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UPath]:
    path = UPath(tmp_path / "s") if request.param == "local" else UPath(f"memory://{uuid.uuid4().hex}")
    yield path
    if request.param == "memory" and path.exists():
        path.fs.rm(path.path, recursive=True)


def snapshots(root: UPath) -> list[int]:
    """Return the sizes of all snapshots, in their order."""
    return [path.stat().st_size for path in sorted(root.rglob("state/*.json"), key=str)]


def test_the_newest_snapshots_stay_whole_and_all_names_stay(root: UPath) -> None:
    store = JobStore(root, KEY)
    for number in range(FULL_SNAPSHOTS + 15):
        store.commit(number, JOB, float(number))
        sizes = snapshots(root)
        assert len(sizes) == number + 1
        assert [size > 0 for size in sizes] == [False] * max(0, number + 1 - FULL_SNAPSHOTS) + [True] * min(
            number + 1, FULL_SNAPSHOTS
        )
    found = store.load()
    assert found is not None and (found.number, found.job.committed_at) == (FULL_SNAPSHOTS + 14, FULL_SNAPSHOTS + 14.0)


def test_a_process_that_wakes_with_an_old_number_commits_into_no_gap(root: UPath) -> None:
    store = JobStore(root, KEY)
    for number in range(2 * FULL_SNAPSHOTS):
        store.commit(number, JOB, 1.0)
    before = snapshots(root)
    for number in range(2 * FULL_SNAPSHOTS):
        with pytest.raises(CommitRefused):
            JobStore(root, KEY).commit(number, JOB, 2.0)
    assert snapshots(root) == before


@pytest.mark.parametrize("content", [b"", b'{"format_version":2,"key":{"dag'], ids=["emptied", "torn"])
def test_a_reader_that_was_slow_takes_the_snapshot_that_is_newest_by_then(root: UPath, content: bytes) -> None:
    store = JobStore(root, KEY)
    store.commit(0, JOB, 1.0)
    store.create("state/000001.json", content)
    read = store.read

    def late(name: str) -> bytes:
        data = read(name)
        if name == "state/000001.json":
            JobStore(root, KEY).commit(2, JOB, 3.0)
        return data

    store.read = late  # type: ignore[method-assign]
    found = store.load()
    assert found is not None and (found.number, found.job.committed_at) == (2, 3.0)


def test_a_newest_snapshot_without_content_is_never_taken_for_an_older_one_or_for_no_job(root: UPath) -> None:
    store = JobStore(root, KEY)
    store.commit(0, JOB, 1.0)
    store.create("state/000001.json", b"")
    with pytest.raises(StoreError, match="cannot be read"):
        store.load()


def test_a_storage_that_lets_nothing_be_overwritten_keeps_all_snapshots_and_works(
    root: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **more: Any) -> None:
        raise PermissionError("object lock")

    monkeypatch.setattr("os.replace", refuse)
    monkeypatch.setattr(type(root.fs), "pipe_file", refuse)
    store = JobStore(root, KEY)
    for number in range(FULL_SNAPSHOTS + 5):
        store.commit(number, JOB, 1.0)
    assert all(snapshots(root)) and len(snapshots(root)) == FULL_SNAPSHOTS + 5
    assert not list(root.rglob("**/.new-*"))
    assert store.load() is not None


def test_many_more_snapshots_than_their_names_have_digits_for(root: UPath) -> None:
    store = JobStore(root, KEY)
    store.commit(999_999, JOB, 1.0)
    store.commit(1_000_000, JOB, 2.0)
    found = store.load()
    assert found is not None and found.number == 1_000_000


def looked_at(root: UPath, n_shards: int, n_looks: int) -> tuple[int, int]:
    """Return what the snapshots of a job hold, and the largest one, after looks that each found something new."""
    world = World(JobStore(root, KEY))
    world.submit(n_shards, limits=cut(1))
    world.waits()
    for look in range(n_looks):
        for batch_id in world.api.running:
            world.api.change(batch_id, status="in_progress", n_completed=look, n_total=n_looks)
        world.later(60)
        world.waits()
    sizes = snapshots(root)
    assert len(sizes) > n_looks + n_shards
    return sum(sizes), max(sizes)


def test_the_store_grows_with_the_shards_and_not_with_the_looks(tmp_path: Path) -> None:
    kept: dict[tuple[int, int], int] = {}
    for n_shards in (4, 16):
        for n_looks in (25, 60):
            n_bytes, largest = looked_at(UPath(tmp_path / f"{n_shards}-{n_looks}"), n_shards, n_looks)
            assert n_bytes <= FULL_SNAPSHOTS * largest
            kept[n_shards, n_looks] = n_bytes
        assert kept[n_shards, 60] <= 1.02 * kept[n_shards, 25]
    assert kept[16, 60] / 16 <= 1.05 * kept[4, 60] / 4
