"""Draw where the time goes of what misses a goal of docs/performance.md.

    python benchmarks/profiles.py [--only build parse ...]

For each one sample under py-spy, as a flame graph in benchmarks/profiles/, with a tower for each thread. py-spy looks
at the process from outside and slows it down by up to a half, so widths are shares, not seconds. Of imports, which are
too short for that, Python's own account is written as a text.
"""

from __future__ import annotations

import argparse
import collections
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
PROFILES = FOLDER / "profiles"
FLAMES: dict[str, tuple[str, ...]] = {
    "build": ("build.py", "--only", "build/ours", "--rows", "200000"),
    "build-function": ("build.py", "--only", "build/callable", "--rows", "200000"),
    "upload": ("transfer.py", "--only", "upload/ours", "--rows", "1000"),
    "download": ("transfer.py", "--only", "download/ours"),
    "parse": ("parse.py", "--only", "parse/schema"),
    "parse-random-order": ("parse.py", "--only", "parse/shuffled"),
    "ledger": ("ledger.py", "--only", "spread", "--rows", "200000"),
}
"""The arguments with which each is drawn."""

_IMPORTS = """
import os, sys
import airflow.sdk
for name in ("DAG", "BaseOperator", "task", "dag"):
    getattr(airflow.sdk, name)
print("begin", file=sys.stderr)
for name in ("operators", "sensors", "decorators", "triggers", "hooks"):
    __import__(f"airflow_openai_batch.{name}")
"""
_N_STARTS = 5


def main() -> int:
    """Draw all, or some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=(*FLAMES, "imports"), help="draw only these")
    names = parser.parse_args().only or (*FLAMES, "imports")
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        if name == "imports":
            (PROFILES / "imports.txt").write_text(imports_text())
            continue
        program, *arguments = FLAMES[name]
        command = [sys.executable, FOLDER / program, *arguments, "--flame", PROFILES / f"{name}.svg"]
        failed += [name] if subprocess.run(command, check=False).returncode else []
    print(f"Failed: {', '.join(failed)}" if failed else "")
    return len(failed)


def imports_text() -> str:
    """Return what each module that operators, sensors, decorators, triggers and hook import takes by itself."""
    own: dict[str, list[int]] = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "AIRFLOW_HOME": home}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for _ in range(_N_STARTS + 1):  # the first one compiles
            command = [sys.executable, "-X", "importtime", "-c", _IMPORTS]
            account = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
            for line in account.partition("begin\n")[2].splitlines():
                microseconds, _, name = line.removeprefix("import time:").split("|")
                own[name.strip()].append(int(microseconds))
    median = {name: sorted(times[-_N_STARTS:])[_N_STARTS // 2] for name, times in own.items() if len(times) > _N_STARTS}
    lines = [f"{time:7,}  {name}" for name, time in sorted(median.items(), key=lambda item: -item[1])]
    is_ours = {name: name.startswith("airflow_openai_batch") for name in median}
    ours, others = (sum(time for name, time in median.items() if is_ours[name] is which) for which in (True, False))
    head = (
        "What importing operators, sensors, decorators, triggers and hook takes on top of airflow.sdk, by module:\n"
        f"microseconds of its own by -X importtime, which adds some; the median of {_N_STARTS} starts.\n\n"
        f"{ours:7,}  {sum(is_ours.values())} modules of this package\n"
        f"{others:7,}  {len(median) - sum(is_ours.values())} modules of Airflow, Python and others\n"
    )
    return head + "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
