"""Asking rows that were given up once more, because a person wants it. Pure."""

from __future__ import annotations

import msgspec

from airflow_openai_batch.engine.job.planner import deadline_at
from airflow_openai_batch.engine.job.state_machine import reset_for_resubmit
from airflow_openai_batch.engine.model import Job, Shard, State, Timing


def replayed(job: Job, commands: tuple[str, ...], now: float, timing: Timing) -> Job:
    """Return a job whose rows without a good answer are to be asked again, once; good answers stay.

    Args:
        job: The newest snapshot's job.
        commands: The names of the commands that ask for it, which are acknowledged.
        now: Epoch seconds, from which a deadline that has passed begins anew.
        timing: Durations.
    """
    return msgspec.structs.replace(
        job,
        shards=tuple(map(_replayed, job.shards)),
        acknowledged=(*job.acknowledged, *commands),
        deadline_from=now if now >= deadline_at(job, timing) else job.deadline_from,
    )


def _replayed(shard: Shard) -> Shard:
    """Return a shard that has the last word on bad rows as one that asks them again. Others stay as they are."""
    if shard.state is not State.SETTLED or shard.child is not None or not shard.bad:
        return shard
    if shard.is_copied:  # the rows that it has its outcomes from are asked, and it gets theirs again
        return shard
    if shard.rejections:  # OpenAI refused its whole batch: there is nothing to choose from
        return reset_for_resubmit(shard)
    return msgspec.structs.replace(shard, is_replayed=True)
