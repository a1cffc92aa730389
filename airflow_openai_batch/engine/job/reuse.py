"""Using answers of other jobs again: looked up when a job is planned, recorded when answers arrive."""

from __future__ import annotations

import msgspec

from airflow_openai_batch.engine.identity import job_path
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.summary import counted
from airflow_openai_batch.engine.ledger.compaction import compact
from airflow_openai_batch.engine.ledger.fetch import bring_known_answers
from airflow_openai_batch.engine.ledger.segments import Ledger
from airflow_openai_batch.engine.model import LEDGER_DAYS, UNSENT, Job, Policy, Shard, State, Upload


def with_known_answers(engine: Engine, job: Job) -> Job:
    """Return a plan whose shards that were not sent yet have the answers that the job's ledger knows by now.

    Raises:
        StoreError: The storage cannot be read or written. Nothing was sent.
    """
    if job.policy.reuse is None:
        return job
    asked = [shard for shard in job.shards if shard.state in UNSENT and shard.n_requests]
    if not asked:
        return job
    ledger, now = Ledger(engine.store.root, job.policy.reuse), engine.clock()
    ledger.check()
    with engine.observer.acting("reuse") as act:
        since = max(now - job.policy.reuse_max_age_s, job.refreshed_at + 1)
        parts = bring_known_answers(ledger, engine.store, job, asked, now, since, engine.check)
        act.tell(shards=len(parts))
    n_rows = sum(part.n_rows for part in parts.values())
    n_asked = sum(shard.n_requests for shard in asked)
    engine.log.info("The ledger %r has answers to %s of %d.", ledger.name, counted(n_rows, "request"), n_asked)
    for name in sorted(ledger.damaged):
        engine.log.warning("%s/%s is damaged: what it knows is asked anew. Remove the file.", ledger.files, name)
    _compact(engine, ledger, now)
    shards = (_with_known(shard, parts[shard.id].name) if shard.id in parts else shard for shard in job.shards)
    return msgspec.structs.replace(job, shards=tuple(shards))


def _with_known(shard: Shard, name: str) -> Shard:
    # A file of all its requests may be at OpenAI already; it is not the one that will be sent.
    return msgspec.structs.replace(
        shard, known=name, state=State.DRAFTED, upload=Upload(replaced=shard.upload.file_ids), are_files_deleted=False
    )


def _compact(engine: Engine, ledger: Ledger, now: float) -> None:
    try:
        compact(ledger, now, LEDGER_DAYS * 24 * 3600.0)
    except Exception as error:  # whatever a storage raises: nothing is lost, and no job depends on it
        engine.log.warning("The ledger %r could not be compacted, which only makes it slower: %r", ledger.name, error)


def record_answers(engine: Engine, job: Job, shard: Shard, outcomes: str) -> None:
    """Add the good answers of an outcome part to the job's ledger, before the part is committed.

    A crash between the two leaves entries of a part that no snapshot names. It has the same answers, so they are right.

    Args:
        engine: The engine.
        job: The job.
        shard: The shard.
        outcomes: The name of the part.

    Raises:
        StoreError: The storage cannot be read or written.
    """
    if job.policy.reuse is None:
        return
    _record(engine, job, outcomes, _asked_at(shard, engine.clock()))


def _record(engine: Engine, job: Job, outcomes: str, asked_at: float) -> None:
    assert job.policy.reuse is not None  # noqa: S101 - for the type checker
    part = "/".join((*job_path(job.key), outcomes))
    Ledger(engine.store.root, job.policy.reuse).record(part, asked_at, engine.clock())


def _asked_at(shard: Shard, now: float) -> float:
    """Return when the answers of a shard were asked for: no later than they were given."""
    if shard.direct is not None:
        return min(shard.direct.began_at, now)
    if shard.intent is not None:
        return min(shard.intent.at, now)
    return min((shard.batch.created_at if shard.batch is not None else None) or now, now)


def record_all(engine: Engine, job: Job, before: Policy) -> None:
    """Add all good answers of a job to its ledger, if it did not have it when they arrived.

    Args:
        engine: The engine.
        job: The job, with its policy as it is now.
        before: Its policy as it was.

    Raises:
        StoreError: The storage cannot be read or written.
    """
    if job.policy.reuse in (None, before.reuse):
        return
    for shard in job.all_shards:
        if shard.state is State.SETTLED and shard.outcomes is not None and not shard.is_copied:
            record_answers(engine, job, shard, shard.outcomes.name)
        if shard.carried is not None:  # of earlier epochs, which tell no more when it was asked
            _record(engine, job, shard.carried.name, job.created_at)


def record_used_answers(engine: Engine, job: Job) -> None:
    """Tell the ledger the new place of answers that a job, which is done, has used and whose entries are old.

    A failure is logged and no more: the answers are found where they were.
    """
    if job.policy.reuse is None:
        return
    ledger, now = Ledger(engine.store.root, job.policy.reuse), engine.clock()
    home = "/".join(job_path(job.key))
    try:
        for shard in job.shards:
            if shard.carried is not None and shard.n_reused and not shard.is_repeat:
                ledger.record_again(f"{home}/{shard.carried.name}", now)
    except Exception as error:  # whatever a storage raises
        engine.log.warning("Answers that were used again could not be recorded anew: %r", error)
