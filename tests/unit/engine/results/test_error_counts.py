"""Why rows are bad: counted by code, with a message of which nothing of the row is left."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from airflow_openai_batch.engine.results.error_counts import ErrorCounter


def outcomes(*rows: tuple[str, str | None, str, str | None, str | None]) -> pa.RecordBatch:
    names = ["status", "error_code", "custom_id", "error_message", "output"]
    return pa.RecordBatch.from_pylist(
        [dict(zip(names, row, strict=True)) for row in rows], pa.schema([(name, pa.string()) for name in names])
    )


BATCH = outcomes(
    ("succeeded", None, "t-0", None, "good"),
    ("failed", "bad", "t-1", "Cannot read Jane Roe of ward 7", None),
    ("failed", "bad", "t-2", "another", None),
    (
        "invalid",
        "schema_mismatch",
        "t-3",
        "Expected `str` - at `$.name`: the answer says she is ill",
        "the answer says she is ill",
    ),
    ("refused", "refusal", "t-4", "I will not speak of Jane Roe.", None),
    ("failed", None, "t-5", None, None),
    ("skipped", None, "t-6", None, None),
)


def counted(counter: ErrorCounter, values: list[Any]) -> dict[str, Any]:
    counter.add(BATCH, lambda row: values)
    return {f"{error.status} {error.code}": error for error in counter.counts()}


def test_messages_are_without_what_stands_in_the_row_or_the_answer() -> None:
    found = counted(ErrorCounter(), [7, None, {"notes": [{"text": "of Jane Roe of ward 7"}]}, [0.5, 0.25]])
    assert {name: (error.n, error.custom_ids) for name, error in found.items()} == {
        "failed bad": (2, ("t-1", "t-2")),
        "invalid schema_mismatch": (1, ("t-3",)),
        "refused refusal": (1, ("t-4",)),
        "failed unknown": (1, ("t-5",)),
    }
    assert found["failed bad"].message == "Cannot read…"
    assert found["invalid schema_mismatch"].message == "Expected `str` - at `$.name`: …"
    assert found["refused refusal"].message == "The model, or a filter, refused to answer."
    assert found["failed unknown"].message is None


def test_a_person_who_may_read_the_rows_gets_the_messages_as_they_are() -> None:
    found = counted(ErrorCounter(is_verbatim=True), ["Jane Roe of ward 7"])
    assert found["failed bad"].message == "Cannot read Jane Roe of ward 7"
    assert found["refused refusal"].message == "I will not speak of Jane Roe."


def test_examples_are_three_at_most() -> None:
    counter = ErrorCounter()
    for start in (0, 4):
        rows = [("failed", "x", f"t-{i}", None, None) for i in range(start, start + 4)]
        counter.add(outcomes(*rows))
    (error,) = counter.counts()
    assert (error.n, error.custom_ids) == (8, ("t-0", "t-1", "t-2"))
