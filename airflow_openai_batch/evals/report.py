"""An eval as files that a build keeps: Markdown with a plot for people, JSON for scripts, and every row."""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Callable, Sequence
from typing import Any

from airflow_openai_batch.evals.judgement import SIDES
from airflow_openai_batch.evals.result import Result
from airflow_openai_batch.evals.scores import Pair
from airflow_openai_batch.evals.statistics import Comparison, Interval, Verdict

_MAX_EXAMPLES, _MAX_CHARS = 10, 200

_WORDS = {
    Verdict.PASSED: "the candidate is no worse than the tolerance allows",
    Verdict.WORSE: "the candidate is worse",
    Verdict.UNDECIDED: "the rows are too few to tell",
    Verdict.TOO_LOW: "the candidate's score is 0, or lower than `min_score`",
}


def write_report(folder: Any, result: Result) -> Any:
    """Write ``report.md``, ``scores.svg``, ``result.json`` and ``rows.jsonl`` and return the first.

    Args:
        folder: Where to, as any path object; it is made if it is not there.
        result: What became of the eval.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.svg").write_text(plot(result.comparisons, result.tolerance), encoding="utf-8")
    (folder / "result.json").write_text(json.dumps(told(result), indent=2), encoding="utf-8")
    rows = [json.dumps(dataclasses.asdict(pair), ensure_ascii=False, default=str) + "\n" for pair in result.pairs]
    (folder / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
    report = folder / "report.md"
    report.write_text(markdown(result), encoding="utf-8")
    return report


def told(result: Result) -> dict[str, Any]:
    """Return an eval as JSON has it, without content of rows."""
    return {
        "name": result.name,
        "passed": result.has_passed,
        "rows": len(result.pairs),
        "left_out": result.n_left_out,
        "tolerance": result.tolerance,
        "cost": result.costs,
        "metrics": [dataclasses.asdict(comparison) for comparison in result.comparisons],
    }


def summary(result: Result) -> str:
    """Return an eval in a line for each metric, for a log."""
    lines = [f"{result.name}: {'passed' if result.has_passed else 'NOT PASSED'}, {len(result.pairs):,} rows"]
    for comparison in result.comparisons:
        lines.append(
            f"  {comparison.metric}: {comparison.baseline.value:.1%} -> {comparison.candidate.value:.1%}, difference "
            f"{_points(comparison.difference)}; {comparison.n_better} better, {comparison.n_worse} worse: "
            f"{_WORDS[comparison.verdict]}"
        )
    return "\n".join(lines)


def markdown(result: Result) -> str:
    """Return an eval as Markdown."""
    lines = [
        f"# {'✅' if result.has_passed else '❌'} {result.name}",
        "",
        f"{len(result.pairs):,} rows, tolerance {result.tolerance:.1%}"
        + (f", {result.n_left_out} left out without an answer" if result.n_left_out else "")
        + f". Cost: {', '.join(f'{name} {_dollars(cost)}' for name, cost in result.costs.items())}.",
        "",
        "![Scores and their difference, with intervals of 95 %](scores.svg)",
        "",
        "| metric | baseline | candidate | difference | better | worse | p | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_metric(comparison) for comparison in result.comparisons]
    lines += ["", "In brackets: intervals of 95 % (Wilson; for the difference Bonett and Price). p: exact sign test."]
    for title, examples in _examples(result):
        lines += ["", f"## {title}", "", f"| row | expected | {' | '.join(SIDES)} |", "| --- | --- | --- | --- |"]
        lines += [_example(pair, result.expected) for pair in examples[:_MAX_EXAMPLES]]
        if len(examples) > _MAX_EXAMPLES:
            lines += ["", f"And {len(examples) - _MAX_EXAMPLES:,} more, in `rows.jsonl`."]
    return "\n".join(lines) + "\n"


def _metric(comparison: Comparison) -> str:
    cells = (
        comparison.metric,
        *map(_percent, (comparison.baseline, comparison.candidate)),
        _points(comparison.difference),
        comparison.n_better,
        comparison.n_worse,
        f"{comparison.p_value:.3f}",
        f"**{comparison.verdict}**: {_advice(comparison)}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _advice(comparison: Comparison) -> str:
    enough = f"; about {comparison.n_enough:,} rows would do" if comparison.n_enough else ""
    return _WORDS[comparison.verdict] + (enough if comparison.verdict is Verdict.UNDECIDED else "")


def _examples(result: Result) -> list[tuple[str, list[Pair]]]:
    changed: dict[str, list[Pair]] = {"Worse": [], "Better": []}
    for pair in result.pairs:
        changes = [after - before for before, after in filter(None, (pair.exact, pair.judged))]
        if any(change < 0 for change in changes):
            changed["Worse"].append(pair)
        elif any(change > 0 for change in changes):
            changed["Better"].append(pair)
    return [(title, pairs) for title, pairs in changed.items() if pairs]


def _example(pair: Pair, expected: str | None) -> str:
    cells = [str(pair.row), str(pair.golden.get(expected, "")) if expected is not None else ""]
    for answer, status, reason in zip(pair.answers, pair.statuses, pair.reasons, strict=True):
        cells.append((answer if answer is not None else f"({status})") + (f" — {reason}" if reason else ""))
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    cut = text if len(text) <= _MAX_CHARS else text[: _MAX_CHARS - 1] + "…"
    return html.escape(" ".join(cut.split()), quote=False).replace("|", "\\|").replace("`", "\\`")


def _percent(interval: Interval) -> str:
    return f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def _points(interval: Interval) -> str:
    return f"{100 * interval.value:+.1f} points [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def _dollars(cost: float | None) -> str:
    return "unknown" if cost is None else f"${cost:.4f}"


_ROW, _LEFT, _WIDTH, _PANEL = 26, 190, 760, 250
_COLORS = {"baseline": "#888", "candidate": "#1f6feb", Verdict.PASSED: "#1a7f37", Verdict.UNDECIDED: "#9a6700"}


def plot(comparisons: Sequence[Comparison], tolerance: float) -> str:
    """Return an SVG: on the left each prompt's score, on the right the difference, with intervals of 95 percent."""
    height, right = 50 + 2 * _ROW * len(comparisons), _LEFT + _PANEL + 50
    bounds = [
        abs(bound) for comparison in comparisons for bound in (comparison.difference.low, comparison.difference.high)
    ]
    reach = min(1.0, 1.2 * max(tolerance, *bounds))

    def of_difference(value: float) -> float:
        return (value / reach + 1) / 2

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        f'font-size="13"><rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        *_axis(_LEFT, "score", ("0 %", "100 %"), height),
        *_axis(right, "candidate minus baseline, points", (f"{-100 * reach:.0f}", f"{100 * reach:+.0f}"), height),
    ]
    for number, comparison in enumerate(comparisons):
        y = 40 + 2 * _ROW * number
        for at, side in ((y, "baseline"), (y + _ROW, "candidate")):
            parts.append(f'<text x="{_LEFT - 10}" y="{at + 4}" text-anchor="end">{comparison.metric}, {side}</text>')
            parts += _bar(_LEFT, getattr(comparison, side), at, _COLORS[side], float)
        parts += _bar(
            right, comparison.difference, y + _ROW // 2, _COLORS.get(comparison.verdict, "#cf222e"), of_difference
        )
    limit = right + _PANEL * of_difference(-tolerance)
    parts.append(
        f'<line x1="{limit:.1f}" x2="{limit:.1f}" y1="25" y2="{height - 14}" stroke="#cf222e" stroke-dasharray="4 3">'
        "<title>the tolerance: the interval must lie to the right of it</title></line>"
    )
    return "".join([*parts, "</svg>"])


def _axis(x: int, title: str, ends: tuple[str, str], height: int) -> list[str]:
    middle = x + _PANEL // 2
    return [
        f'<text x="{middle}" y="14" text-anchor="middle">{title}</text>',
        *(
            f'<text x="{at}" y="{height - 2}" text-anchor="middle" fill="#555" font-size="11">{end}</text>'
            for at, end in zip((x, x + _PANEL), ends, strict=True)
        ),
        *(f'<line x1="{at}" x2="{at}" y1="25" y2="{height - 14}" stroke="#ddd"/>' for at in (x, middle, x + _PANEL)),
    ]


def _bar(x: int, interval: Interval, y: int, color: str, scale: Callable[[float], float]) -> list[str]:
    low, value, high = (x + _PANEL * scale(at) for at in (interval.low, interval.value, interval.high))
    return [
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{color}" stroke-width="3"/>',
        f'<circle cx="{value:.1f}" cy="{y}" r="5" fill="{color}"><title>{interval.value:.3f} '
        f"[{interval.low:.3f}, {interval.high:.3f}]</title></circle>",
    ]
