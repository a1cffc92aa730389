"""The benchmarks still run, come to equal results, and the document shows what they measured."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS, DOCUMENT = ROOT / "benchmarks", ROOT / "docs" / "performance.md"
SMOKE = ("build", "parse")
PROGRAMS = (*SMOKE, "transfer", "embeddings", "join", "end_to_end", "ledger", "sql", "vectors", "memory", "imports")
SOME_IMPORTS = ("operators", "nightly_labeling")  # each needs a process of its own


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def measure(name: str, results: Path, data: Path) -> None:
    """Run a program with few rows; it fails if its methods come to different results."""
    file = results / f"{name}.json"
    how = ("--only", *SOME_IMPORTS) if name == "imports" else ("--here",)
    done = python(BENCHMARKS / f"{name}.py", "--quick", "--data", data, "--json", file, *how)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert report["goals"]
    assert all(m["samples"][0]["seconds"] > 0 for group in report["groups"] for m in group["methods"])


@pytest.mark.parametrize("name", SMOKE)
def test_benchmark_runs_and_its_methods_agree(name: str, results: Path, data: Path) -> None:
    measure(name, results, data)


@pytest.mark.nightly
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_benchmark_runs_and_its_methods_agree(name: str, results: Path, data: Path) -> None:
    measure(name, results, data)


@pytest.mark.nightly
def test_waiting_sees_every_end(tmp_path: Path) -> None:
    file = tmp_path / "waiting.json"
    how = ("--n", 10, "--repeat", 1, "--seconds", 10, "--interval", 1, "--only", "ours", "--json", file)
    done = python(BENCHMARKS / "waiting.py", *how)
    assert done.returncode == 0, done.stderr
    [sample] = json.loads(file.read_text())["samples"]
    assert sample["n_detected"] == sample["n_due"] == 10


def test_store_grows_with_the_shards_and_not_with_the_looks() -> None:
    done = python(BENCHMARKS / "store_growth.py", "--shards", 5, 20, "--looks", 30)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^\| (?:5|20) \| 30 \|", done.stdout, re.MULTILINE)) == 2


def test_cleaning_keeps_the_storage_of_nightly_jobs_within_bounds() -> None:
    how = ("--nights", 14, "--every", 2, "--older-than", 4, "--jobs", 2)
    done = python(BENCHMARKS / "cleaning.py", *how)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\| 14 \| 9 \|", done.stdout, re.MULTILINE)
    assert re.search(r"^\| 2 \| [\d.]+ s \|", done.stdout, re.MULTILINE)


@pytest.mark.nightly
def test_document_takes_every_number_of_the_programs_above(results: Path, tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(DOCUMENT.read_text())
    how = ("--results", results, "--document", document)
    assert python(BENCHMARKS / "report.py", "--check", *how).returncode == 1
    written = python(BENCHMARKS / "report.py", *how)
    assert (written.returncode, written.stderr) == (0, "")
    empty = re.findall(r"<!-- numbers: (\S+) -->\n\nNot measured", document.read_text())
    assert {name.partition("/")[0] for name in empty} <= {"waiting", "triggerer", "token_counts"}
    assert python(BENCHMARKS / "report.py", "--check", *how).returncode == 0


@pytest.mark.nightly
def test_plots_that_the_document_shows_are_drawn(results: Path, tmp_path: Path) -> None:
    done = python(BENCHMARKS / "plot.py", "--results", results, "--images", tmp_path)
    assert done.returncode == 0, done.stderr
    shown = set(re.findall(r"\(images/(\S+)\)", DOCUMENT.read_text()))
    assert shown - {path.name for path in tmp_path.iterdir()} <= {"waiting.svg", "triggerer.svg"}


def test_numbers_in_the_document_are_those_of_the_last_run() -> None:
    assert python(BENCHMARKS / "report.py", "--check").returncode == 0


def test_benchmark_fails_if_its_methods_disagree(tmp_path: Path) -> None:
    program = tmp_path / "disagreeing.py"
    program.write_text(
        f"""
import sys
sys.path.insert(0, {str(BENCHMARKS)!r})
from measure import Benchmark

bench = Benchmark(__file__, "Two methods.")
group = bench.group("sum", "{{rows}} rows", rows=10, quick_rows=10)

def method(total):
    def run(case):
        with case.timed():
            pass
        case.check(total=total)
    return run

group.method("one", "one")(method(45))
group.method("other", "other")(method(46))
sys.exit(bench.main())
"""
    )
    done = python(program, "--quick", "--data", tmp_path, "--json", tmp_path / "numbers.json")
    assert done.returncode != 0
    assert "one and other differ in total" in done.stderr
    assert not (tmp_path / "numbers.json").exists()


@pytest.mark.parametrize(
    ("limit", "kept", "now", "times"),
    [
        ("≤ 1.25 x", (1.2, 1.1), (1.8, 1.65), 1.5),
        ("≥ 12.0 x", (12.0, 11.0), (6.0, 11.0), 1.0),  # by CPU time it is as it was: the machine was busy
        ("≥ 12.0 x", (12.0, None), (6.0, None), 2.0),
        ("≤ 5.00 %", (-2.0, None), (9.0, None), 1.0),
        ("≤ 150 MB", (), (170.0, None), 1.0),
    ],
)
def test_quick_run_tells_what_is_worse_than_what_is_kept(monkeypatch, limit, kept, now, times) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    quick = importlib.import_module("bench_quick")
    names = ("value", "by_cpu")
    goal = {"goal": limit, "is_met": False, **dict(zip(names, now, strict=True))}
    before = dict(zip(names, kept, strict=False))
    assert quick.times_worse(goal, before) == pytest.approx(times)
    row = quick.table({"Some goal": goal}, {"Some goal": before}).splitlines()[2]
    assert row.split(" | ")[-1] == (f"{times:.2f} |" if kept else " |")


def test_readme_lists_every_program() -> None:
    listed = set(re.findall(r"^\| `(\w+)\.py`", (BENCHMARKS / "README.md").read_text(), re.MULTILINE))
    assert listed >= {
        *PROGRAMS,
        "build_peers",
        "report",
        "plot",
        "run_all",
        "peers_under_faults",
        "fault_schedules",
        "store_growth",
        "cleaning",
    }
    assert all((BENCHMARKS / f"{name}.py").exists() for name in listed)
