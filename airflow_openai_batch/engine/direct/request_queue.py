"""Which request is asked next: new ones, and those that failed for a reason that may pass, but not for ever."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from airflow_openai_batch.engine.direct.lines import LOST, DirectRequest, line_of_error
from airflow_openai_batch.engine.errors import ApiError, Unclear

_MAX_REFUSED = 5
"""How often one request may be refused, for a passing reason, while others are answered."""
_MAX_LOST = 3
"""How often the answer to one request may be lost."""


def is_lost(error: ApiError) -> bool:
    """Return whether a request may have been answered and billed although it failed."""
    return isinstance(error, Unclear) and not error.is_openais


class RequestQueue:
    """The requests of a shard that have no answer yet.

    Attributes:
        n_answers: How many were answered so far.

    Args:
        requests: The requests, which are read as they are needed.
        most_waiting: How many may wait to be asked again before they go first.
    """

    def __init__(self, requests: Iterator[DirectRequest], most_waiting: int) -> None:
        self.n_answers = 0
        self._requests, self._most_waiting = requests, most_waiting
        self._again: deque[DirectRequest] = deque()

    def next(self) -> DirectRequest | None:
        """Return the next request; None if none is left but those that are on their way."""
        if len(self._again) > self._most_waiting:
            return self._again.popleft()
        request = next(self._requests, None)
        return self._again.popleft() if request is None and self._again else request

    def put_back(self, request: DirectRequest) -> None:
        """Ask a request later."""
        self._again.append(request)

    def line_of_failure(self, request: DirectRequest, error: ApiError) -> bytes | None:
        """Record that a request has failed. Returns the line of one that is given up, else None: ask it again.

        In a storm no request is answered, and none is given up.

        Args:
            request: The request.
            error: Why it failed, which may pass.
        """
        if is_lost(error):
            request.n_lost += 1
            return line_of_error(request.custom_id, error, LOST) if request.n_lost >= _MAX_LOST else None
        if not request.n_refused:
            request.n_answers_then = self.n_answers
        request.n_refused += 1
        is_given_up = request.n_refused >= _MAX_REFUSED and self.n_answers > request.n_answers_then
        return line_of_error(request.custom_id, error) if is_given_up else None
