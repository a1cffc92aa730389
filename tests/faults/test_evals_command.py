"""Evals in a build: the command as a build runs it lets good prompts pass and stops others; against the emulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_openai_batch.emulator import Emulator, HttpError, Refusal

TOPICS = ("Billing", "Delivery", "Login")
N_ROWS = 120

EVAL = """
name = "topics"
golden = "golden.csv"
endpoint = "/v1/responses"
expected = "topic"
answer = "topic"
max_cost = 1

[baseline]
model = "gpt-6-luna"
instructions = "Choose the topic."
input = "{text}"
max_output_tokens = 50

[candidate]
model = "gpt-6-luna"
instructions = "CANDIDATE"
input = "{text}"
max_output_tokens = 50

[schema]
type = "object"
additionalProperties = false
required = ["topic"]
[schema.properties.topic]
type = "string"
"""

JUDGE = """
[judge]
model = "gpt-6-sol"
instructions = "Judge the answer."
input = "Text: {text} Answer: {answer}"
max_output_tokens = 200
"""


def answer(endpoint: str, body: dict[str, Any]) -> Any:
    """A model that is right, wrong for one row of thirty, or wrong for one of three, as the prompt says."""
    if body["instructions"].startswith("Judge"):
        return {"reason": "It is so.", "score": 1 if "Answer: wrong" in body["input"] else 5}
    number = int(body["input"].rpartition(" ")[2])
    every = {"good": 10_000, "Choose the topic.": 30, "bad": 3}[body["instructions"]]
    return {"topic": "wrong" if number % every == every - 1 else TOPICS[number % 3]}


@pytest.fixture
def emu():
    with Emulator(answer=answer, duration=0.3, seed=5) as running:
        yield running


@pytest.fixture
def start(emu: Emulator, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts the command, as a build does, with a prompt."""
    golden = "".join(f"ticket {i},{TOPICS[i % 3]}\n" for i in range(N_ROWS))
    (tmp_path / "golden.csv").write_text("text,topic\n" + golden)
    env = {**os.environ, "OPENAI_API_KEY": "sk-ci", "OPENAI_BASE_URL": emu.base_url}

    def started(prompt: str = "good", more: str = "", *options: str) -> subprocess.Popen[str]:
        file = tmp_path / "eval.toml"
        file.write_text(textwrap.dedent(EVAL).replace("CANDIDATE", prompt) + more)
        command = [sys.executable, "-m", "airflow_openai_batch.evals", str(file), "--poll-interval", "0.1"]
        places = ["--storage", str(tmp_path / "jobs"), "--report", str(tmp_path / "report")]
        return subprocess.Popen(
            [*command, *places, *options], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    return started


@pytest.fixture
def run(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str]]:
    """Return a function that runs it to its end: exit status and what was printed."""

    def ran(*args: str) -> tuple[int, str]:
        with start(*args) as process:
            out, _ = process.communicate()
        return process.returncode, out

    return ran


def result(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "report" / "result.json").read_text())


def test_a_good_prompt_passes_and_a_worse_one_stops_the_build(run, emu, tmp_path):
    status, out = run("good")
    assert status == 0, out
    assert "exact: 96.7% -> 100.0%" in out and "4 better, 0 worse" in out
    assert result(tmp_path)["passed"] is True
    assert emu.ledger.n_rows() == 2 * N_ROWS

    status, out = run("bad")
    assert status == 1, out
    assert "NOT PASSED" in out and "the candidate is worse" in out
    assert result(tmp_path)["metrics"][0]["verdict"] == "worse"
    report = (tmp_path / "report" / "report.md").read_text()
    assert report.startswith("# ❌ topics") and "## Worse" in report
    assert (tmp_path / "report" / "scores.svg").stat().st_size > 500
    assert len((tmp_path / "report" / "rows.jsonl").read_text().splitlines()) == N_ROWS
    assert emu.ledger.n_rows() == 3 * N_ROWS, "the baseline's answers are those of the first eval"
    assert result(tmp_path)["cost"]["baseline"] == 0


def test_a_prompt_that_is_always_refused_is_worse(run, emu, tmp_path):
    emu.settings.answer = lambda endpoint, body: Refusal() if body["instructions"] == "good" else answer(endpoint, body)
    status, out = run("good")
    assert status == 1, out
    assert result(tmp_path)["metrics"][0]["candidate"]["value"] == 0


def test_two_prompts_that_are_always_refused_do_not_pass(run, emu, tmp_path):
    emu.settings.answer = lambda endpoint, body: Refusal()
    status, out = run("good", JUDGE)
    assert status == 1, out
    assert [metric["verdict"] for metric in result(tmp_path)["metrics"]] == ["too low", "too low"]


def test_a_judge_is_a_batch_of_its_own_and_gates_too(run, emu, tmp_path):
    status, out = run("bad", JUDGE)
    assert status == 1, out
    exact, judged = result(tmp_path)["metrics"]
    assert (exact["metric"], judged["metric"]) == ("exact", "judged")
    assert judged["verdict"] == "worse"
    assert judged["candidate"]["value"] == pytest.approx(1 - 40 / 120)
    assert len(emu.batches) == 3
    status, out = run("good", JUDGE)
    assert status == 0, out


def test_killed_and_run_again_it_goes_on(start, run, emu):
    emu.settings.duration = 3600.0
    with start("good") as process:
        while len(emu.batches) < 2:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        process.kill()
    emu.clock.advance(3600)
    status, out = run("good")
    assert status == 0, out
    assert emu.ledger.n_rows() == 2 * N_ROWS
    assert emu.ledger.rows_billed_twice() == []


def test_rows_without_an_answer_are_no_verdict(run, emu, tmp_path):
    emu.settings.answer = lambda endpoint, body: (
        HttpError(400, "bad", "no") if body["input"].endswith("7") else answer(endpoint, body)
    )
    status, out = run("good")
    assert status == 2, out
    assert "12 of 120 rows lack an answer" in out
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("before", "after", "status", "message"),
    [
        ('expected = "topic"', 'expected = "label"', 2, "no column 'label'"),
        ('golden = "golden.csv"', 'golden = "none.csv"', 2, "cannot be read"),
        ('answer = "topic"', 'answr = "topic"', 2, "answr"),
        ('input = "{text}"', 'input = "{txet}"', 2, "txet"),
        ("max_cost = 1", "max_cost = 0.0000001", 3, "max_cost"),
        ("max_cost = 1", "tolerance = 5", 2, "tolerance must be"),
        ('expected = "topic"', "", 2, "expected, a [judge], or both"),
    ],
    ids=["expected", "golden", "unknown", "column", "cost", "tolerance", "metric"],
)
def test_a_mistake_in_the_file_costs_nothing(emu, tmp_path, monkeypatch, capsys, before, after, status, message):
    from airflow_openai_batch.evals.__main__ import main

    monkeypatch.setenv("OPENAI_API_KEY", "sk-ci")
    monkeypatch.setenv("OPENAI_BASE_URL", emu.base_url)
    (tmp_path / "golden.csv").write_text("text,topic\nticket 0,Billing\n")
    text = EVAL.replace("CANDIDATE", "good")
    assert before in text
    (tmp_path / "eval.toml").write_text(text.replace(before, after))
    storage = str(tmp_path / "jobs")
    assert main([str(tmp_path / "eval.toml"), "--storage", storage, "--poll-interval", "0.1", "--quiet"]) == status
    assert message in capsys.readouterr().err
    assert emu.ledger.n_rows() == 0
