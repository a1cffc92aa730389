"""What waits for a task's batches in the triggerer, until waking a worker is worth it.

It runs on the triggerer's event loop, and all waits of a connection share one watcher (``polling``).
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

from airflow_openai_batch import settings
from airflow_openai_batch.engine.job.planner import Watched, wake
from airflow_openai_batch.engine.model import ENDED_STATUSES, Timing, describe
from airflow_openai_batch.polling.subscription import SubscriptionFailed, Update
from airflow_openai_batch.polling.watcher import watch
from airflow_openai_batch.reporting.metrics import PollCounts
from airflow_openai_batch.reporting.trigger_progress import REFRESH_S, Live

if TYPE_CHECKING:
    from airflow_openai_batch.engine.model import Batch
    from airflow_openai_batch.hooks import OpenAIBatchHook

_WATCHER_TRIES, _WATCHER_PAUSE_S = 3, 30.0


class Waiter:
    """Waits for one trigger.

    Args:
        hook: The connection.
        batch_ids: What to watch.
        batches: Filled with the batches as they are seen, by id.
        wake_at: Epoch seconds at which there is something to do whatever the batches say.
        is_queued: Whether more work waits for room at OpenAI.
        poll_interval_s: The longest pause between two looks at a batch.
        progress: Where the job stood when the task deferred.
        look: What the task remembered of the job.
        n_earlier: How many of the batches, the first ones, belong to epochs before starting over.
        task_instance: The task's, to tell its progress; None without Airflow around.
        log: The trigger's log.

    Attributes:
        seen: What the task is told of the progress, once the wait is over.
    """

    def __init__(
        self,
        hook: OpenAIBatchHook,
        batch_ids: list[str],
        batches: dict[str, Batch],
        *,
        wake_at: float | None,
        is_queued: bool,
        poll_interval_s: float,
        progress: dict[str, Any] | None,
        look: dict[str, Any] | None,
        n_earlier: int,
        task_instance: Any,
        log: Any,
    ) -> None:
        self._hook, self._batch_ids, self._log = hook, batch_ids, log
        self._wake_at, self._is_queued, self._poll_interval_s = wake_at, is_queued, poll_interval_s
        self._batches = batches
        self._ended_at: dict[str, float] = {}
        self._live = functools.partial(
            Live,
            progress,
            look,
            batch_ids[n_earlier:],
            self._batches,
            task_instance=task_instance,
            log=log,
            refresh_s=min(REFRESH_S, max(1.0, poll_interval_s)),
        )
        self.seen: dict[str, Any] | None = None

    def statuses(self) -> dict[str, str | None]:
        """Return the batches' statuses as they were last seen, by id; None for those not yet looked at."""
        return {batch_id: self._watched(batch_id).status for batch_id in self._batch_ids}

    async def until_worth_it(self) -> str:
        """Wait until waking a worker is worth it. Returns why, for the log."""
        self._log.info("Watching %d batches.", len(self._batch_ids))
        # An event within the seconds that the deferring worker needs to exit can lose the task to a race in the
        # scheduler; execute has just looked, so nothing is missed by looking later.
        delay_s = settings.FIRST_POLL_DELAY.get()
        for attempt in range(_WATCHER_TRIES):
            try:
                return await self._watch_until_worth_it(delay_s + attempt * _WATCHER_PAUSE_S)
            except SubscriptionFailed as error:
                self._log.warning("%s Beginning anew; the batches run on.", error)
        return "watching failed"

    async def _watch_until_worth_it(self, delay_s: float) -> str:
        polls = PollCounts(self._hook.conn_id)
        waiting = watch(self._hook, self._batch_ids, longest_s=self._poll_interval_s, delay_s=delay_s, counted=polls)
        async with waiting as shared, self._live() as live:
            while True:
                update = await shared.next_update(self._next_moment())
                self._record(update)
                if update.changed:
                    live.changed()
                reason = update.refusal or wake(
                    [self._watched(batch_id) for batch_id in self._batch_ids],
                    time.time(),
                    self._wake_at,
                    is_queued=self._is_queued,
                    harvest_after_s=Timing().harvest_after_s,
                )
                if reason is not None:
                    self.seen = live.latest()
                    return reason

    def _next_moment(self) -> float | None:
        """Return when there is something to do without an update: ``wake_at``, or to fetch what has ended."""
        moments = [ended_at + Timing().harvest_after_s for ended_at in self._ended_at.values()]
        return min(moments if self._wake_at is None else [self._wake_at, *moments], default=None)

    def _record(self, update: Update) -> None:
        """Record what has changed, and log it for this task."""
        if update.failure is not None:
            self._log.warning("Look %d in a row failed, the batches run on: %s", *update.failure)
        elif update.is_well_again:
            self._log.info("OpenAI answers again.")
        for batch in update.changed:
            before = self._batches.get(batch.id)
            self._batches[batch.id] = batch
            if before is None or before.status != batch.status:
                self._log.info("%s", describe(batch))
            if batch.status in ENDED_STATUSES:
                self._ended_at.setdefault(batch.id, time.time())

    def _watched(self, batch_id: str) -> Watched:
        batch = self._batches.get(batch_id)
        if batch is None:
            return Watched(id=batch_id)
        return Watched(id=batch_id, status=batch.status, ended_at=self._ended_at.get(batch_id))
