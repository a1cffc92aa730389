"""Three nights of two Dags that share a ledger, in a real Airflow: each night pays for what is new."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from airflow_openai_batch.emulator import Emulator
from airflow_openai_batch.local_airflow.stack import AirflowStack

pytestmark = pytest.mark.slow

N_ROWS, N_NEW = 10_000, 500


class Nights:
    """Dag runs, the rows that they get, and what they were billed."""

    def __init__(self, stack: AirflowStack, emulator: Emulator, folder: Path) -> None:
        self.stack, self.emulator, self.folder = stack, emulator, folder
        self.runs: list[tuple[str, str]] = []
        self.n_billed = 0

    def begin(self, dag_id: str, rows: list[str], prompt: str = "Label") -> str:
        """Start a run with one row for each text."""
        path = self.folder / f"{len(self.runs)}.parquet"
        pd.DataFrame({"id": range(len(rows)), "text": rows}).to_parquet(path)
        self.stack.api.unpause(dag_id)
        run_id = self.stack.api.trigger(dag_id, conf={"rows": str(path), "prompt": prompt})
        self.runs.append((dag_id, run_id))
        return run_id

    def finish(self, *run_ids: str) -> int:
        """Let OpenAI finish until the runs have. Returns how many rows were billed since the last time."""
        deadline = time.monotonic() + 240
        for dag_id, run_id in [run for run in self.runs if run[1] in run_ids]:
            while (state := self.stack.api.run_state(dag_id, run_id)) in ("queued", "running"):
                assert time.monotonic() < deadline, self.stack.tails()
                if self.emulator.batches:
                    self.emulator.complete_all()
                time.sleep(0.5)
            assert state == "success", self.stack.tails()
        before, self.n_billed = self.n_billed, sum(1 for _ in self.emulator.ledger.rows())
        return self.n_billed - before

    def result(self, output: str, dag_id: str, run_id: str) -> pd.DataFrame:
        return pd.read_parquet(Path(output) / f"{dag_id}-{run_id}.parquet")


def test_each_night_pays_for_what_is_new(
    airflow_stack: AirflowStack, emulator: Emulator, stack_env: dict[str, Any], tmp_path: Path
) -> None:
    emulator.reset()
    nights = Nights(airflow_stack, emulator, tmp_path)
    output = stack_env["OPENAI_BATCH_TEST_OUTPUT"]

    first = [f"ticket {i}" for i in range(N_ROWS)]
    assert nights.finish(nights.begin("nights_a", first)) == N_ROWS

    # The second night: both Dags at the same time, each with changes and rows of its own.
    second_a = (
        [f"changed {i}" for i in range(N_NEW // 2)] + first[N_NEW // 2 :] + [f"new {i}" for i in range(N_NEW // 2)]
    )
    second_b = first[: N_ROWS - N_NEW] + [f"other {i}" for i in range(N_NEW)]
    runs = nights.begin("nights_a", second_a), nights.begin("nights_b", second_b)
    assert nights.finish(*runs) == 2 * N_NEW
    frame = nights.result(output, "nights_a", runs[0])
    assert list(frame["text"]) == second_a
    assert set(frame["status"]) == {"succeeded"}
    assert frame["reused_from"].notna().sum() == N_ROWS - N_NEW // 2
    assert frame.loc[frame["reused_from"].notna(), "cost"].sum() == 0

    # The third night of the second Dag has what the first Dag asked in the second, and five in a hundred new ones.
    third_b = second_a[: N_ROWS - N_NEW] + [f"third {i}" for i in range(N_NEW)]
    run = nights.begin("nights_b", third_b)
    assert nights.finish(run) == N_NEW
    assert list(nights.result(output, "nights_b", run)["text"]) == third_b
    manifest = airflow_stack.api.xcom("nights_b", run, "one")
    assert manifest["rows"] == N_ROWS

    assert set(Counter(row.body_hash for row in emulator.ledger.rows()).values()) == {1}

    # Another prompt asks everything.
    assert nights.finish(nights.begin("nights_a", third_b, prompt="Better")) == N_ROWS
    assert set(Counter(row.body_hash for row in emulator.ledger.rows()).values()) == {1}
