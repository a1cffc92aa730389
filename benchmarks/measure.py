"""Measure methods against each other: each sample in a fresh process, methods interleaved, results compared.

A program declares methods on a `Benchmark` and calls `main()`. The program then starts itself once for each sample
(A B C, then C B A, and so on), so no sample profits from the memory or the imports of another. A method (see
`sample.Case`) does its imports, works on the clock, and says afterwards what came out; what methods say under the same
name must be equal, or the program fails. Only the standard library is needed here,
because some methods run in virtual environments of their own. Linux only: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import summary
from sample import Case


@dataclass(frozen=True)
class Method:
    """One way of doing it.

    Attributes:
        name: Its name in options and JSON.
        title: Its name in tables.
        run: The method.
        most: At most so many samples, for what is slow.
        needs: An option without which it is not run.
        python: Returns its interpreter, given the options; None for the one that runs the program.
    """

    name: str
    title: str
    run: Callable[[Case], None]
    most: int = 1000
    needs: str = ""
    python: Callable[[argparse.Namespace], str] | None = None


@dataclass
class Group:
    """Methods that do the same work on the same rows.

    Attributes:
        name: Its name in JSON.
        title: Its name in tables; `{rows}` is put in.
        rows: Rows by default.
        quick_rows: Rows with `--quick`.
        unit: What is counted per second, or empty.
        chained: Methods build on each other's results: never in reverse order, and each turn has its own `shared`.
        prepare: Makes in `shared` what the methods work on, in a process of its own, unmeasured.
        is_compared: Whether ratios to the first method mean something.
        around: A context around each turn, given `shared`: for a server.
    """

    name: str
    title: str
    rows: int
    quick_rows: int
    unit: str = "rows"
    chained: bool = False
    is_compared: bool = True
    prepare: Callable[[Case], None] | None = None
    around: Callable[[Path], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    methods: dict[str, Method] = field(default_factory=dict)

    def method(self, name: str, title: str, **more: Any) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
        """Declare a method, as a decorator."""

        def declare(run: Callable[[Case], None]) -> Callable[[Case], None]:
            self.methods[name] = Method(name, title, run, **more)
            return run

        return declare


class Benchmark:
    """A benchmark program.

    Args:
        program: Its `__file__`.
        doc: Its `__doc__`; the first line is the title.
        goals: What is to be reached.
    """

    def __init__(self, program: str, doc: str | None, goals: tuple[summary.Goal, ...] = ()) -> None:
        self.program, self.doc, self.goals = Path(program), doc or "", goals
        self.groups: dict[str, Group] = {}
        self.parser = argparse.ArgumentParser(
            description=self.doc, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        add = self.parser.add_argument
        add("--rows", type=int, help="rows; smaller groups of methods keep their number if it is smaller")
        add("--repeat", type=int, default=5, help="samples of each method, default 5")
        add("--quick", action="store_true", help="few rows, one sample: does it still run?")
        add("--only", nargs="+", metavar="METHOD", help="run only these methods; GROUP/METHOD for one of a group")
        add("--profile", action="store_true", help="one sample under cProfile, and where its time went")
        add("--flame", type=Path, help="one sample under py-spy: where to draw its flame graph (SVG)")
        add("--here", action="store_true", help="all samples in this process: for tests and debuggers, not for numbers")
        add("--json", type=Path, metavar="FILE", help="write the numbers")
        add("--data", type=Path, default=Path(tempfile.gettempdir(), "openai-batch-benchmarks"), help="inputs, kept")
        add("--sample", nargs=2, metavar=("GROUP", "METHOD"), help=argparse.SUPPRESS)
        add("--folders", nargs=3, type=Path, help=argparse.SUPPRESS)

    def group(self, name: str, title: str, *, rows: int, quick_rows: int, **more: Any) -> Group:
        """Declare a group of methods."""
        self.groups[name] = Group(name, title, rows, quick_rows, **more)
        return self.groups[name]

    def main(self) -> int:
        """Run one sample if told so by itself, else all."""
        options = self.parser.parse_args()
        if options.sample:
            return self._sample(options)
        options.data.mkdir(parents=True, exist_ok=True)
        report = summary.start(self.program.stem, self.doc, options.quick)
        for number, group in enumerate(self.groups.values()):
            methods = [m for m in group.methods.values() if not m.needs or getattr(options, m.needs)]
            methods = [m for m in methods if not options.only or {m.name, f"{group.name}/{m.name}"} & {*options.only}]
            if methods:
                rows = _rows(options, group, is_first=not number)
                report["groups"].append(self._run(group, methods, rows, options))
        summary.finish(report, self.goals)
        summary.show(report)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(report, indent=1) + "\n")
        return 0

    def _run(self, group: Group, methods: list[Method], rows: int, options: argparse.Namespace) -> dict[str, Any]:
        samples: dict[str, list[dict[str, Any]]] = {method.name: [] for method in methods}
        with tempfile.TemporaryDirectory(prefix="openai-batch-run-", dir=options.data) as folder:
            child = functools.partial(self._child, group, rows, options)
            shared = Path(folder, "shared")
            for turn in range(1 if options.quick or options.profile or options.flame else options.repeat):
                if group.chained or not turn:
                    shutil.rmtree(shared, ignore_errors=True)
                    shared.mkdir()
                    if group.prepare is not None:
                        child(Method("prepare", "", group.prepare), shared)
                ordered = methods if group.chained or turn % 2 == 0 else methods[::-1]
                with group.around(shared):
                    for method in (m for m in ordered if turn < m.most):
                        samples[method.name].append(child(method, shared))
                        _say(f"  {group.name}/{method.name}: {samples[method.name][-1].get('seconds', 0):.3f} s")
        summary.compare(group.name, samples)
        return _report(group, rows, samples)

    def _child(
        self, group: Group, rows: int, options: argparse.Namespace, method: Method, shared: Path
    ) -> dict[str, Any]:
        """Run one sample in a process of its own and return what it found."""
        os.sync()  # what the sample before left to be written is not this one's
        python = method.python(options) if method.python is not None else sys.executable
        argv = [a for a in sys.argv[1:] if a != "--quick"]  # the number of rows says it already
        with tempfile.TemporaryDirectory(prefix="work-", dir=shared.parent) as work:
            if options.here and method.python is None:
                case = Case(rows, options.data, shared, Path(work), options)
                method.run(case)
                return case.found
            command = [python, str(self.program), *argv, "--rows", str(rows), "--sample", group.name, method.name]
            command += ["--folders", str(options.data), str(shared), work]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=_env(python))
            found = Path(work, "found.json")
            if done.returncode or not found.exists():
                sys.exit(f"{group.name}/{method.name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
            if options.profile and method.name != "prepare":
                _say(f"{group.name}/{method.name}\n{done.stderr}")
            sample: dict[str, Any] = json.loads(found.read_text())
            return sample

    def _sample(self, options: argparse.Namespace) -> int:
        group = self.groups[options.sample[0]]
        case = Case(options.rows, *options.folders, options)
        run = group.prepare if options.sample[1] == "prepare" else group.methods[options.sample[1]].run
        assert run is not None
        run(case)
        (case.work / "found.json").write_text(json.dumps(case.found))
        return 0


def _report(group: Group, rows: int, samples: summary.Samples) -> dict[str, Any]:
    """Return the numbers of one group."""
    methods = []
    for name, found in samples.items():
        numbers = [{key: s[key] for key in summary.NUMBERS} | s["notes"] for s in found]
        median = {key: statistics.median(n[key] for n in numbers) for key in numbers[0]}
        methods.append({"name": name, "title": group.methods[name].title, "median": median, "samples": numbers})
    title = group.title.format(rows=f"{rows:,}")
    about = {"name": group.name, "title": title, "rows": rows, "unit": group.unit, "is_compared": group.is_compared}
    return {**about, "methods": methods}


def _rows(options: argparse.Namespace, group: Group, *, is_first: bool) -> int:
    given = group.quick_rows if options.quick else group.rows
    if options.rows is None or options.quick:
        return given
    return int(options.rows if is_first else min(options.rows, given))


def _env(python: str) -> dict[str, str]:
    """Return the environment of a sample: it keeps compiled modules, and hides our packages from other interpreters."""
    hidden = {"PYTHONDONTWRITEBYTECODE"} | ({"PYTHONPATH"} if python != sys.executable else set())
    return {name: value for name, value in os.environ.items() if name not in hidden}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
