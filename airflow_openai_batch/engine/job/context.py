"""What an action works with, what it reports, and who watches."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from airflow_openai_batch.engine.answers.readers import Readers
from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.job.state_machine import Fact, ShardUpdate
from airflow_openai_batch.engine.model import Job, Shard, Timing
from airflow_openai_batch.engine.schema.validation import Check
from airflow_openai_batch.engine.store.job_store import JobStore


class Change(NamedTuple):
    """A fact that is in the store now: what the shard was before it, and what it is after it."""

    fact: Fact
    before: Shard
    after: Shard
    child: Shard | None = None


class Act(Protocol):
    """An action under way; it ends with its ``with``."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...
    def tell(self, **what: str | int) -> None:
        """Say more of it: ids, counts, ``fact`` (what was learned) and ``failed``. Never content of rows."""


class Observer(Protocol):
    """Who watches an engine. Called from several threads at once; what it raises breaks the job, so it must not."""

    def acting(self, verb: str, shard: Shard | None = None) -> Act:
        """Begin to observe an action that begins: a verb of ``plan``, ``build`` or ``results``."""

    def planned(self, job: Job) -> None:
        """Record a plan that is in the store now and may be sent: a new job, or a new epoch of one."""

    def committed(self, job: Job, changes: Sequence[Change]) -> None:
        """Record facts that are in the store now, as part of the snapshot ``job``."""


class _Unseen:
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def tell(self, **what: str | int) -> None:
        pass


_UNSEEN = _Unseen()


class Unobserved:
    """The observer that sees nothing."""

    def acting(self, verb: str, shard: Shard | None = None) -> Act:
        """Do nothing."""
        return _UNSEEN

    def planned(self, job: Job) -> None:
        """Do nothing."""

    def committed(self, job: Job, changes: Sequence[Change]) -> None:
        """Do nothing."""


@dataclass
class Engine:
    """What the engine works with. Everything from the outside world is here, so tests can replace it.

    Args:
        store: The job's store.
        api: The verbs.
        timing: Durations.
        check: A check of answers that is stricter than the schema, or None.
        parallel: How many calls and transfers may be under way at once; creating a batch is always alone.
        readers: Who reads answers.
        clock: Returns epoch seconds.
        sleep: Sleeps; only for pauses of seconds.
        unique: Returns a new unique text.
        log: Where progress goes. Never content of rows.
        observer: Watches actions and committed facts.
        work_s: Seconds of work by verb that no snapshot tells of yet.
    """

    store: JobStore
    api: Api
    timing: Timing = field(default_factory=Timing)
    check: Check | None = None
    parallel: int = 1
    readers: Readers = field(default_factory=Readers)
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
    """A fact about a shard, and what became known with it.

    Args:
        fact: The fact.
        update: New values of the shard's fields.
        child: The child shard that was written, if one was.
        hold: Why the job needs manual intervention; reported after the fact is committed.
        is_hold_local: Whether only this shard needs it, and the others can go on.
    """

    fact: Fact
    update: ShardUpdate = field(default_factory=ShardUpdate)
    child: Shard | None = None
    hold: str | None = None
    is_hold_local: bool = False


class Stop(Exception):
    """The job cannot go on without manual intervention, and nothing new became known.

    Args:
        reason: What the person must know.
        is_local: Whether only one shard is concerned, and the others can go on.
    """

    def __init__(self, reason: str, *, is_local: bool = False) -> None:
        super().__init__(reason)
        self.is_local = is_local
