"""Draw the plots of docs/performance.md from the JSON files of a run, as SVG.

    python benchmarks/plot.py [--results FOLDER] [--images FOLDER]

Colours and text are chosen to read on white and on black: GitHub shows the same file on both. The same numbers give
the same bytes. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import report

IMAGES = report.ROOT / "docs" / "images"
OURS, OTHERS, LIMIT = "#2f81f7", "#8b949e", "#3fb950"
_TEXT = "#7d8590"
_PHASES = {"build": "#2f81f7", "upload": "#8957e5", "harvest": "#3fb950", "results": "#db6d28"}


def bars(group: dict[str, Any], path: Path, *, title: str) -> None:
    """Draw one bar for each method, with the range of its samples; ours and limits have colours of their own."""
    import matplotlib.pyplot as plt

    methods = group["methods"]
    medians = [method["median"]["seconds"] for method in methods]
    ranges = [[sample["seconds"] for sample in method["samples"]] for method in methods]
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(methods) + 0.9))
    axes.barh(range(len(methods)), medians, height=0.62, color=[_colour(method) for method in methods])
    longest = max(map(max, ranges))
    for i, (median, seconds) in enumerate(zip(medians, ranges, strict=True)):
        axes.plot([min(seconds), max(seconds)], [i, i], color=_TEXT, linewidth=1.2)
        text = f"{median:,.3g} s  ({median / medians[0]:,.3g}x)"
        axes.text(max(seconds) + longest / 60, i, text, va="center", color=_TEXT, fontsize=9)
    axes.set_yticks(range(len(methods)), [method["title"] for method in methods])
    axes.set_xlim(0, longest * 1.25)
    axes.invert_yaxis()
    _finish(figure, axes, path, title, "seconds")


def _colour(method: dict[str, Any]) -> str:
    if method["title"].startswith("this package"):
        return OURS
    return LIMIT if method["title"].startswith(("limit", "the least")) else OTHERS


def phases(group: dict[str, Any], path: Path) -> None:
    """Draw one stacked bar for each method, by phase."""
    import matplotlib.pyplot as plt

    methods = group["methods"]
    figure, axes = plt.subplots(figsize=(8, 0.6 * len(methods) + 1.3))
    left = [0.0] * len(methods)
    for phase, colour in _PHASES.items():
        widths = [method["median"][f"{phase}_s"] for method in methods]
        axes.barh(range(len(methods)), widths, left=left, height=0.55, color=colour, label=phase)
        left = [at + width for at, width in zip(left, widths, strict=True)]
    for i, total in enumerate(left):
        axes.text(total, i, f"  {total:,.3g} s", va="center", color=_TEXT, fontsize=9)
    axes.set_yticks(range(len(methods)), [method["title"] for method in methods])
    axes.set_xlim(0, max(left) * 1.15)
    axes.invert_yaxis()
    _legend(axes)
    _finish(figure, axes, path, "", "seconds")


def memory(groups: list[dict[str, Any]], path: Path) -> None:
    """Draw what each phase takes beyond its base, for each number of rows."""
    import matplotlib.pyplot as plt

    groups = sorted(groups, key=lambda group: group["rows"])
    names = [method["title"] for method in groups[0]["methods"]]
    figure, axes = plt.subplots(figsize=(8, 2.6))
    for k, group in enumerate(groups):
        values = [method["median"]["peak_mb"] - method["median"]["base_mb"] for method in group["methods"]]
        at = [i + (k - 0.5) * 0.34 for i in range(len(values))]
        colour = OURS if k else OTHERS
        drawn = axes.barh(at, values, height=0.3, color=colour, label=f"{group['rows']:,} rows")
        axes.bar_label(drawn, labels=[f"{value:,.0f} MB" for value in values], padding=4, color=_TEXT, fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    _legend(axes)
    _finish(figure, axes, path, "", "MB at the peak, over what the imported libraries take")


def _legend(axes: Any) -> None:
    axes.legend(ncols=5, loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False, labelcolor=_TEXT, fontsize=9)


def _finish(figure: Any, axes: Any, path: Path, title: str, label: str) -> None:
    import matplotlib.pyplot as plt

    axes.set_title(title, loc="left", color=_TEXT, fontsize=11)
    axes.set_xlabel(label, color=_TEXT, fontsize=9)
    axes.tick_params(colors=_TEXT, labelsize=9, length=0)
    axes.grid(axis="x", color=_TEXT, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)


def draw(reports: dict[str, dict[str, Any]], images: Path) -> list[Path]:
    """Draw what there are numbers for."""
    groups = {(name, g["name"]): g for name, found in reports.items() for g in found.get("groups", ())}
    drawn = []
    for program, name, title in (
        ("build", "build", "Request files of {rows:,} rows"),
        ("build", "peers", "Request files of {rows:,} rows, other libraries"),
        ("parse", "parse", "Outcomes of {rows:,} answers"),
        ("embeddings", "embeddings", "{rows:,} vectors of 1,536 numbers"),
        ("join", "join", "Table of results of {rows:,} rows"),
        ("imports", "imports", "Import on top of airflow.sdk"),
    ):
        if group := groups.get((program, name)):
            drawn.append(images / f"{name}.svg")
            bars(group, drawn[-1], title=title.format(rows=group["rows"]))
    if group := groups.get(("end_to_end", "end_to_end")):
        drawn.append(images / "end_to_end.svg")
        phases(group, drawn[-1])
    if "memory" in reports:
        drawn.append(images / "memory.svg")
        memory(reports["memory"]["groups"], drawn[-1])
    return drawn


def main() -> int:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    parser.add_argument("--images", type=Path, default=IMAGES)
    options = parser.parse_args()
    import matplotlib as mpl

    mpl.use("svg")
    # Glyphs as paths: the same on every reader's machine.
    mpl.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "airflow-openai-batch", "font.family": "DejaVu Sans"})
    options.images.mkdir(parents=True, exist_ok=True)
    for path in draw(report.load(options.results), options.images):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
