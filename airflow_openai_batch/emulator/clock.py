"""Sources of time: the system's clock, which tests may move forward, or a clock that moves only when advanced."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The emulator's only source of time."""

    def now(self) -> float:
        """Return the time in epoch seconds, UTC."""

    def advance(self, seconds: float) -> None:
        """Move the time forward.

        Raises:
            ValueError: The seconds are negative.
        """


class SystemClock:
    """The system's time plus the seconds it was advanced by."""

    def __init__(self) -> None:
        self._offset_s = 0.0

    def now(self) -> float:
        """Return the time in epoch seconds, UTC."""
        return time.time() + self._offset_s

    def advance(self, seconds: float) -> None:
        """Move the time forward.

        Raises:
            ValueError: The seconds are negative.
        """
        self._offset_s += _forward(seconds)


class ManualClock:
    """A clock that stands still until it is advanced.

    Args:
        start: The initial time in epoch seconds, UTC; by default a round number in November 2026.
    """

    def __init__(self, start: float = 1_795_000_000.0) -> None:
        self._now = start

    def now(self) -> float:
        """Return the time in epoch seconds, UTC."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the time forward.

        Raises:
            ValueError: The seconds are negative.
        """
        self._now += _forward(seconds)


def _forward(seconds: float) -> float:
    if seconds < 0:
        raise ValueError(f"The clock only moves forward, not by {seconds} seconds.")
    return seconds
