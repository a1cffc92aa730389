"""Thousands of waits on one event loop: is it held up, how many requests are made, how soon is an end noticed?

    python benchmarks/waiting.py                                         # this package and the openai provider
    python benchmarks/waiting.py --peer-python .peers/bin/python         # and the common.ai provider
    python benchmarks/waiting.py --n 5000 --repeat 1 --only ours

Airflow's triggerer runs all its triggers on one event loop. When that is held up, Airflow warns from 0.2 s on, and
from 30 s on it takes the triggerer's triggers away. Here the real trigger classes run as the triggerer runs them,
each sample in a process of its own, against an account of as many batches in another process (`waiting_stub.py` says
why that is not the emulator). Half of the batches end one after another, the others all at once. Requests are counted
while all wait. The contenders take turns; tables show medians, and of what is to stay below a limit the worst. A
sample whose event loop does not come back within 15 s of its time is given up and says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from summary import goal_table, machine, versions

HERE = Path(__file__).parent
CONTENDERS = {
    "ours": "airflow-openai-batch",
    "openai": "apache-airflow-providers-openai",
    "common_ai": "apache-airflow-providers-common-ai",
}
MODULES = {
    "ours": "airflow_openai_batch.triggers",
    "openai": "airflow.providers.openai.triggers.openai",
    "common_ai": "airflow.providers.common.ai.triggers.llm_batch",
}
GIVE_UP_S = 15
Sample = dict[str, Any]


@contextlib.contextmanager
def serving(n: int, **given: float) -> Iterator[str]:
    """Run `waiting_stub.py` with options. Yields its URL."""
    command = [sys.executable, str(HERE / "waiting_stub.py"), str(n), *(f"--{name}={at}" for name, at in given.items())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


@contextlib.contextmanager
def account(n: int, seed: int, options: argparse.Namespace) -> Iterator[str]:
    """Serve an account of n batches. Yields its URL."""
    ends = {"first": 5 * options.interval, "last": options.seconds - 4 * options.interval, "burst": burst(options)}
    with serving(n, seed=seed, latency=options.latency, **ends) as url:
        yield url


def burst(options: argparse.Namespace) -> float:
    """Return the second at which half of the batches end at once."""
    return float(options.seconds - 3 * options.interval)


def measure(contender: str, n: int, seed: int, options: argparse.Namespace) -> Sample:
    """Run one sample in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="waiting-") as folder, account(n, seed, options) as url:
        kind = "pydanticai" if contender == "common_ai" else "openai"
        connection = {"conn_type": kind, "host": f"{url}/v1", "password": "sk-not-a-key"}
        env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHONDONTWRITE"))}
        env |= {
            "AIRFLOW_HOME": folder,
            "AIRFLOW__CORE__UNIT_TEST_MODE": "True",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__OPENAI_BATCH__FIRST_POLL_DELAY": str(options.interval),
            "AIRFLOW_CONN_WAITING": json.dumps(connection),
        }
        out = Path(folder, "out.json")
        command = [python_of(contender, options), str(HERE / "waiting_sample.py"), contender, "--url", url]
        command += ["--n", str(n), "--interval", str(options.interval), "--seconds", str(options.seconds)]
        command += ["--burst", str(burst(options)), "--give-up", str(GIVE_UP_S), "--out", str(out)]
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
        if not out.exists():
            sys.exit(f"{contender} with {n} waits failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        sample: Sample = json.loads(out.read_text())
        return sample


def python_of(contender: str, options: argparse.Namespace) -> str:
    """Return the interpreter that has a contender."""
    return str(options.peer_python) if contender != "ours" and options.peer_python else sys.executable


def version_of(contender: str, options: argparse.Namespace) -> str | None:
    """Return a contender's version, or None if it is not there."""
    code = f"import importlib.metadata as m, {MODULES[contender]}; print(m.version({CONTENDERS[contender]!r}))"
    done = subprocess.run([python_of(contender, options), "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.split()[-1] if done.returncode == 0 and done.stdout.strip() else None


def run_all(contenders: list[str], options: argparse.Namespace) -> dict[tuple[int, str], list[Sample]]:
    """Let the contenders take turns."""
    samples: dict[tuple[int, str], list[Sample]] = defaultdict(list)
    for turn in range(options.repeat):
        for n in options.n:
            for contender in contenders if turn % 2 == 0 else reversed(contenders):
                if contender == "ours" or n <= options.peer_most:
                    found = measure(contender, n, turn + 1, options)
                    samples[n, contender].append(found)
                    print(json.dumps(found), file=sys.stderr, flush=True)
    return samples


_WORST = {"start_lag_max_s": max, "lag_max_s": max, "lag_max_without_gc_s": max, "delay_max_s": max, "n_detected": min}


def median(samples: list[Sample]) -> Sample:
    """Return the medians of the numbers of some samples, and the worst of extremes; of truths, whether any is true."""
    found: Sample = {"samples": len(samples)}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples if sample[key] is not None]
        if isinstance(first, bool):
            found[key] = any(values)
        elif values and isinstance(values[0], int | float):
            found[key] = _WORST.get(key, statistics.median)(values)
        else:
            found[key] = values[0] if values else None
    return found


def table(medians: dict[tuple[int, str], Sample]) -> str:
    """Return the medians as a Markdown table."""
    lines = [
        "| waits | trigger of | start: lag max | lag p99 | lag max | without garbage collection | CPU | memory + "
        "| requests per 100 waits and interval | ends seen | seen after, median | at most |",
        "| --: | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for (n, contender), m in medians.items():
        cells = [f"{n:,}", CONTENDERS[contender], _s(m["start_lag_max_s"]), _s(m["lag_p99_s"]), _s(m["lag_max_s"])]
        cells.append(_s(m["lag_max_without_gc_s"]))
        cells += ["-" if m["cpu_share"] is None else f"{m['cpu_share']:.1%}", f"{m['peak_mb'] - m['base_mb']:.0f} MB"]
        cells += [f"{m['calls_per_100_and_interval']:.1f}", f"{m['n_detected']:,.0f} of {m['n_due']:,.0f}"]
        cells += [_s(m["delay_p50_s"]), _s(m["delay_max_s"])]
        if m["start_s"] is None:
            cells[2] += ", not all started"
        elif m["is_stuck"]:
            cells[4] += ", not back"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _s(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.1f} s"


def goals(medians: dict[tuple[int, str], Sample], interval_s: float) -> list[dict[str, Any]]:
    """Hold the numbers of this package against its goals."""
    most = max((n for n, contender in medians if contender == "ours"), default=0)
    big, thousand = medians.get((most, "ours")), medians.get((1000, "ours"))
    found: list[tuple[str, float, float, str]] = []
    if big is not None:
        found += [
            (f"{most:,} waits: lag of the event loop, p99", big["lag_p99_s"] * 1000, 10, "ms"),
            (f"{most:,} waits: lag of the event loop, at most", big["lag_max_s"] * 1000, 100, "ms"),
            (f"{most:,} waits: the same without garbage collection", big["lag_max_without_gc_s"] * 1000, 100, "ms"),
            (f"{most:,} waits: requests per 100 waits and interval", big["calls_per_100_and_interval"], 1, ""),
            (f"{most:,} waits: ends not seen", big["n_due"] - big["n_detected"], 0, ""),
            (f"{most:,} waits: an end is seen after at most", big["delay_max_s"] or 1e9, interval_s + 1, "s"),
        ]
    if thousand is not None:
        found.append(("Starting 1,000 waits: lag, at most", thousand["start_lag_max_s"] * 1000, 200, "ms"))
    return [
        {"title": title, "value": value, "goal": f"≤ {limit:g} {unit}", "unit": unit, "is_met": value <= limit}
        for title, value, limit, unit in found
    ]


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--n", type=int, nargs="+", default=[10, 100, 1000, 5000], help="numbers of waits, default 10 100 1000 5000")
    add("--interval", type=float, default=5, help="seconds between two looks at a batch, default 5")
    add("--seconds", type=float, default=60, help="length of a sample, default 60")
    add("--latency", type=float, default=0.1, help="seconds that each answer takes, default 0.1")
    add("--repeat", type=int, default=3, help="samples of each, default 3; one takes a little over --seconds")
    add("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), help="run only these")
    add("--peer-python", type=Path, metavar="PYTHON", help="the other triggers' interpreter, default this one")
    add("--peer-most", type=int, default=1000, help="the other triggers' largest number of waits, default 1000")
    add("--json", type=Path, metavar="FILE", help="write the numbers")
    options = parser.parse_args()
    if options.seconds < 10 * options.interval:
        parser.error("--seconds must be 10 intervals or more")
    return options


def main() -> int:
    """Measure, and print the tables."""
    options = parsed()
    found = {contender: version_of(contender, options) for contender in options.only}
    contenders = [contender for contender, version in found.items() if version is not None]
    for contender in found.keys() - set(contenders):
        print(f"{CONTENDERS[contender]} is not installed and left out.", file=sys.stderr)
    samples = run_all(contenders, options)
    medians = {key: median(samples[key]) for key in sorted(samples, key=lambda key: (key[0], contenders.index(key[1])))}
    reached = goals(medians, options.interval)
    print(f"{options.interval:g} s between looks, {options.latency:g} s per answer, {options.seconds:g} s, medians of")
    print(f"{options.repeat}; " + ", ".join(f"{CONTENDERS[c]} {found[c]}" for c in contenders))
    print(f"\n{table(medians)}\n\n{goal_table(reached)}")
    if options.json:
        report = {"benchmark": "waiting", "title": (__doc__ or "").splitlines()[0], "machine": machine()}
        report |= {"versions": versions() | {CONTENDERS[c]: found[c] for c in contenders}, "goals": reached}
        report |= {"tables": {"waiting": table(medians)}}
        report |= {
            "options": {key: value for key, value in vars(options).items() if key not in ("json", "peer_python")}
        }
        report |= {"samples": [sample for key in medians for sample in samples[key]]}
        report |= {"medians": list(medians.values())}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
