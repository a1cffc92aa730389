"""The example Dag with an approval between the plan and the sensor, as it stands: dag.test() against the emulator."""

from __future__ import annotations

import datetime
import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import rest

EXAMPLE = Path(__file__).parents[2] / "dags_examples" / "approved_labeling.py"


@pytest.fixture
def run(_airflow_db: None, emulator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Return a function that runs the Dag with a person's answer, and returns the run."""
    given = [{"name": f"p{i:03}", "summary": "a driver", "description": "sql", "topics": []} for i in range(40)]
    monkeypatch.setattr("airflow_openai_batch.demo.packages.package_rows", lambda: iter(given))
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__STORAGE", str(tmp_path / "store"))
    monkeypatch.setenv("LABELING_FOLDER", str(tmp_path / "lake"))

    def run(choice: str) -> Any:
        from airflow.providers.standard.operators.hitl import ApprovalOperator

        asked: list[str] = []

        def answered(self: Any, context: Any) -> Any:
            """What Airflow does when the answer is there; dag.test() cannot wait for one."""
            asked.append(self.body)
            assert not emulator.ledger.batches, "nothing is sent before the answer"
            now = datetime.datetime.now(datetime.UTC)
            event = {"chosen_options": [choice], "params_input": {}, "responded_at": now, "responded_by_user": None}
            return self.execute_complete(context, event)

        monkeypatch.setattr(ApprovalOperator, "execute", answered)
        file = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]) / EXAMPLE.name
        shutil.copyfile(EXAMPLE, file)
        spec = importlib.util.spec_from_file_location("approved_labeling", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        made = module.approved_labeling().test()
        assert "* **to ask**: 40 requests in 1 batch" in asked[0]
        assert "* **cost**: at most $0.0" in asked[0]
        assert "* **cap**: $5.00: all of it fits" in asked[0]
        return made

    return run


def states(made: Any) -> dict[str, str]:
    return rest.states(made.dag_id, made.run_id)


def test_what_is_approved_is_sent(run, emulator, tmp_path):
    made = run("Approve")
    assert set(states(made).values()) == {"success"}
    assert emulator.ledger.n_rows() == 40
    (file,) = (tmp_path / "lake" / "labels").glob("*.parquet")
    assert pq.read_table(file).num_rows == 40


def test_what_is_rejected_costs_nothing(run, emulator):
    made = run("Reject")
    assert states(made) == {"rows": "success", "plan": "success", "approve": "success"} | dict.fromkeys(
        ("wait", "results"), "skipped"
    )
    assert not emulator.ledger.batches
    assert not [call for call in emulator.ledger.calls if call.method == "POST"]
