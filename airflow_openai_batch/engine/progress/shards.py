"""The shards of a job one by one, for a person who wants to know what happens to them. Pure."""

from __future__ import annotations

from typing import Any

from airflow_openai_batch.engine.model import AT_OPENAI, Batch, Job, Shard, State
from airflow_openai_batch.engine.money.dollars import in_dollars
from airflow_openai_batch.engine.progress.model import MAX_PROBLEM, VERSION

MAX_SHARDS = 200

_MAX_PAST = 5

_BATCH_FIELDS = (
    "id",
    "status",
    "created_at",
    "expires_at",
    "in_progress_at",
    "finalizing_at",
    "ended_at",
    "n_total",
    "n_completed",
    "n_failed",
    "input_file_id",
    "output_file_id",
    "error_file_id",
)

_SHARD_FIELDS = (
    "id",
    "state",
    "round",
    "parent",
    "first_row",
    "n_rows",
    "n_bytes",
    "n_tokens",
    "n_creates",
    "settled_at",
    "tally",
    "usage",
)


def shards_of(job: Job, now: float) -> dict[str, Any]:
    """Return a job's shards in the job's order; of very many those with trouble, and those at OpenAI, before others.

    Rows that are not sent, as they have no prompt or the outcomes of others, are in none of them.

    Args:
        job: The newest snapshot.
        now: Epoch seconds.
    """
    asked = [shard for shard in job.shards if shard.is_asked]
    chosen = {shard.id for shard in sorted(asked, key=_rank)[:MAX_SHARDS]}
    shards = [_shown(shard) for shard in asked if shard.id in chosen]
    return {"version": VERSION, "updated_at": now, "n_shards": len(asked), "shards": shards}


def _rank(shard: Shard) -> int:
    if shard.state is not State.SETTLED and (shard.problem or shard.backoff.n_waits):
        return 0
    if shard.state in AT_OPENAI:
        return 1
    if shard.state is not State.SETTLED:
        return 2
    return 3 if shard.rejections or shard.retryable else 4


def _shown(shard: Shard) -> dict[str, Any]:
    shown: dict[str, Any] = {name: getattr(shard, name) for name in _SHARD_FIELDS}
    return {
        **shown,
        "n_waits": shard.backoff.n_waits,
        "not_before": shard.not_before,
        # Every field by name: defaults would be left out.
        "usage": {name: getattr(shard.usage, name) for name in shard.usage.__struct_fields__},
        "cost": in_dollars(shard.cost)["cost"],
        "problem": shard.problem[:MAX_PROBLEM] if shard.problem else None,
        "batch": None if shard.batch is None else _batch(shard.batch),
        "past_batches": shard.past_batches[-_MAX_PAST:],
    }


def _batch(batch: Batch) -> dict[str, Any]:
    return {name: getattr(batch, name) for name in _BATCH_FIELDS}
