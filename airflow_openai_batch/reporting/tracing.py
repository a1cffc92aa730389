"""Metrics and traces of a job: the observer of the engine that sends them to Airflow.

Facts are counted when they are committed to the job's store, and the end of a job when its write-once file is created,
so that a retry, a clear or a second worker counts nothing twice. Spans are children of the task's span; their
attributes are ids and numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from opentelemetry import trace

from airflow_openai_batch.engine.job.context import Change
from airflow_openai_batch.engine.job.planner import deserves_another_round
from airflow_openai_batch.engine.job.state_machine import Fact
from airflow_openai_batch.engine.job.status import Done, Held, Wait
from airflow_openai_batch.engine.job.summary import check_thresholds, summarize
from airflow_openai_batch.engine.model import Job, Shard, State, Status, model_of
from airflow_openai_batch.engine.money.dollars import PICODOLLARS
from airflow_openai_batch.reporting.metrics import count, took

if TYPE_CHECKING:
    from airflow_openai_batch.engine.job.context import Engine


PREFIX = "openai_batch."
"""Prefix of the names of spans and of their attributes."""


_NOT_RUN = {Fact.QUEUE_FULL, Fact.FILE_NOT_FOUND, Fact.FILE_LOST, Fact.LINES_REJECTED}
"""Facts of a batch in the state RUNNING that OpenAI has failed at validation."""

_POLLS = "refresh"

_log = logging.getLogger(__name__)


class TaskObserver:
    """Sends metrics and spans of what the engine does for a task.

    Args:
        conn_id: The connection that the engine uses.
    """

    def __init__(self, conn_id: str) -> None:
        self._conn_id = conn_id
        self._tracer = trace.get_tracer("airflow_openai_batch")

    def acting(self, verb: str, shard: Shard | None = None) -> Action:
        """Return the span of an action that begins."""
        return Action(self._tracer, self._conn_id, verb, shard)

    def planned(self, job: Job) -> None:
        """Count a job that was planned."""
        tags = job_tags(job)
        count("jobs.submitted", 1, tags)
        count("rows.submitted", job.n_rows, tags)
        count("rows.<status>", summarize(job).n_skipped, tags, Status.SKIPPED)

    def committed(self, job: Job, changes: Sequence[Change]) -> None:
        """Count committed facts."""
        tags = job_tags(job)
        current = {shard.id for shard in job.shards}
        for change in changes:
            _count_batch(change, tags)
            _count_work(change, tags)
            if change.fact is Fact.OUTCOMES_SAVED:
                _count_answers(job, change.after, tags, is_current=change.after.id in current)


class Action:
    """The span of one action.

    Args:
        tracer: Creates the span.
        conn_id: The connection.
        verb: The action.
        shard: The shard that the action is for, if there is one.
    """

    def __init__(self, tracer: trace.Tracer, conn_id: str, verb: str, shard: Shard | None) -> None:
        self._verb = verb
        self._conn_id = conn_id
        self._has_failed = False
        # Without message and traceback of an error: OpenAI's message may quote a row.
        self._opening = tracer.start_as_current_span(
            PREFIX + verb,
            attributes=_attributes(_of_shard(shard)) if shard is not None else None,
            record_exception=False,
            set_status_on_exception=False,
        )

    def __enter__(self) -> Self:
        self._span = self._opening.__enter__()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None
    ) -> None:
        if error_type is not None:
            self._fail(error_type.__name__)
        if self._verb == _POLLS:
            tags = {"conn_id": self._conn_id, "by": "worker"}
            count("polls", 1, tags)
            count("poll_errors", int(self._has_failed), tags)
        self._opening.__exit__(error_type, error, trace_)

    def tell(self, **attributes: str | int) -> None:
        """Add attributes to the span; `failed` sets its status to error."""
        if attributes.pop("failed", False):
            self._fail(str(attributes.get("fact", "")))
        self._span.set_attributes(_attributes(attributes))

    def _fail(self, why: str) -> None:
        self._has_failed = True
        self._span.set_status(trace.StatusCode.ERROR, why)


def _of_shard(shard: Shard) -> dict[str, str | int]:
    values: dict[str, str | int] = {
        "shard": shard.id,
        "round": shard.round,
        "rows": shard.n_rows,
        "requests": shard.n_requests,
        "bytes": shard.n_bytes,
    }
    if shard.batch is not None:
        values["batch_id"] = shard.batch.id
    return values


def _attributes(values: Mapping[str, str | int]) -> dict[str, str | int]:
    return {PREFIX + name: value for name, value in values.items()}


def job_tags(job: Job) -> dict[str, str]:
    """Return the tags of a job's metrics, each of which has a bounded number of values."""
    tags = {"dag_id": job.key.dag_id, "task_id": job.key.task_id, "endpoint": job.spec.endpoint}
    model = model_of(job.spec)
    return {**tags, "model": model} if model else tags


def _count_batch(change: Change, tags: Mapping[str, str]) -> None:
    """Count a batch that was created or has ended."""
    if change.fact is Fact.BATCH_KNOWN:
        count("batches.created", 1, tags)
    elif change.fact is Fact.BATCH_ENDED and change.after.batch is not None:
        batch = change.after.batch
        count("batches.<status>", 1, tags, batch.status)
        if batch.created_at is not None and batch.ended_at is not None:
            took("batches.duration", max(0.0, batch.ended_at - batch.created_at), tags)
    elif change.fact in _NOT_RUN and change.before.state is State.RUNNING:
        count("batches.<status>", 1, tags, "failed")
    elif change.fact is Fact.GIVEN_UP and change.before.state is State.RUNNING:
        count("batches.<status>", 1, tags, "given_up")


def _count_work(change: Change, tags: Mapping[str, str]) -> None:
    if change.fact is Fact.QUEUE_FULL:
        count("queue_waits", 1, tags)
    elif change.fact is Fact.CHILD_MADE and change.child is not None:
        count("rounds", 1, tags)
        count("rows.asked_again", change.child.n_rows, tags)
    elif change.fact in (Fact.ANSWERS_CARRIED, Fact.NOTHING_LEFT):
        _count_carried(change, tags)


def _count_carried(change: Change, tags: Mapping[str, str]) -> None:
    """Count the answers that were there before, beyond those that the shard had already."""
    before, after = change.before, change.after
    count("rows.carried_over", after.n_carried - before.n_carried, tags)
    count("rows.reused", after.n_reused - before.n_reused, tags)
    saved = [shard.carried.saved_picodollars if shard.carried is not None else 0 for shard in (before, after)]
    count("saved_by_reuse", _microdollars(saved[1] - saved[0]), tags)


def _microdollars(picodollars: int) -> int:
    return round(picodollars / PICODOLLARS * 1e6)


def _count_answers(job: Job, shard: Shard, tags: Mapping[str, str], *, is_current: bool) -> None:
    usage = shard.usage
    count("cost", _microdollars(shard.cost.picodollars), tags)
    for token_kind in ("input", "cached", "cache_write", "output", "reasoning"):
        count("tokens.<kind>", getattr(usage, f"{token_kind}_tokens"), tags, token_kind)
    if not is_current:
        return  # the rows belong to a newer epoch; the tokens were paid nevertheless
    is_asked_again = deserves_another_round(job, shard)
    for status, n in shard.tally.items():
        count("rows.<status>", n - (shard.retryable.get(status, 0) if is_asked_again else 0), tags, status)


def ended(engine: Engine, reached: Wait | Done | Held) -> None:
    """Count once that a job has ended or is held, until the job starts over. Never raises for the store or metrics."""
    if isinstance(reached, Wait) or (isinstance(reached, Held) and reached.is_plan):
        return
    job, tags = reached.job, job_tags(reached.job)
    status = "held" if isinstance(reached, Held) else "bad" if check_thresholds(reached.summary, job.policy) else "good"
    try:
        is_first = engine.store.record_end(job.epoch, status)
    except Exception as error:  # counting must not change the result of the job
        _log.debug("The end of the job is not counted: %s", error)
        return
    if not is_first:
        return
    count("jobs.<status>", 1, tags, status)
    if isinstance(reached, Held):
        return
    took("jobs.duration", max(0.0, job.committed_at - job.created_at), tags)
    # Rows that the policy would send again, in a job that was cancelled.
    for shard in job.shards:
        if deserves_another_round(job, shard):
            for row_status, n in shard.asked_again.items():
                count("rows.<status>", n, tags, row_status)
