"""Progress as text for a notebook or a terminal: one line that is drawn anew, or lines where that is not possible."""

from __future__ import annotations

import shutil
import sys

from airflow_openai_batch.engine.progress.log_format import is_worth_logging, line, logged_as
from airflow_openai_batch.engine.progress.model import Logged, Progress

_BAR_CELLS = 20


class ProgressLine:
    """Prints where jobs stand to standard output.

    Args:
        is_alone: Whether there is one job only, whose line may be drawn anew in its place.
    """

    def __init__(self, *, is_alone: bool = True) -> None:
        self._is_terminal = sys.stdout.isatty()
        # A notebook's output is no terminal, and knows the carriage return all the same.
        self._redraws = is_alone and (self._is_terminal or "ipykernel" in sys.modules)
        self._width = 0
        self._logged: dict[str, Logged] = {}

    def __call__(self, progress: Progress) -> None:
        """Print where a job stands, if there is anything new."""
        name = progress.job.run_id
        text = f"{bar(progress.percent)} {line(progress)}"
        if self._redraws:
            if self._is_terminal:
                text = text[: shutil.get_terminal_size().columns - 1]
            print("\r" + text.ljust(self._width), end="", flush=True)
            self._width = len(text)
        elif is_worth_logging(self._logged.get(name), progress):
            self._logged[name] = logged_as(progress)
            print(f"{name}: {text}", flush=True)

    def end(self) -> None:
        """End the line, so that what is printed next has one of its own."""
        if self._width:
            print(flush=True)
            self._width = 0


def bar(percent: float) -> str:
    """Return a bar of a length that shows a share, 0 to 100."""
    n_full = int(_BAR_CELLS * percent / 100)
    return "█" * n_full + "·" * (_BAR_CELLS - n_full)
