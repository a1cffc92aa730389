"""The command that plans a task of a Dag: what it would ask and cost, without a run and without sending anything."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from typing import Any

from airflow_openai_batch.cli.answer import Answer, Exit
from airflow_openai_batch.cli.dag_task import NoTask, load_dag, rendered, submitting_task
from airflow_openai_batch.engine.store.job_store import JobStore
from airflow_openai_batch.exceptions import OpenAIBatchError, OpenAIBatchFailure

RUN_ID_PREFIX = "plan__"
"""How the ids of runs begin that exist only while their plan is made."""


def plan(arguments: Any) -> Answer:
    """Plan a task in a run of its own, which is removed from the storage when the plan is told."""
    from airflow.providers.common.compat.sdk import AirflowNotFoundException, AirflowSkipException

    from airflow_openai_batch.task.submitting import START_OVER

    try:
        conf = _conf(arguments.conf) | ({START_OVER: "plan --refresh"} if arguments.refresh else {})
        task = submitting_task(load_dag(arguments.dag_id, arguments.file), arguments.task_id)
        run_id = f"{RUN_ID_PREFIX}{uuid.uuid4().hex}"
        with rendered(
            task, run_id=run_id, conf=conf, logical_date=arguments.logical_date, map_index=arguments.map_index
        ) as context:
            return _planned(context, arguments)
    except AirflowSkipException as nothing:
        return Answer(str(nothing), {"rows": 0, "requests": 0})
    except (NoTask, OpenAIBatchFailure, OpenAIBatchError, AirflowNotFoundException) as error:
        return Answer(problem=str(error), exit=Exit.NOTHING)


def _conf(text: str | None) -> dict[str, Any]:
    from airflow_openai_batch.task.plan import PLAN_ONLY

    try:
        conf = json.loads(text or "{}")
    except ValueError as error:
        raise NoTask(f"--conf is no JSON: {error}.") from None
    if not isinstance(conf, dict):
        raise NoTask('--conf must be a JSON object, for example {"day": "2026-01-31"}.')
    return {**conf, PLAN_ONLY: True}


def _planned(context: Any, arguments: Any) -> Answer:
    from airflow_openai_batch.engine.job.advance import load
    from airflow_openai_batch.engine.job.plan_writer import first_requests
    from airflow_openai_batch.engine.progress.plan_text import plan_table, told_plan
    from airflow_openai_batch.task.plan import make_plan, plan_forecast

    task = context["task"]
    if arguments.storage:
        task.storage = arguments.storage
    with _thrown_away(task, context):
        engine, _ = task.prepare_job(context)
        # The file of first requests goes with the job.
        made = make_plan(engine, context)
        now = engine.clock()
        forecast = plan_forecast(engine, now)
        requests = first_requests(engine.store, load(engine).job) if arguments.requests else []
    if arguments.requests:
        with open(arguments.requests, "w", encoding="utf-8") as file:
            json.dump(requests, file, indent=2, ensure_ascii=False)
    answer = {**told_plan(made, forecast, now), "first_requests": arguments.requests}
    return Answer(plan_table(_with_file(made, arguments.requests), forecast, now), answer)


def _with_file(made: Any, file: str | None) -> Any:
    import msgspec

    return msgspec.structs.replace(made, first_requests=file or "")


@contextlib.contextmanager
def _thrown_away(task: Any, context: Any) -> Iterator[None]:
    """Remove the job of a task at the end, also when the process is asked to end."""
    from airflow_openai_batch.hooks import as_path
    from airflow_openai_batch.task.job import handle_of, key_of

    handle = handle_of(context, task.conn_id, task.storage)
    store = JobStore(as_path(handle["storage"]), key_of(handle))
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)) if is_main else None
    try:
        yield
    finally:
        store.remove_all()
        if is_main:
            signal.signal(signal.SIGTERM, before)
