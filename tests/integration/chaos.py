"""One job on a real Airflow while everything around it breaks, and what it cost: `make chaos`.

Workers and triggerers are killed with -9 at random, the answer to a create call is lost, a batch expires half-way,
one answer in twenty breaks the schema, and the API is down for a while. Time is scaled: OpenAI's clock is moved by
hand, hours pass in seconds, and the grace period after an unclear create call is 9 s instead of 180 s.

Then a job whose batches stick at 60 % comes to its moment of ``finish_by``, and workers are killed while they ask.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pandas as pd

from airflow_openai_batch.emulator import Emulator, ManualClock, Rule
from airflow_openai_batch.local_airflow.rest import ApiError
from airflow_openai_batch.local_airflow.settings import QUICK
from airflow_openai_batch.local_airflow.stack import AirflowStack

HERE = Path(__file__).resolve().parent
DAG_ID, TASK_ID = "batch_chaos", "one"
OUTAGE_S = 8.0
INVALID = 0.05


@dataclasses.dataclass
class Damage:
    """What was broken on the way."""

    workers_killed: int = 0
    triggerers_killed: int = 0
    outages: int = 0
    seconds: float = 0.0


def add_faults(emulator: Emulator, seed: int) -> None:
    """Script OpenAI's part of the misfortune."""
    emulator.faults.add(
        Rule(on="POST /v1/batches", do="drop_response", times=1),
        Rule(on="batch", match={"nth": 3}, do={"expire_at": {"fraction": 0.5, "after": 900, "lag": 60}}, times=1),
        Rule(on="row", do="invalid", probability=INVALID, seed=seed),
    )


def run(stack: AirflowStack, emulator: Emulator, seed: int, timeout_s: float, kills: int) -> tuple[str, Damage]:
    """Run the Dag to its end while breaking things. Returns the run id and the damage.

    Raises:
        AssertionError: It did not end in time, or not green.
    """
    dice, damage, api = random.Random(seed), Damage(), stack.api
    add_faults(emulator, seed)
    api.unpause(DAG_ID)
    run_id = api.trigger(DAG_ID)
    started = time.monotonic()
    outage_until, outage_at = 0.0, float("inf")
    while True:
        state = _state(stack, run_id)
        if state in ("success", "failed"):
            break
        now = time.monotonic()
        assert now - started < timeout_s, stack.tails()
        if damage.workers_killed + damage.triggerers_killed < kills:
            _break_something(stack, dice, damage)
        if outage_at == float("inf") and len(emulator.batches) >= 4:
            outage_at = now + 5  # when the scripted faults of the first batches have struck
        if not damage.outages and now >= outage_at:
            damage.outages, outage_until = 1, now + OUTAGE_S
            emulator.faults.add(Rule(on="*", do={"status": {"code": 503, "html": True}}))
        if outage_until and now >= outage_until:
            outage_until = 0.0
            emulator.faults.clear()
            emulator.faults.add(Rule(on="row", do="invalid", probability=INVALID, seed=seed))
        if not outage_until and dice.random() < 0.3:
            emulator.clock.advance(dice.uniform(10, 60))
        time.sleep(0.5)
    damage.seconds = time.monotonic() - started
    assert state == "success", stack.tails()
    return run_id, damage


def _state(stack: AirflowStack, run_id: str, dag_id: str = DAG_ID) -> str:
    try:
        return stack.api.run_state(dag_id, run_id)
    except (ApiError, httpx.TransportError):  # the machine is busy, or the API server is
        return "unknown"


def _break_something(stack: AirflowStack, dice: random.Random, damage: Damage) -> None:
    throw = dice.random()
    if throw < 0.25:
        for worker in stack.workers(DAG_ID)[:1]:
            time.sleep(dice.uniform(0, 2))
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.runner_pid, signal.SIGKILL)
                damage.workers_killed += 1
    elif throw < 0.30:
        name = dice.choice([name for name in stack.processes if name.startswith("triggerer")])
        stack.kill(name, signal.SIGKILL)
        damage.triggerers_killed += 1
        stack.restart(name)


def table(emulator: Emulator, frame: pd.DataFrame, damage: Damage, n_rows: int) -> list[tuple[str, object]]:
    """Return what happened and what it cost, from the emulator's ledger and the results."""
    statuses = frame["status"].value_counts().to_dict()
    ended = [batch.status for batch in emulator.batches.values()]
    return [
        ("rows in", n_rows),
        ("rows out", len(frame)),
        *((f"  {status}", n) for status, n in sorted(statuses.items())),
        ("batches created", len(ended)),
        *((f"  {status}", ended.count(status)) for status in sorted(set(ended))),
        ("rows billed", emulator.ledger.n_rows()),
        ("  of these, for an answer that broke the schema", _invalid(emulator)),
        ("good rows billed more than once", len(emulator.ledger.rows_billed_twice(only_delivered=True))),
        ("batches still running", len(emulator.ledger.live_batches())),
        ("workers killed with -9", damage.workers_killed),
        ("triggerers killed with -9", damage.triggerers_killed),
        ("API outages", damage.outages),
        ("seconds", round(damage.seconds)),
    ]


def _invalid(emulator: Emulator) -> int:
    return sum(entry.delivered != "ok" for entry in emulator.ledger.rows())


def check(emulator: Emulator, frame: pd.DataFrame, n_rows: int) -> None:
    """Assert the promises.

    Raises:
        AssertionError: One is broken.
    """
    assert list(frame["id"]) == list(range(n_rows))
    assert emulator.ledger.rows_billed_twice(only_delivered=True) == []
    assert emulator.ledger.live_batches() == []
    good = {entry.custom_id for entry in emulator.ledger.rows() if entry.delivered == "ok"}
    assert set(frame.loc[frame["status"] == "succeeded", "custom_id"]) == good
    assert (frame["status"] == "succeeded").mean() > 0.99


LATE_DAG_ID = "batch_late"


def run_late(
    stack: AirflowStack, emulator: Emulator, seed: int, timeout_s: float, kills: int
) -> tuple[str, dict[str, Any]]:
    """Run a job whose batches stick at 60 % to its moment of finish_by, and kill workers while they ask synchronously.

    Returns:
        The run id, and the task's manifest.

    Raises:
        AssertionError: It did not end in time, or not green.
    """
    dice, damage, api = random.Random(seed), Damage(), stack.api
    asking = "POST /v1/responses"
    emulator.faults.add(
        Rule(on="batch", do={"expire_at": {"fraction": 0.6}}),
        Rule(on=asking, do={"status": {"code": 429, "retry_after": 1}}, probability=0.01, seed=seed),
        Rule(on=asking, do={"status": 500}, probability=0.01, seed=seed + 1),
        Rule(on=asking, do={"delay": 0.2}),
    )
    api.unpause(LATE_DAG_ID)
    run_id = api.trigger(LATE_DAG_ID)
    started = time.monotonic()
    while (state := _state(stack, run_id, LATE_DAG_ID)) not in ("success", "failed"):
        assert time.monotonic() - started < timeout_s, stack.tails()
        is_asking = emulator.ledger.n_calls("POST", "/v1/responses") > 20 * (damage.workers_killed + 1)
        if is_asking and damage.workers_killed < kills:
            _kill_worker(stack, LATE_DAG_ID, damage)
        emulator.clock.advance(dice.uniform(5, 30))
        time.sleep(0.5)
    assert state == "success", stack.tails()
    assert damage.workers_killed == kills
    return run_id, api.xcom(LATE_DAG_ID, run_id, TASK_ID)


def _kill_worker(stack: AirflowStack, dag_id: str, damage: Damage) -> None:
    for worker in stack.workers(dag_id)[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.runner_pid, signal.SIGKILL)
            damage.workers_killed += 1


def check_late(emulator: Emulator, frame: pd.DataFrame, manifest: dict[str, Any], n_rows: int) -> int:
    """Assert the promises of finish_by. Returns how many requests were paid twice.

    Raises:
        AssertionError: One is broken.
    """
    assert list(frame["id"]) == list(range(n_rows))
    assert set(frame["status"]) == {"succeeded"}
    assert set(frame["via"]) == {"batch", "direct"}
    assert manifest["direct_rows"] == (frame["via"] == "direct").sum()
    assert emulator.ledger.live_batches() == []
    paid = Counter(row.body_hash for row in emulator.ledger.rows())
    assert len(paid) == n_rows
    n_twice = sum(paid.values()) - n_rows
    assert n_twice <= manifest["maybe_paid_twice"]
    return n_twice


def main() -> None:
    """Run the full size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--late-rows", type=int, default=20_000, help="rows of the job that has a moment of finish_by")
    parser.add_argument("--kills", type=int, default=20, help="how many processes to kill at most")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as folder,
        Emulator(clock=ManualClock(time.time()), duration=600, seed=arguments.seed) as emulator,
    ):
        home = Path(folder)
        sizes = {"OPENAI_BATCH_TEST_ROWS": arguments.rows, "OPENAI_BATCH_TEST_LATE_ROWS": arguments.late_rows}
        env = environment(emulator, home) | {name: str(n) for name, n in sizes.items()}
        with AirflowStack(home / "airflow", HERE / "dags", QUICK, env) as stack:
            stack.start_triggerer("triggerer-2")
            run_id, damage = run(stack, emulator, arguments.seed, 1800, arguments.kills)
            frame = pd.read_parquet(home / "out" / f"{run_id}.parquet", columns=["id", "status", "custom_id"])
            figures = table(emulator, frame, damage, arguments.rows)
            check(emulator, frame, arguments.rows)
            emulator.reset()
            late_id, manifest = run_late(stack, emulator, arguments.seed, 3600, min(3, arguments.kills))
            late = pd.read_parquet(home / "out" / f"{late_id}.parquet", columns=["id", "status", "via"])
        print(f"One task, green, in a real Airflow; seed {arguments.seed}; OpenAI's time is scaled (emulator).\n")
        for name, value in [*figures, *late_table(late, manifest, check_late(emulator, late, manifest, len(late)))]:
            print(f"{name:<50}{value:>12,}")


def late_table(frame: pd.DataFrame, manifest: dict[str, Any], n_twice: int) -> list[tuple[str, object]]:
    """Return what became of the job whose batches stuck at 60 %."""
    n_of = frame["via"].value_counts()
    return [
        ("rows of a job whose batches stick at 60 %", len(frame)),
        ("  answered by its batches", int(n_of["batch"])),
        ("  asked synchronously after finish_by", int(n_of["direct"])),
        ("  paid twice, as workers were killed meanwhile", n_twice),
        ("  of these told, at most", manifest["maybe_paid_twice"]),
    ]


def environment(emulator: Emulator, folder: Path) -> dict[str, str]:
    """Return the settings of all Airflow processes under test."""
    return {
        "AIRFLOW_CONN_OPENAI_DEFAULT": _connection(emulator.base_url),
        "AIRFLOW__OPENAI_BATCH__STORAGE": f"file://{folder}/store",
        "AIRFLOW__OPENAI_BATCH__POLL_INTERVAL": "0.5",
        "AIRFLOW__OPENAI_BATCH__FIRST_POLL_DELAY": "2",
        # Real clocks, scaled: a create call that is unclear is settled after seconds instead of minutes.
        "AIRFLOW__OPENAI_BATCH__CREATE_GRACE": "9",
        "OPENAI_BATCH_TEST_OUTPUT": str(folder / "out"),
    }


def _connection(base_url: str) -> str:
    return f'{{"conn_type": "openai", "host": "{base_url}", "password": "sk-emulator"}}'


if __name__ == "__main__":
    main()
