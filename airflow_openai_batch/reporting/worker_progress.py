"""What a worker leaves of its job where people look: in XCom for the UI, in links, and in the task's log.

Numbers, ids and the engine's own messages; never content of rows, prompts or keys.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from airflow_openai_batch.engine.job.context import Act, Change, Engine
from airflow_openai_batch.engine.model import Job, Shard
from airflow_openai_batch.engine.progress.compute import look_after, progress_of
from airflow_openai_batch.engine.progress.log_format import is_worth_logging, line, logged_as, table
from airflow_openai_batch.engine.progress.model import MAX_ERRORS, MAX_EXAMPLES, Failed, Look, Phase, Progress, encoded
from airflow_openai_batch.engine.progress.shards import shards_of
from airflow_openai_batch.engine.results.writer import Written
from airflow_openai_batch.links import BATCH_IDS_KEY, BATCH_LINK_KEY, FILE_LINKS_KEY, LINKS, OpenAIBatchLink, addresses
from airflow_openai_batch.reporting.trigger_progress import REFRESH_S, can_refresh, progress_key, shards_key

_MAX_IDS = 1000


class Shown(NamedTuple):
    """What people see of a job now, and what to remember of it for the next time."""

    progress: Progress
    look: Look


def show(engine: Engine, job: Job, context: Mapping[str, Any], look: Look | None = None, **values: Any) -> Shown:
    """Write where a job stands to XCom and the log, also while the task still runs.

    Args:
        engine: The job's engine.
        job: The job as it is now.
        context: The running task's context.
        look: What is remembered of the last look at it.
        values: What only the caller knows; see ``progress.compute.progress_of``.
    """
    _show_batches(engine, job, context)
    now = time.time()
    progress = progress_of(
        job, now, engine.timing, look=look, host=engine.api.host, live=_is_refreshed(context), **values
    )
    logged = look.logged if look is not None else None
    if is_worth_logging(logged, progress) and not progress.is_written:  # of what is written, a table says more
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
            self.look = show(self._engine, job, self._context, self.look).look
            self._shown_at = self._engine.clock()


def show_results(
    engine: Engine, job: Job, context: Mapping[str, Any], written: Written, *, problem: str | None, results_s: float
) -> None:
    """Leave what became of a job, and end the task's log with a table of it.

    Args:
        engine: The job's engine.
        job: The job.
        context: The running task's context.
        written: What was written.
        problem: Why it is not good enough, or None.
        results_s: Seconds that writing took.
    """
    shown = show(engine, job, context, **_written_as(written, problem), results_s=results_s)
    engine.log.info("%s", table(shown.progress))


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

    if isinstance(reached, Held):
        return {"phase": Phase.HELD, "problem": reached.reason}
    return {"phase": Phase.DONE} if isinstance(reached, Done) else {}


def _written_as(written: Written, problem: str | None) -> dict[str, Any]:
    errors = [
        Failed(
            status=error.status,
            code=error.code[:60],
            n=error.n,
            custom_ids=tuple(custom_id[:64] for custom_id in error.custom_ids[:MAX_EXAMPLES]),
        )
        for error in written.errors[:MAX_ERRORS]
    ]
    phase = Phase.WRITTEN if problem is None else Phase.BAD
    places = {"output": written.output, "dead_letter": written.dead_letter}
    return {"phase": phase, "problem": problem, **places, "errors": tuple(errors)}


def _is_refreshed(context: Mapping[str, Any]) -> bool:
    return can_refresh() and bool(getattr(context["ti"].task, "deferrable", False))
