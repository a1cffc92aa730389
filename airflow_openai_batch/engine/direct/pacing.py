"""How fast requests may be asked: as many at once as wanted, and fewer or none where the server says so. Pure.

A refusal holds back all requests, not only its own: they have one rate limit.
"""

from __future__ import annotations

from airflow_openai_batch.engine.api.rate_limits import RateLimits

_FIRST_PAUSE_S, _MAX_DOUBLINGS = 1.0, 10


class Pacer:
    """Decides whether another request may be asked now.

    Attributes:
        paused_until: Epoch seconds before which none may.

    Args:
        parallel: How many may be on their way at once.
        n_refused: How often in a row the server refused before, for one that takes up the work of another.
    """

    def __init__(self, parallel: int, n_refused: int = 0) -> None:
        self.paused_until = 0.0
        self._parallel = parallel
        self._n_refused = n_refused
        self._window = 1 if n_refused else parallel
        self._n_pauses = 0
        self._limits = RateLimits()
        self._told_at = 0.0
        self._is_unsure = False
        """Whether the limits have been used up, and what is left now is to be told by the next answer."""

    @property
    def mark(self) -> int:
        """What a request is sent with, by which its refusal is told from those of a pause that came later."""
        return self._n_pauses

    def admits(self, n_in_flight: int, n_tokens: int, now: float) -> bool:
        """Return whether another request may be asked now, and count it if so.

        Args:
            n_in_flight: How many are on their way.
            n_tokens: About how many tokens it has.
            now: Epoch seconds.
        """
        if now < self.paused_until or n_in_flight >= self._window:
            return False
        reset_s = self._reset_s(n_tokens)
        if reset_s is not None and self._told_at + reset_s > now:
            self.paused_until = self._told_at + reset_s
            return False
        self._is_unsure = self._is_unsure or reset_s is not None
        if self._is_unsure:
            return not n_in_flight
        limits = self._limits
        self._limits = limits._replace(
            requests=None if limits.requests is None else limits.requests - 1,
            tokens=None if limits.tokens is None else limits.tokens - n_tokens,
        )
        return True

    def _reset_s(self, n_tokens: int) -> float | None:
        """Return after how many seconds there is room for a request, by what was told last; None if there is room."""
        limits = self._limits
        if limits.requests is not None and limits.requests < 1:
            return limits.requests_reset_s or 0.0
        if limits.tokens is not None and limits.tokens < n_tokens:
            return limits.tokens_reset_s or 0.0
        return None

    def answered(self, limits: RateLimits, now: float) -> None:
        """Record an answer, with what it says of the rate limits."""
        self._n_refused = 0
        self._window = min(self._parallel, self._window + 1)
        self._is_unsure = False
        if limits != RateLimits() or self._limits != RateLimits():
            self._limits, self._told_at = limits, now

    def refused(self, mark: int, retry_after_s: float | None, now: float) -> None:
        """Record a refusal, or an answer that was lost: nobody asks for a while, and then fewer at once.

        Args:
            mark: The mark that the request was sent with.
            retry_after_s: The pause that the server asks for, if it does.
            now: Epoch seconds.
        """
        pause_s = retry_after_s or 0.0
        if mark == self._n_pauses:  # others that were on their way say nothing new
            pause_s = max(pause_s, _FIRST_PAUSE_S * 2.0 ** min(self._n_refused, _MAX_DOUBLINGS))
            self._n_refused += 1
            self._n_pauses += 1
            self._window = max(1, self._window // 2)
        self.paused_until = max(self.paused_until, now + pause_s)
