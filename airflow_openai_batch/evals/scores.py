"""From the answers of two prompts to scores. Pure: result rows in, scores and rows for the judge out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.bodies import bodies_of
from airflow_openai_batch.evals.judgement import PREFIX, SIDES

_PROMPTS_OWN = ("invalid", "refused", "truncated")
"""Outcomes that a prompt has to answer for: they score 0. Of any other the row is left out, for both prompts."""

_OWN_COLUMNS = ("row", "side", "answer")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Pair:
    """A row of the golden set, with what both prompts made of it."""

    row: int
    golden: dict[str, Any]
    statuses: tuple[str, str]
    answers: tuple[str | None, str | None]
    """The field that is compared, or the whole text; None without a good answer."""
    exact: tuple[float, float] | None = None
    judged: tuple[float, float] | None = None
    reasons: tuple[str, str] = ("", "")

    @property
    def is_answered(self) -> bool:
        """Whether both prompts have had their say: a good answer, or a bad one that is the prompt's own fault."""
        return all(status == "succeeded" or status in _PROMPTS_OWN for status in self.statuses)


def check_golden(
    golden: Sequence[Row], *, expected: str | None, judge: Mapping[str, Any] | None, endpoint: str
) -> None:
    """Refuse a golden set that lacks what the scores need, before anything is paid for.

    Args:
        golden: The rows.
        expected: The column with the right answer; None if only a judge scores.
        judge: The judge's body; None without one.
        endpoint: The endpoint that it is for.

    Raises:
        InputError: A row has no expected answer, or the judge's rows would not be what its body needs.
    """
    if expected is not None:
        for number, row in enumerate(golden):
            _expected_of(row, expected, number)
    if judge is not None and golden:
        if clash := [name for name in _OWN_COLUMNS if name in golden[0]]:
            raise InputError(f"The judge's rows have columns row, side and answer: rename {', '.join(clash)}.")
        bodies_of(dict(judge), endpoint).check([*_OWN_COLUMNS, *golden[0]])


def pairs_of(
    golden: Sequence[Row],
    baseline: Sequence[Row],
    candidate: Sequence[Row],
    *,
    expected: str | None = None,
    answer: str | None = None,
) -> list[Pair]:
    """Return the rows of a golden set with both prompts' answers.

    Args:
        golden: The rows.
        baseline: The baseline's result rows, in the same order.
        candidate: The candidate's result rows.
        expected: The column of the golden set with the right answer; None if only a judge scores.
        answer: The field of the structured answers that counts; None for their whole text.

    Raises:
        InputError: A row has no expected answer, or the answers have no such field.
    """
    pairs = []
    for number, (row, *results) in enumerate(zip(golden, baseline, candidate, strict=True)):
        answers = tuple(_answer_of(result, answer) for result in results)
        pair = Pair(number, dict(row), (results[0]["status"], results[1]["status"]), (answers[0], answers[1]))
        if expected is not None and pair.is_answered:
            right = _expected_of(row, expected, number)
            first, second = (float(answer is not None and _is_same(answer, right)) for answer in answers)
            pair = replace(pair, exact=(first, second))
        pairs.append(pair)
    return pairs


def _answer_of(result: Row, field: str | None) -> str | None:
    if result["status"] != "succeeded":
        return None
    if field is None:
        return str(result["output"])
    if PREFIX + field not in result:
        fields = ", ".join(name.removeprefix(PREFIX) for name in result if name.startswith(PREFIX)) or "none"
        raise InputError(f"answer: the structured answers have no field {field!r}; their fields: {fields}.")
    return _text(result[PREFIX + field])


def _expected_of(row: Row, column: str, number: int) -> str:
    if column not in row:
        raise InputError(f"expected: the golden set has no column {column!r}. Columns: {', '.join(row)}.")
    if row[column] is None or not str(row[column]).strip():
        raise InputError(f"expected: row {number} of the golden set has nothing in {column!r}. Fill it in, or drop it.")
    return _text(row[column])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _is_same(answer: str, right: str) -> bool:
    """Return whether two answers are the same: as texts but for case and outer blanks, or as numbers."""
    if answer.strip().casefold() == right.strip().casefold():
        return True
    try:
        return float(answer) == float(right)
    except ValueError:
        return False


def judge_rows(pairs: Iterable[Pair]) -> list[dict[str, Any]]:
    """Return what a judge is asked: a row for each good answer, with the golden row's columns and ``answer``.

    The judge does not see which prompt gave it, unless its body says ``{side}``.
    """
    rows = []
    for pair in pairs:
        for side, answer in zip(SIDES, pair.answers, strict=True):
            if answer is not None and pair.is_answered:
                rows.append({"row": pair.row, "side": side, "answer": answer, **pair.golden})
    return rows


def with_judged(pairs: Sequence[Pair], judged: Iterable[Row]) -> list[Pair]:
    """Return the rows with the judge's scores: 1 to 5 become 0 to 1; an answer that is no good one has 0.

    Args:
        pairs: The rows.
        judged: The judge's result rows. Rows that it has not judged are left out of its metric.
    """
    verdicts = {(row["row"], row["side"]): row for row in judged if row["status"] == "succeeded"}
    done = []
    for pair in pairs:
        scores, reasons = [], []
        for side, answer in zip(SIDES, pair.answers, strict=True):
            verdict = verdicts.get((pair.row, side))
            if answer is None:
                scores.append(0.0)
            elif verdict is not None:
                scores.append((verdict[PREFIX + "score"] - 1) / 4)
            reasons.append(str(verdict[PREFIX + "reason"]) if verdict is not None else "")
        is_judged = pair.is_answered and len(scores) == len(SIDES)
        judged_scores = (scores[0], scores[1]) if is_judged else None
        done.append(replace(pair, judged=judged_scores, reasons=(reasons[0], reasons[1])))
    return done
