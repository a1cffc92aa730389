"""The main ratios in under ten minutes, beside those of the last run: for each change of the code.

    python benchmarks/bench_quick.py [--only build parse ...] [--results FILE]

It runs the programs of run_all.py with fewer rows and fewer samples, prints each goal with what was measured now and
the last time, and then keeps the numbers of this run in benchmarks/results/quick/last.json, each with its commit.
Where others use the machine too, compare the CPU times. The numbers of docs/performance.md are those of run_all.py.
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

LAST = FOLDER / "results" / "quick" / "last.json"
PROGRAMS: dict[str, tuple[str, ...]] = {
    "imports": ("--repeat", "5", "--only", "operators", "everything", "bases"),
    "build": ("--rows", "50000", "--repeat", "3", "--only", "ours", "callable", "iterrows", "rewrite"),
    "transfer": ("--repeat", "3", "--only", "ours", "raw", "curl"),
    "parse": ("--rows", "50000", "--repeat", "3"),
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
    parser.add_argument("--results", type=Path, default=LAST, help="where the last numbers are, and this run's go")
    options = parser.parse_args()
    last: Goals = json.loads(options.results.read_text()) if options.results.exists() else {}
    began_at, load = time.monotonic(), os.getloadavg()[0]
    now: Goals = {}
    failed = []
    for name in options.only or PROGRAMS:
        program_began_at = time.monotonic()
        found = measured(name)
        print(f"{time.monotonic() - program_began_at:6.0f} s  {name}", flush=True)
        now |= found
        failed += [] if found else [name]
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(json.dumps(last | now, indent=1) + "\n")
    print(f"\n{table(now, last)}\n\n{time.monotonic() - began_at:.0f} s in all, load before {load:.2f}.")
    if failed:
        print("Failed:", ", ".join(failed))
    return len(failed)


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


def table(now: Goals, last: Goals) -> str:
    """Return the goals as a Markdown table, with the last run's numbers."""
    lines = ["| goal | limit | last | now | by CPU, last | now | met |", "| --- | --: | --: | --: | --: | --: | :-: |"]
    for title, goal in now.items():
        before = last.get(title, {})
        cells = [summary.number(goals.get(key)) for key in ("value", "by_cpu") for goals in (before, goal)]
        lines.append(f"| {title} | {goal['goal']} | {' | '.join(cells)} | {'yes' if goal['is_met'] else '**no**'} |")
    commits = sorted({goal["commit"] for goal in last.values() if goal.get("commit")})
    return "\n".join([*lines, *([f"\nThe last numbers are of {', '.join(commits)}."] if commits else [])])


if __name__ == "__main__":
    sys.exit(main())
