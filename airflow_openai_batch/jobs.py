"""From an Airflow task to its job in the engine: what submit, sensor, results and the single operator share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec
from airflow.providers.common.compat.sdk import conf

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.machine import Timing
from airflow_openai_batch.engine.model import Job, JobKey
from airflow_openai_batch.errors import OpenAIBatchFailure, airflow_errors
from airflow_openai_batch.hooks import SECTION, OpenAIBatchHook, as_path, storage_root
from airflow_openai_batch.links import BATCH_IDS_KEY, BATCH_LINK_KEY, OpenAIBatchLink, batch_link
from airflow_openai_batch.triggers import OpenAIBatchTrigger

if TYPE_CHECKING:
    from airflow_openai_batch.engine.action import Engine
    from airflow_openai_batch.engine.advance import Done, Wait
    from airflow_openai_batch.engine.results import Written


class JobHandle(TypedDict):
    """The small value in XCom that points at a job's store."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    conn_id: str
    storage: str


def handle_of(context: Mapping[str, Any], conn_id: str, storage: str | None) -> JobHandle:
    """Return the handle of the running task's own job. The try number is no part of it."""
    ti = context["ti"]
    with airflow_errors():
        root = storage_root(storage)
    return JobHandle(
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        conn_id=conn_id,
        storage=str(root),
    )


def checked_handle(job: Any) -> JobHandle:
    """Return what came through XCom as a handle.

    Raises:
        OpenAIBatchFailure: It is something else.
    """
    try:
        return msgspec.convert(job, JobHandle)
    except msgspec.ValidationError as error:
        raise OpenAIBatchFailure(
            "job must be the output of OpenAIBatchSubmitOperator (job=submit.output), not "
            f"{type(job).__name__}: {error}"
        ) from None


def engine_for(handle: JobHandle, log: Any, response_model: Any = None) -> Engine:
    """Return the engine of a job.

    Args:
        handle: The job.
        log: The task's logger.
        response_model: The user's Pydantic class, if at hand: its own validators then check the answers too.
    """
    from airflow_openai_batch.engine.action import Engine
    from airflow_openai_batch.engine.api import Api
    from airflow_openai_batch.engine.memory import give_back
    from airflow_openai_batch.engine.store import JobStore

    give_back()
    key = JobKey(
        dag_id=handle["dag_id"], run_id=handle["run_id"], task_id=handle["task_id"], map_index=handle["map_index"]
    )
    return Engine(
        store=JobStore(as_path(handle["storage"]), key),
        api=Api(OpenAIBatchHook(handle["conn_id"]).get_conn()),
        timing=_timing(),
        check=_check_of(response_model),
        parallel=max(1, conf.getint(SECTION, "parallel_transfers", fallback=4)),
        log=log,
    )


def _timing() -> Timing:
    grace_s = conf.getfloat(SECTION, "create_grace", fallback=180.0)
    # The grace period must outlast the call by far, so a short one shortens the call too.
    return Timing(grace_s=grace_s, post_timeout_s=min(Timing().post_timeout_s, grace_s / 3))


def _check_of(response_model: Any) -> Callable[[str], str | None] | None:
    """Return a check by a Pydantic class. Its messages name fields, never values: they end up in logs."""
    if not (isinstance(response_model, type) and hasattr(response_model, "model_validate_json")):
        return None
    from pydantic import ValidationError

    def check(text: str) -> str | None:
        try:
            response_model.model_validate_json(text)
        except Exception as error:  # a validator of the user's may raise anything, and must not stop a harvest
            if not isinstance(error, ValidationError):
                return f"a validator raised {type(error).__name__}"
            found = error.errors(include_input=False, include_url=False, include_context=False)
            return "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in found[:5])
        return None

    return check


def move(engine: Engine, context: Mapping[str, Any]) -> Wait | Done:
    """Advance the job once, and leave its batch ids and link where the UI finds them.

    Raises:
        OpenAIBatchFailure: A person must act.
        OpenAIBatchError: A retry may mend it.
    """
    from airflow_openai_batch.engine.advance import Held, advance
    from airflow_openai_batch.engine.report import progress_line

    with airflow_errors():
        reached = advance(engine)
    show_batches(reached.summary.batch_ids, engine, context)
    engine.log.info("%s", progress_line(reached.summary))
    if isinstance(reached, Held):
        raise OpenAIBatchFailure(reached.reason)
    return reached


def show_batches(batch_ids: tuple[str, ...], engine: Engine, context: Mapping[str, Any]) -> None:
    """Leave batch ids and link where the UI finds them, also while the task still runs."""
    ti = context["ti"]
    link = batch_link(batch_ids[-1], engine.api.host) if batch_ids else ""
    ti.xcom_push(key=BATCH_IDS_KEY, value=list(batch_ids[-1000:]))
    ti.xcom_push(key=BATCH_LINK_KEY, value=link)
    if link:
        ti.xcom_push(key=OpenAIBatchLink().xcom_key, value=link)


def trigger_for(wait: Wait, handle: JobHandle, *, poll_interval_s: float, cancel_on_kill: bool) -> OpenAIBatchTrigger:
    """Return the trigger that watches while a job waits."""
    return OpenAIBatchTrigger(
        conn_id=handle["conn_id"],
        batch_ids=list(wait.batch_ids),
        wake_at=wait.wake_at,
        is_queued=wait.is_queued,
        poll_interval_s=poll_interval_s,
        cancel_on_kill=cancel_on_kill,
    )


def cancels_on_kill(engine: Engine) -> bool:
    """Say whether the job's policy wants its batches cancelled when the waiting task is marked failed."""
    found = engine.store.load()
    return found is None or found[1].policy.cancel_on_kill


def pause_s(wait: Wait, poll_interval_s: float) -> float:
    """Return how long a task that does not defer sleeps before it looks again."""
    return max(1.0, min(poll_interval_s, wait.wake_at - time.time()))


def poll_interval(given: float | None) -> float:
    """Return the seconds between two looks: the argument or the option ``[openai_batch] poll_interval``."""
    return given if given is not None else conf.getfloat(SECTION, "poll_interval", fallback=60.0)


def deliver(engine: Engine, output: str | None, context: Mapping[str, Any]) -> Any:
    """Write the results of a finished job and judge them.

    Returns:
        A manifest; or the rows themselves if ``output`` is None.

    Raises:
        OpenAIBatchFailure: The rows are worse than the thresholds allow. They were written all the same.
    """
    from airflow_openai_batch.engine.advance import load
    from airflow_openai_batch.engine.report import verdict
    from airflow_openai_batch.engine.results import manifest, write_results
    from airflow_openai_batch.engine.sink import DEFAULT_XCOM_BYTES, FileSink, ListSink

    with airflow_errors():
        job: Job = load(engine)[1]
        sink: FileSink | ListSink
        if output is None:
            sink = ListSink(conf.getint(SECTION, "xcom_max_bytes", fallback=DEFAULT_XCOM_BYTES))
        else:
            sink = FileSink(as_path(output))
        written = write_results(engine.store, job, sink)
    show_batches(written.summary.batch_ids, engine, context)
    _log_summary(engine, written)
    problem = verdict(written.summary, job.policy)
    if problem is not None:
        where = f"All rows are in {written.output}" if written.output else f"All outcomes are in {engine.store}"
        raise OpenAIBatchFailure(f"{problem} {where}; nothing is paid again if this task is cleared.")
    return sink.rows if isinstance(sink, ListSink) else manifest(written)


def check_output(output: str | None) -> None:
    """Refuse an output that cannot be written, before the job is waited for.

    Raises:
        OpenAIBatchFailure: Its ending is unknown.
    """
    from airflow_openai_batch.engine.sink import FileSink

    if output is not None:
        try:
            FileSink(as_path(output))
        except InputError as error:
            raise OpenAIBatchFailure(str(error)) from error


def _log_summary(engine: Engine, written: Written) -> None:
    from airflow_openai_batch.engine.report import counted

    summary, usage = written.summary, written.summary.usage
    lines = [f"{status:<12}{n:>14,}" for status, n in summary.by_status.items()]
    lines += [f"  {e.n:,} x {e.status} {e.code} (for example {', '.join(e.custom_ids)})" for e in written.errors[:10]]
    engine.log.info(
        "Results of %s in %s; rounds asked again: %d\n%s\n"
        "input tokens %s (cached %s), output tokens %s (reasoning %s)\nwritten to %s",
        counted(written.n_rows, "row"),
        counted(len(summary.batch_ids), "batch", "batches"),
        summary.rounds,
        "\n".join(lines),
        f"{usage.input_tokens:,}",
        f"{usage.cached_tokens:,}",
        f"{usage.output_tokens:,}",
        f"{usage.reasoning_tokens:,}",
        written.output or "XCom",
    )
