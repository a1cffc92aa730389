"""The trigger alone, on an event loop of its own, against the emulator."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Any

import pytest

from airflow_openai_batch.emulator import Emulator, Rule


def batches(emulator: Emulator, n: int = 1) -> list[str]:
    """Make batches as another program would."""
    from openai import OpenAI

    client = OpenAI(base_url=emulator.base_url, api_key="x")
    line = b'{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"x"}}\n'
    made = []
    for _ in range(n):
        file = client.files.create(file=("x.jsonl", line), purpose="batch")
        made.append(
            client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h").id
        )
    return made


def watch(batch_ids: list[str], **arguments: Any) -> Any:
    from airflow_openai_batch.triggers import OpenAIBatchTrigger

    given = {"wake_at": time.time() + 60, "poll_interval_s": 0.1, "conn_id": "openai_default"}
    return OpenAIBatchTrigger(batch_ids=batch_ids, **{**given, **arguments})


def event(trigger: Any, timeout_s: float = 120) -> dict[str, Any]:
    async def first() -> Any:
        return await asyncio.wait_for(anext(aiter(trigger.run())), timeout_s)

    return asyncio.run(first()).payload


def test_it_wakes_when_every_batch_has_ended(emulator) -> None:
    made = batches(emulator, 3)
    assert event(watch(made)) == {"reason": "all ended", "statuses": dict.fromkeys(made, "completed")}


def test_it_wakes_at_its_time_whatever_the_batches_say(emulator) -> None:
    emulator.settings.duration = 1000
    assert event(watch(batches(emulator), wake_at=time.time() + 0.3))["reason"] == "due"


def test_it_survives_every_kind_of_failing_poll(emulator) -> None:
    made = batches(emulator)
    kinds = ["reset", "drop_response", "malformed_json", {"status": 500}, {"status": {"code": 502, "html": True}}]
    emulator.faults.add(*(Rule(on="GET /v1/batches/*", do=kind, times=1) for kind in kinds))
    assert event(watch(made))["reason"] == "all ended"
    assert emulator.ledger.n_calls("GET", "/v1/batches/") > len(kinds)


def test_it_waits_as_long_as_openai_asks(emulator) -> None:
    made = batches(emulator)
    emulator.faults.add(Rule(on="GET /v1/batches/*", do={"status": {"code": 429, "retry_after": 2}}, times=1))
    started = time.monotonic()
    assert event(watch(made))["reason"] == "all ended"
    assert time.monotonic() - started >= 2


@pytest.mark.parametrize("code", [401, 403, 404])
def test_what_polling_cannot_mend_wakes_a_worker(emulator, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_openai_batch.polling.watcher.BELIEVED_AFTER_S", 0.5)
    made = batches(emulator)
    emulator.faults.add(Rule(on="GET /v1/batches/*", do={"status": code}))
    assert event(watch(made))["reason"] == "OpenAI refuses to answer"


def test_its_arguments_survive_storage_and_hold_no_secret(emulator, stored) -> None:
    trigger = watch(["batch_1"], wake_at=12.5, is_queued=True, cancel_on_kill=False)
    path, arguments = trigger.serialize()
    assert path == f"{type(trigger).__module__}.{type(trigger).__name__}"
    assert stored(arguments) == arguments
    assert type(trigger)(**arguments).serialize() == (path, arguments)
    assert "sk-" not in str(arguments)


def test_arguments_of_the_first_version_are_understood_for_ever() -> None:
    from airflow_openai_batch.triggers import OpenAIBatchTrigger

    stored = {
        "conn_id": "openai_default",
        "batch_ids": ["batch_1"],
        "wake_at": 1_800_000_000.0,
        "is_queued": False,
        "poll_interval_s": 60.0,
        "cancel_on_kill": True,
    }
    assert OpenAIBatchTrigger(**stored).batch_ids == ["batch_1"]


@pytest.mark.parametrize(
    ("state", "is_cancelled"),
    [
        ("failed", True),
        ("success", True),
        ("skipped", True),
        ("missing", True),
        ("deferred", False),
        ("running", False),
    ],
)
def test_on_kill_cancels_only_what_nobody_looks_after(emulator, monkeypatch, state: str, is_cancelled: bool) -> None:
    emulator.settings.duration = 1000
    (made,) = batches(emulator)
    trigger = watch([made])

    async def own_state() -> str:
        return state

    monkeypatch.setattr(trigger, "_own_state", own_state)
    asyncio.run(trigger.on_kill())
    assert (emulator.batches[made].status in ("cancelling", "cancelled")) is is_cancelled


@pytest.mark.parametrize("code", [404, 409])
def test_a_cancel_that_is_refused_while_the_batch_runs_is_repeated(emulator, monkeypatch, code: int) -> None:
    emulator.settings.duration = 1000
    (made,) = batches(emulator)
    emulator.faults.add(Rule("POST /v1/batches/*/cancel", {"status": code}, times=2))
    trigger = watch([made])

    async def own_state() -> str:
        return "failed"

    monkeypatch.setattr(trigger, "_own_state", own_state)
    monkeypatch.setattr("airflow_openai_batch.triggers._CANCEL_PAUSE_S", 0.01)
    asyncio.run(trigger.on_kill())
    assert emulator.batches[made].status in ("cancelling", "cancelled")


def test_a_cancel_outlives_the_call_that_asked_for_it(emulator, monkeypatch) -> None:
    emulator.settings.duration = 1000
    (made,) = batches(emulator)
    trigger = watch([made])

    async def own_state() -> str:
        await asyncio.sleep(0.3)  # as in a new triggerer, whose first question takes seconds
        return "failed"

    monkeypatch.setattr(trigger, "_own_state", own_state)

    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(trigger.on_kill(), 0.05)
        await asyncio.sleep(1)

    asyncio.run(impatient())
    assert emulator.batches[made].status in ("cancelling", "cancelled")


def test_all_triggers_of_a_connection_share_one_client(emulator) -> None:
    from airflow_openai_batch.hooks import OpenAIBatchHook

    async def clients() -> set[int]:
        return {id(await OpenAIBatchHook().get_async_conn()) for _ in range(5)}

    assert len(asyncio.run(clients())) == 1


def test_a_dag_file_that_uses_everything_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from airflow.sdk import DAG, BaseOperator, dag, task\n"  # Airflow 3.4 loads httpx2 by itself
        "before = set(sys.modules)\n"
        "import airflow_openai_batch.operators, airflow_openai_batch.sensors, airflow_openai_batch.decorators\n"
        "print([m for m in ('openai', 'pandas', 'pyarrow', 'httpx2', 'numpy') if m in sys.modules.keys() - before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_what_a_wait_needs_is_loaded_once_and_beside_the_loop_and_triggers_go_on_one_by_one(
    monkeypatch, tmp_path
) -> None:
    from airflow_openai_batch import triggers

    (tmp_path / "slow_waiter.py").write_text("import time; time.sleep(0.2)\nclass Waiter: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(triggers, "_WAITER", "slow_waiter")

    async def act() -> None:
        loop = asyncio.get_running_loop()
        run, calls, rounds, n_rounds = loop.run_in_executor, [], [], 0
        monkeypatch.setattr(loop, "run_in_executor", lambda *given: calls.append(given) or run(*given))

        async def wait() -> type:
            waiter_class = await triggers._waiter_class()
            rounds.append(n_rounds)
            return waiter_class

        waits = [asyncio.ensure_future(wait()) for _ in range(50)]
        while not all(waiting.done() for waiting in waits):
            n_rounds += 1
            await asyncio.sleep(0)
        classes = [waiting.result() for waiting in waits]
        assert {made.__name__ for made in classes} == {"Waiter"} and len(set(classes)) == 1
        assert len(set(rounds)) == 50 and len(calls) == 1
        await triggers._waiter_class()
        assert len(calls) == 1

    asyncio.run(act())


def test_a_trigger_that_is_cancelled_while_it_loads_leaves_the_others_waiting(monkeypatch, tmp_path) -> None:
    from airflow_openai_batch import triggers

    (tmp_path / "slower_waiter.py").write_text("import time; time.sleep(0.2)\nclass Waiter: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(triggers, "_WAITER", "slower_waiter")

    async def act() -> None:
        first, *others = [asyncio.ensure_future(triggers._waiter_class()) for _ in range(3)]
        await asyncio.sleep(0)
        first.cancel()
        assert {made.__name__ for made in await asyncio.gather(*others)} == {"Waiter"}

    asyncio.run(act())
