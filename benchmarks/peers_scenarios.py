"""What goes wrong: rules for the emulator, and what a person or the kernel does while the batch runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from airflow_openai_batch.emulator import Rule

BATCH_S = 14.0
"""Seconds from the creation of a batch to its end: 3 validating, 10 working, 1 writing files."""
VALIDATING_S = 3.0
FINALIZING_S = 1.0
LONG_BATCH_S = 54.0
"""For what a triggerer has to answer in time: on a busy machine it needs seconds, which real batches leave it."""


def half_s(batch_s: float = BATCH_S) -> float:
    """Return the seconds after which half of a batch is answered."""
    return VALIDATING_S + (batch_s - VALIDATING_S - FINALIZING_S) / 2


class Case(Protocol):
    """One contender in one scenario, as far as a scenario acts on it."""

    batch_s: float

    def wait_for_batch(self) -> str:
        """Wait until there is a batch, and return its id."""

    def wait_for_task(self, *states: str) -> None:
        """Wait until the task is in one of these states."""

    def wait_for_end(self) -> None:
        """Wait until the Dag run has ended."""

    def wait_for_batches(self) -> None:
        """Wait until no batch runs any more."""

    def cancel_batch(self, batch_id: str) -> None:
        """Cancel a batch at the emulator, not through Airflow."""

    def clear(self) -> None:
        """Clear the task in Airflow."""

    def mark_failed(self) -> None:
        """Mark the task failed in Airflow."""

    def kill_worker(self) -> None:
        """Kill the process that runs the operator."""


@dataclass(frozen=True)
class Scenario:
    """One fault.

    Attributes:
        slug: Its name in run ids and on the command line.
        title: What happens, for the table.
        faults: The emulator's rules.
        act: What is done from outside while the Dag runs.
        batch_s: Seconds from the creation of a batch to its end.
    """

    slug: str
    title: str
    faults: tuple[Rule, ...] = ()
    act: Callable[[Case], None] | None = None
    batch_s: float = BATCH_S


def _half_way(case: Case) -> str:
    batch_id = case.wait_for_batch()
    started = time.monotonic()
    case.wait_for_task("deferred")
    time.sleep(max(0.0, half_s(case.batch_s) - (time.monotonic() - started)))
    return batch_id


def _kill_while_creating(case: Case) -> None:
    case.wait_for_batch()
    case.kill_worker()


def _cancel(case: Case) -> None:
    case.cancel_batch(_half_way(case))


def _clear_running(case: Case) -> None:
    _half_way(case)
    case.clear()


def _clear_finished(case: Case) -> None:
    case.wait_for_end()
    case.clear()


def _mark_failed(case: Case) -> None:
    _half_way(case)
    case.mark_failed()


def _mark_failed_and_clear(case: Case) -> None:
    _mark_failed(case)
    case.wait_for_end()
    case.wait_for_batches()
    case.clear()


_FIRST = {"nth": 1}
SCENARIOS = (
    Scenario("none", "no fault"),
    Scenario(
        "lost-answer",
        "the answer to the create call is lost",
        (Rule("POST /v1/batches", "drop_response", match=_FIRST, times=1),),
    ),
    Scenario(
        "killed-creating",
        "worker killed (SIGKILL) after OpenAI made the batch, before it knows",
        (Rule("POST /v1/batches", {"delay": {"seconds": 15, "after": True}}, match=_FIRST, times=1),),
        _kill_while_creating,
    ),
    Scenario(
        "poll-500",
        "three looks at the batch in a row answer HTTP 500",
        (Rule("GET /v1/batches/*", {"status": 500}, times=3),),
    ),
    Scenario(
        "expired",
        "the batch expires half-way",
        (Rule("batch", {"expire_at": {"fraction": 0.5, "after": half_s()}}, match=_FIRST, times=1),),
    ),
    Scenario("cancelled", "somebody cancels the batch half-way, in the dashboard", act=_cancel),
    Scenario(
        "none-good",
        "completed, but every row failed with HTTP 400",
        (Rule("row", {"http_error": {"status": 400, "code": "invalid_value"}}),),
    ),
    Scenario(
        "some-500",
        "2 % of the rows fail with HTTP 500, once",
        (Rule("row", {"http_error": {"status": 500}}, match={"body": r"ticket \d{4}[05]0\b", "batch": 1}),),
    ),
    Scenario(
        "malformed",
        "one line of the output file is broken",
        (Rule("row", "malformed", match={"body": r"ticket 000123\b"}, times=1),),
    ),
    Scenario(
        "token-limit",
        "the batch fails with token_limit_exceeded, once",
        (Rule("batch", {"fail": "token_limit_exceeded"}, match=_FIRST, times=1),),
    ),
    Scenario("cleared-running", "task cleared while the batch runs", act=_clear_running, batch_s=LONG_BATCH_S),
    Scenario("cleared-finished", "task cleared after it has ended well", act=_clear_finished),
    Scenario("marked-failed", "task marked failed while the batch runs", act=_mark_failed, batch_s=LONG_BATCH_S),
    Scenario(
        "marked-failed-cleared",
        "the same, and cleared when the batch has ended",
        act=_mark_failed_and_clear,
        batch_s=LONG_BATCH_S,
    ),
)
