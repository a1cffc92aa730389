"""The moment of ``finish_by``: what follows from it for a job's shards. Pure."""

from __future__ import annotations

from airflow_openai_batch.engine.model import Commands, Job, Shard, State, Timing

OUTSIDE_BATCHES = frozenset({State.PLANNED, State.UPLOADED, State.ASKING})
"""States of a shard whose requests are in no batch, so that they can be asked synchronously."""


def is_finishing(job: Job, now: float) -> bool:
    """Return whether the moment of ``finish_by`` has come: nothing is sent in a batch any more.

    Args:
        job: The newest snapshot's job.
        now: Epoch seconds.
    """
    return job.finish_at is not None and now >= job.finish_at and not job.is_plan_only


def leased_until(job: Job, timing: Timing) -> float:
    """Return until when a process that asks synchronously may be at it, in epoch seconds; 0 if none is.

    Args:
        job: The newest snapshot's job.
        timing: Durations: a process that dies meanwhile holds nothing back for longer than its lease.
    """
    return 0.0 if job.lease is None else job.lease.renewed_at + timing.lease_s


def was_cut_short(job: Job, shard: Shard) -> bool:
    """Return whether a shard's batch was cancelled when the moment of ``finish_by`` had come.

    Args:
        job: The newest snapshot's job.
        shard: The shard.
    """
    return job.finish_at is not None and shard.cancel_asked_at is not None and shard.cancel_asked_at >= job.finish_at


def direct_verb(
    job: Job, shard: Shard, now: float, commands: Commands, *, is_open: bool, is_leased: bool
) -> str | None:
    """Name what is done with requests that are in no batch and are asked synchronously, or are to be from now on.

    What holds a batch back, such as a full queue, holds back none of these.

    Args:
        job: The newest snapshot's job.
        shard: A shard in a state of ``OUTSIDE_BATCHES``.
        now: Epoch seconds.
        commands: What a person asked for.
        is_open: Whether anything may be sent at all.
        is_leased: Whether another process asks. What it has on its way is paid for, so it is let finish that.
    """
    if shard.state is State.ASKING:
        if is_leased:
            return None
        if commands.cancel or not is_finishing(job, now):
            return "call_off"
        return "ask" if is_open and shard.not_before <= now else None
    if not is_finishing(job, now):
        return None
    if commands.cancel:
        return "call_off"
    return "ask" if is_open and not is_leased else None
