"""A busy night to look at: jobs in all states in a real Airflow, and new ones when they have ended, until Ctrl-C."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import httpx
from rich.console import Console
from rich.text import Text

from airflow_openai_batch.demo.scenes import BUSY_NIGHT, busy_night
from airflow_openai_batch.demo.screen import Screen, summary_table
from airflow_openai_batch.demo.stack import DemoStack
from airflow_openai_batch.local_airflow.rest import FINAL_RUN_STATES

PAGE = "/plugin/openai-batches"
"""Where Airflow shows the page of batches."""
_LOOK_EVERY_S = 2.0
_APART_S = 3.0
"""Between the first starts, so that two processors are enough."""
_REST_S = 30.0
"""From the end of a run to the next one of its Dag."""


class Night:
    """The runs of the Dags.

    Args:
        stack: The Airflow that runs them.
    """

    def __init__(self, stack: DemoStack) -> None:
        self._stack = stack
        self._runs: dict[str, str] = {}
        now = time.monotonic()
        self._due_at = {dag_id: now + i * _APART_S for i, dag_id in enumerate(BUSY_NIGHT)}

    def go_on(self) -> None:
        """Start what is due. A machine that is too busy to answer is asked again at the next look."""
        for dag_id in BUSY_NIGHT:
            with contextlib.suppress(httpx.HTTPError):
                self._look(dag_id)

    @property
    def has_begun(self) -> bool:
        """Say whether every Dag has been started once."""
        return len(self._runs) == len(BUSY_NIGHT)

    def _look(self, dag_id: str) -> None:
        now = time.monotonic()
        if dag_id in self._due_at:
            if now >= self._due_at[dag_id]:
                self._runs[dag_id] = self._stack.trigger(dag_id)
                del self._due_at[dag_id]
        elif self._stack.api.run_state(dag_id, self._runs[dag_id]) in FINAL_RUN_STATES:
            self._due_at[dag_id] = now + _REST_S


def show_night(console: Console, screen: Screen, home: Path, batch_s: float) -> None:
    """Run the night until it is interrupted.

    Raises:
        DemoError: It cannot be started.
        StackError: A process of it has ended.
        KeyboardInterrupt: Always, in the end.
    """
    with DemoStack(home, busy_night(batch_s), screen.say) as stack:
        for dag_id in BUSY_NIGHT:
            stack.make_ready(dag_id)
        night = Night(stack)
        _tell(console, stack)
        while True:
            stack.check()
            has_begun = night.has_begun
            night.go_on()
            if night.has_begun and not has_begun:
                screen.say("all Dags are started; each starts again when it has ended")
            time.sleep(_LOOK_EVERY_S)


def _tell(console: Console, stack: DemoStack) -> None:
    console.print(Text("\nWhat there is to see:\n", style="bold"))
    console.print(summary_table(list(BUSY_NIGHT.items())))
    console.print()
    addresses = [("page of batches", stack.url + PAGE), ("Airflow", stack.url)]
    console.print(summary_table([*addresses, ("stop", "Ctrl-C")]))
    console.print()
