"""How a job stands, by its store alone: in one word, and why nothing more of it is sent."""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec

from airflow_openai_batch.cli.jobs import Found
from airflow_openai_batch.engine.job.admission import held_back
from airflow_openai_batch.engine.job.duration_history import earlier_durations
from airflow_openai_batch.engine.job.planner import deadline_at, is_done, plan
from airflow_openai_batch.engine.job.summary import check_thresholds, summarize
from airflow_openai_batch.engine.model import AT_OPENAI, State, Timing
from airflow_openai_batch.engine.progress.forecast import forecast_of, forecast_text

_log = logging.getLogger(__name__)


def state_of(found: Found) -> str:
    """Return one word for a job."""
    job = found.job
    if is_over(found):
        problem = check_thresholds(summarize(job), job.policy)
        is_cancelled = found.store.standing_commands(job).cancel
        return "cancelled" if is_cancelled else "good" if problem is None else "bad"
    if job.is_plan_only:
        return "planned"
    if time.time() >= deadline_at(job, Timing()):
        return "late"
    if held_by(found):
        return "held"
    is_asking = job.lease is not None and any(shard.state is State.ASKING for shard in job.shards)
    return "running" if is_asking or any(shard.state in AT_OPENAI for shard in job.all_shards) else "queued"


def held_by(found: Found) -> list[str]:
    """Return why nothing more is sent of a job of which nothing runs: its cap, its pilot or its probe."""
    job = found.job
    if any(shard.state in AT_OPENAI for shard in job.all_shards):
        return []
    actions = list(plan(job, time.time(), found.store.standing_commands(job), Timing()))
    limits = held_back(job, actions)
    is_idle = all(action.shard in limits for action in actions)
    return list(dict.fromkeys(limit.reason for limit in limits.values())) if is_idle else []


def is_over(found: Found) -> bool:
    """Return whether a job has ended, and no command wants more of it."""
    commands = found.store.standing_commands(found.job)
    return not commands.replays and is_done(found.job, commands, time.time(), Timing())


def forecast_in(found: Found, state: str, now: float) -> tuple[str, dict[str, Any] | None]:
    """Return when a job that goes on will be over by how long earlier ones took, as a line and as a value.

    Args:
        found: The job.
        state: How it stands.
        now: Epoch seconds.
    """
    if state not in ("running", "queued"):
        return "", None
    forecast = forecast_of(found.job, earlier_durations(found.store, found.job, now, _log), now)
    if forecast is None:
        return "", None
    values = {name: value for name, value in msgspec.structs.asdict(forecast).items() if name != "steps"}
    text = forecast_text(forecast, now)
    return f"forecast: {text}" if text else "", values
