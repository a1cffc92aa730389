"""Many real triggers on one event loop, against the emulator: what they ask together, and what each of them says."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from airflow_openai_batch.emulator import Rule

LINE = b'{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"x"}}\n'


def batches(emulator: Any, n: int) -> list[str]:
    """Make batches as another program would."""
    from openai import OpenAI

    with OpenAI(base_url=emulator.base_url, api_key="sk-emulator") as client:
        file = client.files.create(file=("x.jsonl", LINE), purpose="batch").id
        arguments: Any = {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
        return [client.batches.create(**arguments).id for _ in range(n)]


def trigger(*batch_ids: str, poll_interval_s: float = 0.3) -> Any:
    from airflow_openai_batch.triggers import OpenAIBatchTrigger

    return OpenAIBatchTrigger(
        conn_id="openai_default", batch_ids=list(batch_ids), wake_at=time.time() + 60, poll_interval_s=poll_interval_s
    )


async def reason(of: Any) -> str:
    """Run a trigger as Airflow does."""
    async for event in of.run():
        return str(event.payload["reason"])
    raise AssertionError("no event")


async def until(is_so: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(*triggers: Any) -> Any:
    tasks = [asyncio.create_task(reason(of)) for of in triggers]
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_three_hundred_triggers_need_three_requests_for_each_interval(emulator) -> None:
    emulator.settings.duration = 1000
    triggers = [trigger(made, poll_interval_s=1) for made in batches(emulator, 300)]
    before = len(emulator.ledger.calls)

    async def act() -> None:
        async with running(*triggers):
            await until(lambda: all(of.batches for of in triggers))
            await asyncio.sleep(4)

    asyncio.run(act())
    calls = emulator.ledger.calls[before:]
    listings = [call for call in calls if (call.method, call.path.partition("?")[0]) == ("GET", "/v1/batches")]
    # On a machine that is busy a batch may be looked at by itself before a listing has shown it: a few of 300.
    assert len(calls) - len(listings) <= 10
    assert 3 <= len(listings) <= 3 * 6


def test_a_trigger_knows_the_counts_of_its_batches(emulator) -> None:
    emulator.settings.duration = 3
    made = batches(emulator, 2)
    of = trigger(*made)

    async def act() -> None:
        async with running(of) as (task,):
            await until(lambda: len(of.batches) == 2)
            assert {(b.status, b.n_completed) for b in of.batches.values()} <= {("validating", 0), ("in_progress", 0)}
            assert await task == "all ended"

    asyncio.run(act())
    assert {batch_id: (b.status, b.n_completed, b.n_total) for batch_id, b in of.batches.items()} == dict.fromkeys(
        made, ("completed", 1, 1)
    )


def test_each_trigger_tells_of_its_own_batches_in_its_own_log(emulator) -> None:
    whose: contextvars.ContextVar[str] = contextvars.ContextVar("whose", default="nobody")
    said: dict[str, list[str]] = {}

    class Log:
        def info(self, message: str, *args: Any) -> None:
            said.setdefault(whose.get(), []).append(message % args)

        warning = debug = info

    made = batches(emulator, 5)
    emulator.faults.add(Rule(on="GET /v1/batches", do={"status": 503}, times=2))
    emulator.faults.add(Rule(on="GET /v1/batches/*", do={"status": 503}, times=2))

    async def act() -> None:
        async def one(batch_id: str) -> None:
            whose.set(batch_id)  # as Airflow binds a trigger's log to its task
            of = trigger(batch_id)
            of._log = Log()
            assert await reason(of) == "all ended"

        await asyncio.gather(*(asyncio.create_task(one(batch_id)) for batch_id in made))

    asyncio.run(act())
    assert set(said) == set(made)
    for batch_id, lines in said.items():
        assert lines[0] == "Watching 1 batches."
        assert any(line.startswith("Look 1 in a row failed, the batches run on: HTTP 503") for line in lines)
        assert "OpenAI answers again." in lines
        assert lines[-1].startswith(f"{batch_id} completed")
        assert sum("failed, the batches" in line for line in lines) <= 3


def test_a_key_that_was_changed_in_airflow_is_taken_up_without_waking_anyone(emulator, monkeypatch) -> None:
    emulator.settings.duration = 2
    triggers = [trigger(made) for made in batches(emulator, 10)]

    async def act() -> list[str]:
        async with running(*triggers) as tasks:
            await until(lambda: all(of.batches for of in triggers))
            emulator.settings.api_keys = {"sk-new"}
            connection = {"conn_type": "openai", "host": emulator.base_url, "password": "sk-new"}
            monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(connection))
            return list(await asyncio.gather(*tasks))

    assert set(asyncio.run(act())) == {"all ended"}


def test_a_trigger_that_was_cancelled_asks_nothing_more(emulator) -> None:
    emulator.settings.duration = 1000
    of = trigger(*batches(emulator, 2), poll_interval_s=0.1)

    async def act() -> None:
        async with running(of):
            await until(lambda: len(of.batches) == 2)
        before = len(emulator.ledger.calls)
        await asyncio.sleep(0.5)
        assert len(emulator.ledger.calls) == before

    asyncio.run(act())


def test_a_watcher_that_dies_is_followed_by_another(emulator, monkeypatch) -> None:
    from airflow_openai_batch import waiter
    from airflow_openai_batch.polling import watcher as watching

    monkeypatch.setattr(waiter, "_WATCHER_PAUSE_S", 0.1)
    n_defects = 1
    right = watching.pause_s

    def wrong(*args: Any) -> float:
        nonlocal n_defects
        n_defects -= 1
        return right(*args) if n_defects < 0 else 1 / 0

    monkeypatch.setattr(watching, "pause_s", wrong)
    emulator.settings.duration = 1
    many = [trigger(made) for made in batches(emulator, 5)]

    async def act() -> list[str]:
        return list(await asyncio.gather(*(reason(of) for of in many)))

    assert set(asyncio.run(act())) == {"all ended"}
    n_defects = 1000
    assert asyncio.run(reason(trigger(*batches(emulator, 1)))) == "watching failed"


def test_a_batch_that_is_missing_from_the_listing_is_waited_for(emulator) -> None:
    emulator.faults.add(Rule(on="batch", match={"nth": 2}, do={"listing_lag": 1e9}))
    emulator.settings.duration = 2
    made = batches(emulator, 4)

    async def act() -> list[str]:
        return list(await asyncio.gather(*(reason(trigger(batch_id)) for batch_id in made)))

    assert set(asyncio.run(act())) == {"all ended"}
    assert emulator.ledger.n_calls("GET", f"/v1/batches/{made[1]}") >= 3


@pytest.mark.parametrize("fault", ["reset", "malformed_json", {"status": 404}, {"status": {"code": 502, "html": True}}])
def test_without_a_listing_everything_goes_on(emulator, fault: Any) -> None:
    emulator.faults.add(Rule(on="GET /v1/batches", do=fault))
    emulator.settings.duration = 1
    made = batches(emulator, 10)

    async def act() -> list[str]:
        return list(await asyncio.gather(*(reason(trigger(batch_id)) for batch_id in made)))

    assert set(asyncio.run(act())) == {"all ended"}
