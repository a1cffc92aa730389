"""The state machine: what can become known of a shard, what follows from it, what may be done next.

Facts change state (``learn``), plan names actions (``plan``), performing an action yields facts. This module has
no I/O, no clock, no sleep and no client; times are arguments. ``NEXT`` is the whole table, and the picture in
``docs/architecture.md`` is checked against it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from airflow_openai_batch.engine.model import UNSENT, Batch, Job, Shard, State, Value
from airflow_openai_batch.engine.queue import ACCOUNT_CODES, Gate, is_file_message, is_queue_message


class Fact(StrEnum):
    """What can become known of a shard."""

    ANSWERS_CARRIED = "answers_carried"
    NOTHING_LEFT = "nothing_left"
    FILE_UPLOADED = "file_uploaded"
    FILE_NOT_FOUND = "file_not_found"
    FILE_LOST = "file_lost"
    INTENT_SAVED = "intent_saved"
    NOT_CREATED = "not_created"
    BATCH_KNOWN = "batch_known"
    BATCH_ABSENT = "batch_absent"
    QUEUE_FULL = "queue_full"
    STILL_RUNNING = "still_running"
    CANCEL_ASKED = "cancel_asked"
    CALLED_OFF = "called_off"
    LINES_REJECTED = "lines_rejected"
    BATCH_ENDED = "batch_ended"
    OUTCOMES_SAVED = "outcomes_saved"
    CHILD_MADE = "child_made"
    GIVEN_UP = "given_up"
    POSTPONED = "postponed"


S, F = State, Fact

NEXT: dict[tuple[State, Fact], State] = {
    (S.DRAFTED, F.ANSWERS_CARRIED): S.PLANNED,  # the rest still has to be asked
    (S.DRAFTED, F.NOTHING_LEFT): S.SETTLED,  # every answer was there already
    (S.PLANNED, F.FILE_UPLOADED): S.UPLOADED,
    (S.PLANNED, F.LINES_REJECTED): S.REJECTED,  # the upload itself was refused
    (S.UPLOADED, F.INTENT_SAVED): S.CREATING,  # committed before the paid call
    (S.CREATING, F.BATCH_KNOWN): S.RUNNING,  # answered, or found later by its nonce
    (S.CREATING, F.BATCH_ABSENT): S.UPLOADED,  # an empty look, past the grace period
    (S.CREATING, F.NOT_CREATED): S.UPLOADED,  # the API said no: nothing exists
    (S.CREATING, F.QUEUE_FULL): S.UPLOADED,
    (S.CREATING, F.FILE_NOT_FOUND): S.UPLOADED,
    (S.CREATING, F.FILE_LOST): S.PLANNED,
    (S.CREATING, F.LINES_REJECTED): S.REJECTED,
    (S.RUNNING, F.STILL_RUNNING): S.RUNNING,
    (S.RUNNING, F.CANCEL_ASKED): S.RUNNING,
    (S.RUNNING, F.QUEUE_FULL): S.UPLOADED,  # failed and unbilled: the same file, later
    (S.RUNNING, F.FILE_NOT_FOUND): S.UPLOADED,
    (S.RUNNING, F.FILE_LOST): S.PLANNED,
    (S.RUNNING, F.LINES_REJECTED): S.REJECTED,
    (S.RUNNING, F.BATCH_ENDED): S.ENDED,  # completed, expired and cancelled alike
    (S.DRAFTED, F.CALLED_OFF): S.ENDED,
    (S.PLANNED, F.CALLED_OFF): S.ENDED,
    (S.UPLOADED, F.CALLED_OFF): S.ENDED,
    (S.ENDED, F.OUTCOMES_SAVED): S.SETTLED,
    (S.REJECTED, F.OUTCOMES_SAVED): S.SETTLED,
    (S.SETTLED, F.CHILD_MADE): S.SETTLED,
    (S.RUNNING, F.GIVEN_UP): S.SETTLED,  # of an earlier epoch, and OpenAI no longer knows it
    (S.ENDED, F.GIVEN_UP): S.SETTLED,
    **{(s, F.POSTPONED): s for s in (S.DRAFTED, S.PLANNED, S.UPLOADED, S.CREATING, S.RUNNING, S.ENDED, S.REJECTED)},
}

ENDED_STATUSES = frozenset({"completed", "expired", "cancelled", "failed"})
"""Statuses after which a batch does not change. Any other, known or not, counts as still running."""

FRUITLESS_STATUSES = frozenset({"failed", "cancelling", "cancelled"})
"""Of two batches of one shard, the one not to keep: perhaps itself an extra that was cancelled."""


class Timing(Value, frozen=True, kw_only=True):
    """Every duration that the engine waits for, in seconds."""

    post_timeout_s: float = 60.0
    """Longest time that the create call may take."""
    grace_s: float = 180.0
    """After the intent, how long an absent batch may still appear: more than the call plus the listing's lag."""
    backoff_s: float = 30.0
    """First pause after a call that could not be made; doubles."""
    backoff_max_s: float = 1800.0
    late_file_s: float = 600.0
    """How long a completed batch may lack its output file id before that is believed."""
    probe_s: float = 60.0
    """How soon to look whether a batch was admitted to a queue that was full."""
    expiry_margin_s: float = 2 * 3600.0
    """OpenAI notices an expiry late; seen: 30 minutes."""
    harvest_after_s: float = 300.0
    """An ended batch is fetched at the latest after this time, even while others run."""


class Action(Value, frozen=True, kw_only=True):
    """What may be done now with one shard."""

    verb: str
    shard: str


class Wishes(Value, frozen=True, kw_only=True):
    """What a person asked for, read from the store's marker files."""

    cancel: bool = False


MAX_FILE_RETRIES = 3
"""Creates with the same file after "cannot find file", before it is uploaded anew."""
MAX_UPLOADS = 2


def learn(shard: Shard, fact: Fact, **known: Any) -> Shard:
    """Return the shard after a fact.

    Raises:
        KeyError: The table has no such transition. That is a defect of the engine, never the user's.
    """
    return msgspec.structs.replace(shard, state=NEXT[shard.state, fact], **known)


def backoff_s(n: int, timing: Timing) -> float:
    """Return the pause after the n-th failure in a row, n from 1."""
    return min(timing.backoff_s * 2.0 ** min(n - 1, 16), timing.backoff_max_s)


def deadline_at(job: Job, timing: Timing) -> float:
    """Return when waiting ends: as the policy says, but not before every running batch had its own chance."""
    running = [s.batch for s in _all(job) if s.state is S.RUNNING and s.batch is not None]
    expiries = [batch.expires_at + timing.expiry_margin_s for batch in running if batch.expires_at is not None]
    return max([job.deadline_from + job.policy.deadline_s, *expiries])


def plan(job: Job, now: float, wishes: Wishes, timing: Timing, fresh: frozenset[str] = frozenset()) -> Iterator[Action]:
    """Name what may be done now, in row order. A wait is data (``not_before``), never a sleep.

    Args:
        job: The newest snapshot.
        now: Epoch seconds.
        wishes: What a person asked for.
        timing: Durations.
        fresh: Ids of running shards whose batch was looked at just now: asking again would bring nothing new.
    """
    for shard in job.earlier:
        yield from _plan_earlier(shard, now, fresh)
    is_late = now >= deadline_at(job, timing)
    gate = Gate(job, now, is_closed=wishes.cancel or is_late)
    for shard in job.shards:
        if shard.not_before > now and shard.state is not S.CREATING:
            continue
        verb = _verb(job, shard, now, wishes, gate, fresh)
        if verb is not None:
            yield Action(verb=verb, shard=shard.id)


def _verb(job: Job, shard: Shard, now: float, wishes: Wishes, gate: Gate, fresh: frozenset[str]) -> str | None:
    match shard.state:
        # Even of a job that is being cancelled: what was paid for must not be asked again when it is taken up.
        case S.DRAFTED if all(is_quiet(s) for s in job.earlier):
            return "carry"
        case S.PLANNED | S.UPLOADED if wishes.cancel:
            return "call_off"
        case S.PLANNED if gate.is_open:
            return "upload"
        case S.UPLOADED if gate.admits(shard):
            return "create"
        case S.CREATING if shard.n_looks == 0 or shard.not_before <= now:
            return "look"
        case S.RUNNING if wishes.cancel and shard.cancel_asked_at is None:
            return "cancel"
        case S.RUNNING if shard.id not in fresh:
            return "refresh"
        case S.ENDED | S.REJECTED:
            return "harvest"
        case S.SETTLED if deserves_another_round(job, shard) and gate.is_open:
            return "reshard"
    return None


def _plan_earlier(shard: Shard, now: float, fresh: frozenset[str]) -> Iterator[Action]:
    """What belongs to an earlier epoch is cancelled, and what was paid for is fetched."""
    if shard.not_before > now and shard.state is not S.CREATING:
        return
    match shard.state:
        case S.CREATING if shard.n_looks == 0 or shard.not_before <= now:
            yield Action(verb="look", shard=shard.id)
        case S.RUNNING if shard.cancel_asked_at is None:
            yield Action(verb="cancel", shard=shard.id)
        case S.RUNNING if shard.id not in fresh:
            yield Action(verb="refresh", shard=shard.id)
        case S.ENDED | S.REJECTED:
            yield Action(verb="harvest", shard=shard.id)


def deserves_another_round(job: Job, shard: Shard) -> bool:
    """Say whether the shard has rows to ask again, and is allowed to."""
    return (
        shard.state is S.SETTLED
        and shard.n_retryable > 0
        and shard.child is None
        and shard.round < job.policy.max_rounds
    )


def is_quiet(shard: Shard) -> bool:
    """Say whether nothing of the shard is at OpenAI and nothing paid is left to fetch."""
    return shard.state in UNSENT or shard.state is S.SETTLED


def is_done(job: Job, wishes: Wishes) -> bool:
    """Say whether every row has its final outcome and nothing runs any more."""
    return all(
        s.state is S.SETTLED and (wishes.cancel or not deserves_another_round(job, s)) for s in job.shards
    ) and all(is_quiet(s) for s in job.earlier)


def fact_of(batch: Batch, shard: Shard, now: float, timing: Timing) -> Fact:
    """Translate what OpenAI says of a batch into a fact about its shard."""
    if batch.status == "failed" and not (batch.output_file_id or batch.error_file_id):
        return _fact_of_failure(batch, shard)
    if batch.status not in ENDED_STATUSES:
        return F.STILL_RUNNING
    if _lacks_file(batch) and now - (batch.ended_at or now) < timing.late_file_s:
        return F.STILL_RUNNING  # the id can appear some time after the status
    return F.BATCH_ENDED


def _lacks_file(batch: Batch) -> bool:
    """Say whether an ended batch should have an output file and has none. Counts can lie, so they decide little."""
    if batch.output_file_id is not None:
        return False
    if batch.status == "completed":
        return not 0 < batch.n_total <= batch.n_failed
    return batch.n_completed > 0  # an expired or cancelled batch may well have answered nothing


def _fact_of_failure(batch: Batch, shard: Shard) -> Fact:
    """Code first, then words; anything unknown is the user's to read. A failed batch has cost nothing."""
    for error in batch.errors:
        if error.code in ACCOUNT_CODES or is_queue_message(error.code, error.message):
            return F.QUEUE_FULL
        if is_file_message(error.message):
            return fact_of_missing_file(shard)
    return F.LINES_REJECTED


def fact_of_missing_file(shard: Shard) -> Fact:
    """Decide what "cannot find file" means: try again, upload again, or give up and name the platform."""
    if (shard.n_misses + 1) % MAX_FILE_RETRIES:
        return F.FILE_NOT_FOUND
    return F.FILE_LOST if shard.n_uploads < MAX_UPLOADS else F.LINES_REJECTED


def account_problem(batch: Batch) -> str | None:
    """Return the message of an error that only a person with the account can mend."""
    return next((e.message for e in batch.errors if e.code in ACCOUNT_CODES), None)


class Watched(Value, frozen=True, kw_only=True):
    """What the trigger knows of one batch it watches."""

    id: str
    status: str = "unknown"
    ended_at: float | None = None
    """When the trigger first saw it ended."""


def wake(
    watched: Sequence[Watched], now: float, wake_at: float | None, *, is_queued: bool, harvest_after_s: float
) -> str | None:
    """Decide whether waking a worker is worth it, and why. None: keep watching.

    Args:
        watched: The batches, as last seen.
        now: Epoch seconds.
        wake_at: When there is something to do whatever the batches say, or None.
        is_queued: Whether more work waits for room at OpenAI.
        harvest_after_s: Seconds after which an ended batch is fetched even while others run.
    """
    if wake_at is not None and now >= wake_at:
        return "due"
    ended = [w for w in watched if w.status in ENDED_STATUSES]
    if watched and len(ended) == len(watched):
        return "all ended"
    if any(w.status == "failed" for w in ended):
        return "failed"
    if ended and is_queued:
        return "room for more"
    if any(w.ended_at is not None and now - w.ended_at >= harvest_after_s for w in ended):
        return "harvest"
    return None


def _all(job: Job) -> tuple[Shard, ...]:
    return job.earlier + job.shards
