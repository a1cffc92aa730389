"""What the headers of an answer say of OpenAI's rate limits. Total: a header that cannot be read says nothing.

OpenAI's guide: `x-ratelimit-remaining-requests` and `-tokens` are what is left, `x-ratelimit-reset-requests` and
`-tokens` the time until all of it is there again, for example `1s` or `6m0s`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from airflow_openai_batch.engine.api.text import number_of

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

_LONGEST_S = 3600.0
"""A longer pause is not believed."""


class RateLimits(NamedTuple):
    """What is left of the rate limits, and in how many seconds all of it is there again. None where it is not said."""

    requests: int | None = None
    requests_reset_s: float | None = None
    tokens: int | None = None
    tokens_reset_s: float | None = None


def rate_limits_of(headers: Mapping[str, str]) -> RateLimits:
    """Return what the headers of an answer say of rate limits."""
    return RateLimits(
        _count(headers.get("x-ratelimit-remaining-requests", "")),
        _duration_s(headers.get("x-ratelimit-reset-requests", "")),
        _count(headers.get("x-ratelimit-remaining-tokens", "")),
        _duration_s(headers.get("x-ratelimit-reset-tokens", "")),
    )


def exhausted_s(headers: Mapping[str, str]) -> float | None:
    """Return the pause that a refused call should make, by the limit of which nothing is left; None if none is told."""
    limits = rate_limits_of(headers)
    pairs = ((limits.requests, limits.requests_reset_s), (limits.tokens, limits.tokens_reset_s))
    return max((reset_s for left, reset_s in pairs if left == 0 and reset_s is not None), default=None)


def _count(text: str) -> int | None:
    value = number_of(text)
    return int(value) if value is not None and 0 <= value < 2**53 else None


def _duration_s(text: str) -> float | None:
    text = text.strip()[:40]
    seconds = number_of(text)
    if seconds is None:
        if not _DURATION.fullmatch(text):
            return None
        seconds = sum(float(n) * _SECONDS[unit] for n, unit in _PART.findall(text))
    return min(max(seconds, 0.0), _LONGEST_S)
