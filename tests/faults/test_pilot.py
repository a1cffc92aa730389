"""A pilot: the first rows are asked alone, and the rest only when they fare well and the rest fits under the cap."""

from __future__ import annotations

import pytest

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.job.status import Done, Wait
from airflow_openai_batch.engine.model import Policy

BODY = {"model": "gpt-6-luna", "input": "Label: {text}", "max_output_tokens": 1000}
N_ROWS, PILOT = 100, 10


def spoil(w, *numbers: int) -> None:
    for number in numbers:
        fault = {"http_error": {"status": 400, "code": "invalid_value", "message": "Bad row."}}
        w.fault("row", fault, match={"custom_id": f"t-{number}"})


def test_a_pilot_that_holds_goes_on_by_itself(world) -> None:
    w = world()
    w.submit(N_ROWS, body=BODY, per_shard=40, policy=Policy(pilot_rows=PILOT))
    assert isinstance(w.advance(), Wait)
    assert [len(w.asked(batch)) for batch in w.batches] == [PILOT]
    assert w.n_calls("POST", "/v1/files") == 1
    assert w.done().n_succeeded == N_ROWS
    assert sorted(len(w.asked(batch)) for batch in w.batches) == [10, 10, 40, 40]
    w.assert_paid_once(N_ROWS)
    w.assert_accounted(N_ROWS)


def test_a_pilot_that_fails_costs_the_pilot_only_and_says_why(world) -> None:
    w = world()
    spoil(w, 3, 4)
    w.submit(N_ROWS, body=BODY, per_shard=40, policy=Policy(pilot_rows=PILOT))
    reason = w.held()
    assert "The pilot of 10 rows is not good enough, so nothing else was sent: 2 of 10 rows (20.0%)" in reason
    assert "It cost $0.0000" in reason
    assert "python -m airflow_openai_batch errors labels manual__2026-11-22 ask" in reason
    assert len(w.batches) == 1
    assert len(w.billed()) == PILOT - 2


def test_another_prompt_has_a_pilot_of_its_own(world) -> None:
    w = world()
    spoil(w, 3, 4)
    w.submit(N_ROWS, body=BODY, policy=Policy(pilot_rows=PILOT))
    w.held()
    w.emu.faults.clear()
    w.submit(N_ROWS, body={**BODY, "input": "Better: {text}"}, policy=Policy(pilot_rows=PILOT))
    w.advance()
    assert [len(w.asked(batch)) for batch in w.batches] == [PILOT, PILOT]
    assert w.done().n_succeeded == N_ROWS


@pytest.mark.parametrize("policy", [Policy(), Policy(pilot_rows=PILOT, max_bad_ratio=0.5)], ids=["none", "thresholds"])
def test_a_person_may_go_on_with_a_pilot_that_failed(world, policy: Policy) -> None:
    w = world()
    spoil(w, 3, 4)
    w.submit(N_ROWS, body=BODY, policy=Policy(pilot_rows=PILOT))
    w.held()
    w.emu.faults.clear()
    w.submit(N_ROWS, body=BODY, policy=policy)
    assert w.done().n_succeeded == N_ROWS - 2
    assert set(w.billed().values()) == {1}


def test_rows_of_a_pilot_that_are_asked_again_are_waited_for(world) -> None:
    """An expired pilot batch is no verdict: its rows go into another round before anything else is sent."""
    w = world()
    w.fault("batch", {"expire_at": 0.5}, times=1)
    w.submit(N_ROWS, body=BODY, policy=Policy(pilot_rows=PILOT))
    sizes = []
    while isinstance(found := w.advance(), Wait):
        sizes.append([len(w.asked(batch)) for batch in w.batches])
        w.clock.advance(900)
    assert isinstance(found, Done)
    assert [10, 5] in sizes
    assert sizes[-1] == [10, 5, 90]
    w.assert_paid_once(N_ROWS)


def test_each_model_has_a_pilot(world) -> None:
    w = world()
    rows = [{"id": i, "text": f"ticket {i}", "model": ("gpt-6-luna", "gpt-6-sol")[i % 2]} for i in range(N_ROWS)]
    w.submit(rows, body={**BODY, "model": "{model}"}, policy=Policy(pilot_rows=PILOT))
    w.advance()
    assert [len(w.asked(batch)) for batch in w.batches] == [PILOT, PILOT]
    assert w.done().n_succeeded == N_ROWS
    assert len(w.batches) == 4
    w.assert_accounted(N_ROWS)


def test_the_rest_must_fit_under_the_cap_by_what_the_pilot_cost(world) -> None:
    w = world(answer=lambda endpoint, body: "x" * 3600)
    w.submit(N_ROWS, body=BODY, policy=Policy(pilot_rows=30, max_cost=8_000_000_000))
    reason = w.held()
    spent = w.emu.ledger.invoice().picodollars
    assert "By its pilot, the rest of the job would cost about $0.016; $0.0068 are spent so far, and max_cost" in reason
    assert len(w.batches) == 1
    assert spent < 8_000_000_000
    w.submit(N_ROWS, body=BODY, policy=Policy(pilot_rows=30, max_cost=100 * spent))
    assert w.done().n_succeeded == N_ROWS
    w.assert_paid_once(N_ROWS)


@pytest.mark.parametrize("odd", ["skipped rows", "another round"])
def test_the_rest_must_fit_too_where_the_pilot_is_not_all_that_is_settled(world, odd: str) -> None:
    w = world(answer=lambda endpoint, body: "x" * 3600)
    rows = w.rows(N_ROWS)
    if odd == "skipped rows":
        rows[50]["text"] = None
    else:
        w.fault("row", {"http_error": {"status": 500}}, times=1)
    w.submit(rows, body={**BODY, "input": "{text}"}, policy=Policy(pilot_rows=30, max_cost=8_000_000_000))
    assert "$0.0068 are spent so far, and max_cost is $0.008" in w.held()
    assert {custom_id for batch in w.batches for custom_id in w.asked(batch)} == {f"t-{i}" for i in range(30)}


def test_a_small_pilot_tells_what_answers_are_like_though_the_body_allows_much_longer_ones(world) -> None:
    w = world(answer=lambda endpoint, body: "x" * 40)
    bound = 1000 * 250_000  # of one answer, a hundred times what it is
    w.submit(N_ROWS, body=BODY, policy=Policy(pilot_rows=5, max_cost=6 * bound))
    assert w.done().n_succeeded == N_ROWS
    assert w.emu.ledger.invoice().picodollars < 6 * bound


def test_a_pilot_that_does_not_fit_says_only_that(world) -> None:
    w = world()
    w.submit(N_ROWS, body=BODY, policy=Policy(pilot_rows=PILOT, max_cost=1000))
    reason = w.held()
    assert "max_cost is $0.000000001" in reason
    assert "The pilot has not ended" not in reason
    assert not w.batches


def test_a_pilot_larger_than_the_job_is_the_job(world) -> None:
    w = world()
    w.submit(5, body=BODY, policy=Policy(pilot_rows=PILOT))
    assert w.done().n_succeeded == 5


def test_a_pilot_of_no_rows_is_refused(world) -> None:
    w = world()
    with pytest.raises(InputError, match="pilot_rows must be at least 1"):
        w.submit(5, body=BODY, policy=Policy(pilot_rows=0))
