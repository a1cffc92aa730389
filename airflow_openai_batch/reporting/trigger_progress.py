"""What a deferred task tells of itself: the trigger keeps the job's progress up to date while nobody moves the job.

In the task's log a line is written when something has changed. In XCom the progress is refreshed where Airflow lets a
trigger do so (3.3 and later). Neither is ever allowed to disturb the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from airflow.providers.common.compat.sdk import XCom

from airflow_openai_batch.engine.progress.compute import look_after, with_batches
from airflow_openai_batch.engine.progress.log_format import is_worth_logging, line, logged_as
from airflow_openai_batch.engine.progress.model import Progress, decoded_look, decoded_progress, encoded

if TYPE_CHECKING:
    from airflow_openai_batch.engine.model import Batch, JobKey


REFRESH_S, STILL_S = 15.0, 300.0
"""Seconds between two refreshes of one job, at the least; and at the most while it has a rate."""

_WRITE_S = 0.2
"""Seconds between two writes of all jobs in a triggerer: they share one channel to Airflow with everything else."""

_LEAVE_S = 5.0

_next_write_at: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, float] = weakref.WeakKeyDictionary()


def progress_key(job: JobKey) -> str:
    """Return the XCom key under which tasks leave a job's progress."""
    return _key("progress", job)


def shards_key(job: JobKey) -> str:
    """Return the XCom key under which tasks leave a job's shards."""
    return _key("shards", job)


def _key(name: str, job: JobKey) -> str:
    return f"openai_batch_{name}.{job.task_id}" + (f".{job.map_index}" if job.map_index >= 0 else "")


def can_refresh() -> bool:
    """Return whether this Airflow lets a trigger write XComs without blocking its event loop."""
    return hasattr(XCom, "aset")


class Live:
    """Tells how the batches of a waiting job go. It begins and ends with its ``async with``.

    Args:
        progress: How the job stood when the worker left it, or None: then nothing is reported.
        look: What the worker remembered of it.
        batch_ids: What the trigger watches of this epoch.
        batches: The batches as they were last seen, by id; the trigger fills it.
        task_instance: The task that waits, or None under dag.test(): then XCom is left alone.
        log: Its log.
        refresh_s: Seconds between two refreshes, at the least.
    """

    def __init__(
        self,
        progress: Mapping[str, Any] | None,
        look: Mapping[str, Any] | None,
        batch_ids: Sequence[str],
        batches: Mapping[str, Batch],
        *,
        task_instance: Any,
        log: Any,
        refresh_s: float = REFRESH_S,
    ) -> None:
        self._base = None if progress is None else decoded_progress(progress)
        self._look = None if look is None else decoded_look(look)
        self._own = frozenset(batch_ids)
        self._batches = batches
        self._ti = task_instance if can_refresh() else None
        self._log = log
        self._refresh_s = refresh_s
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def latest(self) -> dict[str, Any] | None:
        """Return what the worker that moves the job next needs to measure the rate. Small: Airflow logs it."""
        if self._base is None:
            return None
        look = look_after(self._look, self._now(self._base))
        return encoded(msgspec.structs.replace(look, logged=None))

    def _now(self, base: Progress) -> Progress:
        own = {batch_id: batch for batch_id, batch in self._batches.items() if batch_id in self._own}
        return with_batches(base, own, time.time(), self._look)

    def changed(self) -> None:
        """Report, soon, that something has changed."""
        self._changed.set()

    async def __aenter__(self) -> Live:
        if self._base is not None:
            self._task = asyncio.create_task(self._run(self._base), name="live progress")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_LEAVE_S)

    async def _run(self, base: Progress) -> None:
        try:
            await self._tell(base)
        except Exception as error:  # only for the eyes: the wait goes on without
            self._log.debug("The progress is reported no more: %r", error)

    async def _tell(self, base: Progress) -> None:
        written = base
        logged = self._look.logged if self._look is not None else logged_as(base)
        while True:
            with contextlib.suppress(TimeoutError):
                # Counts that stand still are reported by nobody, but the rate they had is then no longer theirs.
                async with asyncio.timeout(None if written.rate_per_h is None else STILL_S):
                    await self._changed.wait()
            await asyncio.sleep(min(1.0, self._refresh_s))  # batches are looked at together: wait for the others
            self._changed.clear()
            progress = self._now(base)
            if is_worth_logging(logged, progress):
                self._log.info("%s", line(progress))
                logged = logged_as(progress)
            self._look = look_after(self._look, progress)
            if progress.is_other_than(written):
                written = progress
                await self._write(progress)
            await asyncio.sleep(self._refresh_s)

    async def _write(self, progress: Progress) -> None:
        if self._ti is None:
            return
        loop = asyncio.get_running_loop()
        turn_at = max(loop.time(), _next_write_at.get(loop, 0.0))
        _next_write_at[loop] = turn_at + _WRITE_S
        await asyncio.sleep(turn_at - loop.time())
        write = asyncio.ensure_future(_set(self._ti, progress_key(progress.job), encoded(progress)))
        try:
            await asyncio.shield(write)
        except asyncio.CancelledError:
            # Once under way it must not be overtaken: what the worker writes next is newer.
            await asyncio.wait([write], timeout=_LEAVE_S)
            raise
        except Exception as error:  # only for the eyes: the wait goes on whatever becomes of it
            self._log.debug("The progress could not be written: %s", error)


async def _set(ti: Any, key: str, value: Any) -> None:
    where = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": _map_index(ti)}
    if _is_plain():
        await XCom.aset(key, value, **where)
    else:
        await asyncio.to_thread(XCom.set, key, value, **where)  # a backend of the user's may write to some storage


def _map_index(ti: Any) -> int:
    return -1 if ti.map_index is None else int(ti.map_index)


def _is_plain() -> bool:
    from airflow.sdk.bases.xcom import BaseXCom

    return XCom.serialize_value is BaseXCom.serialize_value
