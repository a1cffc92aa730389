"""The main ratios in under ten minutes, beside those that are kept: for each change of the code.

    python benchmarks/bench_quick.py [--only build parse ...] [--keep]

It runs the programs of run_all.py with fewer rows and fewer samples, and prints each goal with what was measured now
and what is kept in benchmarks/results/quick/kept.json, each with its commit. It fails if a goal is worse by more than a
quarter, by the clock and by CPU time: look where that comes from. What is meant to be so is kept with `--keep`; then
measure for docs/performance.md again (run_all.py), which has more rows and samples.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import summary
from run_all import FOLDER

KEPT = FOLDER / "results" / "quick" / "kept.json"
WORSE = 1.25
"""How many times worse than what is kept is more than a busy machine's chance."""
PROGRAMS: dict[str, tuple[str, ...]] = {
    "imports": ("--repeat", "5", "--only", "operators", "everything", "bases"),
    "build": ("--rows", "50000", "--repeat", "2", "--only", "ours", "callable", "iterrows", "rewrite"),
    "transfer": ("--repeat", "2", "--only", "ours", "raw", "curl"),
    "parse": ("--rows", "50000", "--repeat", "2"),
    "embeddings": ("--rows", "5000", "--repeat", "2"),
    "join": ("--rows", "100000", "--repeat", "3", "--only", "fields", "limit"),
    "end_to_end": ("--rows", "100000", "--repeat", "1"),
    "ledger": ("--rows", "20000", "--repeat", "1"),
    "waiting": ("--n", "5000", "--repeat", "1", "--only", "ours"),
}
Goals = dict[str, dict[str, Any]]
"""What was measured, by the title of its goal."""


def main() -> int:
    """Run the programs, compare, and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(PROGRAMS), help="run only these programs")
    parser.add_argument("--kept", type=Path, default=KEPT, help="the numbers to compare with")
    parser.add_argument("--keep", action="store_true", help="keep this run's numbers in their place")
    options = parser.parse_args()
    kept: Goals = json.loads(options.kept.read_text()) if options.kept.exists() else {}
    began_at, load = time.monotonic(), os.getloadavg()[0]
    now: Goals = {}
    failed = []
    for name in options.only or PROGRAMS:
        program_began_at = time.monotonic()
        found = measured(name)
        print(f"{time.monotonic() - program_began_at:6.0f} s  {name}", flush=True)
        now |= found
        failed += [] if found else [name]
    if options.keep:
        options.kept.parent.mkdir(parents=True, exist_ok=True)
        options.kept.write_text(json.dumps(kept | now, indent=1) + "\n")
    print(f"\n{table(now, kept)}\n\n{time.monotonic() - began_at:.0f} s in all, load before {load:.2f}.")
    worse = [title for title, goal in now.items() if times_worse(goal, kept.get(title, {})) > WORSE]
    for what, names in (("Failed", failed), (f"More than {WORSE} times worse than what is kept", worse)):
        if names:
            print(f"{what}: {'; '.join(names)}")
    return len(failed) + (0 if options.keep else len(worse))


def measured(name: str) -> Goals:
    """Run a program. Returns the goals that it could measure; none if it failed, and its output is printed."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = Path(folder, "numbers.json")
        command = [sys.executable, FOLDER / f"{name}.py", *PROGRAMS[name], "--json", numbers]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not numbers.exists():
            print(done.stdout[-2000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
            return {}
        report = json.loads(numbers.read_text())
    commit = report["versions"].get("commit")
    return {goal["title"]: goal | {"commit": commit} for goal in report["goals"]}


def times_worse(goal: dict[str, Any], kept: dict[str, Any]) -> float:
    """Return how many times worse a number is than the kept one: by the clock or by CPU time, whichever is less.

    It is 1 where that means nothing: nothing is kept, or one of them is no positive number.
    """
    times = []
    for key in ("value", "by_cpu"):
        numbers = goal.get(key), kept.get(key)
        if all(number is not None and number > 0 for number in numbers):
            times.append(numbers[0] / numbers[1] if goal["goal"].startswith("≤") else numbers[1] / numbers[0])
    return min(times, default=1.0)


def table(now: Goals, kept: Goals) -> str:
    """Return the goals as a Markdown table, with the kept numbers."""
    lines = [
        "| goal | limit | kept | now | by CPU, kept | now | met | times worse |",
        "| --- | --: | --: | --: | --: | --: | :-: | --: |",
    ]
    for title, goal in now.items():
        before = kept.get(title, {})
        cells = [summary.number(goals.get(key)) for key in ("value", "by_cpu") for goals in (before, goal)]
        worse = f"{times_worse(goal, before):.2f}" if before else ""
        met = "yes" if goal["is_met"] else "**no**"
        lines.append(f"| {title} | {goal['goal']} | {' | '.join(cells)} | {met} | {worse} |")
    commits = sorted({goal["commit"] for goal in kept.values() if goal.get("commit")})
    return "\n".join([*lines, *([f"\nThe kept numbers are of {', '.join(commits)}."] if commits else [])])


if __name__ == "__main__":
    sys.exit(main())
