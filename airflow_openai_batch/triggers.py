"""The trigger that watches batches. It makes no paid call and keeps no state that matters.

It can be killed and started again from its arguments at any time. It wakes a worker only when there may be something
to do; what that is, the worker finds out from the job store. All triggers of a connection in a triggerer share one
watcher (``polling``), which makes the requests; how one of them waits is in ``waiter``.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections.abc import AsyncIterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_openai_batch.hooks import OpenAIBatchHook

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from airflow_openai_batch.engine.model import Batch
    from airflow_openai_batch.waiter import Waiter

#: States of our own task instance in which nobody is left to look after its batches.
_ABANDONED = frozenset({"failed", "success", "skipped", "upstream_failed", "removed", "missing"})
_CANCEL_TRIES, _CANCEL_PAUSE_S, _LOOK_TIMEOUT_S = 3, 2.0, 30.0
_is_warm = False
_WAITER = "airflow_openai_batch.waiter"
_loading: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()
"""Lets one trigger of an event loop load what all of them need, and the others go on one by one."""
_unfinished: set[asyncio.Future[None]] = set()
"""Keeps cancels alive whose trigger is gone: the event loop itself holds tasks only weakly."""


async def _waiter_class() -> type[Waiter]:
    """Load what a wait needs, once and beside the event loop."""
    module = sys.modules.get(_WAITER)
    if not hasattr(module, "Waiter"):
        loop = asyncio.get_running_loop()
        # A lock lets one trigger go on in each round of the loop: thousands that start at once must not hold it up.
        async with _loading.setdefault(loop, asyncio.Lock()):
            module = sys.modules.get(_WAITER)
            if not hasattr(module, "Waiter"):
                module = await loop.run_in_executor(None, import_module, _WAITER)
    waiter_class: type[Waiter] = module.Waiter  # type: ignore[union-attr]
    return waiter_class


class OpenAIBatchTrigger(BaseTrigger):
    """Watches batches until waking a worker is worth it.

    Args:
        conn_id: The connection.
        batch_ids: What to watch; may be empty while all work waits for its time.
        wake_at: Epoch seconds at which there is something to do whatever the batches say: the end of a back-off, or
            the job's deadline. Absolute, so a restart of the triggerer does not move it.
        is_queued: Whether more work waits for room at OpenAI.
        poll_interval_s: The longest pause between two looks at a batch; ``pace`` tells when it is shorter.
        cancel_on_kill: Whether to cancel the batches when a person marks the task failed, success or skipped.
        progress: Where the job stood when the task deferred (``engine.progress``), to keep it up to date; counts and
            ids. None: only the batches are reported.
        look: What the task remembered of the job, for its rate and its log.
        n_earlier: How many of the batches, the first ones, belong to epochs before starting over.

    Attributes:
        batches: The batches as they were last seen, with their counts, by id; without those not yet looked at.
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
        progress: dict[str, Any] | None = None,
        look: dict[str, Any] | None = None,
        n_earlier: int = 0,
    ) -> None:
        super().__init__()
        self.conn_id = conn_id
        self.batch_ids = batch_ids
        self.wake_at = wake_at
        self.is_queued = is_queued
        self.poll_interval_s = poll_interval_s
        self.cancel_on_kill = cancel_on_kill
        self.progress = progress
        self.look = look
        self.n_earlier = n_earlier
        self.batches: dict[str, Batch] = {}

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
                "progress": self.progress,
                "look": self.look,
                "n_earlier": self.n_earlier,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event when a worker should look."""
        try:
            waiter_class = await _waiter_class()
            waiter = waiter_class(
                OpenAIBatchHook(self.conn_id),
                self.batch_ids,
                self.batches,
                wake_at=self.wake_at,
                is_queued=self.is_queued,
                poll_interval_s=self.poll_interval_s,
                progress=self.progress,
                look=self.look,
                n_earlier=self.n_earlier,
                task_instance=self.task_instance,
                log=self.log,
            )
            await self._warm_up()
            reason = await waiter.until_worth_it()
        except asyncio.CancelledError:
            # Airflow before 3.3 knows no on_kill; a cancelled run is all that a trigger learns there.
            if not hasattr(BaseTrigger, "on_kill"):
                await self.on_kill()
            raise
        seen = {} if waiter.seen is None else {"seen": waiter.seen}
        yield TriggerEvent({"reason": reason, "statuses": waiter.statuses(), **seen})

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
        from airflow_openai_batch.engine.api.client import cancel_async, retrieve_async
        from airflow_openai_batch.engine.errors import NotFound
        from airflow_openai_batch.engine.model import NOTHING_TO_CANCEL

        try:
            if await cancel_async(client, batch_id):
                return True
            # A proxy can answer anything once: the batch itself tells whether there is nothing to cancel.
            batch = await retrieve_async(client, batch_id, _LOOK_TIMEOUT_S)
        except NotFound:
            return True
        except Exception as error:  # one batch that cannot be cancelled must not save the others
            self.log.warning("Could not cancel %s: %s", batch_id, error)
            return False
        return batch.status in NOTHING_TO_CANCEL

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
        from asgiref.sync import sync_to_async

        ti: Any = self.task_instance
        if ti is None:
            return None  # under dag.test()
        # Not asyncio.to_thread: in Airflow 3.1 the question goes back to this event loop, which only asgiref's threads
        # know of. From any other the answer is read by the wrong one, and the triggerer ends.
        states = await sync_to_async(RuntimeTaskInstance.get_task_states, thread_sensitive=False)(
            dag_id=ti.dag_id,
            task_ids=[ti.task_id],
            run_ids=[ti.run_id],
            map_index=ti.map_index,
        )
        # The API names the state of a mapped task instance by task and index.
        name = ti.task_id if ti.map_index is None or ti.map_index < 0 else f"{ti.task_id}_{ti.map_index}"
        state: str | None = states.get(ti.run_id, {}).get(name, "missing")
        return state
