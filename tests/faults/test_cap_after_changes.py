"""A cap holds, and holds nothing up, when prompt, prices, bounds, pilot or the cap itself change between two tries."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from airflow_openai_batch.emulator.answers import Text
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.job.plan import plan_of
from airflow_openai_batch.engine.job.submit import submit
from airflow_openai_batch.engine.model import JobKey, Policy, State
from airflow_openai_batch.engine.money.dollars import PICODOLLARS

BODY = {"model": "gpt-6-luna", "input": "Label: {text}", "max_output_tokens": 20}
LONG = {"model": "gpt-6-luna", "input": "LONG essay: {text}", "max_output_tokens": 4000}
UNBOUNDED = {"model": "gpt-6-luna", "input": "Label: {text}"}
MINE = {**BODY, "model": "acme"}
PRICED = {"acme": {"input": 1, "output": 2}}
CENTS = PICODOLLARS // 100


def answer(endpoint: str, body: dict[str, Any]) -> Text:
    return Text("x " * 3500 if "LONG" in str(body) else "x")


def invoice(w: Any) -> int:
    return int(sum(w.emu.ledger.invoice(batch.id).picodollars for batch in w.batches))


def next_night(w: Any, n: int) -> None:
    w.key = JobKey(dag_id="labels", run_id=f"night-{n}", task_id="ask")


@pytest.mark.parametrize("pilot_rows", [None, 20])
def test_short_answers_to_another_prompt_do_not_let_the_cap_be_passed(world, pilot_rows) -> None:
    w = world(answer=answer)
    policy = Policy(max_cost=5 * CENTS, pilot_rows=pilot_rows)
    w.submit(200, body=BODY, policy=policy, per_shard=100)
    w.done()
    w.submit(200, body=LONG, policy=policy, per_shard=100)
    assert "max_cost is $0.05" in w.held()
    assert invoice(w) <= 5 * CENTS


def test_what_runs_of_an_earlier_prompt_counts_with_its_own_bound(world) -> None:
    """Its batch may still be answered while it is cancelled."""
    w = world(answer=answer)
    w.submit(20, body=LONG)
    w.advance()
    w.submit(20, body=BODY, policy=Policy(max_cost=CENTS))
    estimate = plan_of(w.job).estimate
    assert estimate.upper_picodollars is not None and estimate.upper_picodollars > 20 * 4000 * 250_000


@pytest.mark.parametrize("is_done", [False, True])
def test_a_cap_that_comes_later_blocks_no_clear_of_what_is_sent(world, caplog, is_done: bool) -> None:
    w = world()
    w.submit(10, body=UNBOUNDED)
    w.advance()
    if is_done:
        w.done()
    w.submit(10, body=UNBOUNDED, policy=Policy(max_cost=PICODOLLARS))
    assert w.done().n_succeeded == 10
    assert w.job.epoch == 0 and len(w.batches) == 1
    w.assert_paid_once(10)


def test_a_cap_that_comes_later_stops_only_what_is_not_sent(world, caplog) -> None:
    w = world()
    w.submit(10, body=UNBOUNDED, per_shard=5, policy=Policy(max_enqueued_tokens=70))
    w.advance()
    caplog.set_level(logging.WARNING)
    w.submit(10, body=UNBOUNDED, per_shard=5, policy=Policy(max_cost=PICODOLLARS))
    assert "What was sent is not touched." in caplog.text
    assert "sets no bound of the answers" in w.held()
    assert len(w.batches) == 1 and w.job.epoch == 0
    w.submit(10, body=UNBOUNDED, per_shard=5)
    assert w.done().n_succeeded == 10
    w.assert_paid_once(10)


@pytest.mark.parametrize(
    "policy",
    [
        Policy(max_cost=PICODOLLARS),
        Policy(max_cost=PICODOLLARS, prices={"acme": {"input": 1, "output": 1}}, probe=True),
    ],
    ids=["prices taken out", "probe without a synchronous price"],
)
def test_a_job_that_is_answered_needs_no_price(world, policy: Policy) -> None:
    w = world()
    w.submit(10, body=MINE, policy=Policy(max_cost=PICODOLLARS, prices=PRICED))
    w.done()
    w.submit(10, body=MINE, policy=policy)
    assert w.done().n_succeeded == 10
    w.assert_paid_once(10)


@pytest.mark.parametrize("rare", [100_000, None])
def test_one_row_of_many_with_another_bound_is_seen(world, rare) -> None:
    """The tokens of few rows are counted, but each body tells its bound."""

    def body(row: dict[str, Any]) -> dict[str, Any]:
        n = rare if row["id"] == 2777 else 10
        return {"model": "gpt-6-luna", "input": row["text"], **({"max_output_tokens": n} if n else {})}

    w = world()
    rows = w.rows(3000, "some " * 60 + "{}")
    if rare is None:
        with pytest.raises(InputError, match="a bound of each answer"):
            w.submit(rows, body=body, policy=Policy(max_cost=PICODOLLARS))
        assert w.emu.ledger.calls == []
        return
    job = w.submit(rows, body=body, policy=Policy(max_cost=PICODOLLARS))
    assert job.measure is not None and job.measure.n_sampled < 2000
    assert job.shards[0].max_output_tokens == job.measure.max_output_tokens == rare
    assert "max_cost is $1.00" in w.held()
    assert not w.batches


def test_a_bound_that_a_column_gives_is_read_in_each_row(world) -> None:
    w = world()
    rows = [{**row, "most": 7 + row["id"] % 5} for row in w.rows(50)]
    job = w.submit(rows, body={**BODY, "max_output_tokens": "{most!json}"}, policy=Policy(max_cost=PICODOLLARS))
    assert job.shards[0].max_output_tokens == 11
    next_night(w, 2)
    rows[49]["most"] = None
    with pytest.raises(InputError, match="a bound of each answer"):
        w.submit(rows, body={**BODY, "max_output_tokens": "{most!json}"}, policy=Policy(max_cost=PICODOLLARS))


def test_a_batch_that_may_pass_the_cap_is_told_when_it_is_created(world, caplog) -> None:
    w = world(answer=answer)
    rows = [{"id": i, "text": "short" if i < 20 else "LONG"} for i in range(100)]
    caplog.set_level(logging.WARNING)
    w.submit(rows, body={**LONG, "input": "{text}"}, policy=Policy(max_cost=3 * CENTS, pilot_rows=20))
    w.finish()
    assert "more than max_cost ($0.03)" in caplog.text


@pytest.mark.parametrize("is_plan_only", [False, True])
def test_a_pilot_that_is_added_before_anything_is_sent_is_cut(world, is_plan_only: bool) -> None:
    w = world()
    w.fault("row", "refusal", probability=1)
    if is_plan_only:
        submit(w.engine(), w.request(50, body=BODY), Policy(), is_plan_only=True)
    else:
        w.submit(50, body=BODY, policy=Policy(max_cost=1))
        w.held()
    w.submit(50, body=BODY, policy=Policy(pilot_rows=10, max_cost=PICODOLLARS))
    assert "The pilot of 10 rows is not good enough" in w.held()
    assert len(w.billed()) == 10


def test_a_pilot_that_comes_too_late_is_told(world, caplog) -> None:
    w = world()
    w.submit(10, body=BODY, per_shard=5, policy=Policy(max_enqueued_tokens=70))
    w.advance()
    assert any(shard.state is not State.RUNNING for shard in w.job.shards)
    caplog.set_level(logging.WARNING)
    w.submit(10, body=BODY, per_shard=5, policy=Policy(max_enqueued_tokens=70, pilot_rows=2))
    assert "pilot_rows comes too late" in caplog.text
    assert w.done().n_succeeded == 10
    w.assert_paid_once(10)


def test_answers_without_a_price_count_once_their_price_is_given(world) -> None:
    w = world()
    w.fault("row", {"http_error": {"status": 500, "code": "server_error"}}, match={"custom_id": "t-3"})
    w.submit(10, body=MINE, policy=Policy(max_rounds=0))
    w.done()
    w.emu.faults.clear()
    w.store.command("replay", at=w.clock.now())
    policy = Policy(max_cost=PICODOLLARS, prices=PRICED)
    w.submit(10, body=MINE, policy=policy)
    assert w.done().n_succeeded == 10
    assert plan_of(w.job).estimate.spent_picodollars > 0
    for changes in ({"rows": w.rows(11)}, {"rows": w.rows(11), "start_over": "anew"}):
        w.submit(changes["rows"], body=MINE, policy=policy, start_over=changes.get("start_over"))
        assert w.done().n_succeeded == 11


@pytest.mark.parametrize("n_known", [30, 25])
def test_a_pilot_whose_rows_are_known_tells_by_their_answers(world, n_known: int) -> None:
    """The first rows are the same each night: their answers are those of this job's own requests."""
    w = world(answer=answer)
    bounded = {**BODY, "max_output_tokens": 4000}
    w.submit(w.rows(n_known), body=bounded, policy=Policy(reuse="labels"))
    w.done()
    next_night(w, 2)
    rows = w.rows(30) + [{"id": 100 + i, "text": f"new {i}"} for i in range(200)]
    policy = Policy(reuse="labels", pilot_rows=30, max_cost=10 * CENTS)
    w.submit(rows, body=bounded, per_shard=100, policy=policy)
    assert w.done().n_succeeded == 230
    assert sum(w.billed().values()) == 230


@pytest.mark.parametrize(
    ("body", "policy"),
    [
        (MINE, Policy(reuse="labels", max_cost=PICODOLLARS)),
        (UNBOUNDED, Policy(reuse="labels", max_cost=PICODOLLARS)),
        (MINE, Policy(reuse="labels", max_cost=PICODOLLARS, prices=PRICED, probe=True)),
    ],
    ids=["price", "bound", "synchronous price"],
)
def test_a_job_that_sends_nothing_needs_neither_price_nor_bound(world, body, policy: Policy) -> None:
    w = world()
    w.submit(3, body=body, policy=Policy(reuse="labels"))
    w.done()
    next_night(w, 2)
    w.submit(3, body=body, policy=policy)
    assert w.done().n_succeeded == 3
    assert len(w.batches) == 1
    next_night(w, 3)
    with pytest.raises(InputError, match="Nothing was sent"):
        w.submit(4, body=body, policy=policy)


def test_a_plan_that_fits_has_room_for_its_probe(world) -> None:
    w = world()
    bounded = {**BODY, "max_output_tokens": 1000}
    w.submit(2, body=bounded)
    upper = plan_of(w.job).estimate.upper_picodollars
    for n, (cap, verdict) in enumerate([(upper, "does not fit"), (3 * upper, "fits")]):
        next_night(w, n)
        w.submit(2, body=bounded, policy=Policy(max_cost=cap, probe=True))
        assert plan_of(w.job).cap_verdict == verdict


def test_a_price_without_that_of_output_is_refused_before_anything_is_sent(world) -> None:
    w = world()
    with pytest.raises(InputError, match="needs to know what 'acme' costs"):
        w.submit(3, body=MINE, policy=Policy(max_cost=PICODOLLARS, prices={"acme": {"input": 1}}))
    assert w.emu.ledger.calls == []


def test_pictures_are_not_said_to_fit(world, caplog) -> None:
    content = [
        {"type": "input_text", "text": "{text}"},
        {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 20_000},
    ]
    w = world()
    caplog.set_level(logging.WARNING)
    w.submit(20, body={**BODY, "input": [{"role": "user", "content": content}]}, policy=Policy(max_cost=PICODOLLARS))
    plan = plan_of(w.job)
    n = plan.estimate.n_sampled
    assert (plan.cap_verdict, plan.estimate.n_uncounted) == ("not known", n)
    assert f"max_cost is kept by an estimate without some input of {n} of {n} sampled requests" in caplog.text


def test_texts_that_begin_with_data_count_for_the_queue_too(world) -> None:
    w = world()
    rows = w.rows(8, "data: " + "word " * 1000 + "{}")
    body = {"model": "text-embedding-3-small", "input": "{text}"}
    job = w.submit(rows, endpoint="/v1/embeddings", body=body, policy=Policy(max_enqueued_tokens=2500))
    assert [shard.n_requests for shard in job.shards] == [2, 2, 2, 2]
