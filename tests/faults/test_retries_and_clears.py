"""An automatic retry takes up the plan as it is; a person's clear compares what would be sent, request by request."""

from __future__ import annotations

import datetime
import decimal
import functools
import json
import logging
from typing import Any

import pytest

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.job.submit import submit
from airflow_openai_batch.engine.model import Policy

MODEL = "gpt-6-luna"


def template(prompt: str) -> dict[str, Any]:
    return {"model": MODEL, "input": f"{prompt}: {{text}}"}


def tried(w: Any, request: Any, max_tries: int, policy: Policy | None = None, **args: Any) -> None:
    """A task that runs in Airflow: submit, then advance."""
    submit(w.engine(), request, policy or Policy(), max_tries=max_tries, **args)
    w.advance()


def n_billed(w: Any) -> int:
    return sum(w.billed().values())


# -- retries


def test_a_prompt_that_differs_with_each_try_is_paid_once(world):
    w = world()
    for try_number in (1, 2, 3):
        tried(w, w.request(10, body=template(f"At {w.clock.now()}, try {try_number}")), 2)
        w.clock.advance(600)
    assert w.done().n_succeeded == 10
    assert (len(w.batches), n_billed(w), w.job.epoch) == (1, 10, 0)
    assert all("try 1" in row["output"] for row in w.table())


@pytest.mark.parametrize("end", [False, True], ids=["while it runs", "when it has ended"])
def test_a_retry_reads_no_row_and_makes_no_request(world, end):
    w = world()
    tried(w, w.request(4), 2)
    if end:
        w.done()
    number = w.store.load().number
    submit(w.engine(), lambda: pytest.fail("the request was made"), Policy(), max_tries=2)
    assert w.store.load().number == number
    assert w.done().n_succeeded == 4
    w.assert_paid_once(4)


def test_a_source_that_cannot_be_read_does_not_concern_a_retry(world, tmp_path, caplog):
    w = world()
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in w.rows(4)))
    tried(w, lambda: w.request(str(path)), 1)
    path.unlink()
    with caplog.at_level(logging.WARNING, logger="airflow_openai_batch"):
        tried(w, lambda: w.request(str(path), body=template("new")), 1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert w.done().n_succeeded == 4
    w.assert_paid_once(4)


def test_a_retry_keeps_the_stored_policy_and_a_clear_takes_the_new_one(world):
    w = world()
    tried(w, w.request(4), 2, Policy(max_rounds=1))
    tried(w, w.request(4), 2, Policy(max_rounds=5))
    assert w.job.policy.max_rounds == 1
    tried(w, w.request(4), 3, Policy(max_rounds=5))
    assert w.job.policy.max_rounds == 5
    tried(w, w.request(4), 3, Policy(max_rounds=-1))  # not even looked at
    with pytest.raises(InputError, match="max_rounds"):
        tried(w, w.request(4), 4, Policy(max_rounds=-1))
    assert w.job.policy.max_rounds == 5


def test_a_first_try_that_died_before_its_plan_was_written_leaves_the_planning_to_the_retry(world):
    w = world()

    def dies() -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tried(w, dies, 2)
    tried(w, w.request(4), 2)
    assert w.done().n_succeeded == 4
    w.assert_paid_once(4)


def test_a_clear_that_died_while_it_compared_leaves_the_comparing_to_its_retry(world, killed):
    w = world()
    tried(w, w.request(4), 2)
    w.done()

    def dies(row: dict[str, Any]) -> Any:
        raise killed("while the requests are made")

    with pytest.raises(killed):
        tried(w, w.request(4, body=dies), 4)
    assert w.job.epoch == 0
    tried(w, w.request(4, body=template("new")), 4)
    assert w.done().n_succeeded == 4
    assert {row["output"][:9] for row in w.table()} == {"Echo: new"}


def test_the_retry_of_a_clear_does_not_compare_again(world):
    w = world()
    tried(w, w.request(4), 2)
    w.done()
    for i in range(3):
        tried(w, w.request(4, body=template(f"cleared, try {i}")), 4)
    assert w.done().n_succeeded == 4
    assert (w.job.epoch, len(w.batches)) == (1, 2)


def test_the_first_try_of_a_run_that_was_deleted_and_made_anew_compares(world):
    w = world()
    tried(w, w.request(4), 2, is_first_try=True)
    w.done()
    tried(w, w.request(4, body=template("new")), 2, is_first_try=True)
    assert w.done().n_succeeded == 4
    assert w.job.epoch == 1


def test_a_wish_to_start_over_is_obeyed_by_a_retry_too(world):
    w = world()
    tried(w, w.request(4), 2)
    w.done()
    w.store.command("start_over")
    for _ in range(3):
        tried(w, w.request(4), 2)
    assert w.done().n_succeeded == 4
    assert (w.job.epoch, n_billed(w)) == (1, 8)


# -- clears: functions that make bodies


def body_of(source: str, prompt: str) -> Any:
    """Return what a Dag file calls `body`, as it is parsed anew for each try."""
    space: dict[str, Any] = {"functools": functools}
    exec(source.replace("PROMPT", repr(prompt)), space)
    return space["body"]


FORMS = {
    "global": """
prompt = PROMPT
def body(row): return {"model": "gpt-6-luna", "input": prompt + row["text"]}
""",
    "helper": """
def helper(text): return PROMPT + text
def body(row): return {"model": "gpt-6-luna", "input": helper(row["text"])}
""",
    "closure": """
def make(prompt):
    def body(row): return {"model": "gpt-6-luna", "input": prompt + row["text"]}
    return body
body = make(PROMPT)
""",
    "bound method": """
class Prompt:
    def __init__(self, prompt): self.prompt = prompt
    def body(self, row): return {"model": "gpt-6-luna", "input": self.prompt + row["text"]}
body = Prompt(PROMPT).body
""",
    "callable object": """
class Prompt:
    def __init__(self, prompt): self.prompt = prompt
    def __call__(self, row): return {"model": "gpt-6-luna", "input": self.prompt + row["text"]}
body = Prompt(PROMPT)
""",
    "lambda with global": """
prompt = PROMPT
body = lambda row: {"model": "gpt-6-luna", "input": prompt + row["text"]}
""",
    "lambda with closure": """
def make(prompt): return lambda row: {"model": "gpt-6-luna", "input": prompt + row["text"]}
body = make(PROMPT)
""",
    "default": """
def body(row, prompt=PROMPT): return {"model": "gpt-6-luna", "input": prompt + row["text"]}
""",
    "partial": """
def make(prompt, row): return {"model": "gpt-6-luna", "input": prompt + row["text"]}
body = functools.partial(make, PROMPT)
""",
}


@pytest.mark.parametrize("form", FORMS)
def test_what_a_function_sends_is_compared_and_not_its_source(world, form):
    w = world()
    source = FORMS[form]
    tried(w, w.request(5, body=body_of(source, "old ")), 0)
    w.done()
    files = {path for path in w.root.rglob("*") if "state" not in path.parts}
    commented = "# what it is for\n" + source.replace("row[", "row  [")
    tried(w, w.request(5, body=body_of(commented, "old ")), 1)
    assert (w.job.epoch, len(w.batches)) == (0, 1)
    assert {path for path in w.root.rglob("*") if "state" not in path.parts} == files, "comparing writes nothing"
    tried(w, w.request(5, body=body_of(source, "new ")), 2)
    assert w.done().n_succeeded == 5
    assert w.job.epoch == 1
    assert [row["output"] for row in w.table()] == [f"Echo: new ticket {i}" for i in range(5)]
    w.assert_accounted(5)


def labels(special: str) -> Any:
    """A function that asks something else of the third row."""

    def body(row: dict[str, Any]) -> dict[str, Any]:
        return {"model": MODEL, "input": special if row["id"] == 2 else f"Label: {row['text']}"}

    return body


@pytest.mark.parametrize("hours", [0.5, 2], ids=["while it runs", "when it has ended"])
def test_only_the_rows_whose_request_changed_are_asked(world, hours):
    w = world()
    tried(w, w.request(8, body=labels("old")), 0)
    w.clock.advance(hours * 3600)
    tried(w, w.request(8, body=labels("new")), 1)
    assert w.done().n_succeeded == 8
    assert "t-2" in w.asked(w.batches[-1])
    assert all(n == 1 for row, n in w.billed().items() if row != "t-2"), w.billed()
    assert w.table()[2]["output"] == "Echo: new"


def test_the_same_requests_of_another_function_leave_what_runs_alone(world):
    w = world()
    tried(w, w.request(6, body=labels("x")), 0)
    tried(w, w.request(6, body=lambda row: labels("x")(row)), 1)
    tried(w, w.request(6, body={"model": MODEL, "input": "Label: {text}"}), 2)  # the third row is another one
    assert w.done().n_succeeded == 6
    assert w.job.epoch == 1
    assert w.emu.ledger.rows_billed_twice() == []


def test_rows_of_a_function_are_compared_as_they_were_planned(world):
    """Neither rows nor body have a version: the rows stand, the body is called again over them."""
    w = world()
    n_calls = 0

    def rows() -> Any:
        nonlocal n_calls
        n_calls += 1
        yield from w.rows(6, f"call {n_calls}, " + "ticket {}")

    tried(w, lambda: w.request(rows, body=labels("old"), per_shard=4), 0)
    tried(w, lambda: w.request(rows, body=labels("old"), per_shard=4), 1)
    assert (n_calls, w.job.epoch) == (1, 0)
    w.done()
    tried(w, lambda: w.request(rows, body=labels("new"), per_shard=4), 2)
    assert w.done().n_succeeded == 6
    assert n_calls == 1
    assert w.asked(w.batches[-1]) == ["t-2"]
    tried(w, lambda: w.request(rows, body=labels("new")), 3, start_over="please")
    assert n_calls == 2


ZONED = datetime.datetime(2026, 11, 28, 1, 2, 3, 456789, tzinfo=datetime.UTC)
NOW = ZONED.replace(tzinfo=None)
VALUES = {
    "text": ["grüße", None, ""],
    "truth": [True, None, False],
    "whole": [2**62, None, -1],
    "real": [0.1, None, float("inf")],
    "nothing": [None, None, None],
    "time": [NOW, None, NOW],
    "zoned": [ZONED, None, ZONED],
    "day": [NOW.date(), None, NOW.date()],
    "of_day": [NOW.time(), None, NOW.time()],
    "span": [datetime.timedelta(seconds=1.5), None, datetime.timedelta(days=3)],
    "exact": [decimal.Decimal("1.10"), None, decimal.Decimal("2.25")],
    "bytes": [b"\x00\xff", None, b""],
    "list": [[1, 2], None, []],
    "object": [{"a": 1, "b": {"c": "x"}}, None, {"a": None, "b": {"c": "y"}}],
    "objects": [[{"a": 1}, {"a": 2}], None, []],
}


@pytest.mark.parametrize("column", VALUES)
def test_values_of_every_type_come_back_from_the_store_as_they_were(world, column):
    """A value that did would be another request: all rows would be asked again."""
    w = world()

    def rows() -> Any:
        return ({"id": i, column: value} for i, value in enumerate(VALUES[column]))

    def body(row: dict[str, Any]) -> dict[str, Any]:
        return {"model": MODEL, "input": repr(row)}

    tried(w, lambda: w.request(rows, body=body), 0)
    tried(w, lambda: w.request(rows, body=body), 1)
    tried(w, lambda: w.request(rows, body=lambda row: body(row)), 2)
    assert (w.job.epoch, len(w.batches)) == (0, 1)


def test_a_function_that_fails_on_a_clear_changes_nothing(world):
    w = world()
    tried(w, w.request(4, body=labels("x")), 0)
    with pytest.raises(InputError, match="row 0: the body function raised ZeroDivisionError"):
        tried(w, w.request(4, body=lambda row: 1 // 0), 1)
    assert w.done().n_succeeded == 4
    w.assert_paid_once(4)


def test_the_source_of_a_function_is_gone_and_its_requests_are_the_same(world, tmp_path):
    w = world()
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in w.rows(4)))
    tried(w, lambda: w.request(str(path), body=labels("x")), 0)
    path.unlink()
    tried(w, lambda: w.request(str(path), body=lambda row: labels("x")(row)), 1)
    with pytest.raises(InputError, match="no such file"):
        tried(w, lambda: w.request(str(path), body=labels("y")), 2)
    assert w.done().n_succeeded == 4
    w.assert_paid_once(4)


# -- clears: templates and ids


@pytest.mark.parametrize(
    "body",
    [
        {"input": "Label: {text}", "model": MODEL},
        {"model": "{model}", "input": "Label: {text}"},
        {"model": MODEL, "input": "{prompt}: {text}"},
    ],
    ids=["other order", "the model is a column", "the prompt is a column"],
)
def test_another_template_that_makes_the_same_requests_reattaches(world, body):
    w = world()
    rows = [{**row, "model": MODEL, "prompt": "Label"} for row in w.rows(6)]
    tried(w, w.request(rows, body={"model": MODEL, "input": "Label: {text}"}), 0)
    tried(w, w.request(rows, body=body), 1)
    assert w.job.epoch == 0
    assert w.done().n_succeeded == 6
    w.assert_paid_once(6)


def test_a_template_instead_of_a_function_that_sends_the_same_reattaches(world):
    w = world()
    tried(w, w.request(6, body=lambda row: {"model": MODEL, "input": f"Label: {row['text']}"}), 0)
    tried(w, w.request(6, body=template("Label")), 1)
    assert w.job.epoch == 0
    assert w.job.spec.body != "callable", "so the next clear need not make them again"
    w.done()
    w.assert_paid_once(6)


def test_new_ids_leave_what_runs_alone_and_cost_nothing_when_it_has_ended(world):
    w = world()
    tried(w, w.request(5), 0)
    tried(w, w.request(5, custom_id="row-{id}"), 1)
    assert (w.job.epoch, len(w.batches)) == (0, 1)
    w.done()
    assert [row["custom_id"] for row in w.table()] == [f"t-{i}" for i in range(5)]
    tried(w, w.request(5, custom_id="row-{id}"), 2)
    assert w.done().n_carried == 5
    assert [row["custom_id"] for row in w.table()] == [f"row-{i}" for i in range(5)]
    w.assert_paid_once(5)


def test_a_rewritten_file_with_the_same_requests_reattaches_with_its_new_columns(world):
    w = world()
    rows = w.rows(6)
    tried(w, w.request(rows, per_shard=4), 0)
    w.done()
    tried(w, w.request([{**row, "note": "new"} for row in rows], per_shard=4), 1)
    assert (w.job.epoch, len(w.batches)) == (0, 2)
    assert {row["note"] for row in w.table()} == {"new"}
    w.assert_paid_once(6)


def test_ready_made_lines_of_a_function_stand_until_asked_otherwise(world):
    w = world()
    n_calls = 0

    def lines() -> Any:
        nonlocal n_calls
        n_calls += 1
        body = {"model": MODEL, "input": "x"}
        return [{"custom_id": f"t-{i}", "method": "POST", "url": "/v1/responses", "body": body} for i in range(3)]

    tried(w, lambda: w.request(lines, body=None, custom_id=None), 0)
    tried(w, lambda: w.request(lines, body=None, custom_id=None), 1)
    assert w.done().n_succeeded == 3
    assert (n_calls, w.job.epoch, len(w.batches)) == (1, 0, 1)


def test_who_takes_a_job_up_never_says_that_nothing_is_sent_and_then_sends(world, caplog):
    """What is sent after the line was announced by it."""
    import re

    w = world()
    w.fault("row", {"http_error": {"status": 429, "code": "rate_limit_exceeded"}}, match={"custom_id": "t-[12]$"})
    w.fault("batch", {"fail": {"errors": [{"code": "x", "message": "y"}]}}, match={"batch": 2}, times=1)
    w.submit(9, per_shard=3, policy=Policy(max_rounds=0, max_enqueued_tokens=20))
    w.advance()
    caplog.set_level("INFO")
    n_announced = 0
    for max_rounds in (0, 0, 1, 2):
        for _ in range(4):
            before = len(w.batches)
            caplog.clear()
            w.submit(9, per_shard=3, policy=Policy(max_rounds=max_rounds, max_enqueued_tokens=20))
            (told,) = [line for line in caplog.messages if "Taking up the job" in line]
            assert "nothing is sent" not in told
            announced = re.search(r"(\d+) requests? to be sent", told)
            w.advance()
            n_announced += announced is not None
            assert announced is not None or len(w.batches) == before, told
            w.clock.advance(900)
    assert n_announced >= 3
