"""Whether a file was created is decided by what the storage did, whatever its client says."""

from __future__ import annotations

import errno
import io
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import KEY, World, cut, job, shard
from upath import UPath

from airflow_openai_batch.engine.errors import CommitRefused, StoreError
from airflow_openai_batch.engine.model import State
from airflow_openai_batch.engine.store.job_store import JobStore

JOB = job(shard(State.PLANNED))


class OddClient:
    """A client of an object store that keeps to exclusive create and says odd things about it.

    Args:
        fs: The storage.
        refusal: What it raises for a file that exists.
        after: What it raises after a file was created, until it is None.
        before: What it raises before anything happens, until it is None.
    """

    protocol = ("odd",)

    def __init__(
        self,
        fs: Any,
        refusal: Exception | None = None,
        after: Exception | None = None,
        before: Exception | None = None,
    ) -> None:
        self._fs = fs
        self.refusal, self.after, self.before = refusal, after, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fs, name)

    def open(self, path: str, mode: str = "rb") -> Any:
        return _Upload(self, path) if mode == "xb" else self._fs.open(path, mode)

    def put(self, path: str, data: bytes) -> None:
        """Send a file, as its writer is closed."""
        if self.before is not None:
            raise self.before
        try:
            with self._fs.open(path, "xb") as file:
                file.write(data)
        except FileExistsError:
            raise self.refusal or FileExistsError(path) from None
        if self.after is not None:
            raise self.after


class _Upload(io.BytesIO):
    def __init__(self, client: OddClient, path: str) -> None:
        super().__init__()
        self._client, self._target = client, path

    def __exit__(self, *error: object) -> None:
        self._client.put(self._target, self.getvalue())


ODD = {
    "412 without If-None-Match": OSError(errno.EINVAL, "At least one of the pre-conditions you specified did not hold"),
    "409 conditional request conflict": OSError(errno.EIO, "ConditionalRequestConflict"),
    "404 of a multi-part upload": FileNotFoundError("NoSuchUpload"),
    "403": PermissionError("Forbidden"),
    "no error of a library": RuntimeError("odd"),
}
refusals = pytest.mark.parametrize("error", ODD.values(), ids=ODD)


@pytest.fixture
def store_of() -> Iterator[Callable[..., JobStore]]:
    """Make stores on one storage, each with a client of its own."""
    root = UPath(f"memory://{uuid.uuid4().hex}")

    def make(**errors: Exception) -> JobStore:
        store = JobStore(root, KEY)
        store._fs = OddClient(root.fs, **errors)
        return store

    yield make
    if root.exists():
        root.fs.rm(root.path, recursive=True)


@refusals
def test_a_refusal_that_the_client_does_not_know_is_a_refusal(
    store_of: Callable[..., JobStore], error: Exception
) -> None:
    store = store_of(refusal=error)
    store.check()
    first = store.commit(0, JOB, 1.0)
    with pytest.raises(CommitRefused):
        store_of(refusal=error).commit(0, JOB, 2.0)
    assert store.load() == first
    assert (store.record_end(0, "good"), store_of(refusal=error).record_end(0, "good")) == (True, False)


@refusals
def test_a_create_that_succeeded_although_the_client_raised_is_a_success(
    store_of: Callable[..., JobStore], error: Exception
) -> None:
    store = store_of(after=error)
    store.check()
    assert store.commit(0, JOB, 1.0) == store.load()
    store.command("cancel")
    assert len(store.commands()) == 1
    assert (store.record_end(0, "good"), store_of().record_end(0, "good")) == (True, False)


@refusals
def test_a_create_that_did_nothing_is_an_error_of_the_store(
    store_of: Callable[..., JobStore], error: Exception
) -> None:
    store = store_of(before=error)
    for act in (store.check, lambda: store.commit(0, JOB, 1.0), lambda: store.command("cancel")):
        with pytest.raises(StoreError, match=r"Cannot write to .*\[openai_batch\] storage"):
            act()
    assert store.load() is None


def test_a_create_of_which_nobody_can_learn_what_became_is_an_error_of_the_store(
    store_of: Callable[..., JobStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(after=TimeoutError("no answer"))

    def out_of_reach(path: str) -> bytes:
        raise ConnectionError("out of reach")

    monkeypatch.setattr(store._fs, "cat_file", out_of_reach, raising=False)
    with pytest.raises(StoreError, match="no answer"):
        store.commit(0, JOB, 1.0)


@refusals
def test_a_storage_that_overwrites_and_raises_is_refused(
    store_of: Callable[..., JobStore], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of()

    def put(path: str, data: bytes) -> None:
        is_there = store._fs.exists(path)
        store._fs.pipe_file(path, data)
        if is_there:
            raise error

    monkeypatch.setattr(store._fs, "put", put)
    with pytest.raises(StoreError, match="lets a file be created twice"):
        store.check()


def test_of_many_workers_with_an_odd_client_one_makes_a_snapshot(store_of: Callable[..., JobStore]) -> None:
    refusal = ODD["412 without If-None-Match"]
    stores = [store_of(refusal=refusal) for _ in range(8)]
    for number in range(5):
        barrier, won = threading.Barrier(len(stores)), list[int]()

        def commit(i: int, number: int = number, barrier: threading.Barrier = barrier, won: list[int] = won) -> None:
            barrier.wait()
            try:
                stores[i].commit(number, job(shard(State.PLANNED, n_rows=i)), 1.0)
            except CommitRefused:
                return
            won.append(i)

        threads = [threading.Thread(target=commit, args=(i,)) for i in range(len(stores))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = stores[0].load()
        assert found is not None and [found.job.n_rows] == won


def test_two_workers_with_odd_clients_pay_once(store_of: Callable[..., JobStore]) -> None:
    refusal, lost = ODD["412 without If-None-Match"], ODD["409 conditional request conflict"]
    world = World(store_of(refusal=refusal, after=lost))
    world.submit(4, limits=cut(2))
    other = World(store_of(refusal=refusal, after=lost))
    other.api, other.clock = world.api, world.clock
    other.engine = other.worker()
    is_racing = [True]

    def race() -> None:
        if is_racing and is_racing.pop():
            other.advance()

    world.api.on_create = race
    world.advance()
    assert sorted(len(world.api.requests(b.id)) for b in world.api.made.values() if b.status != "cancelling") == [2, 2]
    world.ends_well(4)


def test_a_local_link_whose_answer_was_lost_is_a_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS repeats a request whose answer was lost, and then the file exists."""
    import os

    link = os.link

    def repeated(source: Any, target: Any) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr("os.link", repeated)
    store = JobStore(UPath(tmp_path), KEY)
    assert store.commit(0, JOB, 1.0) == store.load()
    with store.writing("e0/requests/a.jsonl") as file:
        file.write(b"1")
    assert store.read("e0/requests/a.jsonl") == b"1"
