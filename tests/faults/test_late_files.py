"""Files, counts and names that come late or changed, over HTTP: nothing is billed twice, nothing is lost."""

from __future__ import annotations

import pytest

LISTING, CREATE = "GET /v1/batches", "POST /v1/batches"


@pytest.mark.parametrize("form", ["empty", "cut_at_line"])
@pytest.mark.parametrize("drops", [True, False])
def test_an_early_end_whose_file_is_late_and_whose_counts_are_zero_is_billed_once(world, form, drops):
    w = world()
    w.submit(10)
    w.fault("batch", {"expire_at": {"fraction": 0.6}}, times=1)
    if drops:
        w.fault("batch", "drop_unfinished", times=1)
    w.fault("batch", {"counts_lie": {"completed": 0, "failed": 0}}, times=1)
    w.fault("batch", {"spoil_file": {"form": form, "seconds": 400, "size": "actual"}}, times=1)
    assert w.done(step_s=100, most=2000).n_succeeded == 10
    assert [len(w.asked(batch)) for batch in w.batches] == [10, 4]
    w.assert_paid_once(10)
    w.assert_accounted(10)


@pytest.mark.parametrize("value", ["redacted", "", "0123456789abcdef/0"])
def test_a_lost_create_is_found_where_a_gateway_changes_metadata(world, value):
    w = world()
    w.submit(6)
    w.fault(CREATE, {"status": {"code": 500, "after": True}}, times=1)
    w.fault(LISTING, {"edit": {"set": {"metadata": {"airflow_openai_batch": value}}}})
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
    w.assert_paid_once(6)


def test_a_lost_create_is_for_a_person_where_the_listing_names_nothing(world):
    w = world()
    w.submit(6)
    w.fault(CREATE, {"status": {"code": 500, "after": True}}, times=1)
    w.fault(LISTING, {"edit": {"set": {"metadata": None, "input_file_id": None}}})
    assert "does not tell" in w.held()
    assert len(w.batches) == 1
    w.assert_paid_once(6)


@pytest.mark.parametrize("status", [405, 500])
def test_a_batch_of_before_that_cannot_be_cancelled_does_not_stop_the_new_epoch(world, status):
    w = world()
    w.submit(4)
    w.advance()
    w.fault("POST /v1/batches/*/cancel", {"status": {"code": status}})
    w.fault("batch", {"stuck": {"state": "in_progress", "seconds": 40_000}}, times=1)
    w.submit(4, body={"model": "gpt-6-luna", "input": "again: {text}"})
    assert w.done(step_s=600, most=2000).n_succeeded == 4
    assert [len(w.asked(batch)) for batch in w.batches] == [4, 4], "other requests"
