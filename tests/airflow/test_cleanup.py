"""Cleaning and forgetting in a real Airflow: the operator, the command line, and every task that comes too late."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from airflow_openai_batch.__main__ import main
from airflow_openai_batch.emulator import Rule
from airflow_openai_batch.operators import OpenAIBatchCleanupOperator

CHAIN = """
submit = OpenAIBatchSubmitOperator(task_id="submit", rows=ROWS, **CHAT)
wait = OpenAIBatchSensor(task_id="wait", job=submit.output, deferrable=False, poke_interval=0.2)
wait >> OpenAIBatchResultsOperator(task_id="results", job=submit.output, output=OUT + "/rows.jsonl")
"""
DAY_S = 24 * 3600.0


@pytest.fixture(autouse=True)
def deployment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__DEPLOYMENT", "ours")
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__STORAGE", str(tmp_path / "store"))


@pytest.fixture
def old_run(run_dag: Any, emulator: Any, tmp_path: Path) -> Any:
    """A run that ended a hundred days ago."""
    run = run_dag(CHAIN)
    assert run.state == "success", run.states
    grow_old(tmp_path / "store")
    return run


def grow_old(store: Path, days: float = 100) -> None:
    for state in store.rglob("state"):
        newest = max(state.iterdir())
        job = msgspec.json.decode(newest.read_bytes())
        at = time.time() - days * DAY_S
        newest.write_bytes(msgspec.json.encode({**job, "created_at": at, "committed_at": at}))


def files_with_content(store: Path) -> list[Path]:
    """But for how long OpenAI took for jobs, which is kept for the next forecast."""
    files = [path for path in store.rglob("*") if path.is_file() and "~durations" not in path.parts]
    return [path for path in files if path.stat().st_size]


def test_every_task_that_comes_after_the_cleanup_says_so_and_only_a_clear_begins_anew(
    old_run: Any, emulator: Any, tmp_path: Path
) -> None:
    cleanup = OpenAIBatchCleanupOperator(task_id="clean", older_than=datetime.timedelta(days=90))
    told = old_run.execute(cleanup)
    assert told["jobs"] == [f"{old_run.dag.dag_id} {old_run.run_id} submit"]
    assert told["bytes"] > 0 and told["problems"] == []
    assert len(msgspec.json.encode(told)) < 2000
    [left] = [path for path in files_with_content(tmp_path / "store") if "~history" not in path.parts]
    assert left.parent.name == "state"
    assert list(emulator.files) == []
    handle = old_run.xcom("submit")
    for task_id, arguments in (("wait", {"job": handle}), ("results", {"job": handle}), ("submit", {})):
        task = old_run.dag.get_task(task_id)
        for name, value in arguments.items():
            setattr(task, name, value)
        with pytest.raises(Exception, match=r"was cleaned on .*Clear the task") as error:
            old_run.execute(task, try_number=2)
        assert type(error.value).__name__ == "OpenAIBatchFailure"
    assert len(emulator.batches) == 1
    assert old_run.execute(old_run.dag.get_task("submit"), try_number=3, max_tries=2) == handle
    assert len(emulator.batches) == 2


def test_the_command_line_cleans_and_show_and_list_tell_it(
    old_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], emulator: Any
) -> None:
    key = [old_run.dag.dag_id, old_run.run_id, "submit"]
    before = files_with_content(tmp_path / "store")
    assert main(["clean", "--older-than", "90d", "--dry-run"]) == 0
    assert "1 job would be removed" in capsys.readouterr().out
    assert files_with_content(tmp_path / "store") == before
    assert main(["clean", "--older-than", "200d", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["jobs"] == []
    assert main(["clean", "--older-than", "90d", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["jobs"] == [" ".join(key)] and told["freed"]["files at OpenAI"]["n"] == 2
    assert main(["show", *key, "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["state"] == "cleaned" and "was cleaned on" in shown["problem"]
    assert main(["show", *key[:2], "wait"]) == 1
    assert "was cleaned on" in capsys.readouterr().err
    assert main(["list"]) == 0
    assert "1 more job were cleaned or forgotten" in capsys.readouterr().out
    assert main(["list", *key[:2]]) == 0
    assert "cleaned" in capsys.readouterr().out


def test_the_command_line_forgets_a_run_and_says_what_it_could_not_remove(
    old_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], emulator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = [old_run.dag.dag_id, old_run.run_id]
    connection = json.dumps({"conn_type": "openai", "host": emulator.base_url, "password": "sk-emulator"})
    monkeypatch.delenv("AIRFLOW_CONN_OPENAI_DEFAULT")
    assert main(["forget", *run, "--dry-run"]) == 0
    assert "Would be removed" in capsys.readouterr().out
    assert main(["forget", *run]) == 3
    printed = capsys.readouterr()
    assert "Removed: " in printed.out and "Not touched: " in printed.out
    assert printed.err.count("Not removed: file-") == 2
    assert len(files_with_content(tmp_path / "store")) == 1
    monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", connection)
    assert main(["forget", *run, "submit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["jobs"][0]["n_at_openai"] == 2
    assert list(emulator.files) == []
    assert main(["forget", *run, "another"]) == 1
    assert main(["forget", "no_dag", "no_run"]) == 1


def test_a_run_that_is_not_finished_is_not_forgotten(
    run_dag: Any, emulator: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    emulator.faults.add(Rule("batch", {"stuck": {"seconds": 1e9, "state": "validating"}}))
    run = run_dag('OpenAIBatchSubmitOperator(task_id="submit", rows=ROWS, **CHAT)')
    before = {path: path.read_bytes() for path in files_with_content(tmp_path / "store")}
    assert main(["forget", run.dag.dag_id, run.run_id]) == 1
    assert f"airflow_openai_batch cancel {run.dag.dag_id} {run.run_id} submit" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in files_with_content(tmp_path / "store")} == before


@pytest.mark.parametrize("age", ["90", "d", "1h", "23h", "0d", "-1d", "forever"])
def test_an_age_that_is_none_or_too_short_is_refused(age: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["clean", f"--older-than={age}"])
    assert error.value.code == 2
    assert "older" in capsys.readouterr().err


def test_the_operator_refuses_an_age_when_the_dag_is_parsed() -> None:
    with pytest.raises(ValueError, match="at least a day"):
        OpenAIBatchCleanupOperator(task_id="clean", older_than=datetime.timedelta(hours=2))
    with pytest.raises(TypeError, match=r"datetime\.timedelta"):
        OpenAIBatchCleanupOperator(task_id="clean", older_than=90)  # type: ignore[arg-type]
