"""``python -m airflow_openai_batch``: what a person at a shell does with a job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
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
POLICY = Policy(max_enqueued_tokens=1200)  # one batch at a time


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
    assert main(job.arguments("resume")) == 0
    assert "no cancel" in capsys.readouterr().out
    job.clear(1)
    assert job.by_status() == {Status.SUCCEEDED: N_ROWS}
    assert job.emulator.ledger.n_rows() == N_ROWS
    assert job.emulator.ledger.rows_billed_twice() == []


def test_without_the_connection_it_says_who_cancels_and_the_next_task_does(
    job: Cancellable, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_OPENAI_DEFAULT")
    assert main([*job.arguments("cancel"), "--conn-id", "nowhere"]) == 2
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
    from airflow.models import Connection
    from airflow.utils.session import create_session

    monkeypatch.delenv("AIRFLOW_CONN_OPENAI_DEFAULT")
    connection = {"conn_type": "openai", "host": job.emulator.base_url, "password": "sk-emulator"}
    with create_session() as session:
        session.add(Connection(conn_id="in_the_database", **connection))
    assert main([*job.arguments("cancel"), "--conn-id", "in_the_database"]) == 0
    assert is_cancelled(job)


def test_an_openai_that_cannot_be_told_is_said_and_told_later(job: Cancellable, capsys: pytest.CaptureFixture) -> None:
    job.emulator.faults.add(Rule("POST /v1/batches/*/cancel", {"status": 500}, times=10))
    assert main(job.arguments("cancel")) == 2
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
    for command in ("show", "cancel", "resume", "start-over"):
        assert main([command, "no", "such", "job", "--storage", str(job.root)]) == 1
    assert "There is no job" in capsys.readouterr().err
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
