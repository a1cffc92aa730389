"""What killed processes leave behind, and who may read what the others wrote."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from builders import KEY, job, rows, shard
from upath import UPath

from airflow_openai_batch.engine.model import State
from airflow_openai_batch.engine.results.sinks import FileSink
from airflow_openai_batch.engine.store.job_store import JobStore
from airflow_openai_batch.engine.store.temporary import remove_leftovers

DAY = 24 * 3600.0
JOB = job(shard(State.PLANNED))
TABLE = pa.RecordBatch.from_pylist(rows(3))

WRITING = """
import sys
from upath import UPath
from airflow_openai_batch.engine.model import JobKey
from airflow_openai_batch.engine.store.job_store import JobStore

dag_id, run_id, task_id = sys.argv[2:]
store = JobStore(UPath(sys.argv[1]), JobKey(dag_id=dag_id, run_id=run_id, task_id=task_id))
with store.writing("e0/requests/half.jsonl") as file:
    file.write(b"half")
    file.flush()
    print("ready", flush=True)
    sys.stdin.read()
"""
SINKING = """
import sys
import pyarrow as pa
from upath import UPath
from airflow_openai_batch.engine.results.sinks import FileSink

batch = pa.RecordBatch.from_pylist([{"id": 1}])
with FileSink(UPath(sys.argv[1]) / "table.jsonl") as sink:
    sink.begin(batch.schema)
    sink.write(batch)
    sink.dead_letter(b"x")
    print("ready", flush=True)
    sys.stdin.read()
"""


def killed(program: str, root: str, temporary: Path) -> None:
    """Run a program until it is in the middle of its work, and kill it with -9."""
    temporary.mkdir(exist_ok=True)
    command = [sys.executable, "-c", program, root, KEY.dag_id, KEY.run_id, KEY.task_id]
    env = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def leftovers(folder: Path) -> list[Path]:
    """Return what is below a folder under a temporary name, without what is inside of it."""
    return [path for path in folder.rglob(".*") if path.name.startswith((".new-", ".openai-batch-"))]


def grow_old(folder: Path, seconds: float) -> None:
    """Make a folder look as it will when some time has passed."""
    for path in [folder, *folder.rglob("*")]:
        at = path.stat().st_mtime - seconds
        os.utime(path, (at, at))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine's folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UPath]:
    path = UPath(tmp_path / "s") if request.param == "local" else UPath(f"memory://{uuid.uuid4().hex}")
    yield path
    if request.param == "memory" and path.exists():
        path.fs.rm(path.path, recursive=True)


def test_what_a_worker_left_that_was_killed_while_it_wrote_goes_a_day_later(
    root: UPath, tmp_path: Path, temporary: Path
) -> None:
    killed(WRITING, str(root), temporary)
    assert len(leftovers(tmp_path)) == 1
    JobStore(root, KEY).commit(0, JOB, 1.0)
    assert len(leftovers(tmp_path)) == 1  # a worker that lives may be writing it
    grow_old(tmp_path, 2 * DAY)
    JobStore(root, KEY).commit(1, JOB, 1.0)
    assert leftovers(tmp_path) == []
    found = JobStore(root, KEY).load()
    assert found is not None and found.number == 1


def test_what_a_worker_left_that_was_killed_while_it_wrote_results_goes_a_day_later(
    root: UPath, tmp_path: Path, temporary: Path
) -> None:
    killed(SINKING, str(root), temporary)
    assert len(leftovers(tmp_path)) == 1
    with FileSink(root / "table.jsonl"):
        assert len(leftovers(tmp_path)) == 2
    assert len(leftovers(tmp_path)) == 1
    grow_old(tmp_path, 2 * DAY)
    with FileSink(root / "table.jsonl") as sink:
        sink.begin(TABLE.schema)
        sink.write(TABLE)
        sink.finish()
    assert leftovers(tmp_path) == []
    assert len((root / "table.jsonl").read_bytes().splitlines()) == 3


def test_a_folder_that_is_written_to_is_young_although_it_was_made_long_ago(tmp_path: Path) -> None:
    with FileSink(UPath(tmp_path / "a.jsonl")) as sink:
        sink.begin(TABLE.schema)
        grow_old(tmp_path, 2 * DAY)
        sink.write(TABLE)
        sink._writer._file.flush()
        with FileSink(UPath(tmp_path / "b.jsonl")):
            pass
        sink.finish()
    assert (tmp_path / "a.jsonl").exists()


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "table").mkdir(parents=True)
    ours = [tmp_path / f".openai-batch-{'x' * 8}", tmp_path / f".new-{'0' * 32}"]
    ours[0].mkdir()
    (ours[0] / "table").write_text("")
    ours[1].write_text("")
    others = [tmp_path / name for name in (".openai-batch-cache", ".new-", ".new-plan.txt", ".openai-batch-abcdefgh")]
    for path in others:
        path.mkdir()
        (path / "mine").write_text("")
    os.symlink(elsewhere, tmp_path / f".openai-batch-{'y' * 8}")
    grow_old(tmp_path, 2 * DAY)
    remove_leftovers(str(tmp_path))
    remove_leftovers(str(tmp_path / "nowhere"))
    assert not any(path.exists() for path in ours)
    assert all((path / "mine").exists() for path in others)
    assert (elsewhere / "table").exists()


def test_leftovers_that_cannot_be_removed_harm_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(UPath(tmp_path), KEY)
    store.commit(0, JOB, 1.0)
    [state] = tmp_path.rglob("state")
    (state / f".new-{'0' * 32}").write_text("")

    def refuse(*args: object) -> None:
        raise PermissionError("another user's")

    grow_old(tmp_path, 2 * DAY)
    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", refuse)
        assert JobStore(UPath(tmp_path), KEY).commit(1, JOB, 1.0).number == 1


# -- who may read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("umask", "of_files", "of_folders"), [(0o022, 0o644, 0o755), (0o007, 0o660, 0o770)])
def test_other_users_may_read_what_the_umask_lets_them(
    umask: int, of_files: int, of_folders: int, tmp_path: Path
) -> None:
    """With ``run_as_user`` the task that submits and the one that reads the results are different users."""
    before = os.umask(umask)
    try:
        store = JobStore(UPath(tmp_path / "jobs"), KEY)
        for number in range(25):
            store.commit(number, JOB, 1.0)
        store.command("cancel")
        store.record_end(0, "good")
        with store.writing("e0/requests/a.jsonl") as file:
            file.write(b"1")
        with FileSink(UPath(tmp_path / "out" / "table.jsonl")) as sink:
            sink.begin(TABLE.schema)
            sink.dead_letter(b"x")
            sink.finish()
    finally:
        os.umask(before)
    paths = [*(tmp_path / "jobs").rglob("*"), *(tmp_path / "out").rglob("*")]
    modes = {
        path.is_dir(): {stat.S_IMODE(p.stat().st_mode) for p in paths if p.is_dir() == path.is_dir()} for path in paths
    }
    assert modes == {False: {of_files}, True: {of_folders}}


def test_a_spool_among_the_temporary_files_of_all_users_is_for_its_own_user_alone(temporary: Path) -> None:
    root = UPath(f"memory://{uuid.uuid4().hex}")
    with JobStore(root, KEY).writing("e0/requests/a.jsonl") as file:
        file.write(b"a prompt")
        [spool] = temporary.iterdir()
        assert stat.S_IMODE(spool.stat().st_mode) == 0o600
    assert list(temporary.iterdir()) == []
    root.fs.rm(root.path, recursive=True)
