"""Durations as people write them: a timedelta, a number of seconds, or a text such as ``7d`` or ``36h``. Pure."""

from __future__ import annotations

import math
import re

from airflow_openai_batch.engine.errors import InputError

_TEXT = re.compile(r"\s*(\d{1,9}(?:\.\d{1,6})?)\s*([smhdw]?)\s*", re.IGNORECASE)

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_duration(value: object, where: str) -> float:
    """Return a duration in seconds.

    Args:
        value: A timedelta, a number of seconds, or a text of a number with s, m, h, d or w (none is seconds).
        where: The setting, for the error message.

    Raises:
        InputError: It is no duration, or not above 0.
    """
    seconds = _seconds_of(value)
    if seconds is None or not 0 < seconds < math.inf:
        raise InputError(
            f"{where} must be a duration above 0: a timedelta, a number of seconds, or a text such as '7d' or '36h', "
            f"not {value!r}."
        )
    return seconds


def _seconds_of(value: object) -> float | None:
    if callable(total_seconds := getattr(value, "total_seconds", None)):
        return float(total_seconds())
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = _TEXT.fullmatch(value) if isinstance(value, str) else None
    return None if match is None else float(match[1]) * _SECONDS[match[2].lower()]


def duration_text(seconds: float) -> str:
    """Return a duration as a person would write it: ``7d``, ``36h``, ``90s``."""
    for unit, size in (("d", 86_400), ("h", 3600)):
        if seconds >= 2 * size and seconds % size == 0:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds / 3600:.4g}h" if seconds >= 7200 else f"{seconds:g}s"
