"""`python -m airflow_openai_batch.demo`: Dags in a real Airflow against the emulator."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
from rich.console import Console
from rich.text import Text

from airflow_openai_batch.demo.night import show_night
from airflow_openai_batch.demo.outcome import failed_task_log, show_outcome
from airflow_openai_batch.demo.scenes import nightly_labeling
from airflow_openai_batch.demo.screen import Look, Screen
from airflow_openai_batch.demo.stack import DemoError, DemoStack
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.local_airflow.processes import StackError
from airflow_openai_batch.local_airflow.rest import FINAL_RUN_STATES
from airflow_openai_batch.local_airflow.settings import WORKER_SLOTS

DAG_ID = "nightly_labeling"
_LOOK_EVERY_S = 1.0
_INTERRUPTED = 130
_LOG_WIDTH = 120


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit code: 0 only if every row is accounted for."""
    options = _parser().parse_args(argv)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _LOG_WIDTH)
    # Whatever ends the demo, its processes end with it.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    screen = Screen(console)
    try:
        (_night if options.ui else _demo)(options, console, screen)
    except KeyboardInterrupt:
        console.print("Stopped.")
        return _INTERRUPTED
    except (DemoError, InputError, StackError, TimeoutError, httpx.HTTPError) as error:
        console.print(Text(f"\nThe demo failed: {error}", style="red"))
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m airflow_openai_batch.demo",
        description="Label the Python packages installed here, in a real Airflow, against an emulator of OpenAI. "
        "Needs no key and sends nothing to OpenAI, even if OPENAI_API_KEY is set.",
    )
    add = parser.add_argument
    add("--ui", action="store_true", help="run several Dags again and again, to look at in Airflow's UI, until Ctrl-C")
    add("--home", type=Path, metavar="DIR", help="where all files go, default .demo; with --ui .demo/ui")
    add("--keep", action="store_true", help="leave Airflow's UI running until Ctrl-C")
    add("--timeout", type=float, default=300.0, metavar="S", help="give the run up after so long, default 300")
    add("--duration", type=float, metavar="S", help="how long a batch takes, default 20; with --ui 40")
    return parser


def _night(options: argparse.Namespace, console: Console, screen: Screen) -> None:
    console.print(Text("A busy night in a real Airflow, against an emulator of OpenAI", style="bold"))
    console.print("No key, no cost: nothing is sent to OpenAI." + _ignored_key())
    show_night(console, screen, (options.home or Path(".demo/ui")).resolve(), _batch_s(options, 40.0))


def _demo(options: argparse.Namespace, console: Console, screen: Screen) -> None:
    console.print(Text("Nightly labeling in a real Airflow, against an emulator of OpenAI", style="bold"))
    console.print("No key, no cost: nothing is sent to OpenAI." + _ignored_key())
    home = (options.home or Path(".demo")).resolve()
    try:
        with DemoStack(home, nightly_labeling(_batch_s(options, 20.0)), screen.say) as stack:
            stack.make_ready(DAG_ID)
            run_id = stack.trigger(DAG_ID)
            screen.say(f"Airflow is ready at {stack.url}; started the Dag {DAG_ID}")
            waiting = _watch(stack, screen, run_id, options.timeout)
            show_outcome(console, stack, DAG_ID, run_id, waiting)
            if options.keep:
                _keep(console, stack)
    finally:
        screen.freeze()


def _batch_s(options: argparse.Namespace, default: float) -> float:
    return default if options.duration is None else float(options.duration)


def _ignored_key() -> str:
    return " (OPENAI_API_KEY is set and not used.)" if os.environ.get("OPENAI_API_KEY") else ""


def _watch(stack: DemoStack, screen: Screen, run_id: str, timeout_s: float) -> str:
    """Show the run until it ends, and return what was seen of its waiting."""
    deadline = time.monotonic() + timeout_s
    n_waiting = n_free = 0
    while True:
        stack.check()
        look = _look(stack, run_id) or Look()
        if look.tasks:
            screen.show(look)
        n_waiting += look.is_waiting
        n_free += look.is_waiting and not look.slots_taken
        if look.run_state in FINAL_RUN_STATES:
            break
        if time.monotonic() > deadline:
            screen.freeze()
            raise DemoError(f"The run has not ended within {timeout_s:.0f} s. Its logs are in {stack.home}/logs.")
        time.sleep(_LOOK_EVERY_S)
    screen.freeze()
    failed = [task for task, state in look.tasks.items() if state == "failed"]
    if look.run_state != "success":
        logs = [failed_task_log(stack.home, DAG_ID, run_id, task) for task in failed]
        raise DemoError("\n".join([f"the run is {look.run_state}.", *logs]))
    return f"no worker slot in use in {n_free} of {n_waiting} looks while 'wait' was deferred"


def _look(stack: DemoStack, run_id: str) -> Look | None:
    """Look at Airflow and the emulator. None if a machine that is too busy does not answer: the timeout bounds that."""
    with contextlib.suppress(httpx.HTTPError):
        return _found(stack, run_id)
    return None


def _found(stack: DemoStack, run_id: str) -> Look:
    # First, so that an ended run is shown with its tasks as they ended.
    run_state = stack.api.run_state(DAG_ID, run_id)
    instances = stack.api.task_instances(DAG_ID, run_id)
    # Asked before the slots: a task that has just been woken then counts against us, not for us.
    slots_taken = stack.api.used_slots()
    return Look(
        run_state=run_state,
        tasks={task["task_id"]: task["state"] or "" for task in instances},
        seconds={task["task_id"]: task["duration"] for task in instances if task["duration"] is not None},
        batches=stack.batches(),
        slots_taken=slots_taken,
        slots=WORKER_SLOTS,
    )


def _keep(console: Console, stack: DemoStack) -> None:
    console.print(Text(f"Airflow's UI: {stack.url}  (Ctrl-C stops it)", style="bold"))
    try:
        while True:
            stack.check()
            time.sleep(1)
    except KeyboardInterrupt:
        return


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
