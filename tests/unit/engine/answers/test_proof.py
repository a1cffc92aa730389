"""What proves that a row without a line has no answer."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_openai_batch.engine.answers.proof import Lines, are_damaged, doubt_of
from airflow_openai_batch.engine.model import Batch


def batch(status: str = "completed", n_completed: int = 0, n_failed: int = 0) -> Batch:
    return Batch(id="batch_1", status=status, n_total=10, n_completed=n_completed, n_failed=n_failed)


def lines(n_seen: int, n_answered: int, **changes: Any) -> Lines:
    of = {"n_rows": 10, "n_unreadable": 0, "n_spoilt": 0, "n_foreign": 0, "is_cut": False, "is_size_wrong": False}
    return Lines(n_seen=n_seen, n_answered=n_answered, **{**of, **changes})


@pytest.mark.parametrize("status", ["completed", "expired", "cancelled"])
@pytest.mark.parametrize(
    ("n_completed", "n_failed", "n_seen", "n_answered", "is_proven"),
    [
        (7, 0, 7, 7, True),
        (7, 3, 7, 7, True),  # the error file was never written: failed requests are not billed
        (7, 3, 3, 0, False),  # the output file is empty, however many lines the error file has
        (3, 7, 7, 0, False),
        (0, 7, 7, 0, True),
        (8, 0, 7, 7, False),
        (10, 0, 10, 7, True),  # every row has a line: nothing is to be proven
    ],
)
def test_answers_are_compared_with_completed_requests_whatever_errors_there_are(
    status: str, n_completed: int, n_failed: int, n_seen: int, n_answered: int, is_proven: bool
) -> None:
    doubt = doubt_of(batch(status, n_completed, n_failed), lines(n_seen, n_answered))
    assert (doubt is None) is is_proven
    assert doubt is None or not doubt.passes


@pytest.mark.parametrize("n_completed", [0, 3])
@pytest.mark.parametrize(
    ("status", "passes"), [("completed", False), ("expired", True), ("cancelled", True), ("failed", True)]
)
def test_more_answers_than_counted_are_proof_only_of_a_batch_that_ended_early_and_only_later(
    status: str, passes: bool, n_completed: int
) -> None:
    doubt = doubt_of(batch(status, n_completed), lines(4, 4))
    assert doubt is not None and doubt.passes is passes


@pytest.mark.parametrize(("status", "passes"), [("completed", False), ("expired", True), ("failed", True)])
def test_an_empty_file_of_a_batch_without_counts_may_only_be_late(status: str, passes: bool) -> None:
    doubt = doubt_of(batch(status), lines(0, 0, is_cut=True))
    assert doubt is not None and doubt.passes is passes


@pytest.mark.parametrize("status", ["expired", "cancelled", "failed"])
def test_a_batch_that_ended_early_without_any_answer_and_file_is_believed(status: str) -> None:
    assert doubt_of(batch(status), lines(0, 0)) is None


@pytest.mark.parametrize("change", [{"n_unreadable": 1}, {"n_foreign": 1}, {"is_size_wrong": True}])
def test_what_is_odd_in_a_file_proves_nothing(change: dict[str, Any]) -> None:
    assert doubt_of(batch(n_completed=9, n_failed=1), lines(9, 9)) is None
    doubt = doubt_of(batch("expired", 9, 1), lines(9, 9, **change))
    assert doubt is not None and not doubt.passes


def test_a_spoilt_line_in_a_whole_file_was_billed() -> None:
    assert are_damaged(batch(n_completed=10), lines(9, 9, n_unreadable=1, n_spoilt=1))


@pytest.mark.parametrize(
    "change",
    [
        {"n_spoilt": 0},  # a page of HTML, garbage, or JSON whose custom_id is null
        {"n_foreign": 1},
        {"is_cut": True},  # the rest may still come
        {"is_size_wrong": True},
        {"n_seen": 4, "n_unreadable": 6, "n_spoilt": 6},
        {"n_seen": 8},  # fewer lines than counted
    ],
)
def test_any_other_file_is_not_taken_for_damaged(change: dict[str, Any]) -> None:
    given = {"n_seen": 9, "n_answered": 9, "n_unreadable": 1, "n_spoilt": 1, **change}
    assert not are_damaged(batch(n_completed=10), lines(**given))
