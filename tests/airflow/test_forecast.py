"""When a job will be over is told in the log, in XCom, in a plan and by the command line. Real Dags, by dag.test()."""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgspec
import pytest

from airflow_openai_batch.cli.main import main
from airflow_openai_batch.engine.job.duration_history import FOLDER
from airflow_openai_batch.engine.job.spans import ModelRecord, Span, hour_of

ONE = "OpenAIBatchOperator(task_id='one', rows=ROWS, **CHAT)"
PLAN = "OpenAIBatchPlanOperator(task_id='one', rows=ROWS, **CHAT)"
SUBMIT = "OpenAIBatchSubmitOperator(task_id='one', rows=ROWS, **CHAT)"
HOUR_S, DAY_S = 3600.0, 86_400.0


def learn(root: Path, n_nights: int) -> None:
    """Leave what jobs of other tasks would have: a batch in each night, that took one hour more than the last."""
    folder = root / FOLDER / "models" / "openai_default" / "gpt-6-luna"
    folder.mkdir(parents=True)
    for k in range(1, n_nights + 1):
        at = time.time() - k * DAY_S
        span = Span(started_at=at, seconds=k * HOUR_S)
        record = ModelRecord(endpoint="/v1/chat/completions", batches=(span,))
        name = f"{hour_of(at):02d}-{int(at):012d}-{k:012x}.json"
        (folder / name).write_bytes(msgspec.json.encode(record))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_job_that_waits_tells_it_in_xcom_and_log_and_leaves_its_own(run_dag, emulator, store: Path, capfd) -> None:
    learn(store, 9)
    before = time.time()
    run = run_dag(SUBMIT)
    forecast = run.xcom("one", "openai_batch_progress.one")["forecast"]
    assert (forecast["basis"], forecast["n_earlier"]) == ("batches", 9)
    assert before + 5 * HOUR_S <= forecast["p50_at"] <= time.time() + 5 * HOUR_S
    assert before + 9 * HOUR_S <= forecast["p90_at"] <= time.time() + 9 * HOUR_S
    assert "probably over at " in capfd.readouterr().out


def test_a_job_that_is_over_tells_none_and_the_next_ones_learn_from_it(run_dag, emulator, store: Path) -> None:
    learn(store, 9)
    emulator.settings.duration = 2
    run = run_dag(ONE)
    assert run.xcom("one", "openai_batch_progress.one")["forecast"] is None
    assert len(list((store / FOLDER / "models").rglob("*.json"))) == 10
    (own,) = (store / FOLDER / "tasks" / run.dag.dag_id / "one").iterdir()
    assert json.loads(own.read_text())["span"]["seconds"] > 0


def test_a_plan_tells_it_as_if_it_were_sent_now(run_dag, emulator, store: Path, capfd) -> None:
    learn(store, 9)
    told = run_dag(PLAN).xcom("one")["plan"]
    assert told["forecast_p50_s"] == pytest.approx(5 * HOUR_S, abs=1)
    assert told["forecast_p90_s"] == pytest.approx(9 * HOUR_S, abs=1)
    assert ", if it is sent now" in told["text"] and ", if it is sent now" in capfd.readouterr().out


@pytest.mark.parametrize("n_nights", [0, 4])
def test_with_too_little_history_nothing_is_told(run_dag, emulator, store: Path, n_nights: int, capfd) -> None:
    learn(store, n_nights)
    run = run_dag(PLAN)
    told = run.xcom("one")["plan"]
    assert told["forecast_p50_s"] is None and told["forecast_p90_s"] is None
    assert "probably" not in told["text"] + capfd.readouterr().out


def test_show_tells_it(run_dag, emulator, store: Path, capsys) -> None:
    learn(store, 9)
    emulator.settings.duration = 3600
    run = run_dag(SUBMIT)
    capsys.readouterr()
    where = ["show", run.dag.dag_id, run.run_id, "one", "--storage", str(store), "--offline"]
    assert main(where) == 0
    assert "forecast: probably over at " in capsys.readouterr().out
    assert main([*where, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["forecast"]
    assert shown["n_earlier"] == 9 and "steps" not in shown and shown["p90_at"] > shown["p50_at"]
