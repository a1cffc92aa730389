"""What a worker leaves of its job where people look: in XCom for the UI, in links, and in the task's log.

Numbers, ids and the engine's own messages; never content of rows, prompts or keys.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from airflow_openai_batch.engine.job.advice import ways_on
from airflow_openai_batch.engine.job.context import Act, Change, Engine
from airflow_openai_batch.engine.job.duration_history import earlier_durations
from airflow_openai_batch.engine.job.remote_files import Deletion
from airflow_openai_batch.engine.job.spans import EarlierDurations
from airflow_openai_batch.engine.model import Job, Shard, State
from airflow_openai_batch.engine.progress.compute import look_after, progress_of
from airflow_openai_batch.engine.progress.log_format import is_worth_logging, line, logged_as, table
from airflow_openai_batch.engine.progress.model import (
    MAX_ERRORS,
    MAX_EXAMPLES,
    MAX_MESSAGE,
    Failed,
    Look,
    Phase,
    Progress,
    encoded,
)
from airflow_openai_batch.engine.progress.shards import shards_of
from airflow_openai_batch.engine.results.writer import Written
from airflow_openai_batch.links import BATCH_IDS_KEY, BATCH_LINK_KEY, FILE_LINKS_KEY, LINKS, OpenAIBatchLink, addresses
from airflow_openai_batch.reporting.trigger_progress import REFRESH_S, can_refresh, progress_key, shards_key

_MAX_IDS = 1000


class Shown(NamedTuple):
    """What people see of a job now, and what to remember of it for the next time."""

    progress: Progress
    look: Look


def show(
    engine: Engine,
    job: Job,
    context: Mapping[str, Any],
    look: Look | None = None,
    earlier: EarlierDurations | None = None,
    **values: Any,
) -> Shown:
    """Write where a job stands to XCom and the log, also while the task still runs.

    Args:
        engine: The job's engine.
        job: The job as it is now.
        context: The running task's context.
        look: What is remembered of the last look at it.
        earlier: How long earlier jobs took, for the forecast.
        values: What only the caller knows; see ``progress.compute.progress_of``.
    """
    _show_batches(engine, job, context)
    now = time.time()
    values = {"host": engine.api.host, "live": _is_refreshed(context), **values}
    progress = progress_of(job, now, engine.timing, look=look, earlier=earlier, **values)
    logged = look.logged if look is not None else None
    is_table = progress.is_written or progress.phase is Phase.PLANNED  # a table says more
    if is_worth_logging(logged, progress) and not is_table:
        engine.log.info("%s", line(progress))
        logged = logged_as(progress)
    xcoms = {progress_key(job.key): encoded(progress), shards_key(job.key): encoded(shards_of(job, now))}
    _push(engine, context, xcoms)
    return Shown(progress, look_after(look, progress, logged))


class Meanwhile:
    """Shows a job from time to time while a worker moves it: to upload or fetch many files takes long.

    Args:
        engine: The job's engine; it is watched, by others too, until the end of the ``with``.
        context: The running task's context.
        look: What is remembered of the last look at the job.

    Attributes:
        look: The same of the last time that it was shown.
    """

    def __init__(self, engine: Engine, context: Mapping[str, Any], look: Look | None) -> None:
        self.look = look
        self._engine = engine
        self._context = context
        self._other = engine.observer
        self._shown_at = engine.clock()
        self._earlier: EarlierDurations | None = None

    def __enter__(self) -> Self:
        self._engine.observer = self
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.observer = self._other

    def acting(self, verb: str, shard: Shard | None = None) -> Act:
        """Leave it to the other."""
        return self._other.acting(verb, shard)

    def planned(self, job: Job) -> None:
        """Leave it to the other."""
        self._other.planned(job)

    def committed(self, job: Job, changes: Sequence[Change]) -> None:
        """Show the job, if that was long ago."""
        self._other.committed(job, changes)
        if self._engine.clock() - self._shown_at >= REFRESH_S:
            self.show(job)
            self._shown_at = self._engine.clock()

    def show(self, job: Job, **values: Any) -> Shown:
        """Show the job now, with a forecast by earlier jobs, which are read once.

        Args:
            job: The job as it is now.
            values: What only the caller knows; see ``progress.compute.progress_of``.
        """
        engine = self._engine
        if self._earlier is None and any(shard.state is not State.SETTLED for shard in job.shards):
            self._earlier = earlier_durations(engine.store, job, time.time(), engine.log)
        shown = show(engine, job, self._context, self.look, self._earlier, **values)
        self.look = shown.look
        return shown


def show_results(
    engine: Engine,
    job: Job,
    context: Mapping[str, Any],
    written: Written,
    *,
    problem: str | None,
    results_s: float,
    deletion: Deletion | None = None,
) -> Progress:
    """Leave what became of a job, and end the task's log with a table of it. Returns what was shown.

    Args:
        engine: The job's engine.
        job: The job.
        context: The running task's context.
        written: What was written.
        problem: Why it is not good enough, or None.
        results_s: Seconds that writing took.
        deletion: What became of the job's files at OpenAI, if they were to be deleted.
    """
    values = _written_as(job, written, problem)
    if deletion is not None:
        values |= {"files_deleted": deletion.n_deleted, "files_left": len(deletion.left)}
    shown = show(engine, job, context, **values, results_s=results_s)
    engine.log.info("%s", table(shown.progress))
    return shown.progress


def _show_batches(engine: Engine, job: Job, context: Mapping[str, Any]) -> None:
    """Leave batch ids and links to OpenAI's dashboard."""
    batches = [shard.batch for shard in job.shards if shard.batch is not None]
    links = addresses(batches, engine.api.host)
    xcoms: dict[str, Any] = {
        BATCH_IDS_KEY: [batch.id for batch in batches[-_MAX_IDS:]],
        BATCH_LINK_KEY: links.get(OpenAIBatchLink.name, ""),
        FILE_LINKS_KEY: {name: address for name, address in links.items() if name != OpenAIBatchLink.name},
    }
    # Where Airflow looks; it fills these itself only when the task ends or defers.
    xcoms |= {link.xcom_key: links[link.name] for link in LINKS if link.name in links}
    _push(engine, context, xcoms)


def _push(engine: Engine, context: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    try:
        for key, value in values.items():
            context["ti"].xcom_push(key=key, value=value)
    except Exception as error:  # only for the eyes: a job that is paid for goes on without
        engine.log.warning("%s could not be written to XCom: %s", ", ".join(values), error)


def phase_of(reached: Any) -> dict[str, Any]:
    """Return what the engine's last word says of a job's phase."""
    from airflow_openai_batch.engine.job.status import Done, Held

    if isinstance(reached, Held) and reached.is_plan:
        return {"phase": Phase.PLANNED}
    if isinstance(reached, Done):
        return {"phase": Phase.DONE}
    limit = reached.limit
    values = {"limit": limit.by} if limit is not None else {}
    if isinstance(reached, Held):
        return {"phase": Phase.HELD, "problem": reached.reason, **values}
    # That a pilot runs is no problem; that the rest will not be sent when it ends is one.
    return {**values, "problem": limit.reason} if limit is not None and limit.by == "cap" else values


def _written_as(job: Job, written: Written, problem: str | None) -> dict[str, Any]:
    errors = [
        Failed(
            status=error.status,
            code=error.code[:60],
            n=error.n,
            custom_ids=tuple(custom_id[:64] for custom_id in error.custom_ids[:MAX_EXAMPLES]),
            message=(error.message or "")[:MAX_MESSAGE] or None,
        )
        for error in written.errors[:MAX_ERRORS]
    ]
    phase = Phase.WRITTEN if problem is None else Phase.BAD
    return {
        "phase": phase,
        "problem": problem,
        "output": written.output,
        "dead_letter": written.dead_letter,
        "n_dead_letter": written.n_dead_letter,
        "errors": tuple(errors),
        "advice": ways_on(job, written.summary),
    }


def _is_refreshed(context: Mapping[str, Any]) -> bool:
    return can_refresh() and bool(getattr(context["ti"].task, "deferrable", False))
