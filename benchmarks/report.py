"""Put the numbers of a run into docs/performance.md, so that none is typed by hand.

    python benchmarks/report.py [--results FOLDER] [--document FILE] [--check]

A part of the document between `<!-- numbers: NAME -->` and `<!-- end -->` is written from the JSON files in the
folder. Names are `machine`, `goals`, and PROGRAM/GROUP for a table. A program with numbers of another shape brings its
tables along as Markdown: `{"benchmark": PROGRAM, "tables": {GROUP: "| ... |"}, "goals": [...]}`. What has no numbers
yet says so. `--check` changes nothing, and fails if something would change.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import summary

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")
DOCUMENT = ROOT / "docs" / "performance.md"
ORDER = (
    "build",
    "transfer",
    "parse",
    "decode",
    "embeddings",
    "join",
    "end_to_end",
    "ledger",
    "sql",
    "vectors",
    "memory",
    "imports",
    "token_counts",
    "waiting",
    "triggerer",
)
_PART = re.compile(r"(<!-- numbers: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NONE = "Not measured yet."


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the reports in a folder by program, in the order of the document."""
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    by_name = {report["benchmark"]: report for report in reports}
    return {name: by_name[name] for name in sorted(by_name, key=lambda name: (*ORDER, name).index(name))}


def parts(reports: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return what can be written, by name."""
    found = {}
    for name, report in reports.items():
        for group in report.get("groups", ()):
            found[f"{name}/{group['name']}"] = f"{group['title']}\n\n{summary.table(group)}"
        for table, text in report.get("tables", {}).items():
            found[f"{name}/{table}"] = text.strip()
    if goals := [goal for report in reports.values() for goal in report.get("goals", ())]:
        found["goals"] = summary.goal_table(goals)
    if machines := [report for report in reports.values() if "machine" in report]:
        found["machine"] = _machine(machines)
    return found


def _machine(reports: list[dict[str, Any]]) -> str:
    """Say where and with what; two kinds of machine in one document would compare what cannot be compared."""
    machines = {json.dumps(report["machine"], sort_keys=True) for report in reports}
    if len(machines) > 1:
        sys.exit(f"The results are of different machines: {sorted(machines)}")
    machine = reports[0]["machine"]
    versions: dict[str, list[str]] = {}
    for report in reports:
        for name, version in report["versions"].items():
            if version not in versions.setdefault(name, []):
                versions[name].append(version)
    rows = [
        ("processor", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB of memory"),
        ("system", f"{machine['system']}, Python {machine['python']}"),
        *((name, " and ".join(found)) for name, found in versions.items()),
        ("measured", " and ".join(sorted({r["started_at"][:10] for r in reports if "started_at" in r}))),
        ("load before each program", ", ".join(str(r["load_before"]) for r in reports if "load_before" in r)),
    ]
    return "| | |\n| --- | --- |\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def written(text: str, found: dict[str, str]) -> str:
    """Return the document with its numbers."""
    return _PART.sub(lambda part: f"{part[1]}\n{found.get(part[2], _NONE)}\n\n{part[3]}", text)


def main() -> int:
    """Write or check the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    found = parts(load(options.results))
    text = options.document.read_text()
    new = written(text, found)
    if named := sorted(found.keys() - {part[2] for part in _PART.finditer(text)}):
        print(f"Not in {options.document}: {', '.join(named)}", file=sys.stderr)
    if options.check:
        return int(new != text)
    options.document.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
