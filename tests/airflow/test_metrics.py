"""Every metric, from a job's whole life on a fake OpenAI to a real UDP socket; and the table that documents them."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

# pytest's importlib mode does not put the tests' folders on the path.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from builders import KEY, World, answer, cut, failure, line, line_error, responses_body
from statsd_listener import StatsdListener, set_up_stats

from airflow_openai_batch.engine.errors import Denied, Unclear
from airflow_openai_batch.engine.job.advance import advance
from airflow_openai_batch.engine.job.context import Change
from airflow_openai_batch.engine.job.state_machine import Fact
from airflow_openai_batch.engine.job.status import Done, Held, Wait
from airflow_openai_batch.engine.model import CarriedAnswers, LineError, Policy, State, Status
from airflow_openai_batch.engine.store.job_store import JobStore

DOCS = Path(__file__).parents[2] / "docs"
REFUSAL = [{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}]
MISSING_IS_FINAL = Policy(max_rounds=0)


@pytest.fixture
def statsd(monkeypatch: pytest.MonkeyPatch) -> Iterator[StatsdListener]:
    """Airflow's Stats as an operator of Airflow would set it up, with tags in the names."""
    from airflow.providers.common.compat.sdk import Stats

    with StatsdListener() as listener:
        with monkeypatch.context() as patch:
            for name, value in {**listener.environment, "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True"}.items():
                patch.setenv(name, value)
            set_up_stats()
            Stats.incr("warm")  # the back end is made at the first use, from these settings
        yield listener
        set_up_stats()


class Told(World):
    """A job whose workers tell Airflow's metrics what they do."""

    def worker(self) -> Any:
        from airflow_openai_batch.reporting.tracing import TaskObserver

        engine = super().worker()
        engine.observer = TaskObserver("openai_default")
        return engine

    def advance(self) -> Wait | Done | Held:
        from airflow_openai_batch.reporting.tracing import ended

        reached = advance(self.engine)
        ended(self.engine, reached)
        return reached

    def finish(self, output: Callable[[str], bytes | None] = answer, status: str = "completed", **more: Any) -> None:
        """Let an hour pass, and end what runs."""
        self.later(3600)
        for name in self.api.running:
            self.api.finish(name, output, status=status, **more)


@pytest.fixture
def world(tmp_path: Path) -> Told:
    from upath import UPath

    return Told(JobStore(UPath(tmp_path / "store"), KEY))


def settled(listener: StatsdListener) -> dict[str, int]:
    """Return the sums once nothing more comes: datagrams need a moment."""
    n = -1
    while n != len(listener.texts):
        n = len(listener.texts)
        time.sleep(0.2)
    return listener.counts()


# -- the lives of jobs


def without_trouble(world: Told) -> None:
    world.submit(5, limits=cut(2))
    world.waits()
    world.finish()
    world.done()


USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
}


def every_outcome(world: Told) -> None:
    """One row of each outcome, and none is asked again."""
    made = {
        "t0": line("t0", responses_body('{"a": 1}', usage=USAGE)),
        "t1": answer("t1", "no JSON"),
        "t2": line("t2", responses_body() | {"output": REFUSAL}),
        "t3": line("t3", responses_body("{", status="incomplete", incomplete_details={"reason": "max_output_tokens"})),
        "t4": failure("t4", 400),
        "t5": line_error("t5", "batch_expired"),
        "t6": line_error("t6", "batch_cancelled"),
    }
    schema = {
        "title": "a",
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    rows = [{"id": f"t{i}", "text": "x" if i < 8 else None} for i in range(9)]
    world.submit(rows, policy=MISSING_IS_FINAL, response_model=schema)
    world.waits()
    world.finish(made.get)
    world.waits()
    world.later(700)  # a row that is neither listed nor counted may still come, for some minutes
    world.done()


def another_round(world: Told) -> None:
    world.submit(3)
    world.waits()
    world.finish(lambda i: answer(i) if i != "t2" else None, status="expired")
    world.waits()
    world.finish()
    world.done()


def a_full_queue_then_a_cancelled_batch(world: Told) -> None:
    world.submit(2, policy=MISSING_IS_FINAL)
    world.waits()
    full = LineError(code="token_limit_exceeded", message="Enqueued token limit reached. Limit: 9,000 enqueued tokens.")
    world.api.change("batch_0", status="failed", errors=(full,), ended_at=world.clock())
    world.waits()
    world.later(3600)
    world.waits()
    world.finish(lambda i: answer(i) if i == "t0" else None, status="cancelled")
    world.done()


def starting_over(world: Told) -> None:
    """More rows: one answer is carried over, one batch of before runs on and is not known any more."""
    world.submit([{"id": "t0", "text": "x"}, {"id": "t1", "text": "y"}], limits=cut(1))
    world.waits()
    world.api.finish("batch_0")
    world.waits()
    world.submit([{"id": "t0", "text": "x"}, {"id": "t1", "text": "z"}], limits=cut(1))
    del world.api.made["batch_1"]
    world.api.cancel = lambda batch_id: None  # type: ignore[method-assign]
    world.waits()
    world.later(700)  # one 404 is not believed at once
    world.waits()
    world.finish()
    world.done()


def held(world: Told) -> None:
    world.submit(1)
    world.api.script("upload", Denied("no such key", status=401))
    world.held()
    world.waits()
    world.api.script("retrieve", Unclear("lost"))
    world.waits()
    world.finish()
    world.done()


def reusing(world: Told) -> None:
    """All answers are there before: some of another job."""
    world.submit(3)
    (before,) = world.job.shards
    carried = CarriedAnswers(name="c", n_rows=3, row_index="i", n_reused=2, saved_picodollars=5_000_000)
    after = msgspec.structs.replace(before, state=State.SETTLED, carried=carried)
    world.engine.observer.committed(world.job, [Change(Fact.NOTHING_LEFT, before, after, None)])


LIVES = [without_trouble, every_outcome, another_round, a_full_queue_then_a_cancelled_batch, starting_over, held]


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
def test_rows_add_up_and_tags_are_as_documented(statsd: StatsdListener, world: Told, life) -> None:
    from airflow_openai_batch.reporting.metrics import METRICS

    life(world)
    counts = settled(statsd)
    rows = {name: n for name, n in counts.items() if name.startswith("rows.")}
    submitted, again = rows.pop("rows.submitted"), rows.pop("rows.asked_again", 0)
    epochs = counts["jobs.submitted"]
    assert sum(rows.values()) == submitted - (epochs - 1), (rows, again)  # the row whose batch was given up
    assert counts["jobs.good" if "jobs.good" in counts else "jobs.bad"] == 1
    known = {name.partition("<")[0]: (name, metric) for name, metric in METRICS.items() if metric.values}
    for one in statsd.received():
        name = one.name.removeprefix("openai_batch.")
        metric = METRICS.get(name)
        tags = set(metric.tags) if metric else set()
        if metric is None:
            stem = next(stem for stem in known if name.startswith(stem))
            written, metric = known[stem]
            part = written.partition("<")[2].rstrip(">")
            assert one.tags[part] == name.removeprefix(stem)
            tags = {*metric.tags, part}
        assert set(one.tags) == tags, one
        assert one.kind == {"counter": "c", "timer": "ms"}[metric.instrument]


def test_each_outcome_is_counted_under_its_own_name(statsd: StatsdListener, world: Told) -> None:
    every_outcome(world)
    assert {name: n for name, n in settled(statsd).items() if name.startswith("rows.")} == {
        "rows.submitted": 9,
        **{f"rows.{status.value}": 1 for status in Status},
    }


def test_reused_rows_are_counted_apart_with_what_they_saved(statsd: StatsdListener, world: Told) -> None:
    reusing(world)
    counts = settled(statsd)
    assert (counts["rows.carried_over"], counts["rows.reused"], counts["saved_by_reuse"]) == (3, 2, 5)


def test_a_row_that_is_asked_again_counts_once_and_its_tokens_twice(statsd: StatsdListener, world: Told) -> None:
    another_round(world)
    counts = settled(statsd)
    assert counts["rows.succeeded"] == 3
    assert counts["rows.asked_again"] == counts["rounds"] == 1
    assert counts["batches.created"] == 2
    assert (counts["batches.expired"], counts["batches.completed"]) == (1, 1)
    assert (counts["tokens.input"], counts["tokens.cached"]) == (30, 12)


def test_looking_again_taking_up_again_and_a_second_worker_count_nothing_again(
    statsd: StatsdListener, world: Told
) -> None:
    without_trouble(world)
    before = settled(statsd)
    for _ in range(3):
        world.submit(5, limits=cut(2))
        world.done()
        world.engine = world.worker()
    assert settled(statsd) == before


def test_two_workers_at_once_count_each_fact_once(statsd: StatsdListener, world: Told) -> None:
    other, depth = world.worker(), 0
    world.submit(6, limits=cut(2))

    def interleave() -> None:
        nonlocal depth
        if depth < 3:
            depth += 1
            advance(other)

    world.api.on_create = interleave
    world.waits()
    world.finish()
    world.done()
    counts = settled(statsd)
    assert counts["batches.created"] == counts["batches.completed"] == 3
    assert counts["rows.succeeded"] == counts["rows.submitted"] == 6


def test_rows_of_a_cancelled_job_are_counted_although_its_policy_would_ask_again(statsd, world: Told) -> None:
    world.submit(3)
    world.waits()
    world.store.command("cancel")
    world.waits()
    world.api.finish("batch_0", lambda i: answer(i) if i == "t0" else None, status="cancelled")
    world.done()
    counts = settled(statsd)
    rows = {name: n for name, n in counts.items() if name.startswith("rows.")}
    assert rows.pop("rows.submitted") == sum(rows.values()) == 3
    assert rows["rows.succeeded"] == 1


def test_a_held_job_counts_as_held_once_and_as_good_when_it_is(statsd: StatsdListener, world: Told) -> None:
    held(world)
    counts = settled(statsd)
    assert (counts["jobs.held"], counts["jobs.good"]) == (1, 1)
    assert counts["poll_errors"] == 1
    assert counts["polls"] > 1


# -- the documentation


def documented() -> list[str]:
    text = (DOCS / "monitoring.md").read_text()
    return [row for row in text.splitlines() if row.startswith("| `openai_batch.")]


def test_the_table_in_the_documentation_is_what_the_code_can_send() -> None:
    from airflow_openai_batch.reporting.metrics import METRICS, PREFIX

    rows = []
    for name, metric in METRICS.items():
        part = (f"{name.partition('<')[2].rstrip('>')}",) if metric.values else ()
        values = f" ({', '.join(f'`{value}`' for value in metric.values)})" if metric.values else ""
        tags = ", ".join(f"`{tag}`" for tag in (*metric.tags, *part))
        rows.append(f"| `{PREFIX}{name}`{values} | {metric.instrument} | {metric.unit} | {tags} | {metric.when} |")
    assert documented() == rows


def test_everything_that_is_documented_is_sent_and_nothing_else(statsd: StatsdListener, tmp_path: Path) -> None:
    from upath import UPath

    from airflow_openai_batch.reporting.metrics import names

    for number, life in enumerate([*LIVES, reusing]):
        life(Told(JobStore(UPath(tmp_path / str(number)), KEY)))
    settled(statsd)
    assert {one.name for one in statsd.received()} == names()


# -- what may not happen


class Broken:
    """A back end of metrics that raises whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("statsd is broken")


def test_a_broken_back_end_breaks_no_job(world: Told, caplog: pytest.LogCaptureFixture) -> None:
    from airflow_openai_batch.reporting import metrics

    metrics._warn_once.cache_clear()
    set_up_stats(Broken)
    try:
        another_round(world)
    finally:
        set_up_stats()
    said = [record.message for record in caplog.records if "Metrics cannot be sent" in record.message]
    assert said == ["Metrics cannot be sent: RuntimeError. The work goes on without them."]


class Slow:
    """A back end that waits, as for a name server, before it passes on what it is told."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.told: list[tuple[str, int]] = []
        self.threads: set[str] = set()

    def incr(self, stat: str, count: int = 1, **_: Any) -> None:
        self.threads.add(threading.current_thread().name)
        assert self.go_on.wait(20)
        self.told.append((stat, count))


def test_polls_add_up_while_the_back_end_is_slow_and_the_event_loop_is_not_held_up(statsd: StatsdListener) -> None:
    from airflow_openai_batch.reporting.metrics import PollCounts

    slow = Slow()
    set_up_stats(lambda: slow)

    async def watch() -> float:
        count, worst = PollCounts("openai_default"), 0.0
        for _ in range(50):
            began = time.perf_counter()
            count(2, 1)
            await asyncio.sleep(0)
            worst = max(worst, time.perf_counter() - began)
        slow.go_on.set()
        async with asyncio.timeout(20):
            while sum(n for name, n in slow.told if name.endswith("poll_errors")) < 50:
                await asyncio.sleep(0.01)
        return worst

    assert asyncio.run(watch()) < 0.2
    assert threading.main_thread().name not in slow.threads
    assert slow.told == [
        ("openai_batch.polls", 2),
        ("openai_batch.poll_errors", 1),
        ("openai_batch.polls", 98),
        ("openai_batch.poll_errors", 49),
    ]
