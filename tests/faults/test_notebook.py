"""The engine without Airflow: `run` of a notebook, interrupted, killed, asked again, and with mistakes."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from openai import AsyncOpenAI, OpenAI

from airflow_openai_batch.emulator import Emulator, HttpError, Refusal, Rule
from airflow_openai_batch.engine import BadRows, BatchJob, InputError, JobHeld, Policy, forget_job, run, wait_for

BODY = {"model": "gpt-6-luna", "input": "Label: {text}", "max_output_tokens": 50}
SCHEMA = {
    "type": "object",
    "properties": {"topic": {"type": "string"}},
    "required": ["topic"],
    "additionalProperties": False,
}


@pytest.fixture
def emu():
    with Emulator(duration=0.5, seed=3) as running:
        yield running


@pytest.fixture
def given(emu: Emulator, http: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return the arguments of `run`."""

    def arguments(**changes: Any) -> dict[str, Any]:
        client = OpenAI(base_url=emu.base_url, api_key="sk-test", http_client=http)
        places = {"storage": tmp_path / "jobs", "client": client}
        return {
            "rows": rows(6),
            "name": "labels",
            "endpoint": "/v1/responses",
            "body": BODY,
            **places,
            "progress": False,
            "poll_interval_s": 0.1,
            **changes,
        }

    return arguments


def rows(n: int) -> list[dict[str, Any]]:
    return [{"id": i, "text": f"ticket {i}"} for i in range(n)]


def test_results_are_an_arrow_table_in_input_order(given):
    table = run(**given(response_model=SCHEMA, custom_id="t-{id}"))
    assert isinstance(table, pa.Table)
    assert table.column("custom_id").to_pylist() == [f"t-{i}" for i in range(6)]
    assert set(table.column("status").to_pylist()) == {"succeeded"}
    assert all(isinstance(topic, str) for topic in table.to_pandas()["topic"])


def test_asked_again_it_pays_for_nothing(given, emu):
    first, again = run(**given()), run(**given())
    assert first.equals(again)
    assert emu.ledger.n_rows() == 6
    assert len(emu.batches) == 1


def test_interrupted_and_asked_again_it_goes_on(given, emu):
    with pytest.raises(KeyboardInterrupt):
        run(**given(progress=interrupt_when_running))
    assert len(emu.batches) == 1
    assert run(**given()).num_rows == 6
    assert emu.ledger.n_rows() == 6
    assert len(emu.batches) == 1


SCRIPT = """
import sys
from openai import OpenAI
from airflow_openai_batch.engine import run

rows = [{"id": i, "text": f"ticket {i}"} for i in range(6)]
body = {"model": "gpt-6-luna", "input": "Label: {text}", "max_output_tokens": 50}
run(rows, name="labels", endpoint="/v1/responses", body=body, storage=sys.argv[2], poll_interval_s=0.1,
    client=OpenAI(base_url=sys.argv[1], api_key="sk-test"))
assert "airflow" not in sys.modules
print("done")
"""


def process(emu: Emulator, storage: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, emu.base_url, str(storage)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.parametrize("moment", ["while it waits", "in the middle of the create call"])
def test_killed_and_run_again_every_row_is_billed_once(given, emu, tmp_path, moment):
    emu.settings.duration = 3600.0
    is_waiting = moment == "while it waits"
    if not is_waiting:
        emu.faults.add(Rule("POST /v1/batches", {"delay": {"seconds": 10, "after": True}}, times=1))
    with process(emu, tmp_path / "jobs") as running:
        while not emu.batches or (is_waiting and not emu.ledger.n_calls("GET", "/v1/batches/")):
            assert running.poll() is None, running.stdout.read()
            time.sleep(0.01)
        running.kill()
    (batch_id,) = emu.batches
    emu.clock.advance(3600)
    assert run(**given()).column("id").to_pylist() == list(range(6))
    assert list(emu.batches) == [batch_id]
    assert emu.ledger.n_rows() == 6
    assert emu.ledger.rows_billed_twice() == []


def test_a_process_of_its_own_needs_no_airflow(emu, tmp_path):
    with process(emu, tmp_path / "jobs") as running:
        told, _ = running.communicate()
    assert running.returncode == 0, told.decode()
    lines = told.decode().splitlines()
    assert lines[0].startswith("labels: ···················· 0 of 6 rows (0%)")
    assert "6 of 6 rows (100%)" in lines[-2] and "6 succeeded" in lines[-2]
    assert lines[-1] == "done"


def test_a_wiped_folder_costs_nothing(given, emu, tmp_path):
    emu.settings.duration = 3600.0
    with pytest.raises(KeyboardInterrupt):
        run(**given(progress=interrupt_when_running))
    shutil.rmtree(tmp_path / "jobs")
    emu.clock.advance(3600)
    assert run(**given()).num_rows == 6
    assert len(emu.batches) == 1


def test_two_people_with_the_same_name_and_rows_do_not_share_a_batch(given, emu, tmp_path, monkeypatch):
    emu.settings.duration = 3600.0
    with pytest.raises(KeyboardInterrupt):
        run(**given(progress=interrupt_when_running))
    monkeypatch.setattr(getpass, "getuser", lambda: "somebody else")
    with pytest.raises(KeyboardInterrupt):
        run(**given(progress=interrupt_when_running, storage=tmp_path / "other"))
    assert len(emu.batches) == 2


def interrupt_when_running(progress: Any) -> None:
    if progress.n_running:
        raise KeyboardInterrupt


def test_only_what_changed_is_paid_for(given, emu):
    run(**given())
    assert run(**given(rows=rows(8))).num_rows == 8
    assert emu.ledger.n_rows() == 8
    run(**given(rows=rows(8), body={**BODY, "input": "Other: {text}"}))
    assert emu.ledger.n_rows() == 16
    run(**given(rows=rows(8), body={**BODY, "input": "Other: {text}"}, start_over="once"))
    run(**given(rows=rows(8), body={**BODY, "input": "Other: {text}"}, start_over="once"))
    assert emu.ledger.n_rows() == 24


def test_bad_rows_raise_and_their_answers_are_there_for_nothing(given, emu):
    emu.settings.answer = lambda endpoint, body: Refusal() if body["input"].endswith(("1", "2")) else "fine"
    with pytest.raises(BadRows, match="max_bad_ratio"):
        run(**given())
    table = run(**given(max_bad_ratio=1))
    assert table.column("status").to_pylist() == ["succeeded", "refused", "refused", *["succeeded"] * 3]
    assert len(emu.batches) == 1


def test_rows_of_which_none_is_good_can_be_looked_at(given, emu):
    emu.settings.answer = lambda endpoint, body: Refusal()
    with pytest.raises(BadRows, match="No row has a good answer"):
        run(**given(max_bad_ratio=0.9))
    assert set(run(**given(max_bad_ratio=1)).column("status").to_pylist()) == {"refused"}


def test_a_file_is_written_without_a_table_in_memory(given, emu, tmp_path):
    arguments = given()
    settings = {name: arguments.pop(name) for name in ("progress", "poll_interval_s")}
    job = BatchJob(**arguments, policy=Policy(delete_files=True))
    wait_for([job], **settings)
    manifest = job.write(tmp_path / "out" / "labels.csv", drop_columns=["output"])
    assert manifest["by_status"] == {"succeeded": 6}
    assert (tmp_path / "out" / "labels.csv").read_text().count("\n") == 7
    assert emu.files == {}


def test_two_jobs_wait_together(given, emu):
    arguments = given()
    settings = {name: arguments.pop(name) for name in ("progress", "poll_interval_s")}
    jobs = [BatchJob(**{**arguments, "name": name, "body": {**BODY, "input": name + " {text}"}}) for name in "ab"]
    assert emu.batches == {}, "to make a job sends nothing"
    most = []
    wait_for(jobs, lambda _: most.append(len(emu.ledger.live_batches())), poll_interval_s=0.1)
    assert max(most) == 2
    assert [job.table().num_rows for job in jobs] == [6, 6]
    assert settings["progress"] is False


def test_a_cancelled_job_sends_nothing_more(given, emu):
    emu.settings.duration = 3600.0
    with pytest.raises(KeyboardInterrupt):
        run(**given(progress=interrupt_when_running))
    arguments = given()
    del arguments["progress"], arguments["poll_interval_s"]
    BatchJob(**arguments).cancel()
    assert {batch.status for batch in emu.ledger.batches} <= {"cancelling", "cancelled"}


def test_a_job_that_is_over_can_be_forgotten(given, emu, tmp_path):
    where = {"storage": tmp_path / "jobs", "client": given()["client"]}
    with pytest.raises(InputError, match="There is no job"):
        forget_job("labels", **where)
    emu.settings.duration = 3600.0
    with pytest.raises(KeyboardInterrupt):
        run(**given(progress=interrupt_when_running))
    with pytest.raises(InputError, match="not finished"):
        forget_job("labels", **where)
    emu.clock.advance(3600)
    emu.settings.duration = 0.3
    run(**given())
    forgotten = forget_job("labels", **where)
    assert (forgotten.failures, forgotten.n_at_openai) == ([], 2)
    assert emu.files == {}
    assert not [path for path in (tmp_path / "jobs").rglob("*.parquet") if path.is_file()]
    assert run(**given()).num_rows == 6
    assert emu.ledger.n_rows() == 12, "who asks for the name again asks everything again"


def test_a_cap_that_is_too_low_costs_nothing(given, emu):
    with pytest.raises((InputError, JobHeld), match="max_cost"):
        run(**given(max_cost="0.000001"))
    assert emu.ledger.n_rows() == 0
    assert run(**given(max_cost=1)).num_rows == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": " "}, "name must be"),
        ({"client": AsyncOpenAI(api_key="k")}, "not AsyncOpenAI"),
        ({"client": None}, "OPENAI_API_KEY"),
        ({"rows": [{"other": 1}]}, "text"),
        ({"max_cost": "much"}, "max_cost"),
        ({"max_bad_ratio": 5}, "max_bad_ratio"),
    ],
    ids=["name", "async_client", "no_key", "column", "cost", "ratio"],
)
def test_mistakes_are_told_before_anything_is_sent(given, emu, monkeypatch, changes, message):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match=message):
        run(**given(**changes))
    assert emu.ledger.calls == []


def test_the_client_of_the_environment_is_used(given, emu, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
    monkeypatch.setenv("OPENAI_BASE_URL", emu.base_url)
    assert run(**given(client=None)).num_rows == 6


def test_rows_that_fail_for_good_are_in_the_table(given, emu):
    emu.settings.answer = lambda endpoint, body: HttpError(400, "bad", "no") if body["input"][-1] == "0" else "fine"
    table = run(**given(max_bad_ratio=0.5))
    assert table.column("status").to_pylist()[0] == "failed"
    assert table.column("error_message").to_pylist()[0] == "no"


def test_a_terminal_sees_one_line(given, emu, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    run(**given(progress=True))
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "████████████████████ 6 of 6 rows (100%)" in out.split("\r")[-1]
