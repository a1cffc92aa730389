"""The batch object of the API. OpenAI: its fields."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from airflow_openai_batch.emulator.model import TERMINAL, Batch, JsonObject, Quirks, Result, Status, Usage


def batch_json(batch: Batch, status: Status | None = None) -> JsonObject:
    """Return the batch object.

    Args:
        batch: The batch.
        status: A state to show instead of the current one: the response to `create` is always `validating` and the
            response to `cancel` always `cancelling`, whatever the emulator's duration.
    """
    status = status or _shown_status(batch)
    times, quirks = batch.times, batch.quirks
    result = batch.result if status in TERMINAL else None
    is_early = batch.clock.now() < times.ended_at + quirks.late_output_file_id_s
    absent = "" if quirks.empty_string_ids else None
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.verdict.model if batch.verdict and status is not Status.VALIDATING else None,
        "errors": {"object": "list", "data": [e.to_json() for e in batch.errors]} if status is Status.FAILED else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": dict(quirks.status_names).get(status, status.value),
        "output_file_id": (result.output_file_id if result and not is_early else None) or absent,
        "error_file_id": (result.error_file_id if result and not (is_early and quirks.is_error_file_id_late) else None)
        or absent,
        "created_at": _time(times.created_at, quirks),
        "expires_at": _time(times.expires_at, quirks),
        **{name: _time(at, quirks) for name, at in _transition_times(batch, status).items()},
        "request_counts": _counts(batch, status, result, is_early=is_early),
        # Seen: zeros, not null, after a batch without a success (ProjectTech4DevAI/kaapi-backend #723).
        "usage": (result.usage if result else Usage()).to_json() if status in TERMINAL else None,
        "metadata": None if quirks.drop_metadata else batch.metadata,
    }


def _shown_status(batch: Batch) -> Status:
    """Return the status that is shown: for a while after its end a batch may seem to be finalizing again."""
    status, quirks = batch.status, batch.quirks
    again_at = batch.times.ended_at + quirks.relapse_after_s
    if status in TERMINAL and again_at <= batch.clock.now() < again_at + quirks.relapse_s:
        return Status.FINALIZING
    return status


def _time(at: float | None, quirks: Quirks) -> int | str | None:
    """Return a time in the form of the batch's faults. OpenAI: epoch seconds."""
    if at is None:
        return None
    at += quirks.clock_ahead_s
    local = datetime.fromtimestamp(at, timezone(timedelta(seconds=quirks.time_zone_s)))
    match quirks.time_form:
        case "ms":
            return int(at * 1000)
        case "text":
            return str(int(at))
        case "iso":
            return local.isoformat()
        case "iso_without_zone":
            return local.replace(tzinfo=None).isoformat(" ")
    return int(local.replace(tzinfo=UTC).timestamp())


def _transition_times(batch: Batch, status: Status) -> dict[str, float | None]:
    """Return the times at which the batch entered its states, null for states that it has not entered."""
    times = batch.times
    cancelling_at = times.cancelling_at
    has_run = status not in (Status.VALIDATING, Status.FAILED)
    stopped_at = cancelling_at if cancelling_at is not None else min(times.ended_at, batch.clock.now())
    has_started = has_run and times.validated_at <= stopped_at and batch.verdict is not None
    has_finalized = has_started and times.finalizing_at <= stopped_at
    return {
        "in_progress_at": times.validated_at if has_started else None,
        "finalizing_at": times.finalizing_at if has_finalized else None,
        "completed_at": times.completed_at if status is Status.COMPLETED else None,
        "failed_at": times.validated_at if status is Status.FAILED else None,
        "expired_at": times.expired_at if status is Status.EXPIRED else None,
        "cancelling_at": cancelling_at if status in (Status.CANCELLING, Status.CANCELLED) else None,
        "cancelled_at": times.cancelled_at if status is Status.CANCELLED else None,
    }


def _counts(batch: Batch, status: Status, result: Result | None, *, is_early: bool) -> JsonObject:
    """Return the counts: zeros before the work, an estimate during it, the result (or a fault's counts) after it."""
    is_late = result is not None and is_early and batch.quirks.has_zero_counts_meanwhile
    if batch.verdict is None or status in (Status.VALIDATING, Status.FAILED) or is_late:
        return {"total": 0, "completed": 0, "failed": 0}
    total = batch.verdict.total
    if result is None:
        n_completed = int(total * batch.times.progress(batch.clock.now()))
        return {"total": total, "completed": n_completed, "failed": 0}
    return {"total": total, "completed": result.completed, "failed": result.failed, **(batch.quirks.counts or {})}
