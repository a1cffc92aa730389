"""The actions that a plan names. ``execute`` does one and returns what became known, or why it cannot go on."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable
from functools import partial

import msgspec

from airflow_openai_batch.engine.answers.harvest import Accepted, Unproven, harvest
from airflow_openai_batch.engine.answers.parser import parser_of
from airflow_openai_batch.engine.api.batch_json import UploadedFile, is_known_status
from airflow_openai_batch.engine.durations import duration_text
from airflow_openai_batch.engine.errors import ApiError, Denied, NotFound, Refused, Stranger, Unfetchable
from airflow_openai_batch.engine.identity import upload_name
from airflow_openai_batch.engine.job.cancelling import cancel
from airflow_openai_batch.engine.job.carry import carry, share
from airflow_openai_batch.engine.job.context import Engine, Learned, Stop
from airflow_openai_batch.engine.job.create_batch import find_again, look
from airflow_openai_batch.engine.job.failures import (
    TOO_LARGE,
    back_in_line,
    concerns_all,
    denied,
    is_believed,
    is_lifetime_refused,
    is_new,
    lifetime_refused,
    not_spoken,
    postponed,
    problem_of,
    queue_full,
    rejected,
    too_large,
)
from airflow_openai_batch.engine.job.planner import is_awaited
from airflow_openai_batch.engine.job.retry import reshard
from airflow_openai_batch.engine.job.reuse import record_answers
from airflow_openai_batch.engine.job.state_machine import Fact, ShardUpdate, backoff_s, fact_of, one_more_miss
from airflow_openai_batch.engine.model import (
    ENDED_STATUSES,
    Backoff,
    Batch,
    Evidence,
    Job,
    LineError,
    OutcomePart,
    Shard,
    State,
    describe,
)
from airflow_openai_batch.engine.redaction import without_values
from airflow_openai_batch.engine.store.index import read_index

_UPLOAD_TRIES, _SIZE_TRIES = 2, 2

_MAX_LOGGED = 5
"""Reasons of a batch's failure that the log names."""


def execute(engine: Engine, job: Job, shard: Shard, verb: str) -> Learned | Stop:
    """Do an action while the observer watches.

    Args:
        engine: The engine.
        job: The newest snapshot's job.
        shard: The shard that the action is for.
        verb: The action, as the plan names it.

    Returns:
        What became known; or why the shard, or the whole job, needs manual intervention.
    """
    with engine.observer.acting(verb, shard) as act:
        result = _try(engine, job, shard, verb)
        act.tell(**observed(result))
    return result


def _try(engine: Engine, job: Job, shard: Shard, verb: str) -> Learned | Stop:
    try:
        return ACTIONS[verb](engine, job, shard)
    except Denied as error:
        if not is_believed(engine, job, shard, error):
            return postponed(engine, shard, error)
        return Stop(denied(error), is_local=not concerns_all(job, error))
    except Stranger as error:
        if is_new(job) and not engine.api.is_spoken():
            return Stop(not_spoken(engine, error))
        return postponed(engine, shard, error)
    except ApiError as error:  # a refusal too: none of these calls costs money, and a proxy can answer anything once
        return postponed(engine, shard, error)
    except Stop as stop:
        if not stop.is_local or all(s.id != shard.id for s in job.earlier):
            return stop
        # The job asks something else now: what is lost of an earlier epoch must not hold it.
        engine.log.warning("Shard %s of an earlier epoch is given up: %s", shard.id, stop)
        return Learned(Fact.GIVEN_UP, ShardUpdate(problem=str(stop)[:500]))


def observed(result: Learned | Stop) -> dict[str, str | int]:
    """Return what an observer may know of an action's end: ids and kinds, never a message."""
    if isinstance(result, Stop):
        return {"fact": "stopped", "failed": True}
    values: dict[str, str | int] = {"fact": result.fact.value}
    if (batch := result.update.get("batch")) is not None:
        values |= {"batch_id": batch.id, "batch_status": batch.status}
    if result.child is not None:
        values |= {"child": result.child.id, "child_rows": result.child.n_rows}
    if result.fact is Fact.LINES_REJECTED or result.update.get("problem") is not None:
        values["failed"] = True
    return values


def _upload(engine: Engine, job: Job, shard: Shard) -> Learned:
    name = upload_name(job.key, job.owner, str(engine.store.root), shard.id, engine.unique())
    _check_whole(engine, shard)
    before, began_at = shard.upload, engine.clock()
    try:
        uploaded = _sent(engine, job, shard, name)
    except ApiError as error:
        if error.status == TOO_LARGE:
            return too_large(engine, shard, error)
        if not isinstance(error, Refused):
            raise
        if is_lifetime_refused(job, error):
            raise Stop(lifetime_refused(job, error)) from error
        # Uploads are free, and a proxy can answer anything once.
        if before.n_refused >= _UPLOAD_TRIES:
            return rejected(engine, shard, error)
        later = postponed(engine, shard, error)
        later.update["upload"] = msgspec.structs.replace(before, n_refused=before.n_refused + 1)
        return later
    engine.log.info(
        "Shard %s: uploaded %d requests (%.1f MB) as %s.", shard.id, shard.n_requests, shard.n_bytes / 1e6, uploaded.id
    )
    is_renewed = shard.state is State.UPLOADED  # the one before would have expired too soon: that is nobody's fault
    upload = msgspec.structs.replace(
        before,
        file_id=uploaded.id,
        n_uploads=before.n_uploads + (not is_renewed),
        n_misses=0 if is_renewed else before.n_misses,
        at=began_at,
        lifetime_s=_lifetime_s(engine, job, shard, uploaded),
        replaced=before.file_ids,
    )
    backoff = _no_waits(shard)
    if uploaded.is_pending:  # to ask for a batch at once would be refused
        backoff = msgspec.structs.replace(backoff, not_before=engine.clock() + engine.timing.backoff_s)
    return Learned(Fact.FILE_UPLOADED, ShardUpdate(upload=upload, backoff=backoff, problem=None))


def _sent(engine: Engine, job: Job, shard: Shard, name: str, tries: int = _SIZE_TRIES) -> UploadedFile:
    """Upload a shard's file, at once again if it is said to be too large: a proxy can answer anything once."""
    try:
        with engine.store.open(shard.requests) as file:
            return engine.api.upload(name, file, job.policy.files_expire_after_s)
    except ApiError as error:
        if error.status != TOO_LARGE or tries <= 1:
            raise
    return _sent(engine, job, shard, name, tries - 1)


def _lifetime_s(engine: Engine, job: Job, shard: Shard, uploaded: UploadedFile) -> float | None:
    """Return how long an uploaded file is kept, and warn of a server that does not do as it was asked."""
    asked_s = job.policy.files_expire_after_s
    if asked_s is not None and uploaded.lifetime_s is not None and abs(uploaded.lifetime_s - asked_s) > 60:
        engine.log.warning(
            "Shard %s: files_expire_after is %s, but the server keeps %s for %s.",
            shard.id,
            duration_text(asked_s),
            uploaded.id,
            duration_text(uploaded.lifetime_s),
        )
    return asked_s if uploaded.lifetime_s is None else uploaded.lifetime_s


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
    return _learn_batch(engine, shard, _retrieved(engine, job, shard, shard.batch.id))


def _retrieved(engine: Engine, job: Job, shard: Shard, batch_id: str) -> Batch:
    try:
        # The id that was asked for is the one that works, whatever a server or gateway answers.
        return msgspec.structs.replace(engine.api.retrieve(batch_id), id=batch_id)
    except NotFound as error:
        # A create can be answered with an id that is none: the listing tells the batch's own.
        if shard.refused_at is not None and (batch := find_again(engine, job, shard)) is not None:
            return batch
        if not is_believed(engine, job, shard, error):
            raise
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
    if fact is Fact.QUEUE_FULL:
        return queue_full(engine, shard, "; ".join(error.message for error in batch.errors), batch)
    if fact in (Fact.FILE_NOT_FOUND, Fact.FILE_LOST):
        update = back_in_line(engine, shard, batch)
        return Learned(fact, update | {"upload": one_more_miss(shard), "problem": batch.errors[0].message})
    # Admission to the queue is decided while validating.
    backoff = shard.backoff if batch.status == "validating" else _no_waits(shard)
    if fact is Fact.STILL_RUNNING and batch.status in ENDED_STATUSES:
        # Nothing to watch for but a file id.
        backoff = msgspec.structs.replace(backoff, not_before=now + engine.timing.backoff_s)
    update = ShardUpdate(batch=batch, problem=_unknown_status(batch), backoff=backoff)
    if fact is Fact.LINES_REJECTED:
        update["rejections"] = _with_custom_ids(engine, shard, batch.errors)
        reasons = "; ".join(f"{e.n} x {e.code}: {without_values(e.message)}" for e in batch.errors[:_MAX_LOGGED])
        engine.log.error("Shard %s: OpenAI refused the batch, nothing was billed: %s", shard.id, reasons or "no reason")
    return Learned(fact, update)


def _no_waits(shard: Shard) -> Backoff:
    return msgspec.structs.replace(shard.backoff, n_waits=0, n_full=0)


def _unknown_status(batch: Batch) -> str | None:
    """Return what to tell of a status that may mean that the batch has ended, if only somebody knew it."""
    if is_known_status(batch.status) or batch.status == "unknown":
        return None
    return (
        f"Batch {batch.id} has the status {batch.status!r}, which OpenAI's API does not have. It counts as running, "
        "until it has a known one or the deadline passes."
    )


def _with_custom_ids(engine: Engine, shard: Shard, errors: tuple[LineError, ...]) -> tuple[LineError, ...]:
    """Put the custom_id to each line number: OpenAI counts lines from 1."""
    ids = read_index(engine.store, shard.index).custom_ids if any(error.line for error in errors) else []
    return tuple(
        msgspec.structs.replace(error, custom_id=ids[error.line - 1])
        if error.line is not None and 0 < error.line <= len(ids)
        else error
        for error in errors
    ) or (LineError(code="unknown", message="OpenAI gave no reason."),)


def _cancel(engine: Engine, job: Job, shard: Shard) -> Learned:
    assert shard.batch is not None  # noqa: S101
    batch = cancel(engine, shard.batch.id)
    if batch is None or batch.status in ENDED_STATUSES:  # what an end means is learned by a look
        batch = shard.batch
    batch = msgspec.structs.replace(batch, id=shard.batch.id)
    engine.log.warning("Shard %s: asked OpenAI to cancel %s; finished rows will be kept.", shard.id, shard.batch.id)
    return Learned(Fact.CANCEL_ASKED, ShardUpdate(cancel_asked_at=engine.clock(), batch=batch))


def _call_off(engine: Engine, job: Job, shard: Shard) -> Learned:
    backoff = msgspec.structs.replace(shard.backoff, not_before=0.0)
    return Learned(Fact.CALLED_OFF, ShardUpdate(batch=None, backoff=backoff))


def _harvest(engine: Engine, job: Job, shard: Shard) -> Learned:
    accepted: Accepted | None = None
    if all(s.id != shard.id for s in job.shards):
        # Of an earlier epoch only good answers count, and none of its rows is asked again. What there is of them is
        # taken well before the new epoch goes on without.
        later = engine.clock() + engine.timing.earlier_epoch_s / 2
        accepted = None if is_awaited(job, shard, later, engine.timing) else "missing"
    elif shard.evidence is not None:
        accepted = engine.store.standing_commands(job).accepts(shard.evidence.since)
    if shard.batch is not None and shard.problem is not None:
        # It may name files by now that it did not name before. If it is gone, what it named may be there all the same.
        with contextlib.suppress(ApiError):
            latest = engine.api.retrieve(shard.batch.id)
            if latest.status in ENDED_STATUSES:
                shard = msgspec.structs.replace(shard, batch=msgspec.structs.replace(latest, id=shard.batch.id))
    is_settled = shard.evidence is not None and engine.clock() - shard.evidence.since >= engine.timing.late_file_s
    fetch = partial(
        harvest,
        engine.store,
        engine.api,
        job,
        shard,
        parser_of(job, engine.check),
        engine.sleep,
        accepted,
        is_settled=is_settled,
        readers=engine.readers,
    )
    try:
        harvested = fetch()
    except Unproven as unproven:
        return _look_again(engine, job, shard, unproven)
    except NotFound as error:
        if not is_believed(engine, job, shard, error):
            return _doubted(engine, shard, error)
        if accepted is None:
            raise Stop(_not_there(job, shard, error), is_local=True) from error
        harvested = fetch(is_output_gone=True)
    tally = harvested.tally
    engine.log.info(
        "Shard %s: %s", shard.id, ", ".join(f"{n} {status}" for status, n in sorted(tally.by_status.items()))
    )
    record_answers(engine, job, shard, harvested.outcomes)
    part = OutcomePart(
        name=harvested.outcomes,
        unmatched=harvested.unmatched,
        tally=tally.by_status,
        retryable=tally.retryable,
        usage=tally.usage,
        cost=tally.cost,
    )
    update = ShardUpdate(batch=shard.batch, outcomes=part, backoff=Backoff(), problem=None, evidence=None)
    return Learned(Fact.OUTCOMES_SAVED, update)


def _not_there(job: Job, shard: Shard, error: NotFound) -> str:
    lifetime_s = job.policy.files_expire_after_s
    kept = "OpenAI keeps them" if lifetime_s is None else f"files_expire_after={duration_text(lifetime_s)}"
    why = f"are gone at OpenAI ({error}): they were deleted, or are older than {kept}."
    if isinstance(error, Unfetchable):
        why = f"cannot be fetched. {error}"
    return (
        f"The result files of batch {shard.batch.id if shard.batch else '?'} {why} Nothing was sent again, as answers "
        f"in them were paid for; clearing this task looks once more. {_decide(job)}"
    )


def _decide(job: Job) -> str:
    """Return how a person decides what is to become of rows whose answers cannot be fetched."""
    key = job.key
    which = shlex.join((key.dag_id, key.run_id, key.task_id))
    which += f" --map-index {key.map_index}" if key.map_index >= 0 else ""
    return (
        f"To give these rows up, run `python -m airflow_openai_batch accept-missing {which}` (or ask-missing, which "
        "pays for them once more), and clear this task."
    )


def _doubted(engine: Engine, shard: Shard, error: NotFound) -> Learned:
    """Look for a file again later that is not there now; from now on a person may decide what becomes of its rows."""
    later = postponed(engine, shard, error)
    if shard.evidence is None:
        later.update["evidence"] = Evidence(since=engine.clock(), reason=problem_of(error))
    return later


def _look_again(engine: Engine, job: Job, shard: Shard, unproven: Unproven) -> Learned:
    """Fetch the result files again later; hold the job if they have proved nothing for hours."""
    now = engine.clock()
    before = shard.evidence or Evidence(since=now, reason="")
    has_news = before.n_absent is None or unproven.n_absent < before.n_absent
    evidence = Evidence(
        since=before.since,
        reason=str(unproven),
        raw=(*before.raw, *unproven.raw),
        digest=unproven.digest,
        n_absent=unproven.n_absent if has_news else before.n_absent,
    )
    batch_id = shard.batch.id if shard.batch is not None else "?"
    problem = f"The result files of batch {batch_id} are not whole, or not all there: {unproven}."
    if now - evidence.since >= engine.timing.proof_s and not has_news:
        raise Stop(
            f"{problem} They were fetched again and again for {engine.timing.proof_s / 3600:g} h; what arrived is in "
            f"{engine.store} ({', '.join(evidence.raw) or 'no bytes'}). Nothing was asked again, as these rows may "
            f"have an answer that was paid for. {_decide(job)}",
            is_local=True,
        )
    pause_s = backoff_s(shard.backoff.n_waits + 1, engine.timing)
    engine.log.warning("Shard %s: %s Looking again in %.0f s; nothing is asked again.", shard.id, problem, pause_s)
    backoff = msgspec.structs.replace(shard.backoff, not_before=now + pause_s, n_waits=shard.backoff.n_waits + 1)
    update = ShardUpdate(batch=shard.batch, evidence=evidence, problem=problem[:500], backoff=backoff)
    return Learned(Fact.POSTPONED, update)


def _reshard(engine: Engine, job: Job, shard: Shard) -> Learned:
    child = reshard(engine.store, job, shard)
    engine.log.info("Shard %s: %d rows are asked again as %s.", shard.id, child.n_requests, child.id)
    return Learned(Fact.CHILD_MADE, ShardUpdate(child=child.id), child=child)


def _carry(engine: Engine, job: Job, shard: Shard) -> Learned:
    after = carry(engine.store, job, shard)
    engine.log.info(
        "Shard %s: %d answers carried over, %d rows left to ask.", shard.id, after.n_carried, after.n_requests
    )
    return _with_answers(after, outcomes=None)


def _share(engine: Engine, job: Job, shard: Shard) -> Learned:
    after = share(engine.store, job, shard)
    engine.log.info(
        "Shard %s: %d rows have the outcomes of equal requests; %d are asked.",
        shard.id,
        after.n_rows - after.n_requests,
        after.n_requests,
    )
    return _with_answers(after, outcomes=after.outcomes)


def _with_answers(after: Shard, outcomes: OutcomePart | None) -> Learned:
    update = ShardUpdate(
        index=after.index,
        requests=after.requests,
        n_requests=after.n_requests,
        n_bytes=after.n_bytes,
        n_tokens=after.n_tokens,
        carried=after.carried,
        copied_from=after.copied_from,
        outcomes=outcomes,
    )
    return Learned(Fact.ANSWERS_CARRIED if after.n_requests else Fact.NOTHING_LEFT, update)


ACTIONS: dict[str, Callable[[Engine, Job, Shard], Learned]] = {
    "upload": _upload,
    "look": look,
    "refresh": _refresh,
    "cancel": _cancel,
    "call_off": _call_off,
    "harvest": _harvest,
    "reshard": _reshard,
    "carry": _carry,
    "share": _share,
}
