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


PROVEN, PASSING, LASTING = None, True, False


def passes(batch: Batch, lines: Lines) -> bool | None:
    doubt = doubt_of(batch, lines)
    return doubt.passes if doubt is not None else PROVEN


@pytest.mark.parametrize("status", ["completed", "expired", "cancelled", "failed"])
@pytest.mark.parametrize(
    ("n_completed", "n_failed", "n_seen", "n_answered", "expected"),
    [
        (7, 3, 7, 7, PROVEN),  # the error file was never written: failed requests are not billed
        (0, 10, 7, 0, PROVEN),
        (10, 0, 10, 7, PROVEN),  # every row has a line: nothing is to be proven
        (7, 3, 3, 0, LASTING),  # the output file is empty, however many lines the error file has
        (3, 7, 7, 0, LASTING),
        (8, 0, 7, 7, LASTING),
    ],
)
def test_answers_are_compared_with_completed_requests_whatever_errors_there_are(
    status: str, n_completed: int, n_failed: int, n_seen: int, n_answered: int, expected: bool | None
) -> None:
    assert passes(batch(status, n_completed, n_failed), lines(n_seen, n_answered)) is expected


@pytest.mark.parametrize("n_completed", [0, 3])
@pytest.mark.parametrize("n_seen", [4, 9])
@pytest.mark.parametrize(
    ("status", "expected"), [("completed", LASTING), ("expired", PASSING), ("cancelled", PASSING), ("failed", PASSING)]
)
def test_more_answers_than_counted_are_proof_only_of_a_batch_that_ended_early_and_only_later(
    status: str, expected: bool, n_completed: int, n_seen: int
) -> None:
    assert passes(batch(status, n_completed), lines(n_seen, n_seen)) is expected


@pytest.mark.parametrize(("n_completed", "n_failed", "n_answered"), [(7, 0, 7), (0, 7, 0)])
def test_rows_that_a_completed_batch_does_not_count_may_still_come(
    n_completed: int, n_failed: int, n_answered: int
) -> None:
    """The counts and the file may grow together, behind the status."""
    assert passes(batch("completed", n_completed, n_failed), lines(7, n_answered)) is PASSING
    assert passes(batch("expired", n_completed, n_failed), lines(7, n_answered)) is PROVEN, "OpenAI dropped the rest"


@pytest.mark.parametrize(("status", "expected"), [("completed", LASTING), ("expired", PROVEN), ("failed", PROVEN)])
def test_without_counts_and_lines_only_a_batch_that_ended_early_proves_anything(
    status: str, expected: bool | None
) -> None:
    assert passes(batch(status), lines(0, 0)) is expected
    may_be_late = PASSING if expected is PROVEN else LASTING
    assert passes(batch(status), lines(0, 0, is_cut=True)) is may_be_late, "the file is there, and empty"


@pytest.mark.parametrize("change", [{"n_unreadable": 1}, {"n_foreign": 1}, {"is_size_wrong": True}])
def test_what_is_odd_in_a_file_proves_nothing(change: dict[str, Any]) -> None:
    assert passes(batch(n_completed=9, n_failed=1), lines(9, 9)) is PROVEN
    assert passes(batch(n_completed=9, n_failed=1), lines(9, 9, **change)) is LASTING
    assert passes(batch("expired", 9), lines(9, 9, **change)) is LASTING


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
