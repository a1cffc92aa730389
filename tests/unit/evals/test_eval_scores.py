"""Answers become scores, rows for the judge, and a report."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.evals.report import markdown, plot, write_report
from airflow_openai_batch.evals.result import result_of
from airflow_openai_batch.evals.scores import check_golden, judge_rows, pairs_of, with_judged

GOLDEN = [{"text": f"t{i}", "label": "Yes"} for i in range(4)]


def result(answer, status="succeeded"):
    return {"status": status, "output": answer}


def pairs(baseline, candidate, **given):
    as_rows = [[one if isinstance(one, dict) else result(one) for one in side] for side in (baseline, candidate)]
    return pairs_of(GOLDEN[: len(baseline)], *as_rows, expected="label", **given)


@pytest.mark.parametrize(
    ("expected", "answer", "is_right"),
    [
        ("Yes", " yes\n", True),
        ("Yes", "yes!", False),
        ("1", "1.0", True),
        (2, "2", True),
        ("true", "true", True),
        ("nan", "no", False),
    ],
)
def test_an_answer_is_right_as_a_text_or_as_a_number(expected, answer, is_right):
    (pair,) = pairs_of([{"label": expected}], [result(answer)], [result("x")], expected="label")
    assert pair.exact == (float(is_right), 0.0)


def test_a_structured_answer_is_compared_by_its_field():
    rows = [{"status": "succeeded", "output": '{"ok": true}', "answer_ok": True}]
    (pair,) = pairs_of([{"ok": "true"}], rows, rows, expected="ok", answer="ok")
    assert pair.exact == (1.0, 1.0)
    with pytest.raises(InputError, match="no field 'fine'; their fields: ok"):
        pairs_of([{"ok": "true"}], rows, rows, expected="ok", answer="fine")


def test_a_prompts_own_failures_score_nothing_and_others_are_left_out():
    found = pairs([result(None, "refused"), result(None, "failed"), "yes"], ["yes", "yes", result(None, "expired")])
    assert [pair.exact for pair in found] == [(0.0, 1.0), None, None]


@pytest.mark.parametrize("label", [None, " "])
def test_a_golden_row_without_an_expected_answer_is_named(label):
    golden = [{"label": "a"}, {"label": label}]
    with pytest.raises(InputError, match="row 1 of the golden set has nothing in 'label'"):
        pairs_of(golden, [result("a")] * 2, [result("a")] * 2, expected="label")


def test_an_unknown_expected_column_tells_those_that_there_are():
    with pytest.raises(InputError, match=r"no column 'lbl'\. Columns: text, label"):
        pairs_of(GOLDEN[:1], [result("a")], [result("a")], expected="lbl")


def test_the_judge_sees_good_answers_and_not_whose_they_are_in_the_prompt():
    found = pairs(["a", result(None, "invalid")], ["b", "c"])
    rows = judge_rows(found)
    assert [(row["row"], row["side"], row["answer"]) for row in rows] == [
        (0, "baseline", "a"),
        (0, "candidate", "b"),
        (1, "candidate", "c"),
    ]
    scored = [
        {**row, "status": "succeeded", "answer_score": score, "answer_reason": "so"}
        for row, score in zip(rows, (5, 3, 1), strict=True)
    ]
    judged = with_judged(found, scored)
    assert [pair.judged for pair in judged] == [(1.0, 0.5), (0.0, 0.0)]
    assert with_judged(found, scored[1:])[0].judged is None, "what the judge has not seen is left out"


@pytest.mark.parametrize(
    ("golden", "judge", "message"),
    [
        ([{"label": "a", "answer": 1}], "{answer}", "rename answer"),
        ([{"label": "a"}], "{answer} {text}", "text"),
        ([{"label": "a"}, {"label": ""}], "{answer}", "row 1"),
    ],
)
def test_a_golden_set_that_cannot_be_scored_is_refused(golden, judge, message):
    body = {"model": "m", "input": judge}
    with pytest.raises(InputError, match=message):
        check_golden(golden, expected="label", judge=body, endpoint="/v1/responses")


def made(found, **given):
    costs = {"baseline": 0.01, "candidate": None}
    return result_of("labels", found, ["exact"], costs=costs, expected="label", **given)


def test_undecided_passes_only_if_asked():
    few = pairs(["yes"] * 4, ["yes"] * 4)
    assert [made(few).has_passed, made(few, passes_undecided=True).has_passed] == [False, True]
    assert made([*few, *pairs([result(None, "failed")], ["yes"])]).n_left_out == 1


def test_no_score_at_all_is_an_error():
    with pytest.raises(InputError, match="No row has a score"):
        made(pairs([result(None, "failed")], ["a"]))


def test_a_report_is_whole_and_safe(tmp_path):
    found = pairs(["yes", "<script>|`x`", "yes", "a" * 500], ["no", "yes", "yes", "no"])
    whole = made(found)
    report = write_report(tmp_path / "new" / "report", whole)
    text = report.read_text()
    assert text == markdown(whole)
    assert "❌ labels" in text and "baseline $0.0100, candidate unknown" in text
    assert "&lt;script&gt;\\|\\`x\\`" in text and "<script>" not in text
    assert "## Worse" in text and "## Better" in text
    assert json.loads((report.parent / "result.json").read_text())["metrics"][0]["n_worse"] == 1
    assert len((report.parent / "rows.jsonl").read_text().splitlines()) == 4
    root = ET.fromstring((report.parent / "scores.svg").read_text())
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == 3


def test_the_plot_shows_intervals_and_the_tolerance_where_they_are():
    found = made(pairs(["yes"] * 4, ["yes"] * 4)).comparisons
    svg = ET.fromstring(plot(found, 0.5))
    circles = [float(circle.get("cx")) for circle in svg.iter("{http://www.w3.org/2000/svg}circle")]
    assert circles == [440, 440, 615]  # 100 %, 100 %, and no difference in the middle of the right panel
    lines = list(svg.iter("{http://www.w3.org/2000/svg}line"))
    (limit,) = (float(line.get("x1")) for line in lines if line.get("stroke-dasharray"))
    *_, low = (float(line.get("x1")) for line in lines if line.get("stroke-width") == "3")
    assert (615 - limit) / (615 - low) == pytest.approx(0.5 / -found[0].difference.low, rel=0.01)
