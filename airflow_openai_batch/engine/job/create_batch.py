"""The one call that costs money: the intent before it, and the look when it is not known what it did."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import PurePosixPath

import msgspec

from airflow_openai_batch.engine.api.errors import is_file_message
from airflow_openai_batch.engine.errors import (
    Accepted,
    ApiError,
    Denied,
    FilePending,
    NotFound,
    QueueFull,
    Refused,
    Unavailable,
    Unclear,
)
from airflow_openai_batch.engine.identity import NONCE_KEY, Nonce, nonce, parse_nonce
from airflow_openai_batch.engine.job.cancelling import cancel, cancel_extra
from airflow_openai_batch.engine.job.context import Engine, Learned, Stop
from airflow_openai_batch.engine.job.failures import (
    concerns_all,
    denied,
    is_believed,
    is_lifetime_refused,
    lifetime_refused,
    not_created,
    problem_of,
    queue_full,
    rejected,
)
from airflow_openai_batch.engine.job.planner import MAX_ABSENT
from airflow_openai_batch.engine.job.state_machine import (
    FRUITLESS_STATUSES,
    Fact,
    ShardUpdate,
    fact_of_missing_file,
    one_more_miss,
)
from airflow_openai_batch.engine.model import (
    ENDED_STATUSES,
    NOTHING_TO_CANCEL,
    Batch,
    Intent,
    Job,
    Shard,
    State,
    describe,
)
from airflow_openai_batch.engine.store.index import read_index
from airflow_openai_batch.engine.store.job_store import JobStore

_LOOK_BACK_S = 900.0
"""How much older than our intent a batch may look, for clocks that disagree."""

_WIPED_LOOK_BACK_S = 26 * 3600.0
"""How old a batch may be that a wiped store has forgotten. OpenAI: it ends after 24 h at the latest."""

_OLDEST_ADOPTED_S = 31 * 24 * 3600.0
"""OpenAI's guide: result files are deleted 30 days after a batch completed. The batch stays listed without them."""

_PENDING_PAUSE_S = 300.0
"""The longest pause until another create is tried of a file that is being processed."""


def intend(engine: Engine, job: Job, shard: Shard) -> Learned:
    """Name the batch that is about to be created. Committed before the call, so that a crash cannot hide it.

    Args:
        engine: The engine.
        job: The shard's job.
        shard: The shard, uploaded.
    """
    now = engine.clock()
    # By the index file, whose name is unique: a job built anew must not adopt what another build had asked.
    stem, content = PurePosixPath(shard.index).stem, content_of(engine.store, shard)
    name = nonce(job.key, job.epoch, stem, engine.unique(), content, job.owner)
    return Learned(
        Fact.INTENT_SAVED,
        ShardUpdate(
            intent=Intent(nonce=name, at=now),
            backoff=msgspec.structs.replace(shard.backoff, not_before=now + engine.timing.grace_s),
            n_creates=shard.n_creates + 1,
            refused_at=shard.refused_at,
        ),
    )


def post(engine: Engine, job: Job, shard: Shard) -> Learned:
    """Create the batch that was intended: the only paid call.

    Its answer may be lost. Then nothing is known, the shard stays CREATING, and the next plan says *look*.

    Args:
        engine: The engine.
        job: The shard's job.
        shard: The shard, with its intent committed.
    """
    assert shard.upload.file_id is not None and shard.intent is not None  # noqa: S101
    # A process that was frozen since its commit may find that others have looked and gone on: too late to post.
    # Of what the call leaves of the grace, half is for being late and half for the listing's lag.
    if engine.clock() - shard.intent.at > (engine.timing.grace_s - engine.timing.post_timeout_s) / 2:
        return Learned(Fact.POSTPONED, ShardUpdate(problem="The process was too slow to create the batch."))
    try:
        batch = engine.api.create(
            file_id=shard.upload.file_id,
            endpoint=job.spec.endpoint,
            completion_window=job.policy.completion_window,
            metadata={**job.policy.metadata, **_who(job), NONCE_KEY: shard.intent.nonce},
            timeout_s=engine.timing.post_timeout_s,
            output_expires_after_s=job.policy.files_expire_after_s,
        )
    except Unclear as error:
        engine.log.warning("Shard %s: %s It is not known whether a batch was created; looking for it.", shard.id, error)
        # From now on: the call may have taken long, and the listing has its lag after it.
        pause_s = max(engine.timing.grace_s - engine.timing.post_timeout_s, error.retry_after_s or 0.0)
        look_at = max(shard.not_before, engine.clock() + pause_s)
        backoff = msgspec.structs.replace(shard.backoff, not_before=look_at)
        update = ShardUpdate(problem=problem_of(error), backoff=backoff)
        if isinstance(error, Accepted):  # if it cannot be found, another create would be paid for once more
            update["n_absent"] = MAX_ABSENT - 1
        return Learned(Fact.POSTPONED, update)
    except QueueFull as error:
        return queue_full(engine, shard, str(error), None)
    except Denied as error:
        if not is_believed(engine, job, shard, error):
            return Learned(Fact.NOT_CREATED, not_created(engine, shard, error))
        update = not_created(engine, shard, error, pause_s=0.0)
        is_local = not concerns_all(job, error)
        return Learned(Fact.NOT_CREATED, update, hold=denied(error), is_hold_local=is_local)
    except Unavailable as error:
        update = not_created(engine, shard, error)
        if isinstance(error, FilePending):  # it will soon be processed
            soon = min(update["backoff"].not_before, engine.clock() + _PENDING_PAUSE_S)
            update["backoff"] = msgspec.structs.replace(update["backoff"], not_before=soon)
        return Learned(Fact.NOT_CREATED, update)
    except Refused as error:
        return _refused_create(engine, job, shard, error)
    engine.log.info("Shard %s: batch %s created for %d requests.", shard.id, batch.id, shard.n_requests)
    return _known(shard, batch)


def _who(job: Job) -> dict[str, str]:
    """Metadata for a person who looks at OpenAI's dashboard. Values up to 512 characters."""
    return {"dag_id": job.key.dag_id[:512], "run_id": job.key.run_id[:512], "task_id": job.key.task_id[:512]}


def _refused_create(engine: Engine, job: Job, shard: Shard, error: ApiError) -> Learned:
    if isinstance(error, NotFound) or is_file_message(str(error)):
        fact = fact_of_missing_file(shard)
        if fact is not Fact.LINES_REJECTED:
            return Learned(fact, not_created(engine, shard, error) | {"upload": one_more_miss(shard)})
    elif is_lifetime_refused(job, error):
        update = not_created(engine, shard, error, pause_s=0.0)
        return Learned(Fact.NOT_CREATED, update, hold=lifetime_refused(job, error))
    return rejected(engine, shard, error)


def _known(shard: Shard, batch: Batch) -> Learned:
    backoff = msgspec.structs.replace(shard.backoff, not_before=0.0)
    return Learned(
        Fact.BATCH_KNOWN,
        ShardUpdate(batch=batch, backoff=backoff, problem=None, cancel_asked_at=None, n_absent=0),
    )


def look(engine: Engine, job: Job, shard: Shard) -> Learned:
    """Find out whether the intended batch exists: adopt it, cancel any extra, or learn that it is absent.

    Args:
        engine: The engine.
        job: The shard's job.
        shard: The shard, with its intent.
    """
    assert shard.intent is not None  # noqa: S101
    is_last = engine.clock() >= shard.not_before
    listed, lost = _listed(engine, shard.intent.at - _LOOK_BACK_S)
    mine = {batch.id: batch for batch in listed if _is_of_shard(batch, shard, shard.intent)}.values()
    if not mine:
        lost = lost or _unnamed(job, listed, shard.intent.at - _LOOK_BACK_S)
        if lost is not None:  # what was not shown may be ours
            if engine.clock() - shard.intent.at >= engine.timing.proof_s:
                raise Stop(
                    f"It is not known whether a batch runs for shard {shard.id}: its create had no clear answer, and "
                    f"the listing of batches does not tell ({lost}). Nothing was sent again. Where the listing works, "
                    "clearing this task finds the batch; else look for one with this job's metadata, cancel it, and "
                    "start over.",
                    is_local=True,
                ) from lost
            raise lost
        if not is_last:
            intent = msgspec.structs.replace(shard.intent, n_looks=shard.intent.n_looks + 1)
            return Learned(Fact.POSTPONED, ShardUpdate(intent=intent))
        engine.log.info("Shard %s: no batch was created; creating it again costs nothing extra.", shard.id)
        backoff = msgspec.structs.replace(shard.backoff, not_before=0.0)
        update = ShardUpdate(intent=None, doubt=shard.intent, backoff=backoff, n_absent=shard.n_absent + 1)
        return Learned(Fact.BATCH_ABSENT, update)
    adopted, *extras = sorted(mine, key=lambda b: (b.status in FRUITLESS_STATUSES, b.created_at or 0.0))
    for extra in extras:
        if extra.status not in ENDED_STATUSES:
            engine.log.warning("Shard %s: batch %s is one too many; cancelling it.", shard.id, extra.id)
            cancel(engine, extra.id)
    engine.log.info("Shard %s: adopted %s.", shard.id, describe(adopted))
    return _known(shard, adopted)


def _listed(engine: Engine, since: float) -> tuple[list[Batch], ApiError | None]:
    """Return the account's batches, and why there may be more, if the listing could not be read to its end.

    Args:
        engine: The engine.
        since: Creation time of the oldest batch that is searched for, epoch seconds.
    """
    batches: list[Batch] = []
    try:
        batches.extend(engine.api.batches(since))  # what comes before an error is kept
    except ApiError as error:
        return batches, error
    return batches, None


def _unnamed(job: Job, listed: list[Batch], since: float) -> ApiError | None:
    """Return an error if the listing shows new batches and not whose they are: any of them may be ours.

    Args:
        job: The job, whose own batches are known.
        listed: The listing.
        since: Creation time of the oldest batch that is searched for, epoch seconds.
    """
    known_ids = _known_ids(job)
    unnamed = [
        batch.id
        for batch in listed
        if batch.nonce is None
        and batch.input_file_id is None
        and batch.id not in known_ids
        and (batch.created_at is None or batch.is_local_time or batch.created_at >= since)
    ]
    if not unnamed:
        return None
    return Unclear(f"{unnamed[0]} and {len(unnamed) - 1} others are listed with neither metadata nor an input file.")


def find_again(engine: Engine, job: Job, shard: Shard) -> Batch | None:
    """Return the batch of a shard that the listing shows under another id than the one we have, if there is one.

    Args:
        engine: The engine.
        job: The shard's job.
        shard: A shard whose batch the server does not know by its id.
    """
    if shard.intent is None or shard.batch is None:
        return None
    listed, _ = _listed(engine, shard.intent.at - _LOOK_BACK_S)
    mine = [b for b in listed if b.id != shard.batch.id and _is_of_shard(b, shard, shard.intent)]
    return min(mine, key=lambda b: (b.status in FRUITLESS_STATUSES, b.created_at or 0.0), default=None)


def cancel_strangers(engine: Engine, job: Job) -> None:
    """Cancel batches that a process made after we had concluded that it had not.

    Only a process that was frozen for longer than the grace period does so; what it pays for until then is the one
    price of an API without idempotency keys.
    """
    doubts = [(shard, shard.doubt) for shard in job.all_shards if shard.doubt is not None]
    if not doubts:
        return
    known_ids = _known_ids(job)
    since = min(doubt.at for _, doubt in doubts)
    try:
        for batch in engine.api.batches(since - _LOOK_BACK_S):
            is_over = batch.id in known_ids or batch.status in NOTHING_TO_CANCEL
            if not is_over and any(_is_of_shard(batch, shard, doubt) for shard, doubt in doubts):
                engine.log.warning("Batch %s was created by a process that came too late; cancelling it.", batch.id)
                cancel_extra(engine, batch.id)
    except ApiError as error:
        engine.log.warning("Could not look for batches that came too late: %s Looking again next time.", error)


def _owner(text: str | None) -> tuple[str, int, str] | None:
    """Return job, epoch and shard of a nonce: what all tries of a shard have in common."""
    parsed = parse_nonce(text) if text is not None else None
    return (parsed.job, parsed.epoch, parsed.shard) if parsed is not None else None


def _is_of_shard(batch: Batch, shard: Shard, intent: Intent) -> bool:
    """Return whether a batch was created for a shard: by its nonce, or by its input file, which is no other shard's.

    The nonce counts up to its unique part: a batch of an earlier try of the same shard is ours as well. Seen: gateways
    drop metadata, or cut its values; times are of no help, as servers write them in other zones and by other clocks.
    """
    if batch.id in shard.past_batches:
        return False
    owner = _owner(batch.nonce)
    return _has_file_of(batch, shard) if owner is None else owner == _owner(intent.nonce)


def _has_file_of(batch: Batch, shard: Shard) -> bool:
    return batch.input_file_id is not None and batch.input_file_id in shard.upload.file_ids


def _known_ids(job: Job) -> set[str]:
    """Return the ids of all batches that the job remembers."""
    return {batch_id for s in job.all_shards for batch_id in (*s.past_batches, *([s.batch.id] if s.batch else ()))}


def content_of(store: JobStore, shard: Shard) -> str:
    """Return a digest of a shard's requests: ids and bodies, in the order of the request file."""
    content = hashlib.sha256()
    index = read_index(store, shard.index)
    for custom_id, digest in zip(index.custom_ids, index.digests, strict=True):
        content.update(custom_id.encode() + b"\0" + digest)
    return content.hexdigest()[:32]


def adopt(engine: Engine, job: Job) -> list[tuple[Shard, Learned]]:
    """Find batches of shards that are about to be sent: of a store that was wiped, or set back by a restored backup.

    They are told by their nonce: job, epoch and index file, or the same job with the same requests; and by their input
    file where metadata is dropped. A batch of an epoch before this one is not taken: a person may have asked to start
    over. Nor is one of which the answers must be gone: it would only hold the job.
    """
    unsent = [shard for shard in job.shards if shard.state in (State.PLANNED, State.UPLOADED)]
    known_ids = _known_ids(job)
    listed, lost = _listed(engine, min(job.created_at - _LOOK_BACK_S, engine.clock() - _WIPED_LOOK_BACK_S))
    if lost is not None:
        engine.log.debug("Could not look for all batches of this job that its store does not know: %s", lost)
    oldest = engine.clock() - _OLDEST_ADOPTED_S
    free = [
        b
        for b in listed
        if b.id not in known_ids
        and b.status not in FRUITLESS_STATUSES
        and (b.created_at is None or b.is_local_time or b.created_at >= oldest)
    ]
    own = parse_nonce(nonce(job.key, job.epoch, "", "", owner=job.owner))
    by_nonce = {
        batch.id: (batch, parsed)
        for batch in free
        if (parsed := parse_nonce(batch.nonce or "")) is not None
        and own is not None
        and parsed.job == own.job
        and parsed.epoch >= job.epoch
    }
    by_file = {batch.input_file_id: batch for batch in free if _owner(batch.nonce) is None}
    adopted: list[tuple[Shard, Learned]] = []
    for shard in unsent:
        batch = next((by_file[file_id] for file_id in shard.upload.file_ids if file_id in by_file), None)
        if batch is None and by_nonce:
            batch = _batch_named_for(shard, job.epoch, content_of(engine.store, shard), by_nonce.values())
        if batch is not None:
            by_nonce.pop(batch.id, None)
            engine.log.warning("Shard %s: its store did not know of %s; adopted.", shard.id, describe(batch))
            adopted.append((shard, _known(shard, batch)))
    return adopted


def _batch_named_for(shard: Shard, epoch: int, content: str, batches: Iterable[tuple[Batch, Nonce]]) -> Batch | None:
    stem = PurePosixPath(shard.index).stem
    for batch, parsed in batches:
        if (parsed.epoch, parsed.shard) == (epoch, stem) or (parsed.content and parsed.content == content):
            return batch
    return None
