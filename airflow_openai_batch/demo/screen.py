"""What the demo shows: a live view on a terminal, lines elsewhere, and the summary at the end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

TASKS = ("rows", "submit", "wait", "results", "report")
_COLORS = {"success": "green", "failed": "red", "upstream_failed": "red", "running": "yellow", "deferred": "cyan"}
_COUNTED = ("completed", "failed", "expired", "cancelled")
_COLORS |= {"completed": "green", "in_progress": "yellow", "finalizing": "yellow", "up_for_retry": "red"}


@dataclass(frozen=True)
class Look:
    """What one look at Airflow and the emulator found."""

    run_state: str = "queued"
    tasks: dict[str, str] = field(default_factory=dict)
    """Task to state."""
    seconds: dict[str, float] = field(default_factory=dict)
    batches: list[dict[str, Any]] = field(default_factory=list)
    """As OpenAI's API shows them."""
    slots_taken: int = 0
    slots: int = 0

    @property
    def is_waiting(self) -> bool:
        """Say whether the run waits for OpenAI and nothing else."""
        return self.tasks.get("wait") == "deferred"


class Screen:
    """The terminal, or a log file.

    Args:
        console: Where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._live: Live | None = None
        self._shown: dict[str, str] = {}
        self._note = ""

    def say(self, text: str) -> None:
        """Write a line with the elapsed time."""
        self._console.print(Text(f"{self.elapsed}  {text}"))

    def show(self, look: Look) -> None:
        """Show where the run is: redrawn on a terminal, elsewhere only what has changed."""
        if not self._console.is_terminal:
            self._print_changes(look)
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(self._drawn(look), refresh=True)

    def freeze(self) -> None:
        """Leave the live view as it is and go on below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    @property
    def elapsed(self) -> str:
        """Return the time since the start as m:ss."""
        seconds = int(time.monotonic() - self._started)
        return f"{seconds // 60}:{seconds % 60:02}"

    def _drawn(self, look: Look) -> RenderableType:
        tasks = Table(box=None, padding=(0, 2), title_justify="left", header_style="dim")
        for heading in ("task", "state", "seconds", ""):
            tasks.add_column(heading, justify="right" if heading == "seconds" else "left")
        for task in TASKS:
            state = look.tasks.get(task, "")
            seconds = f"{look.seconds[task]:.0f}" if task in look.seconds else ""
            hint = "waits in the triggerer, holds no worker" if state == "deferred" else ""
            tasks.add_row(task, _colored(state), seconds, Text(hint, style="dim"))
        lines: list[RenderableType] = [Text(), tasks, Text()]
        if look.batches:
            lines += [_batch_table(look.batches), Text()]
        foot = f"  worker slots in use: {look.slots_taken} of {look.slots}    elapsed: {self.elapsed}    Ctrl-C stops"
        return Group(*lines, Text(foot, style="dim"))

    def _print_changes(self, look: Look) -> None:
        now = {f"task {task}": state for task, state in look.tasks.items() if state}
        for number, batch in enumerate(look.batches, 1):
            now[f"batch {number}"] = batch["status"] + (f", {_counts(batch)}" if batch["status"] in _COUNTED else "")
        for what, state in now.items():
            if self._shown.get(what) != state:
                slots = f"  [worker slots in use: {look.slots_taken} of {look.slots}]" if "deferred" in state else ""
                self.say(f"{what}: {state}{slots}")
        self._shown = now


def summary_table(facts: list[tuple[str, str]]) -> Table:
    """Return the facts as two columns."""
    table = Table(box=None, padding=(0, 1, 0, 2), show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, Text(value))
    return table


def rows_table(rows: list[dict[str, Any]]) -> Table:
    """Return labeled rows as a table of one line each."""
    table = Table(box=None, padding=(0, 1, 0, 2), header_style="dim")
    for name in ("name", "topic", "sure", "evidence", "authors' topics"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(
            Text(row["name"]),
            Text(row["topic"] or row["status"]),
            Text("" if row["confidence"] is None else f"{row['confidence']:.2f}"),
            Text(row["evidence"] or ""),
            Text(", ".join(row["topics"] or ["none"])),
        )
    return table


def _batch_table(batches: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for heading in ("batch", "status", "rows", ""):
        table.add_column(heading, no_wrap=True)
    for number, batch in enumerate(batches):
        why = "all rows" if number == 0 else "the failed rows, asked again"
        table.add_row(f"{batch['id'][:12]}…", _colored(batch["status"]), _counts(batch), Text(why, style="dim"))
    return table


def _counts(batch: dict[str, Any]) -> str:
    counts = batch.get("request_counts") or {}
    if not counts.get("total"):
        return ""  # not known while OpenAI validates the file
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return f"{counts['completed']} of {counts['total']} answered{failed}"


def _colored(state: str) -> Text:
    return Text(state, style=_COLORS.get(state, ""))
