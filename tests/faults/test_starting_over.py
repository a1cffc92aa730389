"""Starting over: what changed is asked, what did not is carried over unpaid, what runs is cancelled."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow as pa
import pytest

from airflow_openai_batch.engine.model import Policy, State

OTHER = {"model": "gpt-6-luna", "input": "Classify: {text}"}


def test_a_changed_prompt_starts_a_new_epoch_and_cancels_what_runs(world):
    w = world()
    w.submit(6)
    w.advance()
    old = w.batches[0]
    w.submit(6, body=OTHER)
    assert w.job.epoch == 1
    summary = w.done()
    assert summary.n_succeeded == 6 and summary.n_carried == 0
    assert old.status == "cancelled"
    assert [row["output"] for row in w.table()] == [f"Echo: Classify: ticket {i}" for i in range(6)]
    w.assert_accounted(6)


def test_a_new_epoch_sends_nothing_before_the_old_batch_has_ended(world):
    w = world(finalizing=900)
    w.submit(6)
    w.advance()
    w.clock.advance(1800)
    w.submit(6, body=OTHER)
    w.advance()
    assert [b.status for b in w.batches] == ["cancelling"]
    assert w.job.shards[0].state is State.DRAFTED
    assert w.done().n_succeeded == 6


def test_changed_rows_are_asked_and_unchanged_rows_carried_over(world):
    w = world()
    rows = w.rows(10)
    w.submit(rows)
    w.done()
    changed = [{**row, "text": "changed"} if row["id"] in (3, 7) else row for row in rows]
    w.submit([*changed, {"id": 10, "text": "new"}])
    summary = w.done()
    assert w.asked(w.batches[1]) == ["t-3", "t-7", "t-10"]
    assert summary.n_carried == 8 and summary.n_succeeded == 11
    assert w.emu.ledger.rows_billed_twice() == []
    assert len(list(w.emu.ledger.rows())) == 10 + 3
    outputs = [row["output"] for row in w.table()]
    assert outputs[3] == outputs[7] == "Echo: Label: changed" and outputs[10] == "Echo: Label: new"
    w.assert_accounted(11)


class Query:
    """Rows of a query: its text tells them from others, and another reading may yield others."""

    is_repeatable = False

    def __init__(self, version: str, rows: list[dict[str, object]]) -> None:
        self.version, self.rows, self.n_readings = version, rows, 0

    def batches(self):
        self.n_readings += 1
        yield from pa.Table.from_pylist(self.rows).to_batches()


@pytest.mark.parametrize("body", [None, OTHER, lambda row: {"model": "m", "input": f"Now: {row['text']}"}])
def test_rows_of_a_query_stand_until_its_text_changes(world, body):
    w = world()
    w.submit(Query("select 1", w.rows(6)))
    w.done()
    again = Query("select 1", [*w.rows(5), {"id": 9, "text": "inserted since"}])
    w.submit(again, **({} if body is None else {"body": body}))
    w.done()
    assert again.n_readings == 0
    assert [row["id"] for row in w.table()] == list(range(6))
    n_billed = len(list(w.emu.ledger.rows()))
    assert n_billed == (6 if body is None else 12)
    other = Query("select 2", again.rows)
    w.submit(other, **({} if body is None else {"body": body}))
    w.done()
    assert other.n_readings == 1
    assert [row["id"] for row in w.table()] == [0, 1, 2, 3, 4, 9]
    assert len(list(w.emu.ledger.rows())) == n_billed + 1
    w.submit(other, start_over="please", **({} if body is None else {"body": body}))
    assert other.n_readings == 2


def test_answers_of_the_cancelled_old_batch_are_carried_over_as_well(world):
    """Half of the rows are answered when the source changes: they were paid for."""
    w = world()
    rows = w.rows(10)
    w.submit(rows)
    w.advance()
    w.clock.advance(1800)
    w.submit([*rows, {"id": 10, "text": "new"}])
    summary = w.done()
    assert summary.n_succeeded == 11
    assert 0 < summary.n_carried < 10
    w.assert_paid_once(11)
    w.assert_accounted(11)


def test_carried_answers_find_their_rows_wherever_they_moved(world):
    w = world()
    rows = w.rows(9)
    w.submit(rows, per_shard=4)
    w.done()
    before = {row["custom_id"]: row["output"] for row in w.table()}
    w.submit(list(reversed(rows)), per_shard=2)
    summary = w.done()
    assert summary.n_carried == 9
    assert len(w.batches) == 3
    table = w.table()
    assert [row["id"] for row in table] == list(range(8, -1, -1))
    assert {row["custom_id"]: row["output"] for row in table} == before


def test_only_the_custom_id_changed_and_nothing_is_asked(world):
    w = world()
    w.submit(5)
    w.done()
    w.submit(5, custom_id="row-{id}")
    assert w.done().n_carried == 5
    assert len(w.batches) == 1
    assert [row["custom_id"] for row in w.table()] == [f"row-{i}" for i in range(5)]


def test_rows_without_a_good_answer_are_asked_again_in_a_new_epoch(world):
    w = world()
    rows = w.rows(5)
    w.submit(rows)
    w.fault("row", {"http_error": {"status": 400, "code": "invalid_value"}}, match={"custom_id": "t-2$"}, times=1)
    w.done()
    w.submit([*rows, {"id": 5, "text": "new"}])
    assert w.done().n_succeeded == 6
    assert w.asked(w.batches[1]) == ["t-2", "t-5"]


def test_answers_survive_two_changes_in_a_row(world):
    w = world()
    rows = w.rows(6)
    w.submit(rows)
    w.done()
    w.submit([{**row, "text": "x"} if row["id"] == 0 else row for row in rows])
    w.advance()
    w.submit([{**row, "text": "y"} if row["id"] == 1 else row for row in rows])
    summary = w.done()
    assert w.job.epoch == 2
    assert summary.n_succeeded == 6
    assert w.asked(w.batches[-1]) == ["t-1"]
    assert w.emu.ledger.rows_billed_twice() == []


def test_a_change_taken_back_costs_nothing(world):
    w = world()
    w.submit(6)
    w.done()
    w.submit(6, body=OTHER)
    w.advance()
    w.submit(6)
    summary = w.done()
    assert summary.n_carried == 6
    assert w.emu.ledger.rows_billed_twice() == []


def test_a_changed_file_is_noticed_and_an_unchanged_one_reattaches(world, tmp_path):
    w = world()
    path = tmp_path / "rows.jsonl"

    def save(rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    save(w.rows(6))
    w.submit(str(path))
    w.done()
    w.submit(str(path))
    assert w.job.epoch == 0
    save([*w.rows(6), {"id": 6, "text": "one more row"}])
    w.submit(str(path))
    assert w.job.epoch == 1
    assert w.done().n_carried == 6
    assert w.asked(w.batches[1]) == ["t-6"]


@pytest.mark.parametrize("state", ["unsent", "running", "done"])
def test_nothing_changed_means_reattach(world, state):
    w = world()
    w.submit(6)
    if state != "unsent":
        w.advance()
    if state == "done":
        w.done()
    w.submit(6, policy=Policy(max_bad_ratio=0.5))
    assert w.job.epoch == 0
    assert w.job.policy.max_bad_ratio == 0.5
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1


def test_the_same_frame_reattaches(world):
    w = world()
    w.submit(pd.DataFrame(w.rows(4)))
    w.done()
    w.submit(pd.DataFrame(w.rows(4)))
    w.done()
    assert w.job.epoch == 0
    assert len(w.batches) == 1


def test_an_explicit_wish_asks_everything_again_once(world):
    w = world()
    w.submit(6)
    w.done()
    w.submit(6, start_over="monday")
    assert w.done().n_carried == 0
    assert [len(w.asked(b)) for b in w.batches] == [6, 6]
    for _ in range(3):
        w.submit(6, start_over="monday")
        w.done()
    assert len(w.batches) == 2, "a retry of the task does not pay again"
    w.submit(6, start_over="tuesday")
    w.done()
    assert len(w.batches) == 3


def test_a_wish_on_the_first_submission_is_obeyed_by_it(world):
    w = world()
    w.submit(6, start_over="monday")
    w.done()
    w.submit(6, start_over="monday")
    w.done()
    assert len(w.batches) == 1


def test_a_wish_left_in_the_store_is_obeyed_once(world):
    w = world()
    w.submit(6)
    w.done()
    w.store.command("start_over")
    w.submit(6)
    w.done()
    w.submit(6)
    w.done()
    assert len(w.batches) == 2


def test_starting_over_while_a_batch_runs_cancels_it_first(world):
    w = world()
    w.submit(6)
    w.advance()
    w.submit(6, start_over="now")
    assert w.done().n_succeeded == 6
    assert [b.status for b in w.batches] == ["cancelled", "completed"]


def test_a_lost_create_of_the_old_epoch_is_found_and_cancelled(world):
    w = world()
    w.submit(6)
    w.fault("POST /v1/batches", "drop_response", times=1)
    w.fault("GET /v1/batches", {"status": 500}, times=2)
    w.advance()
    assert w.job.shards[0].state is State.CREATING
    w.submit(6, body=OTHER)
    assert w.done().n_succeeded == 6
    assert [b.status for b in w.batches] == ["cancelled", "completed"]


def test_old_answers_are_carried_over_although_polls_of_the_old_batch_fail(world):
    w = world()
    rows = w.rows(4)
    w.submit(rows)
    w.advance()
    w.clock.advance(4000)
    w.fault("POST /v1/batches/*/cancel", {"status": 500}, times=2)
    w.fault("GET /v1/batches/*", {"status": 502}, times=2)
    w.submit([*rows, {"id": 4, "text": "new"}])
    assert w.done().n_carried == 4
    w.assert_paid_once(5)
