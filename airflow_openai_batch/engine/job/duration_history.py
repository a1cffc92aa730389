"""How long OpenAI took for earlier jobs and their batches: small files that each job leaves when it has ended.

There are two folders of them in the storage root. That of a task says how long each of its jobs was at OpenAI, from
the first batch to the end of the last. That of a connection and model says how long each batch took, so that a task
that never ran learns from others. A file is written once, and its name begins with the hour (UTC) in which the job's
first batch was created: of each hour only the newest are kept, and only those of about the same hour are read. Nothing
depends on these files but a forecast, so whatever goes wrong with them is logged and no more.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from airflow_openai_batch.engine.errors import StoreError
from airflow_openai_batch.engine.identity import folder_name, job_path
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.spans import (
    EarlierDurations,
    JobRecord,
    ModelRecord,
    Span,
    first_sent_at,
    hour_of,
    is_near,
    models_of,
    n_first_requests,
)
from airflow_openai_batch.engine.model import Batch, Job, Shard, State
from airflow_openai_batch.engine.store.files import Files
from airflow_openai_batch.engine.store.job_store import JobStore

FOLDER = "~durations"
"""The folder of all of them: no Dag's folder begins with a tilde."""

_KEPT_AN_HOUR, _MOST_READ = 20, 40
_MOST_BATCHES = 100
"""Batches that are kept of one job and model: of more, as many spread over all of them by how long they took."""


# -- writing -----------------------------------------------------------------------------------------------------------


def record_durations(engine: Engine, job: Job) -> None:
    """Keep how long OpenAI took for a job that has ended, and for its batches.

    Args:
        engine: The engine, with the job's store.
        job: The job. Earlier epochs, which asked something else, do not count.
    """
    started_at = first_sent_at(job)
    if started_at is None:
        return
    name = _name(job, started_at)
    try:
        span = None if engine.store.was_held(job.epoch) else _span_of_job(job, started_at)
        if span is not None and (models := models_of(job)):
            record = JobRecord(
                owner=job.owner,
                endpoint=job.spec.endpoint,
                models=models,
                n_requests=n_first_requests(job),
                span=span,
            )
            _write(_of_task(engine.store), name, msgspec.json.encode(record))
        for model in {shard.model for shard in job.shards if shard.model is not None}:
            spans = _spread([span for s in job.shards if s.model == model and (span := _span_of_batch(s)) is not None])
            if spans:
                of_model = ModelRecord(owner=job.owner, endpoint=job.spec.endpoint, batches=spans)
                _write(_of_model(engine.store, job.conn_id, model), name, msgspec.json.encode(of_model))
    except Exception as error:  # whatever a storage raises
        engine.log.info("How long this job took could not be kept for the next forecast: %r", error)


def _name(job: Job, started_at: float) -> str:
    whose = "\n".join((*job_path(job.key), str(job.epoch)))
    digest = hashlib.blake2b(whose.encode(), digest_size=6).hexdigest()
    return f"{hour_of(started_at):02d}-{int(started_at):012d}-{digest}.json"


def _span_of_job(job: Job, started_at: float) -> Span | None:
    """Return how long a job was at OpenAI; None if that says nothing of others, or is not known."""
    sent = [shard for shard in job.shards if shard.batch is not None]
    ends = [_end_of(shard) for shard in sent]
    if any(end is None for end in ends) or any(shard.is_replayed for shard in job.shards):
        return None
    seconds = max(end for end in ends if end is not None) - started_at
    is_cut = any(shard.batch is not None and shard.batch.status == "cancelled" for shard in sent)
    return Span(started_at=started_at, seconds=round(seconds, 1), is_cut=is_cut) if seconds > 0 else None


def _end_of(shard: Shard) -> float | None:
    return (shard.batch.ended_at if shard.batch is not None else None) or shard.settled_at


def _span_of_batch(shard: Shard) -> Span | None:
    """Return how long a batch took by OpenAI's own clock; None if it never ran or does not say."""
    batch = shard.batch
    if batch is None or shard.state is not State.SETTLED or shard.rejections or not _is_timed(batch):
        return None
    assert batch.created_at is not None and batch.ended_at is not None  # noqa: S101
    seconds = batch.ended_at - batch.created_at
    is_cut = batch.status in ("cancelled", "expired")
    return Span(started_at=batch.created_at, seconds=round(seconds, 1), is_cut=is_cut) if seconds > 0 else None


def _is_timed(batch: Batch) -> bool:
    return batch.created_at is not None and batch.ended_at is not None and not batch.is_local_time


def _spread(spans: list[Span]) -> tuple[Span, ...]:
    """Return the spans, or of very many as many as are kept: the shortest, the longest, and evenly between."""
    spans.sort(key=lambda span: span.seconds)
    if len(spans) <= _MOST_BATCHES:
        return tuple(spans)
    last = len(spans) - 1
    return tuple(spans[round(i * last / (_MOST_BATCHES - 1))] for i in range(_MOST_BATCHES))


def _write(files: Files, name: str, content: bytes) -> None:
    if files.exists(name):
        return
    files.create(name, content)
    same_hour = sorted((other for other in files.names_in() if other[:3] == name[:3]), reverse=True)
    for old in same_hour[_KEPT_AN_HOUR:]:
        files.remove(old)


# -- reading -----------------------------------------------------------------------------------------------------------


def earlier_durations(store: JobStore, job: Job, now: float, log: logging.Logger) -> EarlierDurations:
    """Return what earlier jobs, begun at about the same hour, tell of how long a job will take.

    Args:
        store: The job's store.
        job: The job.
        now: Epoch seconds: when it begins, if nothing of it was sent yet.
        log: Where it is told that they cannot be read.
    """
    started_at = first_sent_at(job) or now
    models = models_of(job)
    try:
        jobs = _read(_of_task(store), started_at, JobRecord)
        same = [r for r in jobs if r.models == models and r.endpoint == job.spec.endpoint and _is_ours(store, r)]
        by_model = {}
        for model in models:
            records = _read(_of_model(store, job.conn_id, model), started_at, ModelRecord)
            by_model[model] = tuple(r for r in records if r.endpoint == job.spec.endpoint and _is_ours(store, r))
        return EarlierDurations(jobs=tuple(same), models=by_model)
    except Exception as error:  # whatever a storage raises
        log.info("How long earlier jobs took is not known: %r", error)
        return EarlierDurations()


def _is_ours(store: JobStore, record: JobRecord | ModelRecord) -> bool:
    return not record.owner or not store.owner or record.owner == store.owner


Record = TypeVar("Record", JobRecord, ModelRecord)


def _read(files: Files, started_at: float, record: type[Record]) -> list[Record]:
    """Return the newest records of jobs that began at about the same hour of the day."""
    hour = hour_of(started_at)
    names = [name for name in files.names_in() if name[:2].isdecimal() and is_near(int(name[:2]), hour)]
    names = sorted(names, key=lambda name: name[3:], reverse=True)[:_MOST_READ]
    with ThreadPoolExecutor(8, "openai-batch") as pool:
        contents: Sequence[bytes | None] = list(pool.map(lambda name: _content(files, name), names))
    records = []
    for content in contents:
        try:
            if content is not None:
                records.append(msgspec.json.decode(content, type=record))
        except msgspec.MsgspecError:  # cut short by a full disk, or of a version to come
            continue
    return records


def _content(files: Files, name: str) -> bytes | None:
    try:
        return files.read(name)
    except StoreError:  # another job has just removed it
        return None


def _of_task(store: JobStore) -> Files:
    dag, _, task = job_path(store.key)
    return Files(store.root.joinpath(FOLDER, "tasks", dag, task))


def _of_model(store: JobStore, conn_id: str, model: str) -> Files:
    return Files(store.root.joinpath(FOLDER, "models", folder_name(conn_id or "default"), folder_name(model)))
