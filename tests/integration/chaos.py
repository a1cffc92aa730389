"""One job on a real Airflow while everything around it breaks, and what it cost: `make chaos`.

Workers and triggerers are killed with -9 at random, the answer to a create call is lost, a batch expires half-way,
one answer in twenty breaks the schema, and the API is down for a while. Time is scaled: OpenAI's clock is moved by
hand, hours pass in seconds, and the grace period after an unclear create call is 9 s instead of 180 s.
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
from pathlib import Path

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


def _state(stack: AirflowStack, run_id: str) -> str:
    try:
        return stack.api.run_state(DAG_ID, run_id)
    except ApiError:
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


def main() -> None:
    """Run the full size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=20, help="how many processes to kill at most")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as folder,
        Emulator(clock=ManualClock(time.time()), duration=600, seed=arguments.seed) as emulator,
    ):
        home = Path(folder)
        env = environment(emulator, home) | {"OPENAI_BATCH_TEST_ROWS": str(arguments.rows)}
        with AirflowStack(home / "airflow", HERE / "dags", QUICK, env) as stack:
            stack.start_triggerer("triggerer-2")
            run_id, damage = run(stack, emulator, arguments.seed, 1800, arguments.kills)
            frame = pd.read_parquet(home / "out" / f"{run_id}.parquet", columns=["id", "status", "custom_id"])
        print(f"One task, green, in a real Airflow; seed {arguments.seed}; OpenAI's time is scaled (emulator).\n")
        for name, value in table(emulator, frame, damage, arguments.rows):
            print(f"{name:<50}{value:>12,}")
        check(emulator, frame, arguments.rows)


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
