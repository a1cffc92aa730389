"""A thousand tasks that wait in one real triggerer: is its event loop held up, how soon does what follows begin?

    python benchmarks/triggerer.py                # needs PostgreSQL's programs
    python benchmarks/triggerer.py --n 200 --samples 5 --only ours

Scheduler, API server, Dag processor and one triggerer run as processes of their own on PostgreSQL, against an account
of as many batches (`waiting_stub.py`). When all tasks are deferred, the triggerer is started again, so that it begins
all waits at once. Then some batches end one after another. Measured is the time from the end of a batch to the first
line of the task's code in a worker, and to that of the task after it; and what the triggerer's log says meanwhile:
Airflow warns when its event loop is held up for more than 0.2 s, and takes the triggers away from a triggerer that
gives no sign of life.

A control does the same, on an Airflow of its own, with a trigger of Airflow's own that only sleeps until tomorrow: what
a triggerer warns of while it starts so many of those is not this package's.

With Airflow's default settings a wait begins when the deferring worker has left; a thousand of them take some minutes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from summary import goal_table, machine, versions
from waiting import serving
from waiting_stub import order_of_ends

from airflow_openai_batch.local_airflow.settings import QUICK
from airflow_openai_batch.local_airflow.stack import AirflowStack

HERE = Path(__file__).resolve().parent
DAG = "triggerer_waits"
SPACING_S = 4.0
_CONTROL_S = 60.0
_SEED = 1
BLOCKED = re.compile(r"(\S+) .*async thread was blocked for ([\d.]+) seconds")


class Run:
    """One Dag run of waiting tasks.

    Args:
        stack: Airflow.
        url: The account.
        options: The command line.
        resumed: The file in which tasks note when they go on.
    """

    def __init__(self, stack: AirflowStack, url: str, options: argparse.Namespace, resumed: Path) -> None:
        self._stack, self._url, self._options, self._resumed = stack, url, options, resumed
        self._oldest_beat_s = 0.0
        self._run_id = ""

    def measure(self) -> dict[str, Any]:
        """Start the tasks, let batches end, and return what was measured."""
        started_at = self._restarted()
        self._wait(lambda: self._n_calls(started_at) >= self._options.n / 100, 120, "the first looks")
        self._pause(2 * self._options.interval + 10)  # all first looks, and what a triggerer does once
        steady_at = time.time()
        ends_at = json.loads(_get(f"{self._url}/begin"))["ends_at"]
        self._pause(self._first_s() + SPACING_S * self._options.samples + self._options.interval + 15)
        until = time.time()
        ended = {int(name.rpartition("_")[2], 16): at for name, at in ends_at.items() if at <= until}
        return self._result(started_at, steady_at, until, ended)

    def measure_start(self) -> list[float]:
        """Start the tasks, and return for how long each time the triggerer was held up while it began their waits."""
        started_at = self._restarted()
        self._pause(_CONTROL_S)
        return [seconds for at, seconds in self._blocked() if at >= started_at]

    def _restarted(self) -> float:
        """Let another triggerer take up all waits at once, and return when it was started."""
        self._stack.api.unpause(DAG)
        started_at = time.time()
        self._run_id = self._stack.api.trigger(DAG)
        self._wait(lambda: self._n("deferred") == self._options.n, 3600, "the tasks to be deferred")
        _say(f"{self._options.n} tasks are deferred after {time.time() - started_at:.0f} s.")
        started_at = time.time()
        self._stack.restart("triggerer")
        _say(f"Another triggerer is up after {time.time() - started_at:.0f} s.")
        return started_at

    def _first_s(self) -> float:
        return 2.0 * self._options.interval

    def _result(self, started_at: float, steady_at: float, until: float, ended: dict[int, float]) -> dict[str, Any]:
        delays, delays_after = self._delays(ended, "wait"), self._delays(ended, "after")
        blocked = self._blocked()
        intervals = (until - steady_at) / self._options.interval
        return {
            "n": self._options.n,
            "n_ended": len(ended),
            "n_gone_on": len(delays),
            "delay_p50_s": statistics.median(delays) if delays else None,
            "delay_max_s": delays[-1] if delays else None,
            "n_after": len(delays_after),
            "delay_after_p50_s": statistics.median(delays_after) if delays_after else None,
            "delay_after_max_s": delays_after[-1] if delays_after else None,
            "n_still_deferred": self._n("deferred"),
            "n_failed": sum(self._n(state) for state in ("failed", "up_for_retry", "upstream_failed")),
            "blocked_s": [seconds for at, seconds in blocked if at >= steady_at],
            "blocked_at_start_s": [seconds for at, seconds in blocked if started_at <= at < steady_at],
            "oldest_heartbeat_s": self._oldest_beat_s,
            "n_started_again": self._n_started_again(),
            "calls_per_100_and_interval": self._n_calls(steady_at) / intervals / self._options.n * 100,
        }

    def _delays(self, ended: dict[int, float], task_id: str) -> list[float]:
        """Return how long after the end of its batch a task's code has run, in order."""
        text = self._resumed.read_text() if self._resumed.exists() else ""
        lines = [line.split() for line in text.splitlines()]
        ran_at = {int(number): float(at) for who, number, at in lines if who == task_id}
        return sorted(ran_at[number] - at for number, at in ended.items() if number in ran_at)

    def _blocked(self) -> list[tuple[float, float]]:
        log = (self._stack.logs / "triggerer.log").read_text(errors="replace")
        found = BLOCKED.findall(log)
        return [(datetime.datetime.fromisoformat(at).timestamp(), float(seconds)) for at, seconds in found]

    def _n_started_again(self) -> int:
        """Count the triggers that were started anew, as after they were taken away, by the tasks' logs."""
        logs = (self._stack.home / "logs").rglob("*.log.trigger.*.log")
        started: Counter[str] = Counter()
        for log in logs:
            started[str(log.parent)] += log.read_text(errors="replace").count(" starting")
        return sum(n > 2 for n in started.values())  # once by each triggerer

    def _n(self, state: str) -> int:
        path = f"/dags/{DAG}/dagRuns/{self._run_id}/taskInstances"  # only tasks that wait are ever deferred
        return int(self._stack.api.call("GET", path, params={"limit": 1, "state": state})["total_entries"])

    def _n_calls(self, since: float) -> int:
        calls = json.loads(_get(f"{self._url}/calls"))
        return sum(at >= since for found in calls.values() for at in found)

    def _wait(self, is_so: Any, timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_so():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {timeout_s:g} s for {what}\n{self._stack.tails()}")
            time.sleep(1)

    def _pause(self, seconds: float) -> None:
        """Wait, and look once a second how old the triggerer's last sign of life is."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            beat = self._stack.api.health()["triggerer"]["latest_triggerer_heartbeat"]
            age_s = time.time() - datetime.datetime.fromisoformat(beat).timestamp()
            self._oldest_beat_s = max(self._oldest_beat_s, age_s)
            time.sleep(1)


def goals(found: dict[str, Any], interval_s: float) -> list[dict[str, Any]]:
    """Hold the numbers against the goals."""
    n = f"{found['n']:,} waits in a triggerer"
    slowest = found["delay_max_s"] if found["n_gone_on"] == found["n_ended"] else float("inf")
    slowest_after = found["delay_after_max_s"] if found["n_after"] == found["n_ended"] else float("inf")
    rows: list[tuple[str, float, float, str]] = [
        (f"{n}: warnings that its event loop was blocked", len(found["blocked_s"]), 0, ""),
        (f"{n}: triggers taken away or tasks failed", found["n_started_again"] + found["n_failed"], 0, ""),
        (f"{n}: from the end of a batch to the task going on, at most", slowest, interval_s + 3, "s"),
        (f"{n}: from the end of a batch to the next task's start, at most", slowest_after, interval_s + 3, "s"),
        (f"{n}: requests per 100 waits and interval", found["calls_per_100_and_interval"], 1, ""),
    ]
    if "control_blocked_s" in found:
        more = len(found["blocked_at_start_s"]) - len(found["control_blocked_s"])
        rows.insert(1, (f"{n}: the same while it starts, more than with Airflow's own triggers", more, 0, ""))
    return [
        {"title": title, "value": value, "goal": f"≤ {limit:g} {unit}", "unit": unit, "is_met": value <= limit}
        for title, value, limit, unit in rows
    ]


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        body: bytes = answer.read()
        return body


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--n", type=int, default=1000, help="waiting tasks, default 1000: what Airflow gives a triggerer")
    add("--interval", type=float, default=10, help="seconds between two looks at a batch, default 10")
    add("--samples", type=int, default=20, help=f"batches that end, {SPACING_S:g} s apart, default 20")
    add("--latency", type=float, default=0.1, help="seconds that each answer takes, default 0.1")
    add("--workers", type=int, default=6, help="processes that run tasks, default 6")
    add("--only", choices=("ours", "control"), help="leave the control out, or run nothing else")
    add("--keep", type=Path, metavar="FOLDER", help="keep the logs there")
    add("--json", type=Path, metavar="FILE", help="write the numbers")
    return parser.parse_args()


LABELS = {
    "n": "tasks deferred in one triggerer",
    "n_ended": "batches that ended while it was watched",
    "n_gone_on": "of these, tasks that went on",
    "delay_p50_s": "seconds from the end of a batch to the task's code in a worker, median",
    "delay_max_s": "the same, at most",
    "n_after": "of these, whose next task began",
    "delay_after_p50_s": "seconds from the end of a batch to the next task's code in a worker, median",
    "delay_after_max_s": "the same, at most",
    "n_still_deferred": "tasks still deferred",
    "n_failed": "tasks that failed",
    "blocked_s": "warnings that the event loop was blocked, seconds each",
    "blocked_at_start_s": "the same in the time from the triggerer's start to a while after the first looks",
    "oldest_heartbeat_s": "oldest heartbeat, seconds",
    "n_started_again": "triggers taken away and started again",
    "calls_per_100_and_interval": "requests per 100 waits and interval",
    "control_blocked_s": "control: the same of a triggerer that starts as many of Airflow's DateTimeTrigger",
}


def table(found: dict[str, Any]) -> str:
    """Return what was found as a table."""
    rows = [f"| {LABELS[key]} | {_text(value)} |" for key, value in found.items()]
    return "\n".join(["| | |", "| --- | --: |", *rows])


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return f"{value:.1f}" if isinstance(value, float) else f"{value:,}"


def main() -> int:
    """Measure, and print the table."""
    options = parsed()
    found: dict[str, Any] = {}
    if options.only != "control":
        found |= _on_an_airflow(options, "ours", Run.measure)
    if options.only != "ours":
        found["control_blocked_s"] = _on_an_airflow(options, "control", Run.measure_start)
    reached = goals(found, options.interval) if options.only != "control" else []
    print(f"{table(found)}\n\n{goal_table(reached)}")
    if options.json:
        report = {"benchmark": "triggerer", "title": (__doc__ or "").splitlines()[0], "machine": machine()}
        report |= {"versions": versions(), "interval_s": options.interval, "found": found, "goals": reached}
        report |= {"tables": {"triggerer": table(found)}}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _on_an_airflow(options: argparse.Namespace, kind: str, measure: Callable[[Run], Any]) -> Any:
    """Measure on an Airflow that was started for it."""
    last = 2 * options.interval + SPACING_S * (options.samples - 1)
    with tempfile.TemporaryDirectory(prefix="triggerer-", ignore_cleanup_errors=True) as folder:
        home = options.keep / kind if options.keep else Path(folder)
        resumed = Path(folder, "resumed")
        ends = {"singles": options.samples, "first": 2 * options.interval, "last": last, "burst": 1e9}
        with serving(options.n, latency=options.latency, seed=_SEED, **ends) as url:
            connection = {"conn_type": "openai", "host": f"{url}/v1", "password": "sk-not-a-key"}
            env = {
                "WAITS_KIND": kind,
                "WAITS_NUMBERS": json.dumps(order_of_ends(options.n, seed=_SEED)),
                "WAITS_N_ENDING": str(options.samples),
                "WAITS_INTERVAL_S": str(options.interval),
                "WAITS_RESUMED": str(resumed),
                "AIRFLOW__CORE__PARALLELISM": str(options.workers),
                "AIRFLOW__CORE__MAX_MAP_LENGTH": str(max(options.n, 1024)),
                "AIRFLOW__TRIGGERER__CAPACITY": str(max(options.n, 1000)),
                "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "30",  # as Airflow has it
                "AIRFLOW_CONN_WAITING": json.dumps(connection),
            }
            with AirflowStack(home, HERE / "triggerer_dags", QUICK, env) as stack:
                _say(f"Airflow is up, for {kind}.")
                return measure(Run(stack, url, options, resumed))


if __name__ == "__main__":
    sys.exit(main())
