"""The trigger that watches batches. It makes no paid call and keeps no state that matters.

It can be killed and started again from its arguments at any time. It wakes a worker only when there may be something
to do; what that is, the worker finds out from the job store.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec
from airflow.providers.common.compat.sdk import conf
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_openai_batch.engine.machine import ENDED_STATUSES, Timing, Watched, wake
from airflow_openai_batch.hooks import SECTION, OpenAIBatchHook

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from airflow_openai_batch.engine.model import Batch

#: States of our own task instance in which nobody is left to look after its batches.
_ABANDONED = frozenset({"failed", "success", "skipped", "upstream_failed", "removed", "missing"})
_POLL_TIMEOUT_S = 30.0
_BACKOFF_S, _MAX_BACKOFF_S = 5.0, 600.0
_PARALLEL_POLLS = 8
_CANCEL_TRIES, _CANCEL_PAUSE_S = 3, 2.0
_CONNECTION_TRIES = 5
_is_warm = False
_unfinished: set[asyncio.Future[None]] = set()
"""Keeps cancels alive whose trigger is gone: the event loop itself holds tasks only weakly."""


class OpenAIBatchTrigger(BaseTrigger):
    """Watch batches until waking a worker is worth it.

    Args:
        conn_id: The connection.
        batch_ids: What to watch; may be empty while all work waits for its time.
        wake_at: Epoch seconds at which there is something to do whatever the batches say: the end of a back-off, or
            the job's deadline. Absolute, so a restart of the triggerer does not move it.
        is_queued: Whether more work waits for room at OpenAI.
        poll_interval_s: Seconds between two looks at a batch.
        cancel_on_kill: Whether to cancel the batches when a person marks the task failed, success or skipped.
    """

    def __init__(
        self,
        *,
        conn_id: str,
        batch_ids: list[str],
        wake_at: float | None,
        is_queued: bool = False,
        poll_interval_s: float = 60.0,
        cancel_on_kill: bool = True,
    ) -> None:
        super().__init__()
        self.conn_id = conn_id
        self.batch_ids = batch_ids
        self.wake_at = wake_at
        self.is_queued = is_queued
        self.poll_interval_s = poll_interval_s
        self.cancel_on_kill = cancel_on_kill
        self._watched = {batch_id: Watched(id=batch_id) for batch_id in batch_ids}
        self._n_failures = 0
        self._pause_s = 0.0

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and arguments. They are stored in plain text: no key, no prompt."""
        return (
            "airflow_openai_batch.triggers.OpenAIBatchTrigger",
            {
                "conn_id": self.conn_id,
                "batch_ids": self.batch_ids,
                "wake_at": self.wake_at,
                "is_queued": self.is_queued,
                "poll_interval_s": self.poll_interval_s,
                "cancel_on_kill": self.cancel_on_kill,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event when a worker should look."""
        try:
            reason = await self._watch()
        except asyncio.CancelledError:
            # Airflow before 3.3 knows no on_kill; a cancelled run is all that a trigger is told there.
            if not hasattr(BaseTrigger, "on_kill"):
                await self.on_kill()
            raise
        yield TriggerEvent({"reason": reason, "statuses": {w.id: w.status for w in self._watched.values()}})

    async def _watch(self) -> str:
        self.log.info("Watching %d batches.", len(self.batch_ids))
        # An event within the seconds that the deferring worker needs to exit can lose the task to a race in the
        # scheduler; execute has just looked, so nothing is missed by sleeping first.
        await asyncio.gather(self._warm_up(), asyncio.sleep(conf.getfloat(SECTION, "first_poll_delay", fallback=10.0)))
        while True:
            problem = await self._poll()
            reason = problem or wake(
                list(self._watched.values()),
                time.time(),
                self.wake_at,
                is_queued=self.is_queued,
                harvest_after_s=Timing().harvest_after_s,
            )
            if reason is not None:
                return reason
            await asyncio.sleep(self._next_pause())

    def _next_pause(self) -> float:
        """Return the seconds to the next look: jittered, longer after failures, never past ``wake_at``."""
        if self._n_failures:
            # A blip is over in seconds, so the first look after it comes soon, however long the interval.
            first_s = min(_BACKOFF_S, self.poll_interval_s)
            pause = min(first_s * 2.0 ** min(self._n_failures - 1, 10), _MAX_BACKOFF_S)
        else:
            pause = self.poll_interval_s
        pause = max(pause * random.uniform(0.8, 1.2), self._pause_s)  # noqa: S311 - spreads polls, guards nothing
        if self.wake_at is not None:
            pause = min(pause, self.wake_at - time.time())
        return max(pause, 0.1)

    async def _poll(self) -> str | None:
        """Look at every batch that has not ended. Returns a reason to wake a worker for what polling cannot mend."""
        waiting = [batch_id for batch_id, w in self._watched.items() if w.status not in ENDED_STATUSES]
        if not waiting:
            return None
        gate = asyncio.Semaphore(_PARALLEL_POLLS)
        try:
            client = await OpenAIBatchHook(self.conn_id).get_async_conn()
        except Exception as error:  # the connection's back end may be away for a moment
            self._failed(error, None)
            return None if self._n_failures < _CONNECTION_TRIES else "the connection cannot be read"
        answers = await asyncio.gather(*(self._look(gate, client, batch_id) for batch_id in waiting))
        failures = [answer for answer in answers if isinstance(answer, Exception)]
        for answer in answers:
            if not isinstance(answer, Exception):
                self._see(answer)
        return self._judge(failures)

    async def _look(self, gate: asyncio.Semaphore, client: AsyncOpenAI, batch_id: str) -> Batch | Exception:
        from airflow_openai_batch.engine.api import retrieve_async

        async with gate:
            try:
                return await retrieve_async(client, batch_id, _POLL_TIMEOUT_S)
            except Exception as error:  # judged together, so that one batch does not hide the others
                return error

    def _see(self, batch: Batch) -> None:
        from airflow_openai_batch.engine.harvest import describe

        before = self._watched.get(batch.id)
        if before is None:
            return
        if before.status != batch.status:
            self.log.info("%s", describe(batch))
        ended_at = (before.ended_at or time.time()) if batch.status in ENDED_STATUSES else None
        self._watched[batch.id] = msgspec.structs.replace(before, status=batch.status, ended_at=ended_at)

    def _judge(self, failures: list[Exception]) -> str | None:
        from airflow_openai_batch.engine.errors import Denied, NotFound

        if not failures:
            if self._n_failures:
                self.log.info("OpenAI answers again.")
            self._n_failures, self._pause_s = 0, 0.0
            return None
        if any(isinstance(error, Denied | NotFound) for error in failures):
            OpenAIBatchHook(self.conn_id).forget_async_conn()
            return "OpenAI refuses to answer"
        self._failed(failures[0], getattr(failures[0], "retry_after_s", None))
        return None

    def _failed(self, error: Exception, retry_after_s: float | None) -> None:
        self._n_failures += 1
        self._pause_s = retry_after_s or 0.0
        self.log.warning("Look %d in a row failed, the batches run on: %s", self._n_failures, error)

    async def on_kill(self) -> None:
        """Cancel the batches, if a person has ended the task.

        Airflow calls this also when a triggerer only loses its triggers to another one, and when a task is cleared,
        after the new try has taken the batches up again. So the task's own state decides.
        """
        if not self.cancel_on_kill or not self.batch_ids:
            return
        # Airflow cancels a trigger again at its next look when on_kill takes a second, as the first question after the
        # task's state in a new triggerer does: the work must not die with the call.
        work = asyncio.ensure_future(self._cancel_if_abandoned())
        _unfinished.add(work)
        work.add_done_callback(_unfinished.discard)
        await asyncio.shield(work)

    async def _cancel_if_abandoned(self) -> None:
        state = await self._own_state()
        if state not in _ABANDONED:
            self.log.info("Not cancelling: the task is %s, someone else looks after the batches.", state)
            return
        client = await OpenAIBatchHook(self.conn_id).get_async_conn()
        left = self.batch_ids
        for attempt in range(_CANCEL_TRIES):
            await asyncio.sleep(attempt * _CANCEL_PAUSE_S)
            done = await asyncio.gather(*(self._cancel(client, batch_id) for batch_id in left))
            left = [batch_id for batch_id, is_done in zip(left, done, strict=True) if not is_done]
            if not left:
                self.log.warning("Asked OpenAI to cancel, as the task is %s. Finished rows are kept there.", state)
                return
        self.log.error("Could not cancel %s: do it in OpenAI's dashboard, they run on.", ", ".join(left))

    async def _cancel(self, client: AsyncOpenAI, batch_id: str) -> bool:
        from airflow_openai_batch.engine.api import cancel_async

        try:
            await cancel_async(client, batch_id)
        except Exception as error:  # one batch that cannot be cancelled must not save the others
            self.log.warning("Could not cancel %s: %s", batch_id, error)
            return False
        return True

    async def _warm_up(self) -> None:
        """Ask for the task's state once in each triggerer: the first answer takes seconds, too long for on_kill."""
        global _is_warm
        if _is_warm or self.task_instance is None:
            return
        _is_warm = True
        try:
            await self._own_state()
        except Exception as error:  # only a rehearsal
            self.log.debug("The task's state could not be read: %s", error)

    async def _own_state(self) -> str | None:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        ti: Any = self.task_instance
        if ti is None:
            return None  # under dag.test()
        states = await asyncio.to_thread(
            RuntimeTaskInstance.get_task_states,
            dag_id=ti.dag_id,
            task_ids=[ti.task_id],
            run_ids=[ti.run_id],
            map_index=ti.map_index,
        )
        # The API names the state of a mapped task instance by task and index.
        name = ti.task_id if ti.map_index is None or ti.map_index < 0 else f"{ti.task_id}_{ti.map_index}"
        state: str | None = states.get(ti.run_id, {}).get(name, "missing")
        return state
