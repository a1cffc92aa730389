"""What a deferred task tells of its job: real triggers on an event loop, against the emulator."""

from __future__ import annotations

import asyncio
import itertools
import time
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from airflow_openai_batch.emulator import Emulator
from airflow_openai_batch.engine.model import Batch, Job, JobKey, Policy, Shard, Spec, State
from airflow_openai_batch.engine.progress.compute import progress_of
from airflow_openai_batch.engine.progress.model import Progress, decoded_look, decoded_progress, encoded

KEY = JobKey(dag_id="dag", run_id="run", task_id="submit", map_index=2)
XCOM = {"dag_id": "dag", "run_id": "run", "task_id": "wait", "map_index": 2}


def make_batches(emulator: Emulator, n: int, n_rows: int = 100) -> list[str]:
    """Make batches as the job's submit task does."""
    from openai import OpenAI

    line = '{"custom_id":"c%d","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"x"}}\n'
    with OpenAI(base_url=emulator.base_url, api_key="sk-emulator") as client:
        text = "".join(line % i for i in range(n_rows)).encode()
        file = client.files.create(file=("x.jsonl", text), purpose="batch").id
        arguments: Any = {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
        return [client.batches.create(**arguments).id for _ in range(n)]


def left_by_the_worker(batch_ids: list[str], n_rows: int = 100, status: str = "validating") -> dict[str, Any]:
    """Return the progress that a worker hands over when it defers."""
    shards = tuple(
        Shard(id=f"0-{i}", state=State.RUNNING, n_rows=n_rows, n_requests=n_rows, batch=Batch(id=b, status=status))
        for i, b in enumerate(batch_ids)
    )
    now = time.time()
    job = Job(
        format_version=1,
        key=KEY,
        spec=Spec(endpoint="/v1/completions", body='{"model":"m"}'),
        policy=Policy(),
        source_version=None,
        created_at=now,
        deadline_from=now,
        shards=shards,
        n_rows=n_rows * len(shards),
    )
    from airflow_openai_batch.engine.model import Timing

    return encoded(progress_of(job, now, Timing(), live=True))


class Log:
    """The task's log."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda message, *args: self.said.append((level, message % args))

    def lines(self, level: str) -> list[str]:
        return [text for said, text in self.said if said == level]


def trigger(batch_ids: list[str], ti: Any = None, **arguments: Any) -> Any:
    from airflow_openai_batch.triggers import OpenAIBatchTrigger

    made = OpenAIBatchTrigger(
        conn_id="openai_default",
        batch_ids=batch_ids,
        poll_interval_s=0.2,
        **{"progress": left_by_the_worker(batch_ids), "wake_at": time.time() + 60, **arguments},
    )
    made.task_instance = ti
    made._log = Log()
    return made


def events(*triggers: Any, timeout_s: float = 30) -> list[dict[str, Any]]:
    async def event(of: Any) -> dict[str, Any]:
        async for event in of.run():
            return dict(event.payload)
        raise AssertionError("no event")

    async def all_of_them() -> list[dict[str, Any]]:
        async with asyncio.timeout(timeout_s):
            return list(await asyncio.gather(*(event(of) for of in triggers)))

    return asyncio.run(all_of_them())


def run(*triggers: Any) -> list[str]:
    return [str(event["reason"]) for event in events(*triggers)]


@pytest.fixture
def xcoms(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, Progress]]:
    """Airflow's XComs, as a trigger in a triggerer writes them."""
    from airflow_openai_batch.reporting import trigger_progress as live

    written: list[tuple[float, Progress]] = []

    async def aset(key: str, value: Any, **where: Any) -> None:
        assert (key, where) == ("openai_batch_progress.submit.2", XCOM)
        found = decoded_progress(value)
        assert found is not None
        written.append((time.monotonic(), found))

    monkeypatch.setattr(live.XCom, "aset", aset, raising=False)
    # No supervisor answers here, which is what the first thing a trigger asks in a triggerer is for.
    monkeypatch.setattr("airflow_openai_batch.triggers._is_warm", True)
    return written


TI = SimpleNamespace(**XCOM)


def test_the_progress_grows_while_the_task_is_deferred(emulator, xcoms) -> None:
    emulator.settings.duration = 6
    of = trigger(make_batches(emulator, 3), TI)
    assert run(of) == ["all ended"]
    n_done = [found.n_done for _, found in xcoms]
    assert len(n_done) >= 2 and n_done == sorted(n_done) and n_done[-1] > n_done[0]
    assert all(found.n_rows == 300 and found.job.task_id == "submit" for _, found in xcoms)
    pauses = [after - before for (before, _), (after, _) in itertools.pairwise(xcoms)]
    assert min(pauses) >= 1.0  # no oftener than it is looked, and than once a second
    assert any(found.rate_per_h is not None for _, found in xcoms) or len(xcoms) < 8


def test_what_does_not_change_is_not_written_again(emulator, xcoms) -> None:
    emulator.settings.duration = 1000
    made = make_batches(emulator, 2)
    of = trigger(made, TI, wake_at=time.time() + 6, progress=left_by_the_worker(made, status="in_progress"))
    assert run(of) == ["due"]
    assert [{seen.status for seen in found.batches} for _, found in xcoms] == [{"validating"}]


def test_a_write_that_fails_is_a_line_for_debugging_and_nothing_else(emulator, monkeypatch) -> None:
    from airflow_openai_batch.reporting import trigger_progress as live

    async def aset(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such task instance")

    monkeypatch.setattr(live.XCom, "aset", aset, raising=False)
    monkeypatch.setattr("airflow_openai_batch.triggers._is_warm", True)
    emulator.settings.duration = 4
    of = trigger(make_batches(emulator, 1), TI)
    assert run(of) == ["all ended"]
    assert "The progress could not be written: no such task instance" in of.log.lines("debug")
    assert of.log.lines("warning") == of.log.lines("error") == []


def test_a_write_that_never_returns_does_not_hold_the_task(emulator, monkeypatch) -> None:
    from airflow_openai_batch.reporting import trigger_progress as live

    async def aset(*_: Any, **__: Any) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(live.XCom, "aset", aset, raising=False)
    monkeypatch.setattr(live, "_LEAVE_S", 0.5)
    monkeypatch.setattr("airflow_openai_batch.triggers._is_warm", True)
    emulator.settings.duration = 3
    # An hour's wait would not end within the limit of run().
    assert run(trigger(make_batches(emulator, 1), TI)) == ["all ended"]


def test_the_triggers_of_a_triggerer_take_turns_to_write(emulator, xcoms, monkeypatch) -> None:
    from airflow_openai_batch.reporting import trigger_progress as live

    class Turns(dict[Any, float]):
        """Keeps every turn that is given: the moment before which a trigger does not write."""

        given: ClassVar[list[float]] = []

        def __setitem__(self, loop: Any, next_write_at: float) -> None:
            self.given.append(next_write_at - live._WRITE_S)
            super().__setitem__(loop, next_write_at)

    monkeypatch.setattr(live, "_next_write_at", Turns())
    emulator.settings.duration = 30
    many = [trigger([made], TI, wake_at=time.time() + 10) for made in make_batches(emulator, 20)]
    assert set(run(*many)) == {"due"}
    times = sorted(at for at, _ in xcoms)
    assert len(times) >= 20
    # A busy machine may let two of them wake up at once, but neither before its turn.
    assert all(after - before >= live._WRITE_S - 1e-6 for before, after in itertools.pairwise(Turns.given))
    assert all(at >= turn_at - 0.01 for at, turn_at in zip(times, sorted(Turns.given), strict=False))


@pytest.mark.parametrize("lack", ["task instance", "aset"])
def test_where_it_cannot_be_written_the_log_is_told_and_the_worker_gets_it(emulator, xcoms, monkeypatch, lack) -> None:
    from airflow_openai_batch.reporting import trigger_progress as live

    if lack == "aset":  # before Airflow 3.3
        monkeypatch.delattr(live.XCom, "aset")
    emulator.settings.duration = 5
    of = trigger(make_batches(emulator, 2), None if lack == "task instance" else TI)
    (event,) = events(of)
    assert event["reason"] == "all ended"
    assert xcoms == [] and of.log.lines("debug") == []
    lines = [text for text in of.log.lines("info") if " of 200 rows (" in text]
    assert lines and len(lines) == len(set(lines)) and "; 0 of 2 batches ended, 2 " in lines[0]
    seen = decoded_look(event["seen"])
    assert seen is not None and seen.n_done == 200 and seen.moments


def test_batches_of_an_earlier_epoch_do_no_row_of_this_one(emulator, xcoms) -> None:
    emulator.settings.duration = 4
    old, *new = make_batches(emulator, 2)
    of = trigger([old, *new], TI, progress=left_by_the_worker(new), n_earlier=1)
    assert run(of) == ["all ended"]
    assert xcoms and all(found.n_rows == 100 and found.n_done <= 100 for _, found in xcoms)
    assert all({seen.id for seen in found.batches} <= set(new) for _, found in xcoms)


@pytest.mark.parametrize("progress", [None, {}, {"version": 99}, {"n_rows": "many"}])
def test_arguments_of_another_version_are_watched_without_progress(emulator, xcoms, progress: Any) -> None:
    of = trigger(make_batches(emulator, 1), TI, progress=progress)
    assert run(of) == ["all ended"]
    assert xcoms == []


def test_its_arguments_survive_storage(stored) -> None:
    path, arguments = trigger(["batch_1"]).serialize()
    assert stored(arguments) == arguments
    assert decoded_progress(stored(arguments)["progress"]) is not None
    assert path.endswith("OpenAIBatchTrigger")
