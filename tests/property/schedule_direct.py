"""`finish_by` in a schedule: requests that are asked synchronously, one after another, and what must hold of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import pytest

from airflow_openai_batch.emulator.ledger import Ledger
from airflow_openai_batch.engine.direct.callers import Called
from airflow_openai_batch.engine.job import asking

PARALLEL = 3
DIRECT = "direct"
"""The emulator's bill of what was asked synchronously."""


class OneAtATime:
    """Stands for the threads that make calls side by side: a call is made at once, and its end is taken later."""

    def __init__(self, n_threads: int, call: Callable[[Any], Any]) -> None:
        self.n_out = 0
        self._call = call
        self._ended: list[Called[Any, Any]] = []

    def submit(self, item: Any) -> None:
        self.n_out += 1
        try:
            self._ended.append(Called(item, self._call(item), None))
        except BaseException as error:  # as in a thread: it ends in whoever waits for the call
            self._ended.append(Called(item, None, error))

    def ended(self, timeout_s: float) -> list[Called[Any, Any]]:
        ended, self._ended = self._ended, []
        self.n_out -= len(ended)
        return ended

    def stop(self) -> None:
        """There is nothing to end."""


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let requests be asked in the order of the schedule, whatever time that takes here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "Callers", OneAtATime)
        patch.setattr(asking, "_LINGER_S", inf)
        yield


class DirectWitness:
    """Sees every request that was asked synchronously and billed.

    Attributes:
        n_paid: How often each request was paid for, by the hash of its body and how often a person had started over.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._n_billed = 0
        self.n_paid: Counter[tuple[int, int]] = Counter()

    def note_calls(self, group: int) -> None:
        """Record what the last call was billed for.

        Args:
            group: How often a person had asked to start over by then.
        """
        rows = list(self._ledger.rows(DIRECT))
        self.n_paid.update((row.body_hash, group) for row in rows[self._n_billed :] if row.delivered == "ok")
        self._n_billed = len(rows)

    @property
    def picodollars(self) -> int:
        """What all of them cost."""
        return self._ledger.invoice(DIRECT).picodollars

    def n_too_many(self, by_batch: Counter[tuple[int, int]]) -> int:
        """Return how many were paid for though they were paid for before, in a batch or synchronously.

        Args:
            by_batch: How often each request was paid for in a batch.
        """
        return sum(max(0, n + min(1, by_batch[key]) - 1) for key, n in self.n_paid.items())

    def n_lost(self, group: int, wanted: set[int], answered: set[int]) -> int:
        """Return how many requests have no good answer in the results, of those to which one was paid for.

        Args:
            group: How often a person has asked to start over.
            wanted: The hashes of the bodies that the job asks now.
            answered: Those that have a good answer in the results.
        """
        return sum(n_group == group and body in wanted - answered for body, n_group in self.n_paid)
