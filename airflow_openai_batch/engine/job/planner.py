"""What may be done now with a job, when waiting for it ends, and when waking a worker is worth it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from airflow_openai_batch.engine.job.finishing import (
    OUTSIDE_BATCHES,
    direct_verb,
    is_finishing,
    leased_until,
    was_cut_short,
)
from airflow_openai_batch.engine.job.policy import window_s
from airflow_openai_batch.engine.job.state_machine import is_quiet
from airflow_openai_batch.engine.model import (
    AT_OPENAI,
    ENDED_STATUSES,
    Commands,
    Job,
    Shard,
    State,
    Timing,
    Value,
)
from airflow_openai_batch.engine.money.own_answers import OwnAnswers


class Action(Value, frozen=True, kw_only=True):
    """What may be done now with one shard."""

    verb: str
    shard: str


def deadline_at(job: Job, timing: Timing) -> float:
    """Return when waiting ends: as the policy says, but not before every running batch had its own chance."""
    running = [s.batch for s in job.all_shards if s.state is State.RUNNING and s.batch is not None]
    latest = job.deadline_from + _LONGEST_WINDOW_S
    expiries = [min(batch.expires_at, latest) + timing.expiry_margin_s for batch in running if batch.expires_at]
    return max([job.deadline_from + job.policy.deadline_s, *expiries])


_LONGEST_WINDOW_S = 31 * 24 * 3600.0
"""How far off an expiry may be, from when the deadline began to run: a wrong one must not hold a job for years."""


def plan(
    job: Job, now: float, commands: Commands, timing: Timing, fresh: frozenset[str] = frozenset()
) -> Iterator[Action]:
    """Name what may be done now, shard by shard. A wait is data (``not_before``), never a sleep.

    Args:
        job: The newest snapshot.
        now: Epoch seconds.
        commands: What a person asked for.
        timing: Durations.
        fresh: Ids of running shards whose batch was looked at just now: asking again would bring nothing new.
    """
    is_leased = now < leased_until(job, timing)
    pauses = {shard.model for shard in job.shards if shard.state is State.ASKING and shard.not_before > now}
    for shard in job.earlier:
        yield from _plan_earlier(shard, now, fresh, is_leased=is_leased)
    is_late = now >= deadline_at(job, timing)
    is_probing = now < probed_at(job, timing)
    gate = Gate(job, now, is_closed=commands.cancel or is_late or job.is_plan_only or is_probing)
    may_carry = not any(is_awaited(job, s, now, timing) or _is_fetched_now(s, now) for s in job.earlier)
    for shard in job.shards:
        if shard.state in OUTSIDE_BATCHES and not (shard.is_repeat and not shard.n_requests):
            verb = direct_verb(
                job, shard, now, commands, is_open=gate.is_open and shard.model not in pauses, is_leased=is_leased
            )
            if verb is not None:
                yield Action(verb=verb, shard=shard.id)
            if verb is not None or shard.state is State.ASKING or is_finishing(job, now):
                continue
        if shard.not_before > now and shard.state is not State.CREATING:
            continue
        if shard.is_repeat and not shard.n_requests:
            verb = "share" if may_carry and _may_share(job, shard, commands) else None
        else:
            verb = _verb(job, shard, now, commands, gate, fresh, may_carry=may_carry)
        if verb == "create" and is_upload_stale(job, shard, now):
            verb = "upload"
        if verb is not None:
            yield Action(verb=verb, shard=shard.id)


def is_upload_stale(job: Job, shard: Shard, now: float) -> bool:
    """Return whether a shard's input file at OpenAI is too old to create a batch of: uploading it again is free.

    It is not documented whether a batch needs its input file after it was validated, so the file has to outlive a batch
    that takes its whole completion window. A file that lives hardly longer than that is used in its first hour.

    Args:
        job: The job.
        shard: A shard that is uploaded.
        now: Epoch seconds.
    """
    upload = shard.upload
    if upload.at is None or upload.lifetime_s is None or upload.lifetime_s < _LEAST_LIFETIME_S:
        return False
    spare_s = upload.lifetime_s - window_s(job.policy)
    return now - upload.at > max(spare_s, min(_FRESH_S, upload.lifetime_s / 2))


_FRESH_S, _LEAST_LIFETIME_S = 3600.0, 60.0
"""Age at which a file of a short life is used all the same; and a lifetime below which a server's word counts for
nothing."""


def probed_at(job: Job, timing: Timing) -> float:
    """Return until when nothing is sent, as a row is being asked synchronously: in epoch seconds, 0 if none is.

    Args:
        job: The newest snapshot's job.
        timing: Durations: a process that dies meanwhile holds nothing back for longer than a call may take.
    """
    if job.probe is None or job.probe.result != "asked":
        return 0.0
    return job.probe.asked_at + timing.ask_timeout_s


def _is_fetched_now(shard: Shard, now: float) -> bool:
    return shard.state in (State.ENDED, State.REJECTED) and shard.not_before <= now


def is_awaited(job: Job, shard: Shard, now: float, timing: Timing) -> bool:
    """Return whether a shard of an earlier epoch is still waited for, so that its answers can be carried over.

    Args:
        job: The job.
        shard: A shard of an earlier epoch.
        now: Epoch seconds.
        timing: Durations: what should long have ended holds nothing back for ever.
    """
    if is_quiet(shard):
        return False
    return now < not_awaited_at(job, shard, timing)


def not_awaited_at(job: Job, shard: Shard, timing: Timing) -> float:
    """Return when a shard of an earlier epoch is waited for no longer, in epoch seconds.

    Args:
        job: The job, whose epoch may have begun when the shard's batch had long ended.
        shard: A shard of an earlier epoch; a server that refuses to cancel its batch gets no more time than others.
        timing: Durations.
    """
    since = shard.cancel_asked_at
    if since is None and shard.state is State.CREATING and shard.intent is not None:
        since = shard.intent.at
    if since is None and shard.state in (State.ENDED, State.REJECTED) and shard.batch is not None:
        since = shard.batch.ended_at
    return max(since or 0.0, job.created_at) + timing.earlier_epoch_s


def _verb(
    job: Job, shard: Shard, now: float, commands: Commands, gate: Gate, fresh: frozenset[str], *, may_carry: bool
) -> str | None:
    match shard.state:
        # Even of a job that is being cancelled: what was paid for must not be asked again when it is taken up.
        case State.DRAFTED if may_carry:
            return "carry"
        case State.PLANNED | State.UPLOADED if commands.cancel:
            return "call_off"
        case State.PLANNED if gate.is_open:
            return "upload"
        case State.UPLOADED if gate.admits(shard):
            return "create"
        case State.CREATING if _is_first_look(shard) or shard.not_before <= now:
            return "look"
        case State.RUNNING if (commands.cancel or is_finishing(job, now)) and shard.cancel_asked_at is None:
            return "cancel"
        case State.RUNNING if shard.id not in fresh:
            return "refresh"
        case State.ENDED | State.REJECTED:
            return "harvest"
        case State.SETTLED if deserves_another_round(job, shard) and gate.is_open:
            return "reshard"
    return None


def _may_share(job: Job, repeats: Shard, commands: Commands) -> bool:
    """Return whether a shard of repeats can have its outcomes now: when those of all other rows are known.

    Again, if it has bad ones and others have been asked since: a person may have wanted that.
    """
    others = (shard for shard in job.shards if not shard.is_repeat)
    if any(s.state is not State.SETTLED or (deserves_another_round(job, s) and not commands.cancel) for s in others):
        return False
    if repeats.state is State.DRAFTED:
        return True
    return repeats.is_copied and bool(repeats.bad) and repeats.copied_from != tuple(outcome_parts(job))


def outcome_parts(job: Job) -> Iterator[str]:
    """Yield the names of the files with the outcomes of all rows but repeats, those of later rounds later."""
    for shard in sorted((shard for shard in job.shards if not shard.is_repeat), key=lambda shard: shard.round):
        for part in (shard.carried, shard.outcomes):
            if part is not None:
                yield part.name


def _is_first_look(shard: Shard) -> bool:
    return shard.intent is None or shard.intent.n_looks == 0


def _plan_earlier(shard: Shard, now: float, fresh: frozenset[str], *, is_leased: bool) -> Iterator[Action]:
    """What belongs to an earlier epoch is cancelled, and what was paid for is fetched."""
    if shard.not_before > now and shard.state is not State.CREATING:
        return
    match shard.state:
        case State.CREATING if _is_first_look(shard) or shard.not_before <= now:
            yield Action(verb="look", shard=shard.id)
        case State.RUNNING if shard.cancel_asked_at is None:
            yield Action(verb="cancel", shard=shard.id)
        case State.RUNNING if shard.id not in fresh:
            yield Action(verb="refresh", shard=shard.id)
        case State.ASKING if not is_leased:
            yield Action(verb="call_off", shard=shard.id)
        case State.ENDED | State.REJECTED:
            yield Action(verb="harvest", shard=shard.id)


def deserves_another_round(job: Job, shard: Shard) -> bool:
    """Return whether the shard has rows to ask again, and is allowed to."""
    is_allowed = shard.is_replayed or shard.round < job.policy.max_rounds or was_cut_short(job, shard)
    if shard.direct is not None and not shard.is_replayed:
        # To be asked synchronously is the last round; requests that were called off before their turn had none.
        is_allowed = shard.direct.n_done < shard.n_requests
    return shard.state is State.SETTLED and shard.child is None and is_allowed and any(shard.asked_again.values())


def is_done(job: Job, commands: Commands, now: float, timing: Timing) -> bool:
    """Return whether every row has its final outcome, and nothing is waited for any more.

    Args:
        job: The newest snapshot's job.
        commands: What a person asked for.
        now: Epoch seconds.
        timing: Durations.
    """
    return all(
        s.state is State.SETTLED and (commands.cancel or not deserves_another_round(job, s)) for s in job.shards
    ) and not any(is_awaited(job, s, now, timing) for s in job.earlier)


MAX_ABSENT = 3
"""Creates of a shard in a row without a clear answer whose batch could not be found; the next one is for a person."""


def needs_manual_create(shard: Shard) -> bool:
    """Return whether a server seems to hide what it creates: another create might be one more paid batch."""
    return shard.state is State.UPLOADED and shard.n_absent >= MAX_ABSENT


class Watched(Value, frozen=True, kw_only=True, gc=False):
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


class Gate:
    """Admission control for OpenAI's queue: the job's own token budget, and back-off after the queue was full."""

    def __init__(self, job: Job, now: float, *, is_closed: bool) -> None:
        self.is_open = not is_closed
        everything = job.all_shards
        budget = job.policy.max_enqueued_tokens
        self._answers = OwnAnswers(job)
        used = sum(map(self._tokens, (s for s in everything if s.state in AT_OPENAI)))
        self._room = None if budget is None else budget - used
        self._is_empty = not used
        # Not those of earlier epochs: they are never sent again.
        waiting = [s for s in job.shards if s.state is State.UPLOADED and s.backoff.n_full]
        self._is_shut = any(s.not_before > now for s in waiting)
        # After a full queue one batch at a time tries the door: each refused try is a failed batch in the dashboard.
        self._is_probing = bool(waiting)
        running = [s.batch for s in everything if s.state is State.RUNNING]
        self._is_probed = any(batch is not None and batch.status == "validating" for batch in running)

    def admits(self, shard: Shard) -> bool:
        """Return whether the shard may be sent now, and count it as sent if so."""
        if not self.is_open or self._is_shut or (self._is_probing and self._is_probed):
            return False
        # Cut for a larger budget, or grown by a conversation: what exceeds even the whole budget goes alone.
        n_tokens = self._tokens(shard)
        if self._room is not None and n_tokens > self._room and not self._is_empty:
            self._room = 0  # a later, smaller shard must not overtake for ever
            return False
        self._is_empty = False
        if self._room is not None:
            self._room -= n_tokens
        self._is_probed = True
        return True

    def _tokens(self, shard: Shard) -> int:
        return self._answers.input_of(shard).input_tokens
