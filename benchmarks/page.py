"""How soon the page shows its first rows, with 500 jobs in the history, in a real browser on a real Airflow.

    python benchmarks/page.py

Needs what the browser tests need: PostgreSQL's programs and Chromium. Measured from navigation to the first row with a
bar, in a browser that has never seen the page and in one that has.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

TEST = "tests/integration/browser/test_years.py::test_the_first_page_takes_few_requests"


def main() -> int:
    """Run the test that opens the page, and tell its times."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", TEST]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    found = re.search(r"^seconds to the first rows: (.+)$", done.stdout, re.MULTILINE)
    if done.returncode or not found:
        print(done.stdout[-4000:], done.stderr[-4000:])
        return 1
    for when, seconds in json.loads(found[1]).items():
        middle, least, most = statistics.median(seconds), min(seconds), max(seconds)
        print(f"opened {when}: first rows after {middle:.2f} s (median of {len(seconds)}; {least:.2f} to {most:.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
