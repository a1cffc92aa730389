"""Promise 4: green means good."""

from __future__ import annotations

import pytest

from airflow_openai_batch.engine.model import Policy


def _with_bad_rows(world, n, n_bad, policy):
    w = world()
    w.fault("row", {"http_error": {"status": 400, "code": "invalid_value"}}, times=n_bad)
    w.submit(n, policy=policy)
    w.done()
    return w.check_thresholds()


def test_a_job_whose_rows_are_all_good_is_green(world):
    assert _with_bad_rows(world, 20, 0, Policy()) is None


def test_a_completed_batch_without_one_good_row_is_red_whatever_the_thresholds_say(world):
    why = _with_bad_rows(world, 5, 5, Policy(max_bad_ratio=1.0))
    assert why == "No row has a good answer: 5 failed."


@pytest.mark.parametrize(("n_bad", "is_green"), [(1, True), (2, False)])
def test_thresholds_are_on_by_default_at_one_row_in_twenty(world, n_bad, is_green):
    assert (_with_bad_rows(world, 20, n_bad, Policy()) is None) is is_green


@pytest.mark.parametrize(("n_bad", "is_green"), [(3, True), (4, False)])
def test_an_absolute_number_of_bad_rows_is_a_threshold_too(world, n_bad, is_green):
    policy = Policy(max_bad_ratio=1.0, max_bad_rows=3)
    assert (_with_bad_rows(world, 20, n_bad, policy) is None) is is_green


def test_the_verdict_names_the_counts_and_the_setting(world):
    why = _with_bad_rows(world, 20, 7, Policy(max_bad_ratio=0.1))
    assert why == "7 of 20 rows (35.0%) have no good answer (7 failed); max_bad_ratio allows 10.0%."


@pytest.mark.parametrize("fault", ["refusal", "truncated", "filtered", "missing", "malformed"])
def test_no_kind_of_useless_answer_counts_as_good(world, fault):
    w = world()
    w.submit(5, policy=Policy(max_rounds=0, max_bad_ratio=1.0))
    w.fault("row", fault)
    w.done_accepting()
    assert w.check_thresholds().startswith("No row has a good answer")


def test_answers_that_break_the_schema_are_not_good(world):
    schema = {
        "type": "object",
        "properties": {"topic": {"type": "string"}},
        "required": ["topic"],
        "additionalProperties": False,
    }
    w = world()
    w.submit(5, response_model=schema, policy=Policy(max_bad_ratio=1.0))
    w.fault("row", "invalid")
    w.done()
    assert w.check_thresholds() == "No row has a good answer: 5 invalid."


def test_counts_of_the_api_do_not_make_a_job_green(world):
    w = world()
    w.submit(5, policy=Policy(max_rounds=0))
    w.fault("row", {"http_error": {"status": 400, "code": "invalid_value"}})
    w.fault("batch", {"counts_lie": {"completed": 5, "failed": 0}})
    w.done(step_s=1000)
    assert w.check_thresholds() == "No row has a good answer: 5 failed."


def test_a_refused_batch_is_red_even_if_others_succeeded(world):
    w = world()
    w.submit(100, per_shard=98, policy=Policy(max_bad_ratio=1.0))
    w.fault("batch", {"fail": {"code": "invalid_url", "message": "Wrong URL.", "line": 2}}, match={"batch": 2})
    w.done()
    why = w.check_thresholds()
    assert "invalid_url" in why and "t-99" in why and "unbilled" in why
    assert len(w.billed()) == 98
