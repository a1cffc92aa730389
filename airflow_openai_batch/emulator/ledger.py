"""The record of billed rows and of calls, by which tests verify that no row is paid for twice."""

from __future__ import annotations

import hashlib
import json
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from airflow_openai_batch.emulator.invoice import UNKNOWN
from airflow_openai_batch.emulator.model import Batch, JsonObject

DIRECT = "direct"
"""In place of a batch's id: requests that were answered synchronously."""

_MAX_CALLS = 100_000
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False).encode


class Call(NamedTuple):
    """One HTTP call as the server saw it.

    Attributes:
        at: When, in epoch seconds.
        method: The HTTP method.
        path: The path without query.
        status: The HTTP status, None if the call was not answered.
        fault: The names of the faults that applied, joined by `+`.
    """

    at: float
    method: str
    path: str
    status: int | None
    fault: str


class Billed(NamedTuple):
    """One billed row. `delivered` is `ok`, or the name of the reply type or fault that made its answer useless."""

    batch_id: str
    custom_id: str
    body_hash: int
    input_tokens: int
    output_tokens: int
    delivered: str


class Invoice(NamedTuple):
    """What rows cost in picodollars (a millionth of a millionth of a dollar), and how many have no known price."""

    picodollars: int
    n_without_price: int


class DoubleBilling(NamedTuple):
    """A request that was billed in more than one batch."""

    custom_id: str
    body_hash: int
    batch_ids: tuple[str, ...]


def body_hash(body: JsonObject) -> int:
    """Return a 64-bit hash of a request body that does not depend on the order of its keys."""
    return int.from_bytes(hashlib.blake2b(_canonical(body).encode(), digest_size=8).digest())


@dataclass(slots=True)
class Bill:
    """The billed rows of one batch, by column, so that a million rows need only some hundred megabytes."""

    batch_id: str
    custom_ids: list[str] = field(default_factory=list)
    body_hashes: array[int] = field(default_factory=lambda: array("Q"))
    input_tokens: array[int] = field(default_factory=lambda: array("L"))
    output_tokens: array[int] = field(default_factory=lambda: array("L"))
    costs: array[int] = field(default_factory=lambda: array("q"))
    undelivered: dict[int, str] = field(default_factory=dict)

    def add(self, custom_id: str, digest: int, tokens: tuple[int, int], delivered: str, cost: int) -> None:
        """Record a billed row.

        Args:
            custom_id: The row's custom_id.
            digest: The hash of its body.
            tokens: Its input and output tokens.
            delivered: See `Billed`.
            cost: In picodollars, or `UNKNOWN`.
        """
        if delivered != "ok":
            self.undelivered[len(self.custom_ids)] = delivered
        self.custom_ids.append(custom_id)
        self.body_hashes.append(digest)
        self.input_tokens.append(tokens[0])
        self.output_tokens.append(tokens[1])
        self.costs.append(cost)

    def rows(self) -> Iterator[Billed]:
        """Yield the rows in the order in which they were answered."""
        columns = zip(self.custom_ids, self.body_hashes, self.input_tokens, self.output_tokens, strict=True)
        for number, (custom_id, digest, input_tokens, output_tokens) in enumerate(columns):
            delivered = self.undelivered.get(number, "ok")
            yield Billed(self.batch_id, custom_id, digest, input_tokens, output_tokens, delivered)


class Ledger:
    """Batches created, rows billed, calls received. Safe to use from any thread.

    OpenAI: completed rows of completed, expired and cancelled batches are billed, others are not.

    Args:
        settle: Completes the work that is due at the clock's time, before the ledger is read.
    """

    def __init__(self, settle: Callable[[], None] = lambda: None) -> None:
        self._settle = settle
        self._lock = threading.Lock()
        self._bills: dict[str, Bill] = {}
        self._batches: list[Batch] = []
        self._calls: deque[Call] = deque(maxlen=_MAX_CALLS)

    @property
    def batches(self) -> list[Batch]:
        """Return every batch ever created, oldest first, including those whose response was dropped."""
        self._settle()
        return list(self._batches)

    @property
    def calls(self) -> list[Call]:
        """Return the last 100,000 calls, oldest first, without those of the emulator's own routes."""
        with self._lock:
            return list(self._calls)

    def n_calls(self, method: str, path: str) -> int:
        """Return the number of calls with that method whose path starts with `path`."""
        return sum(call.method == method and call.path.startswith(path) for call in self.calls)

    def live_batches(self) -> list[Batch]:
        """Return the batches that have not ended."""
        return [batch for batch in self.batches if batch.is_live]

    def rows(self, batch_id: str | None = None) -> Iterator[Billed]:
        """Yield the billed rows, of one batch or of all."""
        self._settle()
        with self._lock:
            bills = [bill for bill in self._bills.values() if batch_id in (None, bill.batch_id)]
        for bill in bills:
            yield from bill.rows()

    def n_rows(self, batch_id: str | None = None) -> int:
        """Return the number of billed rows, of one batch or of all."""
        self._settle()
        with self._lock:
            return sum(len(bill.custom_ids) for bill in self._bills.values() if batch_id in (None, bill.batch_id))

    def invoice(self, batch_id: str | None = None) -> Invoice:
        """Return what the billed rows cost, of one batch or of all."""
        self._settle()
        with self._lock:
            costs = [bill.costs for bill in self._bills.values() if batch_id in (None, bill.batch_id)]
        known = [cost for of_batch in costs for cost in of_batch if cost != UNKNOWN]
        return Invoice(sum(known), sum(map(len, costs)) - len(known))

    def rows_billed_twice(self, *, only_delivered: bool = False) -> list[DoubleBilling]:
        """Return the requests billed in more than one batch.

        Args:
            only_delivered: Count only billings with a useful answer: to request a refused, truncated, invalid or
                malformed row again is a decision, not an accident.
        """
        seen: dict[tuple[str, int], tuple[str, ...]] = {}
        for row in self.rows():
            if only_delivered and row.delivered != "ok":
                continue
            key = (row.custom_id, row.body_hash)
            batch_ids = seen.get(key, ())
            if row.batch_id not in batch_ids:
                seen[key] = (*batch_ids, row.batch_id)
        return [DoubleBilling(*key, batch_ids) for key, batch_ids in seen.items() if len(batch_ids) > 1]

    def record_batch(self, batch: Batch) -> None:
        """Record a new batch."""
        with self._lock:
            self._batches.append(batch)

    def record_bill(self, bill: Bill) -> None:
        """Record what a batch cost."""
        with self._lock:
            self._bills[bill.batch_id] = bill

    def record_direct(self, digest: int, tokens: tuple[int, int], delivered: str, cost: int) -> None:
        """Record a request that was answered synchronously.

        Args:
            digest: The hash of its body.
            tokens: Its input and output tokens.
            delivered: See `Billed`.
            cost: In picodollars, or `UNKNOWN`.
        """
        with self._lock:
            self._bills.setdefault(DIRECT, Bill(DIRECT)).add("", digest, tokens, delivered, cost)

    def record_call(self, call: Call) -> None:
        """Record a call."""
        with self._lock:
            self._calls.append(call)

    def clear(self) -> None:
        """Remove every record."""
        with self._lock:
            self._bills.clear()
            self._batches.clear()
            self._calls.clear()
