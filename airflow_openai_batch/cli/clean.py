"""The commands that remove: ``clean`` what is old or unneeded, ``forget`` one job or all of a run."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import re
import time
from typing import Any

from airflow_openai_batch.cli.answer import Answer, Exit
from airflow_openai_batch.engine.errors import EngineError
from airflow_openai_batch.engine.model import JobKey

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}

_ELSEWHERE = (
    "Not touched: results that tasks have written, XComs and logs in Airflow, and the batch objects at OpenAI, which "
    "cannot be deleted (they hold counts and the names of Dag, run and task)."
)


def age(text: str) -> datetime.timedelta:
    """Return an age as it is given on the command line: ``90d``, ``48h``, ``12w``.

    Raises:
        argparse.ArgumentTypeError: It is none, or less than a day.
    """
    from airflow_openai_batch.task.cleanup import check_older_than

    match = re.fullmatch(r"(\d{1,5})([hdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age: write 90d, 48h or 12w")
    older_than = datetime.timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        check_older_than(older_than)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return older_than


def clean(arguments: Any) -> Answer:
    """Remove old jobs, and what nobody needs."""
    from airflow_openai_batch.task.cleanup import clean_storage

    try:
        report = clean_storage(
            arguments.older_than,
            is_dry_run=arguments.dry_run,
            storage=arguments.storage,
            conn_ids=arguments.conn_id or (),
            is_offline=arguments.offline,
        )
    except EngineError as error:
        return Answer(problem=str(error), exit=Exit.NOTHING)
    code = Exit.NOT_TOLD if report.problems else Exit.DONE
    return Answer(report.text(), report.to_json(), "\n".join(report.problems), code)


def forget(arguments: Any) -> Answer:
    """Remove a job, or all jobs of a run, wherever they are."""
    from airflow_openai_batch import settings
    from airflow_openai_batch.engine.cleaning.forget import forget as forget_job
    from airflow_openai_batch.hooks import OpenAIBatchHook, storage_root
    from airflow_openai_batch.task.cleanup import api_of

    try:
        root = storage_root(arguments.storage)
        keys = _keys(root, arguments)
        if not keys:
            problem = f"There is no such job in {root}. `list` names the jobs that there are."
            return Answer(problem=problem, exit=Exit.NOTHING)
        outcomes = [
            forget_job(
                root,
                key,
                settings.deployment(),
                time.time(),
                api_of=lambda conn_id: api_of(arguments.conn_id or conn_id or OpenAIBatchHook.default_conn_name),
                is_dry_run=arguments.dry_run,
            )
            for key in keys
        ]
    except EngineError as error:
        return Answer(problem=str(error), exit=Exit.NOTHING)
    done = [one for one in outcomes if one.refusal is None]
    lines = [line for one in done for line in _lines(one, is_dry_run=arguments.dry_run)]
    problems = [f"{one.name}: {one.refusal}" for one in outcomes if one.refusal is not None]
    problems += [f"Not removed: {failure}." for one in outcomes for failure in one.failures]
    code = Exit.NOTHING if not done else Exit.NOT_TOLD if problems else Exit.DONE
    data = {"dry_run": arguments.dry_run, "jobs": [dataclasses.asdict(one) for one in outcomes]}
    return Answer("\n".join([*lines, _ELSEWHERE] if done else lines), data, "\n".join(problems), code)


def _keys(root: Any, arguments: Any) -> list[JobKey]:
    """Return the jobs that are meant, also those that were removed and of which something may be left."""
    from airflow_openai_batch.cli.jobs import keys_in

    removed: list[Any] = []
    keys = list(keys_in(root, arguments.dag_id, arguments.run_id, removed))
    keys += [error.tombstone.key for error in removed if error.tombstone.key is not None]
    if arguments.task_id is not None:
        keys = [key for key in keys if key.task_id == arguments.task_id]
    if arguments.map_index >= 0:
        keys = [key for key in keys if key.map_index == arguments.map_index]
    return keys


def _lines(one: Any, *, is_dry_run: bool) -> list[str]:
    verb = "Would be removed" if is_dry_run else "Removed"
    entries = "" if is_dry_run else f", {one.n_ledger_entries:,} entries of ledgers"
    lines = [
        f"{one.name}: {verb}: {one.n_files:,} files of its store ({one.n_bytes / 1e6:,.1f} MB), "
        f"{one.n_at_openai:,} files at OpenAI{entries}. Its name stays, so that no late task asks its rows again."
    ]
    if one.reused_by:
        lines.append(
            "  Copies of its answers stay in jobs that used them again: forget these too if they must go: "
            + "; ".join(one.reused_by)
        )
    return lines
