"""What the samples of a benchmark amount to: medians, ratios, goals; as JSON and as Markdown tables."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

NUMBERS = ("seconds", "cpu_s", "base_mb", "peak_mb")
"""What every sample measures."""
Samples = dict[str, list[dict[str, Any]]]

PACKAGES = (
    "airflow-openai-batch",
    "apache-airflow",
    "openai",
    "msgspec",
    "pyarrow",
    "pandas",
    "pydantic",
    "pysimdjson",
)


@dataclass(frozen=True)
class Goal:
    """Something to be reached.

    Attributes:
        title: In words.
        value: Takes a function `(group, method, number) -> median` and returns the value.
        limit: What it is held against.
        at_least: Whether it must be at least the limit, and not at most.
        unit: `x` for a ratio, or `MB`, `ms`, `%`.
    """

    title: str
    value: Callable[[Callable[[str, str, str], float]], float]
    limit: float
    at_least: bool = False
    unit: str = "x"


def ratio(title: str, group: str, one: str, other: str, limit: float, *, at_least: bool = False) -> Goal:
    """Return the goal that one method takes at most (or at least) so many times as long as another."""
    return Goal(
        title, lambda median: median(group, one, "seconds") / median(group, other, "seconds"), limit, at_least=at_least
    )


def over_base(title: str, group: str, method: str, limit: float) -> Goal:
    """Return the goal that a method's memory stays within so many MB of what its process held before."""
    return Goal(
        title, lambda median: median(group, method, "peak_mb") - median(group, method, "base_mb"), limit, unit="MB"
    )


def start(name: str, doc: str, is_quick: bool) -> dict[str, Any]:
    """Return a report without numbers: where and with what they are measured."""
    return {
        "benchmark": name,
        "title": doc.strip().splitlines()[0],
        "is_quick": is_quick,
        "started_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_before": round(os.getloadavg()[0], 2),
        "machine": machine(),
        "versions": versions(),
        "groups": [],
    }


def machine() -> dict[str, Any]:
    """Return what is known of this machine."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory_kb = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gb": round(memory_kb / 1024**2),
        "system": f"Linux {platform.release().split('-')[0]}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Return the versions of what is measured, and the commit of the code if this is a checkout."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    try:
        is_changed = _git("status", "--porcelain", "--", "airflow_openai_batch", "benchmarks/*.py")
        commit = _git("rev-parse", "--short", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return found
    return {**found, "commit": f"{commit}, changed" if is_changed else commit}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parents[1]), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if os.path.exists(path) else []


def compare(group: str, samples: Samples) -> None:
    """Stop if two samples disagree on what came out."""
    said: dict[str, tuple[str, Any]] = {}
    for method, found in samples.items():
        for sample in found:
            if not sample["checks"]:
                sys.exit(f"{group}/{method} does not say what came out.")
            for name, value in sample["checks"].items():
                who, known = said.setdefault(name, (method, value))
                if known != value:
                    sys.exit(f"{group}: {who} and {method} differ in {name}:\n  {known}\n  {value}")


def finish(report: dict[str, Any], goals: tuple[Goal, ...]) -> None:
    """Hold the numbers against the goals. A goal whose methods were not run is left out."""
    medians = {(g["name"], m["name"]): m["median"] for g in report["groups"] for m in g["methods"]}
    report["goals"] = []
    for goal in goals:
        try:
            value = goal.value(lambda group, method, number: medians[group, method][number])
        except KeyError:
            continue
        # Where others use the machine too, the CPU time tells more than the clock.
        by_cpu = goal.value(lambda g, m, n: medians[g, m]["cpu_s" if n == "seconds" else n])
        is_met = value >= goal.limit if goal.at_least else value <= goal.limit
        sign = "≥" if goal.at_least else "≤"
        report["goals"].append(
            {"title": goal.title, "value": value, "goal": f"{sign} {number(goal.limit)} {goal.unit}", "unit": goal.unit}
            | {"is_met": is_met, "by_cpu": by_cpu if by_cpu != value else None}
        )
    report["load_after"] = round(os.getloadavg()[0], 2)


def show(report: dict[str, Any]) -> None:
    """Print the tables."""
    print(f"\n# {report['title']}")
    for group in report["groups"]:
        print(f"\n{group['title']}\n\n{table(group)}")
    print(f"\n{goal_table(report['goals'])}")


def table(group: dict[str, Any]) -> str:
    """Return the numbers of a group as a Markdown table; ratios are to the first method."""
    unit = group["unit"]
    notes = list(dict.fromkeys(key for m in group["methods"] for key in m["median"] if key not in NUMBERS))
    head = ["method", "n", "median s", "range", "CPU s", *([f"{unit}/s"] if unit else [])]
    head += [*(["ratio"] if group["is_compared"] else []), "base MB", "peak MB"]
    head += [note.replace("_", " ") for note in notes]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    first = group["methods"][0]["median"]["seconds"]
    for method in group["methods"]:
        median, seconds = method["median"], [s["seconds"] for s in method["samples"]]
        line = [
            method["title"],
            str(len(seconds)),
            number(median["seconds"]),
            f"{number(min(seconds))} to {number(max(seconds))}",
        ]
        line += [number(median["cpu_s"]), *([f"{group['rows'] / median['seconds']:,.0f}"] if unit else [])]
        line += [number(median["seconds"] / first)] if group["is_compared"] else []
        lines.append(line + [number(median.get(key)) for key in ("base_mb", "peak_mb", *notes)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def goal_table(goals: list[dict[str, Any]]) -> str:
    """Return goals and what was reached as a Markdown table."""
    lines = ["| goal | limit | measured | met | by CPU time |", "| --- | --: | --: | :-: | --: |"]
    for goal in goals:
        measured = [
            f"{number(goal[key])} {goal['unit']}" if goal.get(key) is not None else "" for key in ("value", "by_cpu")
        ]
        met = "yes" if goal["is_met"] else "**no**"
        lines.append(f"| {goal['title']} | {goal['goal']} | {measured[0]} | {met} | {measured[1]} |")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Write a number with three digits that count."""
    if value is None:
        return ""
    size = abs(value)
    digits = 0 if size >= 100 or not size else 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.1 else 4
    return f"{value:,.{digits}f}"
