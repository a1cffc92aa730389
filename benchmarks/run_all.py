"""Run every benchmark as for docs/performance.md, then write its tables and plots.

    python benchmarks/run_all.py [--peers FOLDER] [--only build parse ...] [--quick]

On a quiet machine with two cores it takes more than two hours, and a few minutes more the first time, when the inputs
are made; it needs 30 GB of disk. The numbers go to benchmarks/results/*.json. `--quick` runs everything with a few
rows, to see that it still runs, and touches neither the results nor the documentation.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report

FOLDER = Path(__file__).parent
QUICK = ("--quick",)
PROGRAMS: dict[str, tuple[tuple[str, ...], tuple[str, ...] | None]] = {
    "build": (("--repeat", "5"), QUICK),
    "transfer": (("--repeat", "5"), QUICK),
    "parse": (("--repeat", "5"), QUICK),
    "decode": (("--repeat", "5"), QUICK),
    "embeddings": (("--repeat", "5"), QUICK),
    "join": (("--repeat", "5"), QUICK),
    "end_to_end": (("--rows", "1000000", "--repeat", "3"), QUICK),
    "ledger": (("--repeat", "3"), QUICK),
    "sql": (("--repeat", "3"), QUICK),
    "vectors": (("--repeat", "3"), QUICK),
    "memory": (("--repeat", "3"), QUICK),
    "imports": (("--repeat", "7"), QUICK),
    "waiting": (
        ("--n", "1000", "5000", "--repeat", "2"),
        ("--n", "10", "--repeat", "1", "--seconds", "10", "--interval", "1", "--only", "ours"),
    ),
    "triggerer": ((), None),
}
"""The arguments that the documentation's numbers are made with, and those of `--quick`; None is left out there."""


def main() -> int:
    """Run all programs; a failure of one does not keep the others from running."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(PROGRAMS), help="run only these programs")
    parser.add_argument("--quick", action="store_true", help="few rows, one sample, into a temporary folder")
    parser.add_argument("--samples", type=int, help="at most so many of each method")
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="folder for the numbers")
    parser.add_argument("--data", type=Path, help="folder for generated inputs, kept between runs")
    parser.add_argument("--peers", type=Path, help="environments made by build_peers.py")
    parser.add_argument("--peer-python", type=Path, help="an interpreter with the common.ai provider, for waiting.py")
    options = parser.parse_args()
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            return _run(options, Path(folder), Path(folder), report.DOCUMENT)
    return _run(options, options.results, report.ROOT / "docs" / "images", report.DOCUMENT)


def _run(options: argparse.Namespace, results: Path, images: Path, document: Path) -> int:
    began_at = time.monotonic()
    failed = [name for name in options.only or PROGRAMS if not _run_one(name, options, results)]
    if options.quick:
        document = shutil.copy(document, results / document.name)
    for program, arguments in (("plot", ("--images", images)), ("report", ("--document", document))):
        command = [sys.executable, FOLDER / f"{program}.py", "--results", results, *arguments]
        if subprocess.run(command, check=False).returncode:
            failed.append(program)
    print(f"\n{time.monotonic() - began_at:.0f} s in all.", f"Failed: {', '.join(failed)}" if failed else "")
    return len(failed)


def _run_one(name: str, options: argparse.Namespace, results: Path) -> bool:
    program = FOLDER / f"{name}.py"
    arguments = PROGRAMS[name][options.quick]
    if arguments is None or not program.exists():
        print(f"\n== {name}: left out", flush=True)
        return True
    if options.samples is not None and "--repeat" in arguments:
        at = arguments.index("--repeat") + 1
        arguments = (*arguments[:at], str(min(options.samples, int(arguments[at]))), *arguments[at + 1 :])
    command = [sys.executable, program, *arguments, "--json", results / f"{name}.json"]
    if options.data is not None and PROGRAMS[name][1] == QUICK:
        command += ["--data", options.data]
    command += ["--peers", options.peers] if name == "build" and options.peers is not None else []
    command += ["--peer-python", options.peer_python] if name == "waiting" and options.peer_python is not None else []
    print(f"\n== {name}", flush=True)
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
