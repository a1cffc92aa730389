"""What a callback needs to tell people of a job: why a task failed, and a message with figures and links.

A task's ``on_failure_callback`` runs while the exception is at hand, so one function serves all tasks of a Dag; the
text goes through any notifier of Airflow's providers. A run that is not over in time, while its task still waits, is
for Airflow's ``DeadlineAlert``, with ``late_text()`` as its notifier's text. See ``docs/monitoring.md``.

Nothing here sends anything. No text holds a row, a prompt or an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow.providers.common.compat.sdk import conf

from airflow_openai_batch.exceptions import OpenAIBatchError, OpenAIBatchFailure, Reason
from airflow_openai_batch.ui.plugin import page_url

if TYPE_CHECKING:
    from airflow_openai_batch.engine.progress.model import Progress

__all__ = ["Reason", "job_message", "late_text", "page_address", "reason_of"]

_HEADLINES = {
    Reason.BAD_ROWS: "too many rows without a good answer",
    Reason.HELD: "held, a person must act",
    Reason.MAX_COST: "held at max_cost",
    Reason.PILOT: "held after its pilot",
    Reason.PROBE: "held, as its first row was refused",
    Reason.LATE: "late, its deadline has passed",
    Reason.TIMEOUT: "late, Airflow's own timeout of the task has passed",
    Reason.REFUSED: "cannot be run as it is",
    Reason.PASSING: "failed for a reason that may pass",
    Reason.OTHER: "failed",
}

_TIMEOUTS = {"AirflowSensorTimeout", "AirflowTaskTimeout", "TaskDeferralTimeout"}

_MAX_MESSAGE = 1500
"""Characters of an exception's message: Slack takes 3,000 in a block."""


def reason_of(context: Mapping[str, Any]) -> Reason:
    """Return why a task failed.

    Args:
        context: What Airflow gives to ``on_failure_callback`` or ``on_retry_callback``.
    """
    error = context.get("exception")
    if isinstance(error, OpenAIBatchFailure | OpenAIBatchError):
        return error.reason
    # By name: their place differs between Airflow's versions.
    names = {ancestor.__name__ for ancestor in type(error).__mro__}
    return Reason.TIMEOUT if names & _TIMEOUTS else Reason.OTHER


def job_message(context: Mapping[str, Any]) -> str:
    """Return what to tell people of a task that failed: why, what stands in the job, what to do, and where to look.

    Notifiers take their texts for templates, so nothing in it is one: a ``custom_id`` may well have two braces.

    Args:
        context: What Airflow gives to ``on_failure_callback`` or ``on_retry_callback``.
    """
    ti, error = context["ti"], context.get("exception")
    mapped = f" [{ti.map_index}]" if ti.map_index is not None and ti.map_index >= 0 else ""
    lines = [f"{ti.dag_id} / {ti.task_id}{mapped}: {_HEADLINES[reason_of(context)]} (run {ti.run_id})"]
    progress = error.progress if isinstance(error, OpenAIBatchFailure) else None
    if progress is not None:
        lines += _figures(progress)
    if isinstance(error, OpenAIBatchFailure | OpenAIBatchError):
        text = str(error)
        lines.append(text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 1] + "…")
    elif isinstance(error, BaseException):
        lines.append(f"{type(error).__name__}; the log says more.")  # whose text may hold what a row holds
    owner = () if progress is None else (progress.job.task_id, progress.job.map_index)
    lines.append(f"Job: {page_address(ti.dag_id, ti.run_id, *owner)}")
    if log_url := getattr(ti, "log_url", None):
        lines.append(f"Log: {log_url}")
    return _plain("\n".join(lines))


def _plain(text: str) -> str:
    """Return a text in which Jinja finds nothing to do."""
    return re.sub(r"\{(?=[{%#])", "{ ", text)


def late_text() -> str:
    """Return a template of what to tell people of a run that is not over in time, for the notifier of a DeadlineAlert.

    Airflow gives such a notifier the run and no task; the page that is linked says where its jobs stand, and when they
    will probably be over.
    """
    run = "{{ dag_run.dag_id }}, run {{ dag_run.dag_run_id }}"
    jobs = _address(f"?dag_id={_quoted('dag_id')}&run_id={_quoted('dag_run_id')}")
    return f"{run}: not over in time. Jobs: {jobs}"


def _quoted(field: str) -> str:
    return "{{ dag_run." + field + " | urlencode | replace('/', '%2F') }}"


def _figures(progress: Progress) -> list[str]:
    from airflow_openai_batch.engine.money.dollars import PICODOLLARS, format_dollars
    from airflow_openai_batch.engine.progress.log_format import line

    cost = [] if progress.cost is None else [f"Cost so far: {format_dollars(round(progress.cost * PICODOLLARS))}"]
    return [line(progress), *cost]


def page_address(dag_id: str, run_id: str, task_id: str | None = None, map_index: int = -1) -> str:
    """Return the address of the page with a run's jobs, or with one of them; whole, if ``[api] base_url`` is.

    Args:
        dag_id: The Dag.
        run_id: Its run.
        task_id: The task that the job belongs to; None for all jobs of the run.
        map_index: Its index, or -1.
    """
    query = f"?dag_id={quote(dag_id, safe='')}&run_id={quote(run_id, safe='')}"
    if task_id is not None:
        query += f"&task_id={quote(task_id, safe='')}&map_index={map_index}"
    return _address(query)


def _address(query: str) -> str:
    base = urlsplit(conf.get("api", "base_url", fallback="") or "")
    origin = f"{base.scheme}://{base.netloc}" if base.scheme and base.netloc else ""
    return origin + page_url(query)
