"""The state machine: what can become known of a shard, and what follows from it.

Facts change state (``learn``), plan names actions (``planner``), executing an action yields facts. This module has no
I/O, no clock, no sleep and no client; times are arguments. ``NEXT`` is the whole table, and the picture in
``docs/architecture.md`` is checked against it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypedDict

import msgspec

from airflow_openai_batch.engine.api.errors import ACCOUNT_CODES, is_file_message, is_queue_message
from airflow_openai_batch.engine.model import (
    ENDED_STATUSES,
    UNSENT,
    Backoff,
    Batch,
    CarriedAnswers,
    DirectAnswers,
    Evidence,
    Intent,
    LineError,
    OutcomePart,
    Shard,
    State,
    Timing,
    Upload,
)


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
    ASKED_DIRECTLY = "asked_directly"
    ALL_ASKED = "all_asked"
    GIVEN_UP = "given_up"
    POSTPONED = "postponed"


S, F = State, Fact

NEXT: dict[tuple[State, Fact], State] = {
    (S.DRAFTED, F.ANSWERS_CARRIED): S.PLANNED,  # the rest still has to be asked
    (S.DRAFTED, F.NOTHING_LEFT): S.SETTLED,  # every answer was there already
    (S.SETTLED, F.NOTHING_LEFT): S.SETTLED,  # rows that share the outcomes of others, which were asked again
    (S.PLANNED, F.FILE_UPLOADED): S.UPLOADED,
    (S.PLANNED, F.LINES_REJECTED): S.REJECTED,  # the upload itself was refused
    (S.UPLOADED, F.FILE_UPLOADED): S.UPLOADED,  # anew: the file would expire before its batch could have ended
    (S.UPLOADED, F.LINES_REJECTED): S.REJECTED,
    (S.UPLOADED, F.INTENT_SAVED): S.CREATING,  # committed before the paid call
    (S.CREATING, F.BATCH_KNOWN): S.RUNNING,  # answered, or found later by its nonce
    (S.CREATING, F.BATCH_ABSENT): S.UPLOADED,  # an empty look, past the grace period
    (S.CREATING, F.NOT_CREATED): S.UPLOADED,  # the API said no: nothing exists
    (S.CREATING, F.QUEUE_FULL): S.UPLOADED,
    (S.CREATING, F.FILE_NOT_FOUND): S.UPLOADED,
    (S.CREATING, F.FILE_LOST): S.PLANNED,
    (S.CREATING, F.LINES_REJECTED): S.REJECTED,
    (S.PLANNED, F.BATCH_KNOWN): S.RUNNING,  # a store that was wiped or set back finds its batch
    (S.UPLOADED, F.BATCH_KNOWN): S.RUNNING,
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
    (S.PLANNED, F.ASKED_DIRECTLY): S.ASKING,  # committed before the first synchronous request
    (S.UPLOADED, F.ASKED_DIRECTLY): S.ASKING,
    (S.ASKING, F.ASKED_DIRECTLY): S.ASKING,  # how far it has come, or another process goes on
    (S.ASKING, F.ALL_ASKED): S.ENDED,
    (S.ASKING, F.CALLED_OFF): S.ENDED,
    (S.ENDED, F.OUTCOMES_SAVED): S.SETTLED,
    (S.REJECTED, F.OUTCOMES_SAVED): S.SETTLED,
    (S.SETTLED, F.CHILD_MADE): S.SETTLED,
    (S.RUNNING, F.GIVEN_UP): S.SETTLED,  # of an earlier epoch, and OpenAI no longer knows it
    (S.ENDED, F.GIVEN_UP): S.SETTLED,
    (S.CREATING, F.GIVEN_UP): S.SETTLED,
    **{
        (s, F.POSTPONED): s
        for s in (S.DRAFTED, S.PLANNED, S.UPLOADED, S.CREATING, S.RUNNING, S.ASKING, S.ENDED, S.REJECTED)
    },
}

FRUITLESS_STATUSES = frozenset({"failed", "cancelling", "cancelled"})
"""Of two batches of one shard, the one not to keep: perhaps itself an extra that was cancelled."""

MAX_FILE_RETRIES = 3
"""Creates with the same file after "cannot find file", before it is uploaded anew."""

MAX_UPLOADS = 2


class ShardUpdate(TypedDict, total=False):
    """What becomes known of a shard along with a fact: the new values of some of its fields."""

    child: str
    index: str
    requests: str
    n_requests: int
    n_bytes: int
    n_tokens: int
    upload: Upload
    intent: Intent | None
    doubt: Intent
    n_creates: int
    backoff: Backoff
    batch: Batch | None
    past_batches: tuple[str, ...]
    cancel_asked_at: float | None
    carried: CarriedAnswers | None
    direct: DirectAnswers | None
    copied_from: tuple[str, ...]
    outcomes: OutcomePart | None
    rejections: tuple[LineError, ...]
    n_absent: int
    refused_at: float | None
    evidence: Evidence | None
    problem: str | None


def learn(shard: Shard, fact: Fact, update: ShardUpdate) -> Shard:
    """Return the shard after a fact.

    Args:
        shard: The shard before it.
        fact: What became known.
        update: The values that became known with it.

    Raises:
        KeyError: The table has no such transition. That is a defect of the engine, never the user's.
    """
    # Whatever else becomes known ends a row of refusals.
    state = NEXT[shard.state, fact]
    if state is S.UPLOADED and update.get("upload", shard.upload).file_id is None:
        state = S.PLANNED  # the batch was adopted by a store that was wiped and knows of no file
    return msgspec.structs.replace(shard, state=state, **{"refused_at": None, **update})


def reset_for_resubmit(shard: Shard) -> Shard:
    """Return a shard whose batch OpenAI refused as it was before it was sent. Nothing of it was billed."""
    past = shard.past_batches if shard.batch is None else (*shard.past_batches, shard.batch.id)
    return msgspec.structs.replace(
        shard,
        state=S.PLANNED,
        upload=Upload(replaced=() if shard.are_files_deleted else shard.upload.file_ids),
        are_files_deleted=False,
        intent=None,
        n_creates=0,
        n_absent=0,
        evidence=None,
        backoff=Backoff(),
        batch=None,
        past_batches=past,
        outcomes=None,
        settled_at=None,
        rejections=(),
        problem=None,
    )


def backoff_s(n: int, timing: Timing) -> float:
    """Return the pause after the n-th failure in a row, n from 1."""
    return min(timing.backoff_s * 2.0 ** min(n - 1, 16), timing.backoff_max_s)


def is_quiet(shard: Shard) -> bool:
    """Return whether nothing of the shard is at OpenAI and nothing paid is left to fetch."""
    return shard.state in UNSENT or shard.state is S.SETTLED


def fact_of(batch: Batch, shard: Shard, now: float, timing: Timing) -> Fact:
    """Translate what OpenAI says of a batch into a fact about its shard."""
    if batch.status == "failed" and not (batch.output_file_id or batch.error_file_id or batch.n_completed):
        return _fact_of_failure(batch, shard)
    if batch.status not in ENDED_STATUSES:
        return F.STILL_RUNNING
    if _lacks_file(batch) and now - (batch.ended_at or now) < timing.late_file_s:
        return F.STILL_RUNNING  # the id can appear some time after the status, and counts too
    return F.BATCH_ENDED


def _lacks_file(batch: Batch) -> bool:
    """Return whether an ended batch should have a file that it does not name. Counts can lie and decide little.

    OpenAI's guide: requests without an answer are in the error file, so an ended batch has a file. Seen: file
    ids and counts that come minutes after the status, whichever it is.
    """
    if batch.output_file_id is not None:
        return False
    if batch.error_file_id is None:
        return True
    if batch.status == "completed":
        return not 0 < batch.n_total <= batch.n_failed
    return batch.n_completed > 0  # a batch that ended early may well have answered nothing


def _fact_of_failure(batch: Batch, shard: Shard) -> Fact:
    """Code first, then words; anything unknown is the user's to read. What failed before it ran has cost nothing."""
    for error in batch.errors:
        if error.code in ACCOUNT_CODES or is_queue_message(error.code, error.message):
            return F.QUEUE_FULL
        if is_file_message(error.message):
            return fact_of_missing_file(shard)
    return F.LINES_REJECTED


def fact_of_missing_file(shard: Shard) -> Fact:
    """Decide what "cannot find file" means: try again, upload again, or give up and name the platform."""
    if (shard.upload.n_misses + 1) % MAX_FILE_RETRIES:
        return F.FILE_NOT_FOUND
    return F.FILE_LOST if shard.upload.n_uploads < MAX_UPLOADS else F.LINES_REJECTED


def one_more_miss(shard: Shard) -> Upload:
    """Return the shard's upload after OpenAI said once more that it cannot find the file."""
    return msgspec.structs.replace(shard.upload, n_misses=shard.upload.n_misses + 1)


def account_problem(batch: Batch) -> str | None:
    """Return the message of an error that only a person with the account can mend."""
    return next((e.message for e in batch.errors if e.code in ACCOUNT_CODES), None)
