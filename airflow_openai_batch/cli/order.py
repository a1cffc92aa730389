"""The commands that change what becomes of a job. Each is a write-once file in its store, obeyed by its tasks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.cli.answer import Answer, Exit
from airflow_openai_batch.cli.jobs import Found, engine_of
from airflow_openai_batch.engine.job.summary import counted

if TYPE_CHECKING:
    from airflow_openai_batch.engine.job.status import Done, Held, Wait

_SHOWN = 20

_BILLED = ("invalid", "refused", "truncated")
"""Outcomes that OpenAI has billed."""


def cancel(found: Found, arguments: Any) -> Answer:
    """Cancel what runs, at once, and never send the rest."""
    from airflow_openai_batch.engine.job.commands import cancel as cancel_now

    found.store.command("cancel")  # first of all: from now on every task of the job sends nothing more
    try:
        reached = cancel_now(engine_of(found, arguments.conn_id))
    except Exception as error:  # whatever keeps us from OpenAI: a missing connection, a database, a network
        conn_id = arguments.conn_id or found.job.conn_id
        problem = (
            f"Noted in {found.store}: nothing more is sent. But OpenAI could not be told, so what runs there runs on: "
            f"{str(error) or type(error).__name__}\nThe next run of any of the job's tasks tells it: clear the waiting "
            f"task. Or run this again where the connection {conn_id!r} can be read (--conn-id names another)."
        )
        return Answer(problem=problem, data={"noted": True, "told": False}, exit=Exit.NOT_TOLD)
    return _cancelled(reached)


def _cancelled(reached: Wait | Done | Held) -> Answer:
    """Tell what was cancelled, what was finished before, and what could not be cancelled yet."""
    from airflow_openai_batch.engine.job.status import Held
    from airflow_openai_batch.engine.model import AT_OPENAI, Status

    job, by_status = reached.job, reached.summary.by_status
    asked = [s for s in job.all_shards if s.cancel_asked_at is not None and s.batch is not None]
    left = [s for s in job.all_shards if s.state in AT_OPENAI and s.cancel_asked_at is None]
    n_cancelled = by_status.get(Status.CANCELLED, 0)
    n_answered = sum(by_status.values()) - n_cancelled
    lines, problems = [], []
    batches = [shard.batch for shard in asked if shard.batch is not None]
    if batches:
        n_asked = sum(shard.n_requests for shard in asked)
        lines.append(
            f"OpenAI was asked to cancel {counted(len(batches), 'batch', 'batches')} with "
            f"{counted(n_asked, 'request')}; what it finishes until they stop is billed, and kept:"
        )
        lines += [f"  {batch.id} {batch.status}" for batch in batches[:_SHOWN]]
        if len(batches) > _SHOWN:
            lines.append(f"  and {len(batches) - _SHOWN:,} more")
    if job.lease is not None:
        lines.append("A worker asks synchronously: it stops within seconds, and keeps what is on its way.")
    lines.append(f"Cancelled: {counted(n_cancelled, 'row')}. Finished before, and kept: {counted(n_answered, 'row')}.")
    names = [s.batch.id if s.batch is not None else f"a batch that may exist (shard {s.id})" for s in left]
    problems += [
        f"Not cancelled yet: {name}. {shard.problem or ''}".rstrip()
        for name, shard in zip(names[:_SHOWN], left, strict=False)
    ]
    if isinstance(reached, Held):
        problems.append(reached.reason)
    if left:
        problems.append("The next run of any of the job's tasks does it, or this command once more.")
    lines.append(
        "Clear the waiting task to fetch what was finished and to write the results; nothing more is sent. `resume` "
        "takes the cancel back."
    )
    data = {
        "noted": True,
        "told": not left,
        "asked": [batch.id for batch in batches],
        "left": names,
        "cancelled": n_cancelled,
        "kept": n_answered,
    }
    return Answer("\n".join(lines), data, "\n".join(problems), Exit.NOT_TOLD if left else Exit.DONE)


def resume(found: Found, arguments: Any) -> Answer:
    """Take a cancel back."""
    from airflow_openai_batch.engine.job.commands import resume as resume_now

    if not resume_now(found.store):
        return Answer(problem=f"There is no cancel in {found.store} to take back.", exit=Exit.NOTHING)
    text = f"The cancel is taken back in {found.store}. Now clear the waiting task: rows without an answer are asked."
    return Answer(text, {"noted": True})


def start_over(found: Found, arguments: Any) -> Answer:
    """Ask everything again."""
    found.store.command("start_over")
    text = f"Noted in {found.store}. Now clear the task that submitted: everything is asked, and paid for, again."
    return Answer(text, {"noted": True, "rows": found.job.n_rows})


def decide(what: str) -> Callable[[Found, Any], Answer]:
    """Return the command that decides what is to become of rows that cannot be proven to have no answer."""

    def decided(found: Found, arguments: Any) -> Answer:
        doubtful = [shard for shard in found.job.shards if shard.evidence is not None]
        if not doubtful:
            return Answer(problem="No shard of this job waits for such a decision.", exit=Exit.NOTHING)
        lines = [f"{shard.id}: {shard.problem}" for shard in doubtful[:_SHOWN]]
        found.store.command("accept_missing" if what == "accept-missing" else "ask_missing")
        fate = "end as `missing`" if what == "accept-missing" else "are asked again, and may be paid for twice"
        shards = counted(len(doubtful), "shard")
        lines.append(f"Noted for {shards}: rows without a line {fate}. Now clear the waiting task.")
        return Answer("\n".join(lines), {"noted": True, "shards": [shard.id for shard in doubtful]})

    return decided


def replay(found: Found, arguments: Any) -> Answer:
    """Ask once more the rows that were given up."""
    from airflow_openai_batch.engine.job.planner import is_done
    from airflow_openai_batch.engine.job.summary import summarize
    from airflow_openai_batch.engine.model import GOOD, Timing

    job = found.job
    commands = found.store.standing_commands(job)
    bad = {status.value: n for status, n in summarize(job).by_status.items() if status not in GOOD}
    n_rows = sum(bad.values())
    counts = ", ".join(f"{n:,} {status}" for status, n in bad.items())
    if commands.cancel:
        problem = "The job is cancelled by a command: `resume` takes that back, and asks rows without an answer."
    elif commands.replays:
        problem = "This is noted already, and not obeyed yet: clear the waiting task."
    elif not is_done(job, commands, time.time(), Timing()):
        problem = "The job is not finished: what may pass by itself is asked again by itself. `show` tells how it goes."
    elif not bad:
        problem = "Every row has a good answer: there is nothing to ask again."
    else:
        problem = ""
    if problem:
        return Answer(problem=f"{problem} Nothing was noted.", data={"noted": False}, exit=Exit.NOTHING)
    found.store.command("replay")
    n_billed = sum(bad.get(status, 0) for status in _BILLED)
    money = f" OpenAI has billed {n_billed:,} of them before, and bills them again." if n_billed else ""
    if bad.get("missing"):
        money += f" Of the {bad['missing']:,} missing ones it is not known whether they were billed."
    text = (
        f"Noted in {found.store}: {counted(n_rows, 'row')} ({counts}) will be asked once more, and nothing else."
        f"{money} Now clear the task that waits for the job, with the results task after it."
    )
    return Answer(text, {"noted": True, "rows": n_rows, "by_status": bad, "billed_before": n_billed})
