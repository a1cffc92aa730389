"""The commands that only look: where jobs stand, what they cost, why rows are bad, what is sent and what came back."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from airflow_openai_batch.cli.answer import Answer, Exit
from airflow_openai_batch.cli.jobs import Found, engine_of, find, keys_in
from airflow_openai_batch.cli.standing import forecast_in, held_by, is_over, state_of
from airflow_openai_batch.engine.errors import EngineError, JobCleaned
from airflow_openai_batch.engine.job.advice import ways_on
from airflow_openai_batch.engine.job.planner import deadline_at
from airflow_openai_batch.engine.job.summary import (
    Summary,
    check_thresholds,
    counted,
    money_of,
    money_text,
    progress_line,
    summarize,
)
from airflow_openai_batch.engine.model import ENDED_STATUSES, Batch, Job, Shard, State, Timing, Usage
from airflow_openai_batch.engine.money.dollars import short_cost_text
from airflow_openai_batch.engine.money.estimate import estimate_in_dollars, estimate_of, estimate_text
from airflow_openai_batch.engine.money.prices import prices_of
from airflow_openai_batch.engine.progress.log_format import duration

_MAX_LOOKS = 100
"""Batches that ``show`` asks OpenAI for."""

_MAX_LINES = 200

_NO_REQUESTS = "There are no requests in the store: `clean` removes those of rows with a good answer."


def list_jobs(root: Any, arguments: Any) -> Answer:
    """List the jobs in the storage."""
    entries, lines = [], []
    cleaned: list[JobCleaned] = []
    for key in keys_in(root, arguments.dag_id, arguments.run_id, cleaned):
        try:
            found = find(root, key)
        except EngineError as error:  # one that cannot be read does not hide the others
            entries.append({**_key(key), "state": "unreadable", "problem": str(error)})
            lines.append(f"unreadable   {_name(key)}: {error}")
            continue
        state, summary = state_of(found), summarize(found.job)
        n_done = sum(summary.by_status.values())
        entries.append(
            {
                **_key(key),
                "state": state,
                "rows": found.job.n_rows,
                "settled": n_done,
                "succeeded": summary.n_succeeded,
                **money_of(summary),
                "created_at": found.job.created_at,
            }
        )
        age, cost = duration(time.time() - found.job.created_at), short_cost_text(summary.cost)
        rows = f"{n_done:>10,} of {found.job.n_rows:<10,}"
        lines.append(f"{state:<12} {rows} {cost:>12} {age:>12}  {_name(key)}")
    if cleaned and arguments.run_id is not None:
        lines += [f"{'cleaned':<12} {error}" for error in cleaned]
    elif cleaned:
        lines.append(f"{counted(len(cleaned), 'more job')} were cleaned or forgotten; `show` tells when.")
    if not entries and not lines:
        return Answer(problem=f"There are no such jobs in {root}.", data={"jobs": []}, exit=Exit.NOTHING)
    return Answer("\n".join(lines), {"jobs": entries, "cleaned": len(cleaned)})


def show(found: Found, arguments: Any) -> Answer:
    """Tell where a job stands now, also at OpenAI."""
    from airflow_openai_batch.engine.results.error_counts import stored_errors

    job, now = found.job, time.time()
    summary = summarize(job)
    latest, unseen = ({}, "") if arguments.offline else _latest(found, arguments.conn_id)
    running = [latest.get(batch.id, batch) for batch in _running(job)]
    errors = stored_errors(found.store, job, is_verbatim=True)
    commands = found.store.standing_commands(job)
    state, problem = state_of(found), check_thresholds(summary, job.policy) if is_over(found) else None
    deadline = deadline_at(job, Timing())
    lines = [
        f"{found.store}, epoch {job.epoch}, snapshot {found.number}",
        f"{state}: {progress_line(summary)}",
        f"age {duration(now - job.created_at)}; " + _deadline_text(deadline, now, state),
        f"tokens: {_tokens_text(summary.usage)}",
        f"cost: {_cost_text(summary)}",
    ]
    estimate = estimate_of(job, prices_of(job.policy))
    if estimate.n_requests:
        lines.append(f"estimate: {estimate_text(estimate)}")
    forecast_text, forecast = forecast_in(found, state, now)
    lines += filter(None, [forecast_text])
    if commands.cancel:
        lines.append("Cancelled by a command, until `resume` or `start-over`.")
    if commands.replays:
        lines.append("Bad rows are to be asked again by a command: clear the waiting task.")
    reasons = held_by(found)
    lines += reasons
    if problem:
        lines.append(problem)
    lines += [f"{error.n:,} {error.status} {error.code}: {_error_text(error)}" for error in errors[:10]]
    ways = ways_on(job, summary) if problem else ()
    lines += [f"- {way}" for way in ways]
    asked = [shard for shard in job.shards if shard.is_asked]
    lines += [_shard_line(shard, latest) for shard in asked[:_MAX_LINES]]
    if len(asked) > _MAX_LINES:
        lines.append(f"and {len(asked) - _MAX_LINES:,} more shards")
    data = {
        **_key(job.key),
        "store": str(found.store),
        "epoch": job.epoch,
        "snapshot": found.number,
        "state": state,
        "rows": job.n_rows,
        "by_status": summary.by_status,
        "batches": [_batch(batch) for batch in running],
        "tokens": msgspec.structs.asdict(summary.usage),
        **money_of(summary),
        **estimate_in_dollars(estimate),
        "errors": errors,
        "problem_of_rows": problem,
        "held_by": reasons,
        "advice": ways,
        "problems": [shard.problem for shard in job.shards if shard.problem],
        "commands": {"cancel": commands.cancel, "replay": bool(commands.replays)},
        "age_s": now - job.created_at,
        "deadline_at": deadline,
        "forecast": forecast,
        "looked_at_openai": not unseen and not arguments.offline,
    }
    code = Exit.DONE
    if arguments.exit_code:
        code = Exit.RUNNING if not is_over(found) else Exit.BAD if problem else Exit.DONE
    return Answer("\n".join(lines), data, unseen, code)


def _latest(found: Found, conn_id: str | None) -> tuple[dict[str, Batch], str]:
    """Ask OpenAI for the batches that run. Returns them by id, and why some are as they were last seen."""
    running = _running(found.job)
    latest: dict[str, Batch] = {}
    if not running:
        return latest, ""
    try:
        api = engine_of(found, conn_id).api
        for batch in running[:_MAX_LOOKS]:
            latest[batch.id] = msgspec.structs.replace(api.retrieve(batch.id), id=batch.id)
    except Exception as error:  # whatever keeps us from OpenAI: the store tells the rest
        return latest, f"OpenAI was not asked for all, so batches are as they were last seen: {error}"
    if len(running) > _MAX_LOOKS:
        return latest, f"Only {_MAX_LOOKS} of {len(running):,} running batches were looked at."
    return latest, ""


def errors(found: Found, arguments: Any) -> Answer:
    """Tell why rows have no good answer, and which were not sent."""
    from airflow_openai_batch.engine.results.error_counts import skipped_rows, stored_errors

    job = found.job
    counts = stored_errors(found.store, job, is_verbatim=True)
    refused = [error for shard in job.shards for error in shard.rejections]
    lines = [f"{error.n:,} {error.status} {error.code}: {_error_text(error)}" for error in counts]
    for error in refused:
        where = f" (line {error.line}, custom_id {error.custom_id!r})" if error.custom_id else ""
        lines.append(f"a whole batch, {error.n:,} x {error.code}: {error.message}{where}")
    text = "\n".join(lines) or f"No row that is settled has an error: {progress_line(summarize(job))}."
    skipped = skipped_rows(found.store, job)
    if skipped is not None:
        text += f"\n{skipped.n:,} {skipped.status} {skipped.code}: {_error_text(skipped)}"
    return Answer(text, {**_key(job.key), "errors": counts, "skipped": skipped, "rejections": refused})


def tokens(found: Found, arguments: Any) -> Answer:
    """Tell what was used, by epoch and round."""
    job = found.job
    parts: dict[tuple[int, int], Usage] = {}
    for shard in job.all_shards:
        place = int(shard.id.partition("-")[0]), shard.round
        parts[place] = parts.get(place, Usage()) + shard.usage
    rows = [
        {"epoch": epoch, "round": number, **msgspec.structs.asdict(usage)}
        for (epoch, number), usage in sorted(parts.items())
    ]
    if job.dropped_usage != Usage():
        rows.insert(0, {"epoch": None, "round": None, **msgspec.structs.asdict(job.dropped_usage)})
    probed = job.probe.usage if job.probe is not None else Usage()
    if probed != Usage():
        rows.append({"epoch": job.epoch, "round": None, **msgspec.structs.asdict(probed)})
    summary = summarize(job)
    total = summary.usage
    lines = []
    for row in rows:
        where = "before starting over" if row["epoch"] is None else f"epoch {row['epoch']}, "
        if row["epoch"] is not None:
            where += "probe" if row["round"] is None else f"round {row['round']}"
        usage = Usage(**{name: row[name] for name in Usage.__struct_fields__})
        lines.append(f"{where}: {_tokens_text(usage)}")
    lines.append(f"all: {_tokens_text(total)}; cost: {_cost_text(summary)}")
    data = {**_key(job.key), "total": msgspec.structs.asdict(total), **money_of(summary), "parts": rows}
    return Answer("\n".join(lines), data)


def requests(found: Found, arguments: Any) -> Answer:
    """Print the first lines of what is sent."""
    lines: list[str] = []
    for shard in sorted(found.job.shards, key=lambda shard: (shard.round, shard.first_row)):
        if len(lines) >= arguments.limit or shard.round:
            break
        if shard.state is State.SETTLED and not found.store.exists(shard.requests):
            continue  # cleaned away
        with found.store.open(shard.requests) as file:
            some = itertools.islice(file, arguments.limit - len(lines))
            lines += [line.decode("utf-8", "replace").rstrip("\n") for line in some]
    if not lines:
        return Answer(problem=_NO_REQUESTS, data={"requests": []}, exit=Exit.NOTHING)
    return Answer("\n".join(lines), {"requests": [json.loads(line) for line in lines]})


def results(found: Found, arguments: Any) -> Answer:
    """Write the result rows of a finished job to a file, or print the first ones."""
    from airflow_openai_batch.engine.results.sinks import FileSink
    from airflow_openai_batch.engine.results.writer import manifest, write_results
    from airflow_openai_batch.hooks import as_path

    unsettled = sum(shard.state is not State.SETTLED for shard in found.job.shards)
    if unsettled:
        problem = f"{counted(unsettled, 'shard')} of {len(found.job.shards):,} have no outcome yet; see `show`."
        return Answer(problem=problem, exit=Exit.NOTHING)
    if arguments.output:
        written = manifest(write_results(found.store, found.job, FileSink(as_path(arguments.output))))
        return Answer(f"{written['rows']:,} rows are in {written['output']}.", written)
    rows = list(_first_rows(found, arguments.limit))
    return Answer("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), {"rows": rows})


def _first_rows(found: Found, limit: int) -> Iterator[dict[str, Any]]:
    """Yield the first result rows, by way of a temporary file: however large the job, memory holds one row."""
    import tempfile

    from airflow_openai_batch.engine.results.sinks import FileSink
    from airflow_openai_batch.engine.results.writer import write_results
    from airflow_openai_batch.hooks import as_path

    with tempfile.TemporaryDirectory() as folder:
        write_results(found.store, found.job, FileSink(as_path(f"{folder}/rows.jsonl")))
        with open(f"{folder}/rows.jsonl", encoding="utf-8") as file:
            for _, line in zip(range(limit), file, strict=False):
                yield json.loads(line)


def _running(job: Job) -> list[Batch]:
    return [s.batch for s in job.all_shards if s.state is State.RUNNING and s.batch is not None]


def _deadline_text(deadline: float, now: float, state: str) -> str:
    if state == "planned":
        return "nothing is sent before a task that waits for it begins"
    if state in ("good", "bad", "cancelled"):
        return "finished"
    return f"{duration(deadline - now)} to the deadline" if deadline > now else "its deadline has passed"


def _cost_text(summary: Summary) -> str:
    return money_text(summary.cost, summary.max_cost, summary.n_reused, summary.reuse_saved_picodollars)


def _tokens_text(usage: Usage) -> str:
    return (
        f"input {usage.input_tokens:,} (cached {usage.cached_tokens:,}), "
        f"output {usage.output_tokens:,} (reasoning {usage.reasoning_tokens:,})"
    )


def _error_text(error: Any) -> str:
    examples = f" (for example {', '.join(error.custom_ids)})" if error.custom_ids else ""
    return f"{error.message or 'no message'}{examples}"


def _shard_line(shard: Shard, latest: dict[str, Batch]) -> str:
    batch = latest.get(shard.batch.id, shard.batch) if shard.batch is not None else None
    told = ""
    if batch is not None:
        told = f"{batch.id} {batch.status}"
        if batch.status not in ENDED_STATUSES or shard.state is State.RUNNING:
            told += f" ({batch.n_completed:,} completed, {batch.n_failed:,} failed of {batch.n_total:,})"
    return f"{shard.id:<12}{shard.state.value:<10}{shard.n_requests:>8,}  {told}  {shard.problem or ''}".rstrip()


def _batch(batch: Batch) -> dict[str, Any]:
    names = ("id", "status", "created_at", "expires_at", "n_total", "n_completed", "n_failed")
    return {name: getattr(batch, name) for name in names}


def _key(key: Any) -> dict[str, Any]:
    return {"dag_id": key.dag_id, "run_id": key.run_id, "task_id": key.task_id, "map_index": key.map_index}


def _name(key: Any) -> str:
    mapped = f" --map-index {key.map_index}" if key.map_index >= 0 else ""
    return f"{key.dag_id} {key.run_id} {key.task_id}{mapped}"
