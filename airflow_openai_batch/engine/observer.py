"""What others may see of the engine at work: a protocol, and a default that sees nothing.

The engine tells of each action while it does it, and of each fact once it is committed: whoever counts facts counts
none twice, however often a task is tried, cleared or taken up again.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from airflow_openai_batch.engine.machine import Fact
from airflow_openai_batch.engine.model import Job, Shard


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
        """Take note of an action that begins: a verb of ``plan``, ``build`` or ``results``."""

    def planned(self, job: Job) -> None:
        """Take note of a plan that is in the store now: a new job, or a new epoch of one."""

    def committed(self, job: Job, changes: Sequence[Change]) -> None:
        """Take note of facts that are in the store now, as part of the snapshot ``job``."""


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
