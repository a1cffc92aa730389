"""``python -m airflow_openai_batch``: what a person at a shell does with a job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import rest
from openai import OpenAI
from upath import UPath

from airflow_openai_batch.__main__ import main
from airflow_openai_batch.emulator import Emulator, Rule
from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.endpoints import Limits
from airflow_openai_batch.engine.job.advance import advance
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.status import Done, Held, Wait
from airflow_openai_batch.engine.job.submit import Request, submit
from airflow_openai_batch.engine.model import JobKey, Policy, Status
from airflow_openai_batch.engine.store.job_store import JobStore

KEY = JobKey(dag_id="labels", run_id="manual__1", task_id="ask")
N_ROWS = 120
EVERY_COMMAND = (
    *("show", "errors", "tokens", "requests", "results", "cancel", "resume", "start-over", "replay"),
    *("accept-missing", "ask-missing"),
)
POLICY = Policy(max_enqueued_tokens=1000)  # one batch at a time


class Cancellable:
    """A job of three batches: one has ended, one runs for ever, one was never sent."""

    def __init__(self, emulator: Emulator, root: Path) -> None:
        self.emulator, self.root, self.later_s = emulator, root, 0.0
        self.store = JobStore(UPath(root), KEY)
        emulator.faults.add(Rule("batch", {"stuck": {"seconds": 1e9, "state": "validating"}}, match={"batch": 2}))
        self.clear(0)
        for _ in range(3):
            self.advance()
        assert [str(batch.status) for batch in emulator.ledger.batches] == ["completed", "validating"]
        assert emulator.ledger.n_rows() == 40

    def engine(self) -> Engine:
        api = Api(OpenAI(base_url=self.emulator.base_url, api_key="sk-emulator"))
        return Engine(self.store, api, clock=lambda: time.time() + self.later_s)

    def clear(self, max_tries: int) -> None:
        """What the submitting task does when it runs."""
        rows = [{"id": i, "text": f"ticket {i} " + "x" * 40} for i in range(N_ROWS)]
        body = {"model": "gpt-6-luna", "input": "Label: {text}"}
        request = Request(rows, endpoint="/v1/responses", body=body, limits=Limits(max_requests=40))
        submit(self.engine(), request, POLICY, max_tries=max_tries, conn_id="openai_default")

    def advance(self) -> Wait | Done | Held:
        return advance(self.engine())

    def by_status(self) -> dict[Status, int]:
        for _ in range(20):
            reached = self.advance()
            if isinstance(reached, Done):
                return reached.summary.by_status
            self.later_s += 300.0
        raise AssertionError(reached)

    def arguments(self, command: str) -> list[str]:
        return [command, KEY.dag_id, KEY.run_id, KEY.task_id, "--storage", str(self.root)]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cancellable]:
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "")
    monkeypatch.delenv("_AIRFLOW_PROCESS_CONTEXT")
    with Emulator(duration=0.0, seed=1) as emulator:
        connection = {"conn_type": "openai", "host": emulator.base_url, "password": "sk-emulator"}
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(connection))
        yield Cancellable(emulator, tmp_path)


def is_cancelled(job: Cancellable) -> bool:
    statuses = [str(batch.status) for batch in job.emulator.ledger.batches]
    return statuses[0] == "completed" and statuses[1:] in (["cancelling"], ["cancelled"])


def test_cancel_cancels_at_once_and_a_clear_keeps_to_it(job: Cancellable) -> None:
    command = [sys.executable, "-m", "airflow_openai_batch", *job.arguments("cancel")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert ran.returncode == 0, ran.stderr
    assert is_cancelled(job)
    assert "OpenAI was asked to cancel 1 batch with 40 requests" in ran.stdout
    assert job.emulator.ledger.batches[1].id in ran.stdout
    assert "Cancelled: 40 rows. Finished before, and kept: 40 rows." in ran.stdout
    for max_tries in (1, 2, 2):  # what it prints: clear the task
        job.clear(max_tries)
        assert job.by_status() == {Status.SUCCEEDED: 40, Status.CANCELLED: 80}
    assert job.emulator.ledger.n_rows() == 40, "nothing is billed beyond what had finished"
    assert len(job.emulator.ledger.batches) == 2


def test_resume_takes_a_cancel_back_and_the_rest_is_asked(job: Cancellable, capsys: pytest.CaptureFixture) -> None:
    assert main(job.arguments("cancel")) == 0
    assert main(job.arguments("show")) == 0
    assert "Cancelled by a command" in capsys.readouterr().out
    job.by_status()
    assert main(job.arguments("resume")) == 0
    assert "taken back" in capsys.readouterr().out
    assert main(job.arguments("resume")) == 1
    assert "no cancel" in capsys.readouterr().err
    job.clear(1)
    assert job.by_status() == {Status.SUCCEEDED: N_ROWS}
    assert job.emulator.ledger.n_rows() == N_ROWS
    assert job.emulator.ledger.rows_billed_twice() == []


def test_without_the_connection_it_says_who_cancels_and_the_next_task_does(
    job: Cancellable, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_OPENAI_DEFAULT")
    assert main([*job.arguments("cancel"), "--conn-id", "nowhere"]) == 3
    told = capsys.readouterr().err
    assert "nothing more is sent" in told
    assert "'nowhere'" in told
    assert "The next run of any of the job's tasks tells it" in told
    assert not is_cancelled(job)
    job.advance()
    assert is_cancelled(job)
    assert job.by_status() == {Status.SUCCEEDED: 40, Status.CANCELLED: 80}


@pytest.mark.usefixtures("_airflow_db")
def test_a_connection_in_airflows_database_is_found(job: Cancellable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_OPENAI_DEFAULT")
    connection = {"conn_type": "openai", "host": job.emulator.base_url, "password": "sk-emulator"}
    rest.call("POST", "/connections", {"connection_id": "in_the_database", **connection})
    assert main([*job.arguments("cancel"), "--conn-id", "in_the_database"]) == 0
    assert is_cancelled(job)


def test_an_openai_that_cannot_be_told_is_said_and_told_later(job: Cancellable, capsys: pytest.CaptureFixture) -> None:
    job.emulator.faults.add(Rule("POST /v1/batches/*/cancel", {"status": 500}, times=10))
    assert main(job.arguments("cancel")) == 3
    told = capsys.readouterr()
    assert "Cancelled: 40 rows" in told.out
    assert f"Not cancelled yet: {job.emulator.ledger.batches[1].id}" in told.err
    assert not is_cancelled(job)
    job.emulator.faults.clear()
    engine = job.engine()
    engine.clock = lambda: time.time() + 3600
    advance(engine)
    assert is_cancelled(job)


def test_start_over_is_noted_and_obeyed_when_the_task_is_cleared(
    job: Cancellable, capsys: pytest.CaptureFixture
) -> None:
    assert main(job.arguments("cancel")) == 0
    assert main(job.arguments("start-over")) == 0
    assert "Now clear the task" in capsys.readouterr().out
    job.clear(1)
    assert job.by_status() == {Status.SUCCEEDED: N_ROWS}
    assert job.emulator.ledger.n_rows() == 40 + N_ROWS


def test_a_job_that_is_not_there_is_said(job: Cancellable, capsys: pytest.CaptureFixture) -> None:
    for command in EVERY_COMMAND:
        assert main([command, "no", "such", "job", "--storage", str(job.root)]) == 1
        assert "There is no job" in capsys.readouterr().err
        assert main([command, "no", "such", "job", "--storage", str(job.root), "--json"]) == 1
        assert "There is no job" in json.loads(capsys.readouterr().out)["problem"]
    assert not is_cancelled(job)


@pytest.mark.parametrize(("command", "status"), [("accept-missing", "missing"), ("ask-missing", "succeeded")])
def test_a_person_decides_of_rows_without_proof(
    command: str, status: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Emulator(duration=0.0, seed=1) as emulator:
        emulator.faults.add(Rule("batch", "no_output_file", times=1))
        store, now = JobStore(UPath(tmp_path), KEY), [time.time()]
        api = Api(OpenAI(base_url=emulator.base_url, api_key="sk-emulator"))
        engine = Engine(store, api, clock=lambda: now[0], sleep=lambda s: None)
        request = Request([{"text": "x"}] * 3, endpoint="/v1/responses", body={"model": "m", "input": "{text}"})
        submit(engine, request, Policy())
        arguments = [command, KEY.dag_id, KEY.run_id, KEY.task_id, "--storage", str(tmp_path)]
        assert main(arguments) == 1, "nothing is in doubt yet"
        while isinstance(reached := advance(engine), Wait):
            now[0] += max(reached.wake_at - now[0], 1.0)
        assert isinstance(reached, Held) and f"{command.partition('-')[0]}-missing" in reached.reason
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr("airflow_openai_batch.engine.store.job_store.time.time", lambda: now[0])
            assert main(arguments) == 0
        assert "no line" in capsys.readouterr().out
        now[0] += 1800
        for _ in range(10):
            if isinstance(reached := advance(engine), Done):
                break
            now[0] += 60
        assert isinstance(reached, Done) and reached.summary.by_status == {Status(status): 3}
        assert len(emulator.ledger.batches) == (1 if command == "accept-missing" else 2)


BAD = {"http_error": {"status": 400, "code": "invalid_value", "message": "Invalid value: 'ticket 7'."}}


class Finished:
    """A job of which rows 7 and 8 have no good answer."""

    def __init__(self, emulator: Emulator, root: Path) -> None:
        self.emulator, self.root, self.later_s = emulator, root, 0.0
        self.store = JobStore(UPath(root), KEY)
        emulator.faults.add(Rule("row", BAD, match={"custom_id": "t-[78]$"}))
        api = Api(OpenAI(base_url=emulator.base_url, api_key="sk-emulator"))
        self.engine = Engine(self.store, api, clock=lambda: time.time() + self.later_s)
        self.clear()
        self.finish()

    def clear(self, body: str = "Label: {text}") -> None:
        rows = [{"id": i, "text": f"ticket {i}"} for i in range(12)]
        given = {"endpoint": "/v1/responses", "body": {"model": "gpt-6-luna", "input": body}, "custom_id": "t-{id}"}
        submit(self.engine, Request(rows, **given, limits=Limits(max_requests=6)), Policy(), conn_id="openai_default")

    def finish(self) -> dict[Status, int]:
        for _ in range(40):
            if isinstance(reached := advance(self.engine), Done):
                return reached.summary.by_status
            self.later_s += 300.0
        raise AssertionError(reached)

    def run(self, command: str, *more: str) -> int:
        return main([command, KEY.dag_id, KEY.run_id, KEY.task_id, "--storage", str(self.root), *more])


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Finished]:
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "")
    monkeypatch.delenv("_AIRFLOW_PROCESS_CONTEXT")
    with Emulator(duration=0.0, seed=1) as emulator:
        connection = {"conn_type": "openai", "host": emulator.base_url, "password": "sk-emulator"}
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(connection))
        yield Finished(emulator, tmp_path)


def told(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_replay_asks_exactly_the_bad_rows_once_for_each_wish(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    finished.emulator.faults.clear()
    assert finished.run("replay", "--json") == 0
    assert told(capsys) == {"noted": True, "rows": 2, "by_status": {"failed": 2}, "billed_before": 0}
    assert finished.run("replay") == 1, "it is noted already"
    assert "not obeyed yet" in capsys.readouterr().err
    assert finished.run("show") == 0
    assert "asked again by a command" in capsys.readouterr().out
    finished.clear()
    assert finished.finish() == {Status.SUCCEEDED: 12}
    ledger = finished.emulator.ledger
    assert len(ledger.batches) == 3 and ledger.n_rows() == 12 and ledger.rows_billed_twice() == []
    assert finished.run("replay") == 1
    assert "Every row has a good answer" in capsys.readouterr().err
    finished.clear()
    assert finished.finish() == {Status.SUCCEEDED: 12}
    assert len(ledger.batches) == 3


def test_replay_of_a_job_that_runs_or_is_cancelled_is_refused(
    job: Cancellable, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(job.arguments("replay")) == 1
    assert "not finished" in capsys.readouterr().err
    assert main(job.arguments("cancel")) == 0
    capsys.readouterr()
    assert main([*job.arguments("replay"), "--json"]) == 1
    answer = told(capsys)
    assert answer["noted"] is False and "resume" in answer["problem"]


def test_errors_tell_the_codes_with_messages_and_examples(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished.run("errors") == 0
    assert capsys.readouterr().out == "2 failed invalid_value: Invalid value: 'ticket 7'. (for example t-7, t-8)\n"
    assert finished.run("errors", "--json") == 0
    (error,) = told(capsys)["errors"]
    assert (error["n"], error["code"], error["custom_ids"]) == (2, "invalid_value", ["t-7", "t-8"])


def test_requests_and_results_print_the_first_lines(
    finished: Finished, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert finished.run("requests", "--limit", "2") == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["custom_id"], second["custom_id"]) == ("t-0", "t-1")
    assert first["body"]["input"] == "Label: ticket 0"
    assert finished.run("requests", "--limit", "8", "--json") == 0
    assert [line["custom_id"] for line in told(capsys)["requests"]] == [f"t-{i}" for i in range(8)]
    assert finished.run("results", "--limit", "3", "--json") == 0
    assert [row["status"] for row in told(capsys)["rows"]] == ["succeeded"] * 3
    assert finished.run("results", "--output", str(tmp_path / "all.csv")) == 0
    assert "12 rows are in" in capsys.readouterr().out
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 13


def test_tokens_are_told_by_epoch_and_round_and_count_what_starting_over_forgot(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    def total() -> tuple[int, list]:
        assert finished.run("tokens", "--json") == 0
        answer = told(capsys)
        for name in ("input_tokens", "output_tokens"):
            assert answer["total"][name] == sum(part[name] for part in answer["parts"])
        return answer["total"]["output_tokens"], answer["parts"]

    once, parts = total()
    assert once == sum(row.output_tokens for row in finished.emulator.ledger.rows())
    assert [(part["epoch"], part["round"]) for part in parts] == [(0, 0)]
    assert finished.run("start-over") == 0
    finished.emulator.faults.clear()
    finished.clear()
    assert finished.finish() == {Status.SUCCEEDED: 12}
    capsys.readouterr()
    twice, parts = total()
    assert [(part["epoch"], part["round"]) for part in parts] == [(None, None), (1, 0)]
    assert twice > 2 * once, "two rows more than the first time"
    finished.clear("Classify: {text}")
    assert finished.finish() == {Status.SUCCEEDED: 12}
    capsys.readouterr()
    assert total()[0] > twice


def test_a_relative_storage_is_one_of_where_the_command_is_run_and_an_empty_one_is_the_option(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__STORAGE", str(tmp_path))
    monkeypatch.chdir(tmp_path.parent)
    for place in (tmp_path.name, f"./{tmp_path.name}", ""):
        assert main(["list", "labels", "--storage", place]) == 0
    assert main(["list", "labels", "--storage", "elsewhere"]) == 1


def test_list_names_all_jobs_and_their_states(
    finished: Finished, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = JobKey(
        dag_id="labels of tickets", run_id="scheduled__2026-01-01T00:00:00+00:00", task_id="ask", map_index=3
    )
    engine = Engine(JobStore(UPath(tmp_path), other), finished.engine.api)
    request = Request([{"text": "x"}], endpoint="/v1/responses", body={"model": "m", "input": "{text}"})
    submit(engine, request, Policy())
    assert main(["list", "--storage", str(tmp_path), "--json"]) == 0
    jobs = {(entry["dag_id"], entry["map_index"]): entry for entry in told(capsys)["jobs"]}
    assert (jobs["labels", -1]["state"], jobs["labels", -1]["succeeded"]) == ("bad", 10)
    assert (jobs["labels of tickets", 3]["state"], jobs["labels of tickets", 3]["run_id"]) == ("queued", other.run_id)
    assert main(["list", "labels of tickets", "--storage", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("--map-index 3") == 1
    assert main(["list", "nothing", "--storage", str(tmp_path)]) == 1
    assert "no such jobs" in capsys.readouterr().err


def test_show_asks_openai_how_it_stands_now(job: Cancellable, capsys: pytest.CaptureFixture[str]) -> None:
    batch = job.emulator.ledger.batches[1]
    job.emulator.faults.add(Rule("GET /v1/batches/*", {"edit": {"set": {"status": "finalizing"}}}))
    assert main([*job.arguments("show"), "--json"]) == 0
    answer = told(capsys)
    assert [(b["id"], b["status"]) for b in answer["batches"]] == [(batch.id, "finalizing")]
    assert answer["looked_at_openai"] and answer["state"] == "running"
    assert 0 <= answer["age_s"] < 600 and answer["tokens"]["output_tokens"] > 0
    assert main([*job.arguments("show"), "--offline"]) == 0
    assert f"{batch.id} validating" in capsys.readouterr().out
    before = job.store.load()
    assert main([*job.arguments("show"), "--conn-id", "nowhere"]) == 0
    answer = capsys.readouterr()
    assert f"{batch.id} validating" in answer.out and "as they were last seen" in answer.err
    assert msgspec.json.encode(job.store.load()) == msgspec.json.encode(before), "looking changes nothing"


def test_show_tells_errors_tokens_and_age_and_its_exit_code_how_the_job_ended(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished.run("show") == 0
    answer = capsys.readouterr().out
    for part in (
        "2 failed invalid_value: Invalid value: 'ticket 7'.",
        "tokens: input",
        "age ",
        "bad: 12 of 12 rows",
        "replay labels manual__1 ask",
    ):
        assert part in answer
    assert finished.run("show", "--exit-code") == 5
    finished.emulator.faults.clear()
    assert finished.run("replay") == 0
    assert finished.run("show", "--exit-code") == 4
    finished.clear()
    finished.finish()
    assert finished.run("show", "--exit-code") == 0


def test_the_job_is_found_by_the_task_that_waits_for_it(
    finished: Finished, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["show", KEY.dag_id, KEY.run_id, "wait", "--storage", str(tmp_path)]) == 0
    assert "wait submitted no job; this is the one of ask." in capsys.readouterr().out
    second = JobKey(dag_id=KEY.dag_id, run_id=KEY.run_id, task_id="another")
    request = Request([{"text": "x"}], endpoint="/v1/responses", body={"model": "m", "input": "{text}"})
    submit(Engine(JobStore(UPath(tmp_path), second), finished.engine.api), request, Policy())
    assert main(["show", KEY.dag_id, KEY.run_id, "wait", "--storage", str(tmp_path)]) == 1
    assert "Jobs of this run: another, ask." in capsys.readouterr().err


def test_wrong_arguments_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["nonsense"], ["show", "dag"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in (*EVERY_COMMAND, "list"))


def test_a_job_that_its_cap_or_its_pilot_stopped_is_held_and_says_why(tmp_path: Path, capsys) -> None:
    with Emulator(duration=0.1) as emulator:
        body = {"model": "gpt-6-luna", "input": "{text}", "max_output_tokens": 1000}
        request = Request([{"text": "a"}] * 30, endpoint="/v1/responses", body=body, limits=Limits(max_requests=10))
        engine = Engine(JobStore(UPath(tmp_path), KEY), Api(OpenAI(base_url=emulator.base_url, api_key="sk-emulator")))
        submit(engine, request, Policy(max_cost=1_000_000), conn_id="openai_default")
        assert isinstance(advance(engine), Held)
        arguments = [KEY.dag_id, KEY.run_id, KEY.task_id, "--storage", str(tmp_path)]
        assert main(["show", *arguments, "--offline", "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["state"] == "held"
        assert [reason for reason in shown["held_by"] if reason.startswith("max_cost is $0.000001")]
        assert main(["list", "--storage", str(tmp_path)]) == 0
        assert capsys.readouterr().out.startswith("held ")


def test_rows_that_were_not_sent_are_told_beside_the_errors(tmp_path: Path, capsys) -> None:
    with Emulator(duration=0.0) as emulator:
        rows = [{"id": i, "text": "x" if i < 2 else None} for i in range(6)]
        body = {"model": "gpt-6-luna", "input": "{text}"}
        request = Request(rows, endpoint="/v1/responses", body=body, custom_id="t-{id}", on_null="skip")
        engine = Engine(JobStore(UPath(tmp_path), KEY), Api(OpenAI(base_url=emulator.base_url, api_key="sk-emulator")))
        submit(engine, request, Policy(), conn_id="openai_default")
    arguments = ["errors", KEY.dag_id, KEY.run_id, KEY.task_id, "--storage", str(tmp_path)]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "4 skipped null_prompt: Not sent: " in told and "(for example t-2, t-3, t-4)" in told
    assert main([*arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["errors"] == [] and data["skipped"]["n"] == 4
