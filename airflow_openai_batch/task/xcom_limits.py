"""Airflow's limits on the rows that a task returns, checked before anything is paid for.

With ``output=None`` rows go through XCom: they must fit into one, and where tasks are mapped over them, must not be
more than Airflow maps over. Airflow finds that out when the task ends, which is after the last batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from airflow.providers.common.compat.sdk import conf

from airflow_openai_batch import settings
from airflow_openai_batch.engine.model import AT_OPENAI, RESULT_COLUMNS, UNSENT, Job
from airflow_openai_batch.engine.requests.values import json_rows
from airflow_openai_batch.engine.store.parquet import read_parquet
from airflow_openai_batch.exceptions import OpenAIBatchFailure, airflow_errors
from airflow_openai_batch.task.results_tasks import arguments_of

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.job.context import Engine
    from airflow_openai_batch.engine.store.job_store import JobStore


_SLICE_ROWS = 64

_DEFAULT_MAP_LENGTH = 1024


def check_returned_rows(engine: Engine, tasks: Iterable[Any], context: Mapping[str, Any]) -> None:
    """Refuse a job whose rows some tasks could not return, while there is something left to pay for.

    Args:
        engine: The engine of a job whose plan is written and not sent yet.
        tasks: The tasks that write the job's results: the running one, or results tasks downstream of it. Those
            with an output file have no such limits.
        context: The running task's context.

    Raises:
        OpenAIBatchFailure: They could not. With advice.
    """
    tasks = [task for task in tasks if arguments_of(task).output is None]
    if not tasks:
        return
    from airflow_openai_batch.engine.job.advance import load

    with airflow_errors():
        job = load(engine).job
        if not any(shard.state in UNSENT for shard in job.shards):
            return
        limit = settings.XCOM_MAX_BYTES.get()
        n_bytes = max(least_bytes(engine.store, job, limit, arguments_of(task).drop_columns) for task in tasks)
    max_length = conf.getint("core", "max_map_length", fallback=_DEFAULT_MAP_LENGTH)
    problem = _too_large(job.n_rows, n_bytes, limit)
    for task in tasks:
        problem = problem or _too_many(job.n_rows, max_length, task.task_id, _mapped_over(task, context))
    if problem is not None:
        sent = "No more is" if any(shard.state in AT_OPENAI for shard in job.shards) else "Nothing was"
        raise OpenAIBatchFailure(f"{problem} {sent} sent to OpenAI; clear this task when it is mended.")
    if 2 * n_bytes > limit:
        engine.log.warning(
            "The %s rows are returned through XCom. Without the answers they take %s of %s bytes ([openai_batch] "
            "xcom_max_bytes); if an answer is longer than about %s bytes on average, they will be refused. To be safe, "
            "give output='s3://…/labels.parquet'.",
            f"{job.n_rows:,}",
            f"{n_bytes:,}",
            f"{limit:,}",
            f"{(limit - n_bytes) // job.n_rows:,}",
        )


def least_bytes(store: JobStore, job: Job, enough: int, dropped: Collection[str] = ()) -> int:
    """Return how many bytes of JSON the result rows of a job take at least, whatever the answers will be.

    Args:
        store: The job's store, with its row parts.
        job: The job.
        enough: Counting ends when there are more.
        dropped: The columns that are left out.
    """
    names = {*RESULT_COLUMNS, *((job.spec.schema or {}).get("properties") or ())}.difference(dropped)
    # In each column its name, a colon, a comma, and a value of one byte at least.
    n_bytes = job.n_rows * sum(len(msgspec.json.encode(name)) + 3 for name in names)
    for rows in _input_columns(store, job):
        if n_bytes > enough:
            break
        kept = rows.select([name for name in rows.schema.names if name not in dropped])
        n_bytes += sum(map(len, json_rows(kept)))
    return n_bytes


def _input_columns(store: JobStore, job: Job) -> Iterator[pa.RecordBatch]:
    for name in (name for shard in job.shards for name in shard.row_parts):
        with store.open(name) as file:
            yield from read_parquet(file, most_rows=_SLICE_ROWS)


def _too_large(n_rows: int, n_bytes: int, limit: int) -> str | None:
    if n_bytes <= limit:
        return None
    return (
        f"{n_rows:,} rows are too large for XCom, which lives in Airflow's database: even without the answers they "
        f"take more than {limit:,} bytes ([openai_batch] xcom_max_bytes). Give output='s3://…/labels.parquet' (or "
        ".jsonl, .csv), or `drop_columns`, or raise the option."
    )


def _too_many(n_rows: int, limit: int, task_id: str, mapped: list[str]) -> str | None:
    if n_rows <= limit or not mapped:
        return None
    return (
        f"{', '.join(mapped)} is mapped over the rows that {task_id} returns, and Airflow maps over {limit:,} at most "
        f"([core] max_map_length); there are {n_rows:,}. Give the whole list to one task, or give {task_id} an output "
        "file, or raise the option everywhere (it is the API server that refuses)."
    )


def _mapped_over(task: Any, context: Mapping[str, Any]) -> list[str]:
    """Return the tasks and task groups that are mapped over what a task returns."""
    ti = context["ti"]
    is_mapped = getattr(ti, "is_mapped", False) if task.task_id == ti.task_id else task.is_mapped
    # Of a task that is mapped itself it is not the rows that count, but how many tasks it became.
    if is_mapped or task.get_dag() is None:
        return []
    return [str(node.node_id) for node in task.iter_mapped_dependants()]
