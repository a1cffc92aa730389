"""One action becomes a fact. The error policies are in ``action``, so the verbs read without ``try``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from airflow_openai_batch.engine.answers.harvest import harvest
from airflow_openai_batch.engine.answers.parser import LineParser
from airflow_openai_batch.engine.errors import ApiError, Denied, NotFound, Refused
from airflow_openai_batch.engine.identity import file_name
from airflow_openai_batch.engine.job.context import Engine, Learned, Stop
from airflow_openai_batch.engine.job.create_batch import look
from airflow_openai_batch.engine.job.failures import denied, postponed, queue_full, rejected, unsent
from airflow_openai_batch.engine.job.retry import carry, reshard
from airflow_openai_batch.engine.job.state_machine import Fact, fact_of
from airflow_openai_batch.engine.model import ENDED_STATUSES, Batch, Job, LineError, Shard, describe
from airflow_openai_batch.engine.schema.validation import ResponseSchema
from airflow_openai_batch.engine.store.index import read_index

_RECHECK_S = 2.0

_UPLOAD_TRIES = 2


def perform(engine: Engine, job: Job, shard: Shard, verb: str) -> Learned:
    """Do what ``plan`` named and return what became known.

    Raises:
        Stop: Credentials, a damaged store, or a batch that OpenAI no longer knows.
    """
    try:
        return _VERBS[verb](engine, job, shard)
    except Denied as error:
        raise Stop(denied(error)) from error
    except ApiError as error:  # a refusal too: none of these calls costs money, and a proxy can answer anything once
        return postponed(engine, shard, error)


def _upload(engine: Engine, job: Job, shard: Shard) -> Learned:
    name = file_name(f"{shard.id}-{engine.unique()}")
    _check_whole(engine, shard)
    try:
        with engine.store.open(shard.requests) as file:
            file_id = engine.api.upload(name, file)
    except Refused as error:
        # Uploads are free, and a proxy can answer anything once.
        if shard.n_refused >= _UPLOAD_TRIES:
            return rejected(engine, shard, error)
        later = postponed(engine, shard, error)
        return Learned(later.fact, {**later.known, "n_refused": shard.n_refused + 1})
    engine.log.info(
        "Shard %s: uploaded %d requests (%.1f MB) as %s.", shard.id, shard.n_requests, shard.n_bytes / 1e6, file_id
    )
    return Learned(
        Fact.FILE_UPLOADED, {"file_id": file_id, "n_uploads": shard.n_uploads + 1, "n_waits": 0, "problem": None}
    )


def _check_whole(engine: Engine, shard: Shard) -> None:
    n_bytes = engine.store.size(shard.requests)
    if n_bytes != shard.n_bytes:
        raise Stop(
            f"The request file {shard.requests} in {engine.store} is damaged: it has {n_bytes:,} bytes and should have "
            f"{shard.n_bytes:,}, as after a power cut. None of its {shard.n_requests:,} rows was sent. Start over to "
            "ask them.",
            is_local=True,
        )


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
            "is older than OpenAI keeps them. Nothing was sent again; clearing this task looks once more.",
            is_local=True,
        ) from error


def _learn_batch(engine: Engine, shard: Shard, batch: Batch) -> Learned:
    now = engine.clock()
    if shard.batch is None or batch.status != shard.batch.status:
        engine.log.info("Shard %s: %s", shard.id, describe(batch))
    if batch.status in ENDED_STATUSES and batch.ended_at is None:
        # Some servers do not say when: then it is when we first saw it.
        seen_at = shard.batch.ended_at if shard.batch is not None else None
        batch = msgspec.structs.replace(batch, ended_at=seen_at or now)
    fact = fact_of(batch, shard, now, engine.timing)
    known: dict[str, Any] = {"batch": batch, "problem": None}
    if fact is Fact.STILL_RUNNING and batch.status in ENDED_STATUSES:
        known["not_before"] = now + engine.timing.backoff_s  # nothing to watch for but a file id
    if batch.status != "validating":  # admission to the queue is decided while validating
        known["n_waits"] = 0
    if fact is Fact.QUEUE_FULL:
        message = "; ".join(error.message for error in batch.errors)
        return queue_full(engine, shard, message, batch)
    if fact in (Fact.FILE_NOT_FOUND, Fact.FILE_LOST):
        known = {**unsent(engine, shard, batch), "n_misses": shard.n_misses + 1, "problem": batch.errors[0].message}
    if fact is Fact.LINES_REJECTED:
        known["rejections"] = _named(engine, shard, batch.errors)
        engine.log.error("Shard %s: OpenAI refused the batch, nothing was billed: %s", shard.id, batch.errors)
    return Learned(fact, known)


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
            "were deleted, or are older than OpenAI keeps them. Nothing was sent again; clearing this task looks once "
            "more, and starting over asks these rows again.",
            is_local=True,
        ) from error
    engine.log.info(
        "Shard %s: %s", shard.id, ", ".join(f"{n} {status}" for status, n in sorted(got.tally.by_status.items()))
    )
    known = {
        "outcomes": got.outcomes,
        "unmatched": got.unmatched,
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
    "look": look,
    "refresh": _refresh,
    "cancel": _cancel,
    "call_off": _call_off,
    "harvest": _harvest,
    "reshard": _reshard,
    "carry": _carry,
}
