"""Rows that name their model, in any order: no more batches than the models need, paid once, results in input order."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from airflow_openai_batch.engine.model import Policy
from airflow_openai_batch.engine.requests.sharding import MAX_OPEN

BODY = {"model": "{model}", "input": "Label: {text}"}


def _in_turns(n, n_models=2):
    return [{"id": i, "text": f"ticket {i}", "model": f"gpt-{i % n_models}"} for i in range(n)]


def _models(w, batch):
    return {line["body"]["model"] for line in w.lines(batch)}


def test_rows_of_two_models_in_turns_are_two_batches(world):
    """OpenAI's guide: an input file has one model. A row a batch would be 200 of them."""
    w = world()
    w.submit(_in_turns(200), body=BODY)
    assert w.done().n_succeeded == 200
    assert [_models(w, batch) for batch in w.batches] == [{"gpt-0"}, {"gpt-1"}]
    w.assert_paid_once(200)
    w.assert_accounted(200)


def test_rows_of_more_models_than_may_be_open_are_a_batch_a_model(world):
    n_models = MAX_OPEN + 4
    w = world()
    w.submit(_in_turns(3 * n_models, n_models), body=BODY)
    assert w.done().n_succeeded == 3 * n_models
    assert Counter(model for batch in w.batches for model in _models(w, batch)) == {
        f"gpt-{i}": 1 for i in range(n_models)
    }
    w.assert_paid_once(3 * n_models)
    w.assert_accounted(3 * n_models)


def test_a_callable_that_names_a_model_for_each_row_makes_a_batch_a_model(world):
    w = world()
    w.submit(_in_turns(9, 3), body=lambda row: {"model": row["model"], "input": row["text"]})
    assert w.done().n_succeeded == 9
    assert len(w.batches) == 3
    w.assert_paid_once(9)
    w.assert_accounted(9)


def test_an_expired_batch_of_one_model_is_finished_beside_the_other(world):
    w = world()
    w.fault("batch", {"expire_at": {"fraction": 0.5}}, times=1)
    w.submit(_in_turns(20), body=BODY)
    assert w.done().n_succeeded == 20
    assert [b.status for b in w.batches] == ["expired", "completed", "completed"]
    assert _models(w, w.batches[2]) == _models(w, w.batches[0])
    w.assert_paid_once(20)
    w.assert_accounted(20)


def test_rows_that_failed_in_passing_are_asked_again_with_their_own_model(world):
    w = world()
    w.fault("row", {"http_error": {"status": 500}}, match={"custom_id": "t-(3|4|11)$"}, times=3)
    w.submit(_in_turns(12), body=BODY)
    assert w.done().n_succeeded == 12
    assert sorted(w.asked(batch) for batch in w.batches[2:]) == [["t-3", "t-11"], ["t-4"]]
    w.assert_accounted(12)


def test_one_row_that_goes_to_the_other_model_is_all_that_is_asked(world):
    w = world()
    rows = _in_turns(12)
    w.submit(rows, body=BODY)
    w.done()
    rows[5] |= {"model": "gpt-0"}
    w.submit(rows, body=BODY)
    summary = w.done()
    assert (summary.n_succeeded, summary.n_carried) == (12, 11)
    assert w.asked(w.batches[-1]) == ["t-5"]
    assert len(w.batches) == 3
    assert w.emu.ledger.rows_billed_twice() == []
    w.assert_accounted(12)


def test_a_file_that_was_only_written_anew_reattaches(world, tmp_path):
    w = world()
    path = tmp_path / "rows.jsonl"
    rows = _in_turns(12)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    w.submit(str(path), body=BODY, per_shard=4)
    w.advance()
    path.write_text("".join(json.dumps(row | {"note": "new"}) + "\n" for row in rows))
    w.submit(str(path), body=BODY, per_shard=4)
    assert w.job.epoch == 0
    assert w.done().n_succeeded == 12
    assert len(w.batches) == 4
    assert [row["note"] for row in w.table()] == ["new"] * 12
    w.assert_paid_once(12)
    w.assert_accounted(12)


@pytest.mark.parametrize("at", range(3, 30, 6))
def test_a_process_killed_at_any_moment_pays_nothing_twice(world, fate, killed, at):
    w = world()
    doom = fate(at)
    engine = w.mortal(doom)

    def work(engine=None):
        w.submit(_in_turns(12, 3), body=BODY, per_shard=2, engine=engine)
        return w.done(engine)

    with pytest.raises(killed):
        work(engine)
    assert work().n_succeeded == 12
    assert len(w.batches) == 6
    w.assert_paid_once(12)
    w.assert_accounted(12)


def test_a_budget_of_tokens_cuts_each_model_by_itself(world):
    w = world()
    w.submit(_in_turns(40), body=BODY)
    [whole, _] = w.job.shards
    w = world()
    w.submit(_in_turns(40), body=BODY, policy=Policy(max_enqueued_tokens=whole.n_tokens // 2 + 5))
    assert [shard.n_rows for shard in w.job.shards] == [10] * 4
    assert w.done().n_succeeded == 40
    w.assert_paid_once(40)
    w.assert_accounted(40)


def test_rows_of_a_function_are_planned_anew_in_their_order(world):
    """What a function gave has no version: the rows stand as they were planned, over the shards of all models."""
    w = world()
    rows = _in_turns(5000, 3)
    w.submit(lambda: iter(rows), body=lambda row: {"model": row["model"], "input": row["text"]}, per_shard=1000)
    w.advance()
    w.submit(lambda: iter([]), body=lambda row: {"model": row["model"], "input": row["text"] + ""}, per_shard=1000)
    assert w.job.epoch == 0, "the same requests, in the same order"
    w.submit(lambda: iter([]), body=lambda row: {"model": row["model"], "input": "New: " + row["text"]}, per_shard=1000)
    assert w.job.epoch == 1 and w.job.n_rows == 5000
    assert w.done().n_succeeded == 5000
    assert [row["id"] for row in w.table()] == list(range(5000))
