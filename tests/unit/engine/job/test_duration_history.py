"""Each job that ends leaves how long OpenAI took, for the forecasts of the next ones."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import builders as make
import msgspec
import pytest
from builders import KEY, World
from upath import UPath

from airflow_openai_batch.engine.job.advance import advance
from airflow_openai_batch.engine.job.duration_history import FOLDER, earlier_durations
from airflow_openai_batch.engine.job.spans import EarlierDurations
from airflow_openai_batch.engine.model import JobKey
from airflow_openai_batch.engine.progress.forecast import forecast_of
from airflow_openai_batch.engine.store.job_store import JobStore

LOG = logging.getLogger(__name__)
DAY_S, HOUR_S = 86_400, 3600.0
BODY: dict[str, Any] = {"model": "gpt-6-luna", "input": "{text}"}


class Nights:
    """Jobs of one storage, one a day."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.n = 0

    def world(self, owner: str = "", hour: float = 0.0, **key: Any) -> World:
        self.n += 1
        night: JobKey = msgspec.structs.replace(KEY, **{"run_id": f"night {self.n}", **key})
        world = World(JobStore(UPath(self.root), night, owner))
        world.clock.now += DAY_S * self.n + hour * HOUR_S
        return world

    def ended(
        self,
        took_s: float = 3600.0,
        n_rows: int = 4,
        body: dict[str, Any] | None = None,
        status: str = "completed",
        **key: Any,
    ) -> World:
        """A night whose batch took so long."""
        world = self.world(**key)
        world.submit(n_rows, body=body or BODY, policy=make.Policy(max_rounds=0))
        world.waits()
        world.later(took_s)
        for name in world.api.running:
            world.api.finish(name, make.answer if status == "completed" else None, status=status)
        world.later(600)
        world.advance()
        return world

    def earlier(self, world: World | None = None, body: dict[str, Any] | None = None) -> EarlierDurations:
        """What a new night learns."""
        world = world or self.world()
        job = world.submit(4, body=body or BODY)
        return earlier_durations(world.store, job, world.clock(), LOG)

    def names(self, which: str) -> list[str]:
        return sorted(path.name for path in (self.root / FOLDER / which).rglob("*.json"))


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path / "store")


def test_a_night_tells_the_next_how_long_it_was_at_openai(nights: Nights) -> None:
    world = nights.ended(took_s=5000)
    earlier = nights.earlier()
    (record,) = earlier.jobs
    assert (record.span.seconds, record.span.is_cut, record.n_requests) == (5000, False, 4)
    assert record.span.started_at == world.job.created_at
    (of_model,) = earlier.models["gpt-6-luna"]
    assert [span.seconds for span in of_model.batches] == [5000]
    settled = world.job.shards[0].settled_at
    assert settled == world.job.created_at + 5600, "the time of the fetch is the job's own"


def test_five_nights_make_a_forecast(nights: Nights) -> None:
    for hours in (3, 1, 2, 5, 4):
        nights.ended(took_s=hours * HOUR_S)
    world = nights.world()
    job = world.submit(4, body=BODY)
    forecast = forecast_of(job, earlier_durations(world.store, job, world.clock(), LOG), world.clock())
    assert forecast is not None and (forecast.basis, forecast.n_earlier) == ("jobs", 5)
    assert forecast.p50_at == world.clock() + 3 * HOUR_S


def test_another_task_learns_from_the_batches_alone(nights: Nights) -> None:
    nights.ended(took_s=5000)
    earlier = nights.earlier(nights.world(task_id="another"))
    assert earlier.jobs == () and len(earlier.models["gpt-6-luna"]) == 1


@pytest.mark.parametrize("other", [{"body": {**BODY, "model": "gpt-6-sol"}}, {"owner": "another deployment"}])
def test_another_model_or_deployment_tells_nothing(nights: Nights, other: dict[str, Any]) -> None:
    nights.ended(owner="this deployment")
    body = other.pop("body", BODY)
    earlier = nights.earlier(nights.world(**other), body)
    assert earlier.jobs == () and not any(earlier.models.values())


def test_a_night_of_another_hour_is_not_read(nights: Nights) -> None:
    nights.ended(hour=12)
    assert nights.earlier() == EarlierDurations(models={"gpt-6-luna": ()})


@pytest.mark.parametrize("status", ["cancelled", "expired"])
def test_what_was_cut_off_is_kept_as_that(nights: Nights, status: str) -> None:
    nights.ended(took_s=7000, status=status)
    earlier = nights.earlier()
    (of_model,) = earlier.models["gpt-6-luna"]
    assert [(span.seconds, span.is_cut) for span in of_model.batches] == [(7000, True)]
    (record,) = earlier.jobs
    assert record.span.is_cut == (status == "cancelled"), "a job whose batch expired is over all the same"


def test_a_job_that_was_held_tells_of_its_batches_only(nights: Nights) -> None:
    """How long a person took to act is not how long OpenAI takes."""
    world = nights.world()
    world.submit(4, body=BODY)
    world.waits()
    world.store.record_end(0, "held")
    world.later(9000)
    for name in world.api.running:
        world.api.finish(name)
    world.done()
    earlier = nights.earlier()
    assert earlier.jobs == () and len(earlier.models["gpt-6-luna"]) == 1


def test_each_night_is_written_once_and_only_the_newest_of_an_hour_are_kept(nights: Nights) -> None:
    for i in range(23):
        world = nights.ended(took_s=1000 + i)
        advance(world.engine)
    for which in ("tasks", "models"):
        assert len(nights.names(which)) == 20 == len(set(nights.names(which)))
    spans = sorted(record.span.seconds for record in nights.earlier().jobs)
    assert spans == [1000 + i for i in range(3, 23)]


def test_of_very_many_batches_as_many_are_kept_as_tell_how_they_were_spread(nights: Nights) -> None:
    world = nights.world()
    world.submit(240, body=BODY, limits=make.cut(2))
    world.waits()
    for i, name in enumerate(world.api.running):
        world.later(10)
        assert i < 120
        world.api.finish(name)
    world.done()
    (of_model,) = nights.earlier().models["gpt-6-luna"]
    seconds = [span.seconds for span in of_model.batches]
    assert len(seconds) == 100 and seconds == sorted(seconds) and (seconds[0], seconds[-1]) == (10, 1200)


@pytest.mark.parametrize("content", [b"", b"{", b'{"run_id": 3}', b"[1e999]", b"\xff"])
def test_a_file_that_cannot_be_read_holds_nobody_up(nights: Nights, content: bytes) -> None:
    nights.ended(took_s=1000)
    nights.ended(took_s=2000)
    for which in ("tasks", "models"):
        newest = max((nights.root / FOLDER / which).rglob("*.json"), key=lambda path: path.name)
        newest.write_bytes(content)
    (nights.root / FOLDER / "tasks" / "dag" / "ask" / "no number.json").write_text("{}")
    earlier = nights.earlier()
    assert [record.span.seconds for record in earlier.jobs] == [1000]
    assert [span.seconds for record in earlier.models["gpt-6-luna"] for span in record.batches] == [1000]


def test_a_storage_that_lets_nothing_be_written_there_holds_nobody_up(nights: Nights) -> None:
    nights.root.mkdir()
    (nights.root / FOLDER).write_text("a file where the folder should be")
    assert nights.ended().job.shards
    assert nights.earlier() == EarlierDurations() or not any(nights.earlier().models.values())


def test_many_jobs_that_end_and_begin_at_once_disturb_nobody(nights: Nights) -> None:
    """Workers write, remove what is old and read at the same time."""
    from concurrent.futures import ThreadPoolExecutor

    worlds = [nights.world(task_id=f"task {i % 3}") for i in range(40)]

    def run(world: World) -> int:
        world.submit(2, body=BODY)
        world.waits()
        world.later(1000)
        for name in world.api.running:
            world.api.finish(name)
        world.done()
        earlier = earlier_durations(world.store, world.job, world.clock(), LOG)
        return sum(len(records) for records in earlier.models.values())

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(run, worlds))
    assert all(world.job.shards[0].outcomes is not None for world in worlds)
    assert 1 <= max(seen) <= 40
    for which, n_folders in (("models", 1), ("tasks", 3)):
        assert 0 < len(nights.names(which)) <= 20 * n_folders


def test_no_prompt_no_answer_and_no_key_is_kept(nights: Nights) -> None:
    nights.ended(body={**BODY, "instructions": make.SECRET})
    texts = [path.read_text() for path in (nights.root / FOLDER).rglob("*.json")]
    assert len(texts) == 2
    make.has_no_secret(*texts)
