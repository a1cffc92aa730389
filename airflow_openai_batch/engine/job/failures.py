"""What each kind of error means for the shard."""

from __future__ import annotations

from typing import Any

from airflow_openai_batch.engine.api.errors import queue_limit
from airflow_openai_batch.engine.errors import ApiError, Denied
from airflow_openai_batch.engine.job.context import Engine, Learned
from airflow_openai_batch.engine.job.state_machine import Fact, account_problem, backoff_s
from airflow_openai_batch.engine.model import Batch, LineError, Shard

_UNFIT_FACTOR, _DOUBTFUL_FACTOR, _DOUBTFUL_WAITS = 4, 1.5, 6
"""A shard whose estimate exceeds OpenAI's limit four times will never fit. Below, the estimate may be off, the JSON
around short rows was seen to treble it: then it must have been refused for half an hour too."""


def postponed(engine: Engine, shard: Shard, error: ApiError) -> Learned:
    """Try again later, with back-off or when OpenAI says so. Nothing else changes."""
    pause = max(backoff_s(shard.n_waits + 1, engine.timing), error.retry_after_s or 0.0)
    engine.log.warning("Shard %s: %s Trying again in %.0f s; nothing is lost.", shard.id, error, pause)
    known = {
        "not_before": max(shard.not_before, engine.clock() + pause),
        "n_waits": shard.n_waits + 1,
        "n_looks": shard.n_looks + 1,
        "problem": str(error)[:500],
    }
    return Learned(Fact.POSTPONED, known)


def denied(error: ApiError) -> str:
    """Say what a person with the account has to do."""
    hint = ""
    if error.code == "incorrect_hostname":
        hint = " The key belongs to another region: set the connection's host to that region's address."
    return (
        f"OpenAI refused the credentials or the account ({error}).{hint} Nothing is lost: batches that run go on, and "
        "after the connection or the account is mended, clearing this task takes them up again without paying twice."
    )


def rejected(engine: Engine, shard: Shard, error: ApiError) -> Learned:
    """Give the shard up: OpenAI will not take it, and nothing was billed."""
    engine.log.error("Shard %s: OpenAI refused it: %s", shard.id, error)
    rejection = LineError(code=error.code or f"http_{error.status}", message=str(error))
    known = {"rejections": (rejection,), "problem": str(error)[:500], "not_before": 0.0}
    return Learned(Fact.LINES_REJECTED, known)


def again_later(engine: Engine, shard: Shard, error: ApiError, pause: float | None = None) -> dict[str, Any]:
    """Return what is known of a shard whose batch was certainly not created."""
    pause = backoff_s(shard.n_waits + 1, engine.timing) if pause is None else pause
    pause = max(pause, error.retry_after_s or 0.0)
    engine.log.warning("Shard %s: no batch was created: %s", shard.id, error)
    return {
        "nonce": None,
        "intent_at": None,
        "not_before": engine.clock() + pause,
        "n_waits": shard.n_waits + 1,
        "problem": str(error)[:500],
    }


def unsent(engine: Engine, shard: Shard, batch: Batch | None) -> dict[str, Any]:
    """Return what is known of a shard whose batch ended before it ran: back in line, with back-off."""
    past = shard.past_batches if batch is None else (*shard.past_batches, batch.id)
    pause = backoff_s(shard.n_waits + 1, engine.timing)
    return {
        "batch": None,
        "past_batches": past,
        "nonce": None,
        "intent_at": None,
        "n_waits": shard.n_waits + 1,
        "not_before": engine.clock() + pause,
    }


def queue_full(engine: Engine, shard: Shard, message: str, batch: Batch | None) -> Learned:
    """Back in line, unbilled. What can never fit, and what only money can mend, is said at once."""
    known = {**unsent(engine, shard, batch), "problem": message[:500]}
    pause = known["not_before"] - engine.clock()
    engine.log.warning(
        "Shard %s: OpenAI's queue is full, nothing was billed; next try in %.0f s. %s", shard.id, pause, message
    )
    hold = None
    if batch is not None and (problem := account_problem(batch)):
        hold = denied(Denied(problem))
    limit = queue_limit(message)
    factor = _UNFIT_FACTOR if shard.n_waits < _DOUBTFUL_WAITS else _DOUBTFUL_FACTOR
    if limit is not None and shard.n_tokens > factor * limit:
        hold = (
            f"Shard {shard.id} has about {shard.n_tokens:,} input tokens, but OpenAI allows {limit:,} in the queue, so "
            f"it can never be sent. Nothing was billed for it. Set max_enqueued_tokens={limit} (or less) and clear the "
            "submitting task: the rows are cut into smaller shards, and answers that exist are kept."
        )
    return Learned(Fact.QUEUE_FULL, known, hold=hold)
