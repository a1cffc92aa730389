"""Rate limits of synchronous requests: two buckets that fill evenly, and the headers that tell of them.

OpenAI: the names of the headers, and the form of a duration; that a refused call has `retry-after` was seen.
"""

from __future__ import annotations

import threading

from airflow_openai_batch.emulator.api_error import ApiError
from airflow_openai_batch.emulator.clock import Clock
from airflow_openai_batch.emulator.settings import Settings

_PERIOD_S = 60.0


class _Bucket:
    def __init__(self, size: int, now: float) -> None:
        self.size = size
        self.level = float(size)
        self._filled_at = now

    def fill(self, now: float) -> None:
        """Add what has come in since the last time."""
        self.level = min(self.size, self.level + (now - self._filled_at) * self.size / _PERIOD_S)
        self._filled_at = now

    def wait_s(self, n: float) -> float:
        """Return the seconds until there is so much in it."""
        return max(0.0, (min(n, self.size) - self.level) * _PERIOD_S / self.size)


class RateLimiter:
    """Counts synchronous requests and their tokens. Safe to use from any thread.

    Args:
        settings: The emulator's settings, which may change.
        clock: The emulator's time.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}

    def take(self, n_tokens: int) -> dict[str, str]:
        """Count a request. Returns the headers of its answer.

        Args:
            n_tokens: Its tokens.

        Raises:
            ApiError: 429, a limit is used up; it is not counted.
        """
        sizes = {"requests": self._settings.requests_per_minute, "tokens": self._settings.tokens_per_minute}
        wanted = {"requests": 1.0, "tokens": float(n_tokens)}
        now = self._clock.now()
        with self._lock:
            for name, size in sizes.items():
                if size is None:
                    self._buckets.pop(name, None)
                elif name not in self._buckets or self._buckets[name].size != size:
                    self._buckets[name] = _Bucket(size, now)
            for bucket in self._buckets.values():
                bucket.fill(now)
            wait_s = max((bucket.wait_s(wanted[name]) for name, bucket in self._buckets.items()), default=0.0)
            if wait_s > 0:
                headers = {"retry-after": f"{wait_s:.3f}", **self._headers()}
                raise ApiError(429, "Rate limit reached.", code="rate_limit_exceeded", headers=headers)
            for name, bucket in self._buckets.items():
                bucket.level -= min(wanted[name], bucket.size)
            return self._headers()

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for name, bucket in self._buckets.items():
            headers[f"x-ratelimit-limit-{name}"] = str(bucket.size)
            headers[f"x-ratelimit-remaining-{name}"] = str(int(bucket.level))
            headers[f"x-ratelimit-reset-{name}"] = _duration(bucket.wait_s(bucket.size))
        return headers


def _duration(seconds: float) -> str:
    """Return a duration as OpenAI writes it: `12ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{rest:.3f}s" if minutes else f"{rest:.3f}s"
