"""Cancelling batches: a refusal is believed when the batch itself says that there is nothing to cancel."""

from __future__ import annotations

from airflow_openai_batch.engine.errors import ApiError, NotFound
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.model import NOTHING_TO_CANCEL, Batch

_REFUSED_TRIES, _FAILED_TRIES = 3, 5

_PAUSE_S = 2.0


def cancel(engine: Engine, batch_id: str) -> Batch | None:
    """Request the cancellation of a batch, at once again if that is refused and the batch runs on.

    A proxy can answer anything once. A server that insists, as one without such a route does, is left in peace.

    Args:
        engine: The engine.
        batch_id: The batch.

    Returns:
        The batch as it was seen last; None if OpenAI does not know it.

    Raises:
        ApiError: A call failed.
    """
    seen: Batch | None = None
    for attempt in range(_REFUSED_TRIES):
        if attempt:
            engine.sleep(_PAUSE_S)
        if (answer := engine.api.cancel(batch_id)) is not None:
            return answer
        try:
            seen = engine.api.retrieve(batch_id)
        except NotFound:
            return None
        if seen.status in NOTHING_TO_CANCEL:
            return seen
    engine.log.warning("OpenAI refused %d times to cancel %s, which runs on.", _REFUSED_TRIES, batch_id)
    return seen


def cancel_extra(engine: Engine, batch_id: str) -> None:
    """Cancel a batch that no shard will remember, so not later but now. The log says so if that fails."""
    for _ in range(_FAILED_TRIES):
        try:
            cancel(engine, batch_id)
        except ApiError as error:
            engine.log.warning("Batch %s could not be cancelled: %s", batch_id, error)
            engine.sleep(_PAUSE_S)
        else:
            return
    engine.log.error("Batch %s is one too many and runs on: cancel it in OpenAI's dashboard.", batch_id)
