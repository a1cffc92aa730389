"""Run thousands of fault schedules of engine and emulator, and print what happened as tables.

    python benchmarks/fault_schedules.py [--schedules 2000] [--first 0] [--processes 2] [--new NAME ...] [--each]

`--new` draws only these misbehaviours of `tests/property/schedule_misbehaviours.py` beside the old faults, or `none`;
by default all of them. `--each` runs so many schedules with each of them,
one after the other, and counts the broken promises.

Two thirds of the schedules freeze no process for longer than the grace period, one third does. Each is replayed by
`python tests/property/schedule_run.py SEED [frozen] [all] [NAME ...]`. Exits with 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from multiprocessing import Pool
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "property"))

_MEMORY = Path("/dev/shm")
_HAPPENED = (
    ("schedules", "schedules"),
    ("broken promises", "violations"),
    ("rows asked for", "rows"),
    ("rows succeeded", "row succeeded"),
    ("rows billed", "billed rows"),
    ("batches made", "batches"),
    ("calls", "calls"),
    ("snapshots", "snapshots"),
    ("epochs", "epochs"),
    ("processes started", "processes"),
    ("processes that died", "deaths"),
    ("processes that froze", "freezes"),
    ("batches made past the grace", "late batches"),
    ("rows these cost", "late rows paid"),
    ("batches made under a cap", "creates under a cap"),
    ("held by its cap, and raised", "held by its cap"),
    ("refused: a cap, and no price", "cap without a price"),
    ("held for good, with a true reason", "held for good"),
    ("accepted as missing by a person", "accepted as missing"),
)


def one(task: tuple[int, bool, tuple[str, ...]]) -> Any:
    """Run one schedule, in a process of a pool."""
    import pyarrow as pa
    from schedule_run import run

    logging.disable(logging.CRITICAL)
    pa.set_cpu_count(1)
    report = run(task[0], is_frozen=task[1], new=task[2], folder=_MEMORY if os.access(_MEMORY, os.W_OK) else None)
    report.trace.clear()
    return report


def main() -> int:
    """Run the schedules and print the tables."""
    args = _parsed()
    seeds = range(args.first, args.first + args.schedules)
    new = _misbehaviours(args.new)
    began = time.monotonic()
    with Pool(args.processes) as pool:
        if args.each:
            return _run_each(pool, [(name,) for name in new], seeds)
        reports = []
        for report in pool.imap_unordered(one, [(seed, seed % 3 == 2, new) for seed in seeds], chunksize=4):
            reports.append(report)
            if report.violation:  # a run takes an hour: what it has found must not be lost
                print(f"{_named(report)}: {report.violation[:300]}", flush=True)
            elif len(reports) % 100 == 0:
                print(f"{len(reports):,} schedules after {time.monotonic() - began:.0f} s", file=sys.stderr)
    took_s = time.monotonic() - began
    n = {is_frozen: _totals(r for r in reports if r.is_frozen is is_frozen) for is_frozen in (False, True)}
    print(f"{'':32}{'patient':>10}{'frozen':>10}")
    for title, key in _HAPPENED:
        print(f"{title:32}{n[False][key]:>10,}{n[True][key]:>10,}")
    fired: Counter[str] = sum((Counter(r.fired) for r in reports), Counter())
    disturbed = sum((r.n for r in reports), Counter())
    _print("What people did", {what: disturbed[what] for what in _disturbances()})
    _print("What became of rows", {k[4:]: v for k, v in disturbed.items() if k.startswith("row ")})
    _print("Schedules with a misbehaviour", Counter(name for r in reports for name in r.misbehaviours))
    for place in ("call", "batch", "row"):
        _print(f"Faults of a {place} that struck", _of(place, fired))
    print(
        f"\n{len(reports):,} schedules in {took_s:.0f} s with {args.processes} processes: {len(reports) / took_s:.1f}/s"
    )
    broken = sorted((r for r in reports if r.violation), key=lambda r: r.seed)
    for report in broken:
        print(f"{_named(report)}: {report.violation[:300]}")
    return 1 if broken else 0


def _named(report: Any) -> str:
    return f"seed {report.seed}{' frozen' if report.is_frozen else ''} ({', '.join(report.misbehaviours)})"


def _misbehaviours(names: list[str]) -> tuple[str, ...]:
    from schedule_misbehaviours import MISBEHAVIOURS
    from schedule_plan import NEW

    return {("none",): (), ("all",): tuple(MISBEHAVIOURS), (): NEW}.get(tuple(names), tuple(names))


def _run_each(pool: Any, groups: list[tuple[str, ...]], seeds: range) -> int:
    """Print a line for each misbehaviour, with what broke first."""
    n_broken = 0
    print(f"{'':32}{'schedules':>10}{'held':>8}{'broken':>8}")
    for group in groups:
        reports = pool.map(one, [(seed, seed % 3 == 2, group) for seed in seeds], chunksize=2)
        broken = [report for report in reports if report.violation]
        held = sum(report.n["held for good"] + report.n["accepted as missing"] > 0 for report in reports)
        first = f"  {broken[0].seed}: {broken[0].violation[:150]}" if broken else ""
        print(f"{group[0]:32}{len(reports):>10}{held:>8}{len(broken):>8}{first}", flush=True)
        n_broken += len(broken)
    return 1 if n_broken else 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--new", nargs="*", default=[], help="names of misbehaviours, none, or all")
    parser.add_argument("--each", action="store_true", help="each misbehaviour by itself")
    return parser.parse_args()


def _disturbances() -> tuple[str, ...]:
    from schedule_plan import DISTURBANCES

    return DISTURBANCES


def _totals(reports: Iterable[Any]) -> Counter[str]:
    total: Counter[str] = Counter()
    for report in reports:
        total += report.n
        total["schedules"] += 1
        total["violations"] += report.violation is not None
    return total


def _of(place: str, fired: Counter[str]) -> Counter[str]:
    """Return the faults of one kind; those of calls without the route."""
    found: Counter[str] = Counter()
    for name, n in fired.items():
        on, _, what = name.partition(" ")
        if on == place:
            found[what] += n
        elif place == "call" and on not in ("batch", "row"):
            found[what.partition(" ")[2]] += n
    return found


def _print(title: str, found: dict[str, int]) -> None:
    print(f"\n{title}")
    for name, n in sorted(found.items(), key=lambda item: -item[1]):
        print(f"  {name:60}{n:>8,}")


if __name__ == "__main__":
    sys.exit(main())
