"""One action becomes a fact. This module owns the error policy of each verb; the algorithm reads without ``try``."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import msgspec

from airflow_openai_batch.engine import machine
from airflow_openai_batch.engine.api import Api
from airflow_openai_batch.engine.errors import ApiError, Denied, NotFound, QueueFull, Refused, Unavailable, Unclear
from airflow_openai_batch.engine.harvest import describe, harvest
from airflow_openai_batch.engine.identity import NONCE_KEY, file_name, nonce, parse_nonce
from airflow_openai_batch.engine.machine import Fact, Timing, backoff_s
from airflow_openai_batch.engine.model import Batch, Job, LineError, Shard
from airflow_openai_batch.engine.outcomes import read_index
from airflow_openai_batch.engine.parse import Check, LineParser
from airflow_openai_batch.engine.rounds import carry, reshard
from airflow_openai_batch.engine.schema import ResponseSchema
from airflow_openai_batch.engine.store import JobStore

_LOOK_BACK_S = 900.0
"""How much older than our intent a batch may look, for clocks that disagree."""
_RECHECK_S = 2.0
_CANCEL_TRIES = 5
_UNFIT_FACTOR = 4
"""A shard whose estimate exceeds OpenAI's limit by this factor will never fit; below, the estimate may be off: the JSON
around short rows was seen to treble it."""


@dataclass
class Engine:
    """What the engine works with. Everything from the outside world is here, so tests can replace it.

    Args:
        store: The job's store.
        api: The verbs.
        timing: Durations.
        check: A check of answers that is stricter than the schema, or None.
        clock: Returns epoch seconds.
        sleep: Sleeps; only for pauses of seconds.
        unique: Returns a new unique text.
        log: Where progress goes. Never content of rows.
    """

    store: JobStore
    api: Api
    timing: Timing = field(default_factory=Timing)
    check: Check | None = None
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    unique: Callable[[], str] = lambda: uuid.uuid4().hex[:12]
    log: logging.Logger = field(default_factory=lambda: logging.getLogger(__name__))


@dataclass(frozen=True)
class Learned:
    """A fact, and what is known with it."""

    fact: Fact
    known: Mapping[str, Any] = field(default_factory=dict)
    child: Shard | None = None
    hold: str | None = None
    """Why the job cannot go on without a person; told after the fact is committed."""


class Stop(Exception):
    """The job cannot go on without a person, and nothing new became known."""


def perform(engine: Engine, job: Job, shard: Shard, verb: str) -> Learned:
    """Do what ``plan`` named and return what became known.

    Raises:
        Stop: Credentials, or a batch that OpenAI no longer knows.
    """
    try:
        return _VERBS[verb](engine, job, shard)
    except Denied as error:
        raise Stop(_denied(error)) from error
    except ApiError as error:  # a refusal too: none of these calls costs money, and a proxy can answer anything once
        return _postponed(engine, shard, error)


def _postponed(engine: Engine, shard: Shard, error: ApiError) -> Learned:
    pause = max(backoff_s(shard.n_waits + 1, engine.timing), error.retry_after_s or 0.0)
    engine.log.warning("Shard %s: %s Trying again in %.0f s; nothing is lost.", shard.id, error, pause)
    known = {
        "not_before": max(shard.not_before, engine.clock() + pause),
        "n_waits": shard.n_waits + 1,
        "n_looks": shard.n_looks + 1,
        "problem": str(error)[:500],
    }
    return Learned(Fact.POSTPONED, known)


def _denied(error: ApiError) -> str:
    hint = ""
    if error.code == "incorrect_hostname":
        hint = " The key belongs to another region: set the connection's host to that region's address."
    return (
        f"OpenAI refused the credentials or the account ({error}).{hint} Nothing is lost: batches that run go on, and "
        "after the connection or the account is mended, clearing this task takes them up again without paying twice."
    )


def _upload(engine: Engine, job: Job, shard: Shard) -> Learned:
    name = file_name(f"{shard.id}-{engine.unique()}")
    try:
        with engine.store.open(shard.requests) as file:
            file_id = engine.api.upload(name, file)
    except Refused as error:
        return _rejected(engine, shard, error)
    engine.log.info(
        "Shard %s: uploaded %d requests (%.1f MB) as %s.", shard.id, shard.n_requests, shard.n_bytes / 1e6, file_id
    )
    return Learned(
        Fact.FILE_UPLOADED, {"file_id": file_id, "n_uploads": shard.n_uploads + 1, "n_waits": 0, "problem": None}
    )


def _rejected(engine: Engine, shard: Shard, error: ApiError) -> Learned:
    engine.log.error("Shard %s: OpenAI refused it: %s", shard.id, error)
    rejection = LineError(code=error.code or f"http_{error.status}", message=str(error))
    known = {"rejections": (rejection,), "problem": str(error)[:500], "not_before": 0.0}
    return Learned(Fact.LINES_REJECTED, known)


def intend(engine: Engine, job: Job, shard: Shard) -> Learned:
    """Name the batch that is about to be made. Committed before the call, so that a crash cannot hide it."""
    now = engine.clock()
    known = {
        # By the index file, whose name is unique: a job built anew must not adopt what another build had asked.
        "nonce": nonce(job.key, job.epoch, PurePosixPath(shard.index).stem, engine.unique()),
        "intent_at": now,
        "not_before": now + engine.timing.grace_s,
        "n_looks": 0,
        "n_creates": shard.n_creates + 1,
    }
    return Learned(Fact.INTENT_SAVED, known)


def post(engine: Engine, job: Job, shard: Shard) -> Learned:
    """Create the batch that was intended: the only paid call.

    Its answer may be lost. Then nothing is known, the shard stays CREATING, and the next plan says *look*.
    """
    assert shard.file_id is not None and shard.nonce is not None and shard.intent_at is not None  # noqa: S101
    # A process that was frozen since its commit may find that others have looked and gone on: too late to post.
    # Of what the call leaves of the grace, half is for being late and half for the listing's lag.
    if engine.clock() - shard.intent_at > (engine.timing.grace_s - engine.timing.post_timeout_s) / 2:
        return Learned(Fact.POSTPONED, {"problem": "The process was too slow to create the batch."})
    try:
        batch = engine.api.create(
            file_id=shard.file_id,
            endpoint=job.spec.endpoint,
            completion_window=job.policy.completion_window,
            metadata={**job.policy.metadata, **_who(job), NONCE_KEY: shard.nonce},
            timeout_s=engine.timing.post_timeout_s,
        )
    except Unclear as error:
        engine.log.warning("Shard %s: %s It is not known whether a batch was created; looking for it.", shard.id, error)
        return Learned(Fact.POSTPONED, {"problem": str(error)[:500]})
    except QueueFull as error:
        return _queue_full(engine, shard, str(error), None)
    except Denied as error:
        return Learned(Fact.NOT_CREATED, _again_later(engine, shard, error, pause=0.0), hold=_denied(error))
    except Unavailable as error:
        return Learned(Fact.NOT_CREATED, _again_later(engine, shard, error))
    except Refused as error:
        return _refused_create(engine, shard, error)
    engine.log.info("Shard %s: batch %s created for %d requests.", shard.id, batch.id, shard.n_requests)
    return _known(batch)


def _who(job: Job) -> dict[str, str]:
    """Metadata for a person who looks at OpenAI's dashboard. Values up to 512 characters."""
    return {"dag_id": job.key.dag_id[:512], "run_id": job.key.run_id[:512], "task_id": job.key.task_id[:512]}


def _again_later(engine: Engine, shard: Shard, error: ApiError, pause: float | None = None) -> dict[str, Any]:
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


def _refused_create(engine: Engine, shard: Shard, error: ApiError) -> Learned:
    if isinstance(error, NotFound) or machine.is_file_message(str(error)):
        fact = machine.fact_of_missing_file(shard)
        if fact is not Fact.LINES_REJECTED:
            return Learned(fact, _again_later(engine, shard, error))
    return _rejected(engine, shard, error)


def _known(batch: Batch) -> Learned:
    return Learned(Fact.BATCH_KNOWN, {"batch": batch, "not_before": 0.0, "problem": None, "cancel_asked_at": None})


def _look(engine: Engine, job: Job, shard: Shard) -> Learned:
    """Find out whether the intended batch exists: adopt it, cancel any extra, or learn that it is absent."""
    assert shard.intent_at is not None  # noqa: S101
    is_last = engine.clock() >= shard.not_before
    mine = [b for b in engine.api.batches(shard.intent_at - _LOOK_BACK_S) if _is_mine(b, job, shard)]
    if not mine:
        if is_last:
            engine.log.info("Shard %s: no batch was created; creating it again costs nothing extra.", shard.id)
            known = {"nonce": None, "intent_at": None, "n_looks": 0, "not_before": 0.0}
            return Learned(Fact.BATCH_ABSENT, {**known, "doubt": shard.nonce, "doubt_at": shard.intent_at})
        return Learned(Fact.POSTPONED, {"n_looks": shard.n_looks + 1})
    adopted, *extras = sorted(mine, key=lambda b: (b.status in machine.FRUITLESS_STATUSES, b.created_at or 0.0))
    for extra in extras:
        if extra.status not in machine.ENDED_STATUSES:
            engine.log.warning("Shard %s: batch %s is one too many; cancelling it.", shard.id, extra.id)
            engine.api.cancel(extra.id)
    engine.log.info("Shard %s: adopted %s.", shard.id, describe(adopted))
    return _known(adopted)


def cancel_extra(engine: Engine, batch_id: str) -> None:
    """Cancel a batch that no shard will remember, so not later but now. A person is told if that fails."""
    for _ in range(_CANCEL_TRIES):
        try:
            engine.api.cancel(batch_id)
        except ApiError as error:
            engine.log.warning("Batch %s could not be cancelled: %s", batch_id, error)
            engine.sleep(_RECHECK_S)
        else:
            return
    engine.log.error("Batch %s is one too many and runs on: cancel it in OpenAI's dashboard.", batch_id)


def cancel_strangers(engine: Engine, job: Job) -> None:
    """Cancel batches that a process made after we had concluded that it had not.

    Only a process that was frozen for longer than the grace period does so; what it pays for until then is the one
    price of an API without idempotency keys.
    """
    doubted = {_owner(s.doubt): s for s in (*job.earlier, *job.shards) if s.doubt is not None}
    if not doubted:
        return
    since = min(shard.doubt_at or 0.0 for shard in doubted.values())
    try:
        for batch in engine.api.batches(since - _LOOK_BACK_S):
            shard = doubted.get(_owner(batch.nonce)) if batch.nonce is not None else None
            is_known = shard is None or (shard.batch is not None and shard.batch.id == batch.id)
            if not is_known and batch.status not in machine.ENDED_STATUSES | {"cancelling"}:
                engine.log.warning("Batch %s was created by a process that came too late; cancelling it.", batch.id)
                cancel_extra(engine, batch.id)
    except ApiError as error:
        engine.log.warning("Could not look for batches that came too late: %s Looking again next time.", error)


def _owner(text: str | None) -> tuple[str, int, str] | None:
    """Return job, epoch and shard of a nonce: what all tries of a shard have in common."""
    parsed = parse_nonce(text) if text is not None else None
    return parsed[:3] if parsed is not None else None


def _is_mine(batch: Batch, job: Job, shard: Shard) -> bool:
    """Match the nonce up to its unique part: a batch of an earlier try of the same shard is ours as well."""
    if batch.nonce is None or shard.nonce is None or batch.id in shard.past_batches:
        return False
    # The store of a run may have been deleted and the run submitted again: a batch older than the job is not its own.
    born_at = min(job.created_at, shard.intent_at or job.created_at)
    if batch.created_at is not None and batch.created_at < born_at - _LOOK_BACK_S:
        return False
    return _owner(batch.nonce) is not None and _owner(batch.nonce) == _owner(shard.nonce)


def _refresh(engine: Engine, job: Job, shard: Shard) -> Learned:
    assert shard.batch is not None  # noqa: S101
    try:
        batch = engine.api.retrieve(shard.batch.id)
    except NotFound:
        engine.sleep(_RECHECK_S)  # a first 404 may be a replica that lags
        batch = _retrieve_again(engine, shard.batch.id)
    return _learn_batch(engine, shard, batch)


def _retrieve_again(engine: Engine, batch_id: str) -> Batch:
    try:
        return engine.api.retrieve(batch_id)
    except Refused as error:
        raise Stop(
            f"OpenAI does not know batch {batch_id} ({error}). Either the key belongs to another project, or the batch "
            "is older than OpenAI keeps them. Nothing was sent again; clearing this task looks once more."
        ) from error


def _learn_batch(engine: Engine, shard: Shard, batch: Batch) -> Learned:
    now = engine.clock()
    if shard.batch is None or batch.status != shard.batch.status:
        engine.log.info("Shard %s: %s", shard.id, describe(batch))
    if batch.status in machine.ENDED_STATUSES and batch.ended_at is None:
        # Some servers do not say when: then it is when we first saw it.
        seen_at = shard.batch.ended_at if shard.batch is not None else None
        batch = msgspec.structs.replace(batch, ended_at=seen_at or now)
    fact = machine.fact_of(batch, shard, now, engine.timing)
    known: dict[str, Any] = {"batch": batch, "problem": None}
    if fact is Fact.STILL_RUNNING and batch.status in machine.ENDED_STATUSES:
        known["not_before"] = now + engine.timing.backoff_s  # nothing to watch for but a file id
    if batch.status != "validating":  # admission to the queue is decided while validating
        known["n_waits"] = 0
    if fact is Fact.QUEUE_FULL:
        message = "; ".join(error.message for error in batch.errors)
        return _queue_full(engine, shard, message, batch)
    if fact in (Fact.FILE_NOT_FOUND, Fact.FILE_LOST):
        known = {**_unsent(engine, shard, batch), "problem": batch.errors[0].message}
    if fact is Fact.LINES_REJECTED:
        known["rejections"] = _named(engine, shard, batch.errors)
        engine.log.error("Shard %s: OpenAI refused the batch, nothing was billed: %s", shard.id, batch.errors)
    return Learned(fact, known)


def _unsent(engine: Engine, shard: Shard, batch: Batch | None) -> dict[str, Any]:
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


def _queue_full(engine: Engine, shard: Shard, message: str, batch: Batch | None) -> Learned:
    """Back in line, unbilled. What can never fit, and what only money can mend, is said at once."""
    known = {**_unsent(engine, shard, batch), "problem": message[:500]}
    pause = known["not_before"] - engine.clock()
    engine.log.warning(
        "Shard %s: OpenAI's queue is full, nothing was billed; next try in %.0f s. %s", shard.id, pause, message
    )
    hold = None
    if batch is not None and (problem := machine.account_problem(batch)):
        hold = _denied(Denied(problem))
    limit = machine.queue_limit(message)
    if limit is not None and shard.n_tokens > _UNFIT_FACTOR * limit:
        hold = (
            f"Shard {shard.id} has about {shard.n_tokens:,} input tokens, but OpenAI allows {limit:,} in the queue, so "
            f"it can never be sent. Nothing was billed for it. Set max_enqueued_tokens={limit} (or less) and clear the "
            "submitting task: the rows are cut into smaller shards, and answers that exist are kept."
        )
    return Learned(Fact.QUEUE_FULL, known, hold=hold)


def _named(engine: Engine, shard: Shard, found: tuple[LineError, ...]) -> tuple[LineError, ...]:
    """Put the custom_id to each line number: OpenAI counts lines from 1."""
    ids = read_index(engine.store, shard.index).custom_ids if any(error.line for error in found) else []
    return tuple(
        msgspec.structs.replace(error, custom_id=ids[error.line - 1])
        if error.line is not None and 0 < error.line <= len(ids)
        else error
        for error in found
    ) or (LineError(code="unknown", message="OpenAI gave no reason."),)


def _cancel(engine: Engine, job: Job, shard: Shard) -> Learned:
    assert shard.batch is not None  # noqa: S101
    answer = engine.api.cancel(shard.batch.id)
    engine.log.warning("Shard %s: asked OpenAI to cancel %s; finished rows will be kept.", shard.id, shard.batch.id)
    return Learned(Fact.CANCEL_ASKED, {"cancel_asked_at": engine.clock(), "batch": answer or shard.batch})


def _call_off(engine: Engine, job: Job, shard: Shard) -> Learned:
    return Learned(Fact.CALLED_OFF, {"batch": None, "not_before": 0.0})


def _harvest(engine: Engine, job: Job, shard: Shard) -> Learned:
    schema = ResponseSchema(job.spec.schema, job.spec.schema_name or "") if job.spec.schema is not None else None
    parser = LineParser(job.spec.endpoint, schema, engine.check)
    try:
        got = harvest(engine.store, engine.api, job, shard, parser, engine.sleep)
    except NotFound as error:
        raise Stop(
            f"The result files of batch {shard.batch.id if shard.batch else '?'} are gone at OpenAI ({error}): they "
            "were deleted, or are older than OpenAI keeps them. Start the task over to ask these rows again."
        ) from error
    engine.log.info(
        "Shard %s: %s", shard.id, ", ".join(f"{n} {status}" for status, n in sorted(got.tally.by_status.items()))
    )
    known = {
        "outcomes": got.outcomes,
        "strays": got.strays,
        "tally": got.tally.by_status,
        "retryable": got.tally.retryable,
        "usage": got.tally.usage,
        "n_waits": 0,
        "not_before": 0.0,
        "problem": None,
    }
    return Learned(Fact.OUTCOMES_SAVED, known)


def _reshard(engine: Engine, job: Job, shard: Shard) -> Learned:
    child = reshard(engine.store, job, shard)
    engine.log.info("Shard %s: %d rows are asked again as %s.", shard.id, child.n_requests, child.id)
    return Learned(Fact.CHILD_MADE, {"child": child.id}, child=child)


def _carry(engine: Engine, job: Job, shard: Shard) -> Learned:
    after = carry(engine.store, job, shard)
    engine.log.info(
        "Shard %s: %d answers carried over, %d rows left to ask.", shard.id, after.n_carried, after.n_requests
    )
    names = ("index", "requests", "n_requests", "n_bytes", "n_tokens", "row_index", "carried", "n_carried")
    known = {name: getattr(after, name) for name in names}
    return Learned(Fact.ANSWERS_CARRIED if after.n_requests else Fact.NOTHING_LEFT, known)


_VERBS: dict[str, Callable[[Engine, Job, Shard], Learned]] = {
    "upload": _upload,
    "look": _look,
    "refresh": _refresh,
    "cancel": _cancel,
    "call_off": _call_off,
    "harvest": _harvest,
    "reshard": _reshard,
    "carry": _carry,
}
