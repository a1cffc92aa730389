"""Three Airflow operators for the OpenAI Batch API under the same faults: what is paid for, and what arrives.

    python -m venv .peers
    .peers/bin/pip install -e '.[emulator]' apache-airflow-providers-openai 'apache-airflow-providers-common-ai[openai]'
    .peers/bin/python benchmarks/peers_under_faults.py

Each contender has an emulator of its own, with the same seed, and runs its Dag (peers_dags/peers.py) in one real
Airflow on SQLite once per scenario (peers_scenarios.py). The three run at the same time. What was paid for
is read from the emulator's ledger, what arrived from the files that the Dag wrote.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peers_scenarios import FINALIZING_S, SCENARIOS, VALIDATING_S, Scenario

from airflow_openai_batch.emulator import Emulator
from airflow_openai_batch.local_airflow.rest import FINAL_RUN_STATES
from airflow_openai_batch.local_airflow.stack import AirflowStack

CONTENDERS = {
    "openai_provider": "OpenAITriggerBatchOperator",
    "common_ai": "LLMBatchOperator",
    "this_package": "OpenAIBatchOperator",
}
PACKAGES = (
    "apache-airflow",
    "apache-airflow-providers-openai",
    "apache-airflow-providers-common-ai",
    "airflow-openai-batch",
    "openai",
)
_CASE_TIMEOUT_S = 300.0
_TASK_ID = "batch"
_OPTIONS = {"CORE__PARALLELISM": 6, "TRIGGERER__JOB_HEARTBEAT_SEC": 1}
_KEY = "sk-not-a-key"


@dataclass(frozen=True)
class Outcome:
    """What came of one contender in one scenario.

    Attributes:
        scenario: The scenario's slug.
        contender: The contender's Dag id.
        batches: Batches that exist at the end.
        billed: Rows billed, over all batches.
        twice: Rows whose good answer was paid for in more than one batch.
        delivered: Rows whose right answer is in the contender's result file.
        lost: Rows whose good answer was paid for and is not in the result file.
        state: The task's state.
        tries: How often the task was tried.
        seconds: From the start of the Dag run to its end.
        unfinished: Why the run was given up, or empty.
    """

    scenario: str
    contender: str
    batches: int
    billed: int
    twice: int
    delivered: int
    lost: int
    state: str
    tries: int
    seconds: float
    unfinished: str = ""


class RunningCase:
    """One contender in one scenario, while it runs."""

    def __init__(self, airflow: AirflowStack, emulator: Emulator, dag_id: str, scenario: Scenario) -> None:
        self.airflow, self.emulator, self.dag_id = airflow, emulator, dag_id
        self.run_id, self.batch_s = scenario.slug, scenario.batch_s

    def wait_for_batch(self) -> str:
        """Wait until there is a batch, and return its id."""
        return self._wait(lambda: self.emulator.ledger.batches, "a batch")[0].id

    def wait_for_task(self, *states: str) -> None:
        """Wait until the task is in one of these states."""
        self._wait(
            lambda: task_of(self.airflow, self.dag_id, self.run_id)["state"] in states, f"the task to be {states}"
        )

    def wait_for_end(self) -> None:
        """Wait until the Dag run has ended."""
        self._wait(lambda: self.airflow.api.run_state(self.dag_id, self.run_id) in FINAL_RUN_STATES, "the run to end")

    def wait_for_batches(self) -> None:
        """Wait until no batch runs any more: one that was left behind is billed too."""
        self._wait(lambda: not self.emulator.ledger.live_batches(), "the last batch to end")

    def cancel_batch(self, batch_id: str) -> None:
        """Cancel a batch at the emulator, not through Airflow."""
        self.emulator.backend.cancel(batch_id)

    def clear(self) -> None:
        """Clear the task in Airflow."""
        self.airflow.api.clear(self.dag_id, self.run_id, [_TASK_ID], include_downstream=True)

    def mark_failed(self) -> None:
        """Mark the task failed in Airflow."""
        self.airflow.api.set_task_state(self.dag_id, self.run_id, _TASK_ID, "failed")

    def kill_worker(self) -> None:
        """Kill the process that runs the operator's code, as the kernel does when memory runs out."""
        (worker,) = self.airflow.workers(self.dag_id)
        os.kill(worker.runner_pid, signal.SIGKILL)

    def end(self) -> None:
        """Give the run up."""
        self.airflow.api.set_run_state(self.dag_id, self.run_id, "failed")

    def _wait(self, probe: Any, what: str) -> Any:
        return self.airflow.wait_until(probe, f"{what} ({self.dag_id}, {self.run_id})", _CASE_TIMEOUT_S)


def task_of(airflow: AirflowStack, dag_id: str, run_id: str) -> dict[str, Any]:
    """Return the task that is compared."""
    return airflow.api.task_instance(dag_id, run_id, _TASK_ID)


def run_case(airflow: AirflowStack, emulator: Emulator, dag_id: str, scenario: Scenario, folder: Path) -> Outcome:
    """Run one contender through one scenario and measure."""
    emulator.reset()
    emulator.settings.duration = scenario.batch_s
    emulator.faults.add(*scenario.faults)
    case = RunningCase(airflow, emulator, dag_id, scenario)
    started = time.monotonic()
    airflow.api.trigger(dag_id, run_id=scenario.slug)
    unfinished = ""
    try:
        if scenario.act is not None:
            scenario.act(case)
        case.wait_for_end()
    except TimeoutError as error:
        unfinished = str(error)
        case.end()
    seconds = time.monotonic() - started
    case.wait_for_batches()
    task = task_of(airflow, dag_id, scenario.slug)
    ledger = emulator.ledger
    times_paid: dict[int, set[str]] = {}
    for row in ledger.rows():
        if row.delivered == "ok":
            times_paid.setdefault(row.body_hash, set()).add(row.batch_id)
    delivered = len(set(right_rows(dag_id, scenario.slug, folder)))
    return Outcome(
        scenario=scenario.slug,
        contender=dag_id,
        batches=len(ledger.batches),
        billed=ledger.n_rows(),
        twice=sum(len(batch_ids) > 1 for batch_ids in times_paid.values()),
        delivered=delivered,
        lost=len(times_paid) - delivered,
        state=str(task["state"]),
        tries=int(task["try_number"]),
        seconds=round(seconds, 1),
        unfinished=unfinished,
    )


def right_rows(dag_id: str, run_id: str, folder: Path) -> Iterator[int]:
    """Yield the numbers of the rows that have their own right answer in a contender's result file."""
    for path in [*folder.glob(f"{dag_id}-{run_id}.jsonl"), *folder.glob(f"{dag_id}-{run_id}/*.jsonl")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                number, answer = _READERS[dag_id](json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # a broken line, or a row that has no answer
            if f"ticket {number:06}" in answer:
                yield number


def _read_openai_line(line: dict[str, Any]) -> tuple[int, str]:
    return int(line["custom_id"].removeprefix("row-")), line["response"]["body"]["choices"][0]["message"]["content"]


def _read_common_ai(row: dict[str, Any]) -> tuple[int, str]:
    return row["index"], row["output"] if row["status"] == "success" else ""


def _read_this_package(row: dict[str, Any]) -> tuple[int, str]:
    return row["number"], row["output"] if row["status"] == "succeeded" else ""


_READERS = {
    "openai_provider": _read_openai_line,
    "common_ai": _read_common_ai,
    "this_package": _read_this_package,
}


def write_rows(folder: Path, n_rows: int) -> None:
    """Write the rows, and the same as ready request lines for the operator that wants an uploaded file."""
    with (
        (folder / "rows.jsonl").open("w", encoding="utf-8") as rows,
        (folder / "requests.jsonl").open("w", encoding="utf-8") as requests,
    ):
        for number in range(n_rows):
            text = f"ticket {number:06}"
            rows.write(json.dumps({"number": number, "text": text}) + "\n")
            body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]}
            request = {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            requests.write(json.dumps(request) + "\n")


def run_all(scenarios: Iterable[Scenario], contenders: list[str], n_rows: int, poll_s: float) -> list[Outcome]:
    """Run all contenders through the scenarios, side by side."""
    scenarios = list(scenarios)
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_rows(folder, n_rows)
        emulators = {
            dag_id: Emulator(validating=VALIDATING_S, finalizing=FINALIZING_S, seed=1, api_keys=[_KEY]).start()
            for dag_id in CONTENDERS
        }
        env = {"PEERS_FOLDER": str(folder), "PEERS_ROWS": str(n_rows), "PEERS_POLL_S": str(poll_s)}
        for dag_id, emulator in emulators.items():
            kind = "pydanticai" if dag_id == "common_ai" else "openai"
            connection = {"conn_type": kind, "host": emulator.base_url, "password": _KEY}
            env[f"AIRFLOW_CONN_{dag_id.upper()}"] = json.dumps(connection)
        try:
            dags = Path(__file__).parent / "peers_dags"
            with AirflowStack(folder / "airflow", dags, _OPTIONS, env, on_postgres=False) as airflow:
                for dag_id in CONTENDERS:
                    airflow.api.unpause(dag_id, timeout=240)
                lane = functools.partial(_run_lane, airflow, emulators, scenarios, folder)
                with ThreadPoolExecutor(len(contenders)) as pool:
                    lanes = list(pool.map(lane, contenders))
        finally:
            for emulator in emulators.values():
                emulator.stop()
    order = [scenario.slug for scenario in scenarios]
    return sorted(
        (outcome for lane_of in lanes for outcome in lane_of),
        key=lambda o: (order.index(o.scenario), contenders.index(o.contender)),
    )


_print_lock = threading.Lock()


def _run_lane(
    airflow: AirflowStack, emulators: dict[str, Emulator], scenarios: list[Scenario], folder: Path, dag_id: str
) -> list[Outcome]:
    # The first run of a Dag is slow for reasons that are Airflow's own.
    run_case(airflow, emulators[dag_id], dag_id, Scenario("warm-up", "not measured"), folder)
    outcomes = []
    for scenario in scenarios:
        outcomes.append(run_case(airflow, emulators[dag_id], dag_id, scenario, folder))
        with _print_lock:
            print(asdict(outcomes[-1]), file=sys.stderr, flush=True)
    return outcomes


def table(outcomes: list[Outcome], n_rows: int) -> str:
    """Return the outcomes as a Markdown table."""
    titles = {scenario.slug: scenario.title for scenario in SCENARIOS}
    lines = [
        f"| what happens | operator | batches | rows billed | paid twice | right rows of {n_rows:,} "
        "| paid, not delivered | task | tries | s |",
        "| --- | --- | --: | --: | --: | --: | --: | --- | --: | --: |",
    ]
    shown = ""
    for o in outcomes:
        colour = {"success": "green", "failed": "red"}.get(o.state, o.state)
        lines.append(
            f"| {titles[o.scenario] if o.scenario != shown else ''} | `{CONTENDERS[o.contender]}` | {o.batches} "
            f"| {o.billed:,} | {o.twice:,} | {o.delivered:,} | {o.lost:,} "
            f"| {colour}{' (given up)' if o.unfinished else ''} | {o.tries} | {o.seconds:.0f} |"
        )
        shown = o.scenario
    return "\n".join(lines)


def main() -> None:
    """Read the command line, run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    slugs = [scenario.slug for scenario in SCENARIOS]
    parser.add_argument("--only", nargs="+", choices=slugs, default=slugs, metavar="SCENARIO", help=", ".join(slugs))
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--rows", type=int, default=1000, help="rows of each job (default: 1000)")
    parser.add_argument("--poll", type=float, default=2.0, help="seconds between two looks at a batch (default: 2)")
    parser.add_argument("--json", type=Path, help="also write the outcomes to this file")
    options = parser.parse_args()
    scenarios = [scenario for scenario in SCENARIOS if scenario.slug in options.only]
    outcomes = run_all(scenarios, options.contenders, options.rows, options.poll)
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1), encoding="utf-8")
    print(", ".join(f"{package} {version(package)}" for package in PACKAGES))
    print(table(outcomes, options.rows))


if __name__ == "__main__":
    main()
