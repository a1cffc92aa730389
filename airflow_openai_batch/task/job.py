"""From an Airflow task to its job in the engine: what submit, sensor, results and the single operator share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from airflow_openai_batch import settings
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.exceptions import OpenAIBatchFailure, Reason, airflow_errors
from airflow_openai_batch.hooks import OpenAIBatchHook, as_path, storage_root
from airflow_openai_batch.sql import SqlTable

if TYPE_CHECKING:
    from airflow_openai_batch.engine.job.context import Engine
    from airflow_openai_batch.engine.job.status import Done, Held, Wait
    from airflow_openai_batch.engine.model import Job, JobKey, Policy, Timing
    from airflow_openai_batch.engine.progress.model import Look
    from airflow_openai_batch.engine.results.sinks import FileSink, ListSink
    from airflow_openai_batch.reporting.worker_progress import Shown
    from airflow_openai_batch.sql.sink import SqlSink
    from airflow_openai_batch.triggers import OpenAIBatchTrigger


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


def key_of(handle: JobHandle) -> JobKey:
    """Return the key of a handle's job."""
    from airflow_openai_batch.engine.model import JobKey

    return JobKey(
        dag_id=handle["dag_id"], run_id=handle["run_id"], task_id=handle["task_id"], map_index=handle["map_index"]
    )


def engine_for(handle: JobHandle, log: Any, response_model: Any = None) -> Engine:
    """Return the engine of a job.

    Args:
        handle: The job.
        log: The task's logger.
        response_model: The user's Pydantic class, if at hand: its own validators then check the answers too.

    Raises:
        OpenAIBatchFailure: The connection has a mistake.
    """
    from airflow_openai_batch.engine.answers.readers import Readers
    from airflow_openai_batch.engine.api.client import Api
    from airflow_openai_batch.engine.concurrency import usable_cpus, use_releasing_allocator
    from airflow_openai_batch.engine.job.context import Engine
    from airflow_openai_batch.engine.schema.validation import class_check
    from airflow_openai_batch.engine.store.job_store import JobStore
    from airflow_openai_batch.reporting.tracing import TaskObserver

    use_releasing_allocator()
    with airflow_errors():
        api = Api(OpenAIBatchHook(handle["conn_id"]).get_conn())
    return Engine(
        store=JobStore(as_path(handle["storage"]), key_of(handle), owner=settings.deployment()),
        api=api,
        timing=_timing(),
        check=class_check(response_model),
        parallel=max(1, settings.PARALLEL_TRANSFERS.get()),
        readers=Readers(settings.PARALLEL_WORK.get() or min(2, usable_cpus())),
        log=log,
        observer=TaskObserver(handle["conn_id"]),
    )


def _timing() -> Timing:
    from airflow_openai_batch.engine.model import Timing

    grace_s = settings.CREATE_GRACE.get()
    # The grace period must outlast the call by far, so a short one shortens the call too.
    # As long is waited for a process that may have died while it asked synchronously.
    return Timing(
        grace_s=grace_s,
        post_timeout_s=min(Timing().post_timeout_s, grace_s / 3),
        lease_s=grace_s,
        renew_s=grace_s / 6,
    )


def advance_and_report(
    engine: Engine, context: Mapping[str, Any], look: Look | None = None
) -> tuple[Wait | Done, Shown]:
    """Advance the job as far as it can go now, and leave where it stands where the UI finds it.

    Args:
        engine: The job's engine.
        context: The running task's context.
        look: What this task, or its trigger, remembers of the last look at the job.

    Returns:
        Where the engine came to rest, and what was shown of the job.

    Raises:
        OpenAIBatchFailure: It needs manual intervention.
        OpenAIBatchError: A retry may mend it.
    """
    from airflow_openai_batch.engine.job.status import Held

    reached, shown = advance_and_show(engine, context, look)
    if isinstance(reached, Held):
        raise OpenAIBatchFailure(reached.reason, _reason_of(reached), shown.progress)
    return reached, shown


def _reason_of(held: Held) -> Reason:
    if held.limit is not None:
        return {"cap": Reason.MAX_COST, "pilot": Reason.PILOT, "probe": Reason.PROBE}[held.limit.by]
    return Reason.LATE if held.is_late else Reason.HELD


def advance_and_show(
    engine: Engine, context: Mapping[str, Any], look: Look | None = None
) -> tuple[Wait | Done | Held, Shown]:
    """Do the same, and return also a job that needs manual intervention."""
    from airflow_openai_batch.engine.job.advance import advance
    from airflow_openai_batch.reporting.openlineage import remember
    from airflow_openai_batch.reporting.tracing import ended
    from airflow_openai_batch.reporting.worker_progress import Meanwhile, phase_of

    with airflow_errors(), Meanwhile(engine, context, look) as meanwhile:
        reached = advance(engine)
    ended(engine, reached)
    remember(context["ti"].task, reached.job)
    return reached, meanwhile.show(reached.job, **phase_of(reached))


def look_of(event: Any) -> Look | None:
    """Return what a trigger remembered of the job, from its event."""
    from airflow_openai_batch.engine.progress.model import decoded_look

    return decoded_look(event.get("seen")) if isinstance(event, dict) else None


def trigger_for(
    wait: Wait, shown: Shown, handle: JobHandle, *, poll_interval_s: float, cancel_on_kill: bool
) -> OpenAIBatchTrigger:
    """Return the trigger that watches while a job waits."""
    from airflow_openai_batch.engine.progress.model import encoded
    from airflow_openai_batch.triggers import OpenAIBatchTrigger

    return OpenAIBatchTrigger(
        conn_id=handle["conn_id"],
        batch_ids=list(wait.batch_ids),
        n_earlier=wait.n_earlier,
        wake_at=wait.wake_at,
        is_queued=wait.is_queued,
        poll_interval_s=poll_interval_s,
        cancel_on_kill=cancel_on_kill,
        progress=encoded(shown.progress),
        look=encoded(shown.look),
    )


def cancels_on_kill(engine: Engine) -> bool:
    """Return whether the job's policy wants its batches cancelled when the waiting task is marked failed."""
    snapshot = engine.store.load()
    return snapshot is None or snapshot.job.policy.cancel_on_kill


def pause_s(wait: Wait, poll_interval_s: float) -> float:
    """Return how long a task that does not defer sleeps before it looks again."""
    return max(1.0, min(poll_interval_s, wait.wake_at - time.time()))


def poll_interval(argument: float | None) -> float:
    """Return the seconds between two looks: the argument or the option ``[openai_batch] poll_interval``."""
    return argument if argument is not None else settings.POLL_INTERVAL.get()


def with_options(policy: Policy) -> Policy:
    """Return a job's policy with what the deployment sets for all: prices, and what the task does not say itself.

    That is a cap, how long OpenAI keeps files, and whether they are deleted.

    Raises:
        OpenAIBatchFailure: An option has a value that cannot be used, or the file of prices cannot be read.
    """
    from airflow_openai_batch.engine.money.dollars import parse_dollars
    from airflow_openai_batch.engine.money.prices import parse_prices

    cap, place = settings.MAX_COST.get().strip(), settings.PRICES.get().strip()
    with airflow_errors():
        max_cost = policy.max_cost
        if max_cost is None and cap:
            max_cost = parse_dollars(cap, "[openai_batch] max_cost")
        shared: dict[str, Any] = {}
        if place:
            try:
                shared = msgspec.json.decode(as_path(place).read_bytes())
            except Exception as error:  # each storage has its own errors
                raise InputError(f"[openai_batch] prices = {place} cannot be read as a JSON file: {error}") from error
            parse_prices(shared, f"[openai_batch] prices ({place})")
        expire_after_s = policy.files_expire_after_s
        if expire_after_s is None:
            option = settings.FILES_EXPIRE_AFTER.get().strip() or None
            expire_after_s = lifetime_s(option, "[openai_batch] files_expire_after")
        deletes = policy.delete_files
        if deletes is None and settings.DELETE_FILES.get():
            deletes = True
        return msgspec.structs.replace(
            policy,
            max_cost=max_cost,
            prices={**shared, **policy.prices},
            files_expire_after_s=expire_after_s,
            delete_files=deletes,
        )


def lifetime_s(value: Any, where: str) -> int | None:
    """Return how long OpenAI keeps files, in seconds; None if nothing is said of it.

    Args:
        value: The argument or option.
        where: The setting, for the error message.

    Raises:
        InputError: It is no duration.
    """
    from airflow_openai_batch.engine.durations import parse_duration

    return None if value is None else int(parse_duration(value, where))


def write_results(
    engine: Engine, output: str | SqlTable | None, context: Mapping[str, Any], drop_columns: Sequence[str] = ()
) -> Any:
    """Write the results of a finished job and judge them.

    Args:
        engine: The job's engine.
        output: Where they go; None for XCom.
        context: The running task's context.
        drop_columns: The columns that are left out.

    Returns:
        A manifest; or the rows themselves if ``output`` is None.

    Raises:
        OpenAIBatchFailure: The rows are worse than the thresholds allow. They were written all the same.
    """
    from airflow_openai_batch.engine.job.advance import load
    from airflow_openai_batch.engine.job.remote_files import delete_files
    from airflow_openai_batch.engine.job.summary import check_thresholds
    from airflow_openai_batch.engine.progress.log_format import why
    from airflow_openai_batch.engine.results import writer
    from airflow_openai_batch.engine.results.sinks import ListSink
    from airflow_openai_batch.reporting.assets import tell_assets
    from airflow_openai_batch.reporting.openlineage import remember
    from airflow_openai_batch.reporting.worker_progress import show_results

    began_at = engine.clock()
    with airflow_errors():
        job: Job = load(engine).job
        sink = _sink(output, engine.log)
        with engine.observer.acting("results") as act:
            written = writer.write_results(engine.store, job, sink, drop_columns)
            act.tell(rows=written.n_rows, shards=len(job.shards), round=written.summary.rounds)
    _warn_of_formulas(engine, sink)
    remember(context["ti"].task, job, written)
    problem = check_thresholds(written.summary, job.policy)
    results_s = engine.clock() - began_at
    # After the write and whatever the thresholds say: the outcomes are in the store, and a failure turns nothing red.
    deletion = delete_files(engine) if job.policy.delete_files else None
    progress = show_results(engine, job, context, written, problem=problem, results_s=results_s, deletion=deletion)
    if problem is not None:
        where = f"All rows are in {written.output}" if written.output else f"All outcomes are in {engine.store}"
        raise OpenAIBatchFailure(
            f"{problem} {where}; nothing is paid for twice if this task is cleared.\n{why(progress)}",
            Reason.BAD_ROWS,
            progress,
        )
    tell_assets(engine, context, job, written)
    return sink.rows if isinstance(sink, ListSink) else writer.manifest(written)


def _warn_of_formulas(engine: Engine, sink: FileSink | ListSink | SqlSink) -> None:
    from airflow_openai_batch.engine.results.sinks import FileSink

    if isinstance(sink, FileSink) and sink.n_formulas:
        engine.log.warning(
            "%s texts in %s begin like a formula, which a spreadsheet would run%s.",
            f"{sink.n_formulas:,}",
            sink.uri,
            "; they have an apostrophe before them" if sink.quotes_formulas else " ([openai_batch] csv_formulas)",
        )


def _sink(output: str | SqlTable | None, log: Any) -> FileSink | ListSink | SqlSink:
    """Return the sink of an output, as the deployment wants it.

    Raises:
        InputError: Its ending is unknown, or an option has an unknown value.
    """
    from airflow_openai_batch.engine.results.sinks import FileSink, ListSink

    if output is None:
        return ListSink(settings.XCOM_MAX_BYTES.get())
    if isinstance(output, SqlTable):
        from airflow_openai_batch.sql.sink import SqlSink

        return SqlSink(output, log)
    formulas = settings.CSV_FORMULAS.get()
    if formulas not in ("keep", "quote"):
        raise InputError(f"[openai_batch] csv_formulas must be keep or quote, is {formulas!r}.")
    return FileSink(as_path(output), quote_formulas=formulas == "quote")
