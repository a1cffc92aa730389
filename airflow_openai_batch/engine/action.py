"""What an action works with, what it reports, and what each kind of error means for the shard."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_openai_batch.engine import machine, queue
from airflow_openai_batch.engine.api import Api
from airflow_openai_batch.engine.errors import ApiError, Denied
from airflow_openai_batch.engine.machine import Fact, Timing, backoff_s
from airflow_openai_batch.engine.model import Batch, LineError, Shard
from airflow_openai_batch.engine.observer import Observer, Unobserved
from airflow_openai_batch.engine.schema import Check
from airflow_openai_batch.engine.store import JobStore

_UNFIT_FACTOR, _DOUBTFUL_FACTOR, _DOUBTFUL_WAITS = 4, 1.5, 6
"""A shard whose estimate exceeds OpenAI's limit four times will never fit. Below, the estimate may be off, the JSON
around short rows was seen to treble it: then it must have been refused for half an hour too."""


@dataclass
class Engine:
    """What the engine works with. Everything from the outside world is here, so tests can replace it.

    Args:
        store: The job's store.
        api: The verbs.
        timing: Durations.
        check: A check of answers that is stricter than the schema, or None.
        parallel: How many calls and transfers may be under way at once; creating a batch is always alone.
        clock: Returns epoch seconds.
        sleep: Sleeps; only for pauses of seconds.
        unique: Returns a new unique text.
        log: Where progress goes. Never content of rows.
        observer: Who is told of actions and of committed facts.
        work_s: Seconds of work by verb that no snapshot tells of yet.
    """

    store: JobStore
    api: Api
    timing: Timing = field(default_factory=Timing)
    check: Check | None = None
    parallel: int = 1
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    unique: Callable[[], str] = lambda: uuid.uuid4().hex[:12]
    log: logging.Logger = field(default_factory=lambda: logging.getLogger(__name__))
    observer: Observer = field(default_factory=Unobserved)
    work_s: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, verb: str) -> Iterator[None]:
        """Count the seconds of a block as work; the next commit tells of it."""
        began_at = self.clock()
        try:
            yield
        finally:
            self.work_s[verb] = self.work_s.get(verb, 0.0) + max(0.0, self.clock() - began_at)


@dataclass(frozen=True)
class Learned:
    """A fact, and what is known with it."""

    fact: Fact
    known: Mapping[str, Any] = field(default_factory=dict)
    child: Shard | None = None
    hold: str | None = None
    """Why the job cannot go on without a person; told after the fact is committed."""


class Stop(Exception):
    """The job cannot go on without a person, and nothing new became known.

    Args:
        reason: What the person must know.
        is_local: Whether only one shard is concerned, and the others can go on.
    """

    def __init__(self, reason: str, *, is_local: bool = False) -> None:
        super().__init__(reason)
        self.is_local = is_local


def told(said: Learned | Stop) -> dict[str, str | int]:
    """Return what an observer may know of an action's end: ids and kinds, never a message."""
    if isinstance(said, Stop):
        return {"fact": "stopped", "failed": True}
    found: dict[str, str | int] = {"fact": said.fact.value}
    batch = said.known.get("batch")
    if isinstance(batch, Batch):
        found |= {"batch_id": batch.id, "batch_status": batch.status}
    if said.child is not None:
        found |= {"child": said.child.id, "child_rows": said.child.n_rows}
    if said.fact is Fact.LINES_REJECTED or said.known.get("problem") is not None:
        found["failed"] = True
    return found


def postponed(engine: Engine, shard: Shard, error: ApiError) -> Learned:
    """Try again later, with back-off or when OpenAI says so. Nothing else changes."""
    pause = max(backoff_s(shard.n_waits + 1, engine.timing), error.retry_after_s or 0.0)
    engine.log.warning("Shard %s: %s Trying again in %.0f s; nothing is lost.", shard.id, error, pause)
    known = {
        "not_before": max(shard.not_before, engine.clock() + pause),
        "n_waits": shard.n_waits + 1,
        "n_looks": shard.n_looks + 1,
        "problem": str(error)[:500],
    }
    return Learned(Fact.POSTPONED, known)


def denied(error: ApiError) -> str:
    """Say what a person with the account has to do."""
    hint = ""
    if error.code == "incorrect_hostname":
        hint = " The key belongs to another region: set the connection's host to that region's address."
    return (
        f"OpenAI refused the credentials or the account ({error}).{hint} Nothing is lost: batches that run go on, and "
        "after the connection or the account is mended, clearing this task takes them up again without paying twice."
    )


def rejected(engine: Engine, shard: Shard, error: ApiError) -> Learned:
    """Give the shard up: OpenAI will not take it, and nothing was billed."""
    engine.log.error("Shard %s: OpenAI refused it: %s", shard.id, error)
    rejection = LineError(code=error.code or f"http_{error.status}", message=str(error))
    known = {"rejections": (rejection,), "problem": str(error)[:500], "not_before": 0.0}
    return Learned(Fact.LINES_REJECTED, known)


def again_later(engine: Engine, shard: Shard, error: ApiError, pause: float | None = None) -> dict[str, Any]:
    """Return what is known of a shard whose batch was certainly not created."""
    pause = backoff_s(shard.n_waits + 1, engine.timing) if pause is None else pause
    pause = max(pause, error.retry_after_s or 0.0)
    engine.log.warning("Shard %s: no batch was created: %s", shard.id, error)
    return {
        "nonce": None,
        "intent_at": None,
        "not_before": engine.clock() + pause,
        "n_waits": shard.n_waits + 1,
        "problem": str(error)[:500],
    }


def unsent(engine: Engine, shard: Shard, batch: Batch | None) -> dict[str, Any]:
    """Return what is known of a shard whose batch ended before it ran: back in line, with back-off."""
    past = shard.past_batches if batch is None else (*shard.past_batches, batch.id)
    pause = backoff_s(shard.n_waits + 1, engine.timing)
    return {
        "batch": None,
        "past_batches": past,
        "nonce": None,
        "intent_at": None,
        "n_waits": shard.n_waits + 1,
        "not_before": engine.clock() + pause,
    }


def queue_full(engine: Engine, shard: Shard, message: str, batch: Batch | None) -> Learned:
    """Back in line, unbilled. What can never fit, and what only money can mend, is said at once."""
    known = {**unsent(engine, shard, batch), "problem": message[:500]}
    pause = known["not_before"] - engine.clock()
    engine.log.warning(
        "Shard %s: OpenAI's queue is full, nothing was billed; next try in %.0f s. %s", shard.id, pause, message
    )
    hold = None
    if batch is not None and (problem := machine.account_problem(batch)):
        hold = denied(Denied(problem))
    limit = queue.queue_limit(message)
    factor = _UNFIT_FACTOR if shard.n_waits < _DOUBTFUL_WAITS else _DOUBTFUL_FACTOR
    if limit is not None and shard.n_tokens > factor * limit:
        hold = (
            f"Shard {shard.id} has about {shard.n_tokens:,} input tokens, but OpenAI allows {limit:,} in the queue, so "
            f"it can never be sent. Nothing was billed for it. Set max_enqueued_tokens={limit} (or less) and clear the "
            "submitting task: the rows are cut into smaller shards, and answers that exist are kept."
        )
    return Learned(Fact.QUEUE_FULL, known, hold=hold)
