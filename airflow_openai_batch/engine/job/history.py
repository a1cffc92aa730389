"""How long the answers of a task's earlier jobs were: a small file for each job that ended, which the next one reads.

The files of a task are in a folder of their own in the storage root, so that looking for the last one is one listing,
however many runs a Dag has, and works when those runs are deleted. Only the newest are kept. Nothing depends on them
but an estimate, so whatever goes wrong with them is logged and no more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Set
from typing import Any

import msgspec

from airflow_openai_batch.engine.identity import job_path
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.model import Job, JobKey, Measure, Shard, Value
from airflow_openai_batch.engine.money.own_answers import OwnAnswers
from airflow_openai_batch.engine.store.files import Files

FOLDER = "~history"
"""The folder of all of them: no Dag's folder begins with a tilde."""

_MOST_KEPT, _MOST_READ = 20, 5


class Record(Value, frozen=True, kw_only=True):
    """What is kept of a job."""

    run_id: str
    endpoint: str
    owner: str = ""
    output_tokens: dict[str, float]
    """Tokens of an answer on average, by the model that was asked."""


def record_end(engine: Engine, job: Job) -> None:
    """Keep what the answers of a job that is done were like, if there are enough of them.

    Args:
        engine: The engine, with the job's store.
        job: The job. What earlier epochs were answered does not count, as they asked something else.
    """
    answers = OwnAnswers(msgspec.structs.replace(job, earlier=()))
    models = {shard.model for shard in job.shards if shard.model is not None}
    means = {model: round(found.output_tokens, 3) for model in models if (found := answers.of(model)) is not None}
    if not means:
        return
    record = Record(run_id=job.key.run_id, endpoint=job.spec.endpoint, owner=job.owner, output_tokens=means)
    name = f"{int(job.created_at):012d}-{_run_hash(job.key.run_id)}.json"
    try:
        files = _files(engine)
        if files.exists(name):
            return
        files.create(name, msgspec.json.encode(record))
        for old in sorted(files.names_in(), reverse=True)[_MOST_KEPT:]:
            files.remove(old)
    except Exception as error:  # whatever a storage raises
        engine.log.info("What this job's answers were like could not be kept for the next estimate: %r", error)


def forget_run(root: Any, key: JobKey) -> None:
    """Remove what is kept of a run of a task.

    Args:
        root: The storage root.
        key: The job, of which the map index does not matter.

    Raises:
        StoreError: The storage cannot be read or written.
    """
    files = _files_of(root, key)
    for name in files.names_in():
        if name.endswith(f"-{_run_hash(key.run_id)}.json"):
            files.remove(name)


def with_history(engine: Engine, measure: Measure | None, endpoint: str, shards: Sequence[Shard]) -> Measure | None:
    """Return what a job's requests are like, with what answers were like in the last job of the same task.

    Args:
        engine: The engine, with the store of the job that is planned.
        measure: What its requests are like; None if there are none.
        endpoint: Its endpoint: answers of another tell nothing.
        shards: Its shards: answers of other models tell nothing.
    """
    if measure is None:
        return None
    models = {shard.model for shard in shards if shard.model is not None}
    return msgspec.structs.replace(measure, expected_output_tokens=_earlier_lengths(engine, endpoint, models))


def _earlier_lengths(engine: Engine, endpoint: str, models: Set[str]) -> dict[str, float]:
    """Return the tokens of an answer on average by model, the newest job first."""
    found: dict[str, float] = {}
    try:
        files = _files(engine)
        for name in sorted(files.names_in(), reverse=True)[:_MOST_READ]:
            if found.keys() >= models:
                break
            try:
                record = msgspec.json.decode(files.read(name), type=Record)
            except msgspec.DecodeError:
                continue
            is_ours = not record.owner or not engine.store.owner or record.owner == engine.store.owner
            if record.endpoint == endpoint and is_ours:
                found = {model: n for model, n in record.output_tokens.items() if model in models} | found
    except Exception as error:  # whatever a storage raises
        engine.log.info("What the answers of earlier jobs were like is not known: %r", error)
    return found


def _run_hash(run_id: str) -> str:
    return hashlib.blake2b(run_id.encode(), digest_size=4).hexdigest()


def _files(engine: Engine) -> Files:
    return _files_of(engine.store.root, engine.store.key)


def _files_of(root: Any, key: JobKey) -> Files:
    dag, _, task = job_path(key)
    return Files(root.joinpath(FOLDER, dag, task))
