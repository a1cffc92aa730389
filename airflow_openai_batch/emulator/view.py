"""The batch object of the API. OpenAI: its fields."""

from __future__ import annotations

from airflow_openai_batch.emulator.model import TERMINAL, Batch, JsonObject, Result, Status, Usage


def batch_json(batch: Batch, status: Status | None = None) -> JsonObject:
    """Return the batch object.

    Args:
        batch: The batch.
        status: A state to show instead of the current one: the response to `create` is always `validating` and the
            response to `cancel` always `cancelling`, whatever the emulator's duration.
    """
    status = status or batch.status
    times, quirks = batch.times, batch.quirks
    result = batch.result if status in TERMINAL else None
    absent = "" if quirks.empty_string_ids else None
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.verdict.model if batch.verdict and status is not Status.VALIDATING else None,
        "errors": {"object": "list", "data": [e.to_json() for e in batch.errors]} if status is Status.FAILED else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": status.value,
        "output_file_id": _output_file_id(batch, result) or absent,
        "error_file_id": (result.error_file_id if result else None) or absent,
        "created_at": int(times.created_at),
        "expires_at": int(times.expires_at),
        **_transition_times(batch, status),
        "request_counts": _counts(batch, status, result),
        # Seen: zeros, not null, after a batch without a success (ProjectTech4DevAI/kaapi-backend #723).
        "usage": (result.usage if result else Usage()).to_json() if status in TERMINAL else None,
        "metadata": batch.metadata,
    }


def _output_file_id(batch: Batch, result: Result | None) -> str | None:
    if result is None or batch.clock.now() < batch.times.ended_at + batch.quirks.late_output_file_id_s:
        return None
    return result.output_file_id


def _transition_times(batch: Batch, status: Status) -> JsonObject:
    """Return the times at which the batch entered its states, null for states that it has not entered."""
    times = batch.times
    cancelling_at = times.cancelling_at
    has_run = status not in (Status.VALIDATING, Status.FAILED)
    stopped_at = cancelling_at if cancelling_at is not None else min(times.ended_at, batch.clock.now())
    has_started = has_run and times.validated_at <= stopped_at and batch.verdict is not None
    has_finalized = has_started and times.finalizing_at <= stopped_at
    times_by_field = {
        "in_progress_at": times.validated_at if has_started else None,
        "finalizing_at": times.finalizing_at if has_finalized else None,
        "completed_at": times.completed_at if status is Status.COMPLETED else None,
        "failed_at": times.validated_at if status is Status.FAILED else None,
        "expired_at": times.expired_at if status is Status.EXPIRED else None,
        "cancelling_at": cancelling_at if status in (Status.CANCELLING, Status.CANCELLED) else None,
        "cancelled_at": times.cancelled_at if status is Status.CANCELLED else None,
    }
    return {name: None if time is None else int(time) for name, time in times_by_field.items()}


def _counts(batch: Batch, status: Status, result: Result | None) -> JsonObject:
    """Return the counts: zeros before the work, an estimate during it, the result (or a fault's counts) after it."""
    if batch.verdict is None or status in (Status.VALIDATING, Status.FAILED):
        return {"total": 0, "completed": 0, "failed": 0}
    total = batch.verdict.total
    if result is None:
        n_completed = int(total * batch.times.progress(batch.clock.now()))
        return {"total": total, "completed": n_completed, "failed": 0}
    return {"total": total, "completed": result.completed, "failed": result.failed, **(batch.quirks.counts or {})}
