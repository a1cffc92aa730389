"""Answers that are read in another process: the same outcomes, and no harm whatever becomes of the process."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import RESPONSES, World, answer, batch, failure, job, rows

from airflow_openai_batch.engine.answers import readers as readers_module
from airflow_openai_batch.engine.answers.harvest import Harvested, Unproven, harvest
from airflow_openai_batch.engine.answers.outcome_files import read_part
from airflow_openai_batch.engine.answers.parser import LineParser, parser_of
from airflow_openai_batch.engine.answers.readers import Readers
from airflow_openai_batch.engine.endpoints import Limits
from airflow_openai_batch.engine.model import Shard, State
from airflow_openai_batch.engine.requests.bodies import bodies_of
from airflow_openai_batch.engine.requests.sharding import build
from airflow_openai_batch.engine.requests.sources import source_of

IDS = [f"t{i}" for i in range(6)]

GOOD = b"".join(answer(custom_id) + b"\n" for custom_id in IDS)

FILES = {
    "in order": (GOOD, None),
    "in another order": (b"".join(answer(custom_id) + b"\n" for custom_id in IDS[::-1]), None),
    "failed, strange and repeated": (
        b"".join([*(answer(custom_id) + b"\n" for custom_id in [*IDS[:4], IDS[1]]), b"what is this\n"]),
        failure(IDS[4]) + b"\n" + failure(IDS[5]) + b"\n",
    ),
}


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Readers]:
    """Two readers, of which this process is busy, so that all is read in the other one."""
    monkeypatch.setattr(readers_module, "_LEAST_BYTES", 0)
    both = Readers(2)
    with both, both._here:
        yield both


def draft(world: World) -> Shard:
    body = {"model": "m", "input": "{text}"}
    source = source_of(rows(len(IDS)), endpoint=RESPONSES)
    bodies = bodies_of(body, RESPONSES)
    return build(world.store, source, bodies, endpoint=RESPONSES, custom_id="{id}", limits=Limits()).shards[0]


def harvested(world: World, files: tuple[bytes, bytes | None], readers: Readers, **job_is: Any) -> Harvested:
    output, errors = files
    world.api.files["out"] = output
    named: dict[str, str] = {"output_file_id": "out"}
    if errors is not None:
        world.api.files["errors"] = errors
        named["error_file_id"] = "errors"
    n_failed = (errors or b"").count(b"\n")
    counts = {"n_total": len(IDS), "n_completed": len(IDS) - n_failed, "n_failed": n_failed}
    ended = msgspec.structs.replace(draft(world), state=State.ENDED, batch=batch("completed", **named, **counts))
    made = job(ended, **job_is)
    parser = parser_of(made)
    return harvest(world.store, world.api, made, ended, parser, world.clock.sleep, readers=readers)  # type: ignore[arg-type]


def rows_of(world: World, got: Harvested) -> list[dict[str, Any]]:
    return [row for found in read_part(world.store, got.outcomes) for row in found.to_pylist()]


def process_of(readers: Readers) -> Any:
    (process,) = readers._idle
    return process._process


@pytest.mark.parametrize("files", FILES.values(), ids=FILES)
def test_another_process_reads_the_same(world: World, readers: Readers, files: tuple[bytes, bytes | None]) -> None:
    got, here = harvested(world, files, readers), harvested(world, files, Readers())
    assert rows_of(world, got) == rows_of(world, here)
    assert vars(got.tally) == vars(here.tally)
    unmatched = [name and world.store.read(name) for name in (got.unmatched, here.unmatched)]
    assert unmatched[0] == unmatched[1]
    assert process_of(readers).poll() is None


def test_a_process_reads_one_batch_after_another(world: World, readers: Readers) -> None:
    harvested(world, FILES["in order"], readers)
    first = process_of(readers).pid
    harvested(world, FILES["in another order"], readers)
    assert process_of(readers).pid == first


def test_what_is_not_proven_is_not_written(world: World, readers: Readers) -> None:
    with pytest.raises(Unproven):
        harvested(world, (answer(IDS[0]) + b"\n", None), readers)
    assert not [name for name in world.store.names_in() if "outcomes" in name]


def test_folders_that_are_no_texts_are_passed_over_as_python_does(
    world: World, readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [Path("/no/such"), *sys.path, None, ""])
    harvested(world, FILES["in order"], readers)
    assert process_of(readers).poll() is None


def test_more_files_than_can_be_passed_are_read_here(
    world: World, readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers_module.reader_process, "MOST_FILES", 2)
    harvested(world, FILES["failed, strange and repeated"], readers)
    assert not readers._idle


def killed(readers: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    os.kill(process_of(readers).pid, signal.SIGKILL)
    process_of(readers).wait()


def stopped_in_the_middle(readers: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped, gets the files, and is killed while it is waited for."""
    process = process_of(readers)
    os.kill(process.pid, signal.SIGSTOP)
    threading.Timer(0.2, process.kill).start()


def without_its_program(readers: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(readers, monkeypatch)
    readers.__exit__(None, None, None)
    monkeypatch.setattr(readers_module.sys, "executable", "/no/such/python")


def unable(readers: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot write the part: what it is asked next names a folder that is not there."""
    real = readers_module.reader_process.send

    def send(connection: Any, message: Any, files: Any = ()) -> None:
        real(connection, message._replace(part="/no/such/folder/part"), files)

    monkeypatch.setattr(readers_module.reader_process, "send", send)


def not_understood(readers: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read cannot be sent."""

    def send(connection: Any, message: Any, files: Any = ()) -> None:
        raise TypeError("cannot pickle")

    monkeypatch.setattr(readers_module.reader_process, "send", send)


def out_of_descriptors(readers: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel drops the files that it may not open: others would take their places."""
    resource.prlimit(process_of(readers).pid, resource.RLIMIT_NOFILE, (4, 4))


@pytest.mark.parametrize(
    "harm", [killed, stopped_in_the_middle, without_its_program, unable, not_understood, out_of_descriptors]
)
def test_whatever_becomes_of_it_the_answers_are_read(
    world: World, readers: Readers, harm: Callable[[Readers, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows_of(world, harvested(world, FILES["failed, strange and repeated"], readers))
    harm(readers, monkeypatch)
    assert rows_of(world, harvested(world, FILES["failed, strange and repeated"], readers)) == before
    assert not readers._idle, "it was not used again"


def test_no_process_outlives_its_readers(world: World, readers: Readers) -> None:
    harvested(world, FILES["in order"], readers)
    process = process_of(readers)
    with readers:
        pass
    assert process.poll() == 0
    harvested(world, FILES["in order"], readers)
    assert process_of(readers).pid != process.pid


def test_what_needs_a_users_function_is_read_here(world: World, readers: Readers) -> None:
    made = job()
    assert not parser_of(made).has_check
    assert LineParser(made.spec.endpoint, None, lambda text: None).has_check
    world.api.files["out"] = GOOD
    ended = msgspec.structs.replace(
        draft(world),
        state=State.ENDED,
        batch=batch("completed", output_file_id="out", n_total=6, n_completed=6),
    )
    parser = LineParser(made.spec.endpoint, None, lambda text: "never good")
    got = harvest(world.store, world.api, job(ended), ended, parser, world.clock.sleep, readers=readers)  # type: ignore[arg-type]
    assert got.tally.by_status["invalid"] == 6  # type: ignore[index]
    assert not readers._idle


def test_one_reader_starts_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_module, "_LEAST_BYTES", 0)
    monkeypatch.setattr(readers_module.subprocess, "Popen", None)
    alone = Readers(1)
    with alone, alone._here:
        assert harvested(world, FILES["in order"], alone).tally.by_status["succeeded"] == 6  # type: ignore[index]


_TASK = """
import sys, time
from airflow_openai_batch.engine.answers.readers import _ReaderProcess
process = _ReaderProcess()
print(process._process.pid, flush=True)
time.sleep(600)
"""


def test_no_process_outlives_a_task_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", _TASK], stdout=subprocess.PIPE, text=True) as task:
        assert task.stdout is not None
        reader = int(task.stdout.readline())
        assert is_running(reader)
        task.kill()
    while is_running(reader):
        time.sleep(0.05)  # the test's own timeout ends what never ends


def is_running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
