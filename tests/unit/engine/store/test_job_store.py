from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import KEY, SNAPSHOT_V1, World, job, shard
from upath import UPath

from airflow_openai_batch.engine.errors import CommitRefused, StoreError, UnknownFormat
from airflow_openai_batch.engine.model import FORMAT_VERSION, Commands, Intent, Job, Policy, State, Status
from airflow_openai_batch.engine.store.job_store import JobStore, decode_job

JOB = job(shard(State.PLANNED))


@pytest.fixture(params=["local", "memory"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobStore]:
    root = UPath(tmp_path / "s") if request.param == "local" else UPath(f"memory://{uuid.uuid4().hex}")
    yield JobStore(root, KEY)
    if request.param == "memory" and root.exists():
        root.fs.rm(root.path, recursive=True)


def files(store: JobStore) -> list[str]:
    return sorted(str(p) for p in store._path.rglob("*") if p.is_file())


def test_a_job_that_was_never_written_is_none(any_store: JobStore) -> None:
    assert any_store.load() is None


def test_the_highest_snapshot_is_the_truth(any_store: JobStore) -> None:
    for number, rows in ((0, 1), (1, 2), (2, 3)):
        any_store.commit(number, job(shard(State.PLANNED, n_rows=rows)), 5.0)
    any_store.create("state/junk.json", b"no snapshot")
    found = any_store.load()
    assert found is not None and found[0] == 2
    assert found[1].n_rows == 3 and found[1].committed_at == 5.0


def test_what_is_committed_is_what_is_loaded(any_store: JobStore) -> None:
    committed = any_store.commit(0, JOB, 7.0)
    assert any_store.load() == committed
    assert committed[1].writer


def test_a_snapshot_is_made_once(any_store: JobStore) -> None:
    first = any_store.commit(0, JOB, 1.0)
    with pytest.raises(CommitRefused, match=r"Snapshot 0 of .* was made by another process"):
        any_store.commit(0, job(shard(State.UPLOADED)), 2.0)
    assert any_store.load() == first


def test_of_many_threads_exactly_one_makes_a_snapshot(store: JobStore) -> None:
    k = 8
    for number in range(5):
        barrier, won = threading.Barrier(k), list[Job]()

        def commit(
            number: int = number, barrier: threading.Barrier = barrier, won: list[Job] = won, store: JobStore = store
        ) -> None:
            barrier.wait()
            with contextlib.suppress(CommitRefused):
                won.append(store.commit(number, JOB, 1.0)[1])

        threads = [threading.Thread(target=commit) for _ in range(k)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [(number, writer) for writer in won] == [store.load()]


def test_a_write_that_the_storage_client_repeated_is_a_win(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    create = store.create

    def repeated(name: str, data: bytes) -> bool:
        create(name, data)  # arrived, its answer was lost, and the client sent it again
        return create(name, data)

    monkeypatch.setattr(store, "create", repeated)
    assert store.commit(0, JOB, 1.0) == store.load()


def test_an_unknown_format_is_refused_and_nothing_is_lost(store: JobStore) -> None:
    data = b'{"format_version":%d,"new":{"shape":true}}' % (FORMAT_VERSION + 1)
    store.create("state/000000.json", data)
    with pytest.raises(UnknownFormat, match="Nothing is lost"):
        store.load()


def test_snapshots_of_format_1_load_for_ever() -> None:
    found = decode_job(SNAPSHOT_V1.read_bytes())
    assert (found.format_version, found.key.task_id, found.key.map_index) == (2, "label", 3)
    assert [s.state for s in found.shards] == [
        State.SETTLED,
        State.RUNNING,
        State.CREATING,
        State.UPLOADED,
        State.PLANNED,
        State.REJECTED,
    ]
    settled, running, creating, *_, rejected = found.shards
    assert settled.tally == {Status.SUCCEEDED: 40, Status.EXPIRED: 2} and settled.retryable == {Status.EXPIRED: 2}
    assert settled.usage.cached_tokens == 12 and settled.child == "1-00000.1"
    assert running.batch is not None and running.batch.expires_at == 1786500000.0 and running.round == 1
    assert creating.intent == Intent(nonce="5d1f00aa11bb22cc/1/1-00001/abcdefabcdef", at=1786410000.25, n_looks=1)
    assert rejected.rejections[0].custom_id == "t99" and rejected.rejections[0].n == 7
    assert found.earlier[0].state is State.ENDED and found.earlier[0].cancel_asked_at == 1786400001.0
    assert found.policy.retry_on == {Status.INVALID} and found.policy.max_enqueued_tokens == 2_000_000
    assert found.spec.schema is not None and found.acknowledged == ("start_over-again",)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"format_version":"1"}', b"{}"])
def test_a_spoilt_snapshot_is_an_error_of_the_store(store: JobStore, data: bytes) -> None:
    store.create("state/000000.json", data)
    with pytest.raises(StoreError, match="cannot be read"):
        store.load()


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_small_file_is_created_once(any_store: JobStore) -> None:
    assert (any_store.create("a/b.json", b"1"), any_store.create("a/b.json", b"2")) == (True, False)
    assert any_store.read("a/b.json") == b"1"


def test_a_large_file_that_broke_leaves_nothing(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spool))

    def half() -> Iterator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), store.writing("e0/x.jsonl") as file:
        file.writelines(half())
    assert files(store) == [] and list(spool.iterdir()) == []


def test_a_local_store_leaves_no_temporary_files(store: JobStore) -> None:
    store.create("state/000000.json", b"1")
    store.create("state/000000.json", b"2")
    with store.writing("e0/x") as file:
        file.write(b"1")
    assert [name.rpartition("/")[2] for name in files(store)] == ["x", "000000.json"]


def test_unique_names_are_unique(store: JobStore) -> None:
    assert len({store.new_name("rows", "0-00000") for _ in range(100)}) == 100


def test_a_missing_file_names_the_setting(any_store: JobStore) -> None:
    with pytest.raises(StoreError, match=r"Cannot read from the job store .*\[openai_batch\] storage"):
        any_store.read("none")


def test_a_store_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"Cannot write to .*\[openai_batch\] storage"):
        JobStore(UPath(tmp_path / "file"), KEY).commit(0, JOB, 1.0)


def test_jobs_do_not_share_a_folder(tmp_path: Path) -> None:
    import msgspec

    one = JobStore(UPath(tmp_path), KEY)
    other = JobStore(UPath(tmp_path), msgspec.structs.replace(KEY, map_index=0))
    one.commit(0, JOB, 1.0)
    assert other.load() is None


# -- does it protect? ------------------------------------------------------------------------------------------------


def test_a_store_that_refuses_a_second_create_is_good(any_store: JobStore) -> None:
    any_store.check()
    assert files(any_store) == []


@pytest.mark.parametrize("what", ["overwrites", "ignores"])
def test_a_store_that_lets_a_file_be_made_twice_is_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = UPath(f"memory://{uuid.uuid4().hex}")
    opened: Callable[..., Any] = root.fs.open

    class Careless:
        """A storage whose back end does not know exclusive create."""

        protocol = ("careless",)

        def __getattr__(self, name: str) -> Any:
            return getattr(root.fs, name)

        def open(self, path: str, mode: str = "rb") -> Any:
            if what == "ignores" and mode == "xb" and root.fs.exists(path):
                import io

                return io.BytesIO()
            return opened(path, mode.replace("x", "w"))

    store = JobStore(root, KEY)
    store._fs = Careless()
    with pytest.raises(StoreError, match=r"lets a file be created twice.*Nothing was sent to OpenAI"):
        store.check()


# -- commands ----------------------------------------------------------------------------------------------------------


def test_a_command_stands_until_it_is_acknowledged(any_store: JobStore) -> None:
    any_store.commit(0, JOB, 1.0)
    assert any_store.commands() == () and any_store.standing_commands(JOB) == Commands()
    any_store.command("cancel")
    any_store.command("start_over")
    cancel, start_over = any_store.commands()
    assert cancel.startswith("cancel-") and start_over.startswith("start_over-")
    assert any_store.standing_commands(JOB) == Commands(cancel=True)
    assert any_store.commands((cancel,)) == (start_over,)
    assert any_store.standing_commands(job(acknowledged=(cancel,))) == Commands(cancel=False)


def test_an_unknown_command_is_refused(store: JobStore) -> None:
    with pytest.raises(ValueError, match="Unknown command"):
        store.command("pause")


def test_a_default_policy_is_stored_whole(world: World) -> None:
    """Another version may have other defaults; what this job was promised must not change with them."""
    world.submit(2)
    stored = json.loads(world.store.read(f"state/{world.number:06d}.json"))
    assert set(stored["policy"]) == set(Policy.__struct_fields__)
    assert stored["policy"]["max_rounds"] == Policy().max_rounds
    assert world.job.policy == Policy()


def test_a_snapshot_with_an_unknown_state_is_of_an_unknown_format(world: World) -> None:
    world.submit(2)
    data = world.store.read(f"state/{world.number:06d}.json")
    assert decode_job(data).shards[0].state == "planned"
    changed = data.replace(b'"planned"', b'"levitating"')
    assert changed != data
    with pytest.raises(UnknownFormat):
        decode_job(changed)
