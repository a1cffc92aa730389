"""The metrics of this package, and how tasks and the triggerer send them to Airflow's ``Stats``.

``METRICS`` is the complete list; nothing else is sent. Statuses are part of the name (``openai_batch.rows.succeeded``),
because plain statsd drops tags; the tags identify Dag, task and connection. A broken or slow back end of metrics never
harms a task or a trigger.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import logging
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from airflow_openai_batch.engine.model import Status

PREFIX = "openai_batch."

_log = logging.getLogger(__name__)


class Metric(NamedTuple):
    """The definition of a metric.

    Attributes:
        instrument: `counter` or `timer`.
        unit: The unit of its values.
        tags: The names of its tags.
        when: When it is sent, in the words of the documentation.
        values: The values of the part of the name in angle brackets, which is also a tag.
    """

    instrument: str
    unit: str
    tags: tuple[str, ...]
    when: str
    values: tuple[str, ...] = ()


_JOB = ("dag_id", "task_id", "endpoint", "model")

_CONNECTION = ("conn_id", "by")

METRICS: dict[str, Metric] = {
    "jobs.submitted": Metric("counter", "jobs", _JOB, "A plan is written: a new job, or one that starts over"),
    "jobs.<status>": Metric(
        "counter",
        "jobs",
        _JOB,
        "A job ends, good or bad by its thresholds, or is held: needs manual intervention. Once until it starts over",
        ("good", "bad", "held"),
    ),
    "jobs.duration": Metric("timer", "ms", _JOB, "A job ends, good or bad: from its plan to its last outcome"),
    "rows.submitted": Metric("counter", "rows", _JOB, "A plan is written"),
    "rows.<status>": Metric(
        "counter",
        "rows",
        _JOB,
        "A row has its outcome and is not asked again",
        tuple(status.value for status in Status),
    ),
    "rows.asked_again": Metric("counter", "rows", _JOB, "Rows go into another round"),
    "rows.carried_over": Metric(
        "counter", "rows", _JOB, "A row has an answer that was there before: of before starting over, or reused; unpaid"
    ),
    "rows.reused": Metric(
        "counter", "rows", _JOB, "Of these, the answer came from another job, or from an equal request of this one"
    ),
    "tokens.<kind>": Metric(
        "counter",
        "tokens",
        _JOB,
        "Answers are fetched; `cached` and `cache_write` are part of `input`, `reasoning` part of `output`",
        ("input", "cached", "cache_write", "output", "reasoning"),
    ),
    "cost": Metric("counter", "microdollars", _JOB, "Answers are fetched, good or bad, and their price is known"),
    "saved_by_reuse": Metric("counter", "microdollars", _JOB, "Answers are reused: what they cost when asked"),
    "batches.created": Metric("counter", "batches", _JOB, "A batch of a job is known to exist"),
    "batches.<status>": Metric(
        "counter",
        "batches",
        _JOB,
        "A batch is seen to have ended; `given_up`: one of before starting over, which OpenAI no longer knows",
        ("completed", "expired", "cancelled", "failed", "given_up"),
    ),
    "batches.duration": Metric("timer", "ms", _JOB, "A batch that ran is seen to have ended: by OpenAI's own times"),
    "queue_waits": Metric("counter", "waits", _JOB, "OpenAI's queue is full and a shard has to wait, unbilled"),
    "rounds": Metric("counter", "shards", _JOB, "A shard's rows go into another round"),
    "polls": Metric("counter", "requests", _CONNECTION, "Requests for the status of batches"),
    "poll_errors": Metric("counter", "requests", _CONNECTION, "Of these, the failed ones; and connections unreadable"),
}


def names() -> frozenset[str]:
    """Return the full name of every metric."""
    return frozenset(
        PREFIX + _filled(name, value) for name, metric in METRICS.items() for value in metric.values or ("",)
    )


def _filled(name: str, value: str) -> str:
    return f"{name.partition('<')[0]}{value}"


def count(name: str, n: int, tags: Mapping[str, str], value: str = "") -> None:
    """Increment a counter. Never raises.

    Args:
        name: A key of ``METRICS``.
        n: The increment; nothing is sent for 0.
        tags: The tags; those that the metric does not have are ignored.
        value: The value of the name's part in angle brackets.
    """
    if n:
        _send("incr", name, n, tags, value)


def took(name: str, seconds: float, tags: Mapping[str, str]) -> None:
    """Send a duration. Never raises.

    Args:
        name: A key of ``METRICS``.
        seconds: The duration.
        tags: The tags; those that the metric does not have are ignored.
    """
    _send("timing", name, datetime.timedelta(seconds=seconds), tags, "")


def _send(method: str, name: str, amount: Any, tags: Mapping[str, str], value: str) -> None:
    metric = METRICS[name]
    # As plain strings: not every back end accepts an enumeration.
    sent = {tag: str(tags[tag]) for tag in metric.tags if tags.get(tag)}
    if metric.values:
        sent[name.partition("<")[2].rstrip(">")] = str(value)
    try:
        getattr(_stats(), method)(PREFIX + _filled(name, str(value)), amount, tags=sent)
    except Exception as error:  # a back end of metrics may raise anything, and must not harm a task
        _warn_once(type(error).__name__)


@functools.cache
def _warn_once(error_type: str) -> None:
    _log.warning("Metrics cannot be sent: %s. The work goes on without them.", error_type)


@functools.cache
def _stats() -> Any:
    """Return Airflow's Stats, initialized. Airflow 3.3 initializes it for tasks, but not in every triggerer process."""
    from airflow.providers.common.compat.sdk import Stats, conf

    state = sys.modules[Stats.__module__]
    if getattr(state, "_factory", state) is None:
        from airflow.sdk.observability.metrics import stats_utils

        has_old_names = conf.getboolean("metrics", "legacy_names_on", fallback=True)
        Stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=has_old_names)
    return Stats


class PollCounts:
    """Counts the requests of a triggerer's watcher on its event loop, and sends the counts from another thread.

    A back end may block, to resolve a name or to wait for a server. Meanwhile counts add up, and one thread waits.

    Args:
        conn_id: The connection.
    """

    def __init__(self, conn_id: str) -> None:
        self._tags = {"conn_id": conn_id, "by": "trigger"}
        self._n_polls = 0
        self._n_errors = 0
        self._sending: asyncio.Future[None] | None = None

    def __call__(self, n_polls: int, n_errors: int) -> None:
        """Count requests, and those of them that failed."""
        self._n_polls += n_polls
        self._n_errors += n_errors
        self._go_on()

    def _go_on(self, _: object = None) -> None:
        if self._sending is not None and not self._sending.done():
            return
        if not (self._n_polls or self._n_errors):
            return
        counts = self._n_polls, self._n_errors
        with contextlib.suppress(RuntimeError):  # the loop is being closed
            loop = asyncio.get_running_loop()
            self._sending = loop.run_in_executor(None, _send_polls, *counts, self._tags)
            self._n_polls = self._n_errors = 0
            self._sending.add_done_callback(self._go_on)


def _send_polls(n_polls: int, n_errors: int, tags: Mapping[str, str]) -> None:
    count("polls", n_polls, tags)
    count("poll_errors", n_errors, tags)
