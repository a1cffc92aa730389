"""The operators: submit, plan, results, submit with wait and results in one task, and cleanup."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from airflow.providers.common.compat.sdk import AirflowSkipException, BaseOperator, XComArg

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.files import lists_files
from airflow_openai_batch.engine.requests.nulls import ON_EMPTY, ON_NULL, check_choice
from airflow_openai_batch.exceptions import airflow_errors
from airflow_openai_batch.hooks import OpenAIBatchHook
from airflow_openai_batch.links import LINKS
from airflow_openai_batch.options import FinishBy, Reuse
from airflow_openai_batch.reporting.openlineage import WithLineage
from airflow_openai_batch.sql import SqlTable
from airflow_openai_batch.task.cleanup import OpenAIBatchCleanupOperator as OpenAIBatchCleanupOperator
from airflow_openai_batch.task.job import (
    JobHandle,
    advance_and_report,
    checked_handle,
    engine_for,
    handle_of,
    look_of,
    pause_s,
    poll_interval,
    trigger_for,
    write_results,
)
from airflow_openai_batch.task.mapped_output import check_mapped_output
from airflow_openai_batch.task.output_checks import check_dropped_columns, check_output, check_results
from airflow_openai_batch.task.parse_checks import (
    check_constant_output,
    check_finish_by,
    check_job,
    check_poll_interval,
    check_request,
    check_settings,
    told_by,
)
from airflow_openai_batch.task.plan import PLANS_ONLY, make_plan, skip_in_plan_only_run, tell_plan
from airflow_openai_batch.task.rows import (
    Rows,
    context_of,
    is_shown,
    output_text,
    rendered_output,
    rendered_rows,
    upstream_of,
)
from airflow_openai_batch.task.submitting import JobMaker

# What only a running task needs is imported where it is used: a Dag file is parsed again and again.
if TYPE_CHECKING:
    from airflow_openai_batch.engine.job.context import Engine
    from airflow_openai_batch.engine.job.status import Wait
    from airflow_openai_batch.engine.progress.model import Look
    from airflow_openai_batch.engine.requests.nulls import OnEmpty, OnNull
    from airflow_openai_batch.reporting.worker_progress import Shown


def _names(columns: Sequence[str]) -> tuple[str, ...]:
    """Return column names; a text is one name."""
    return (columns,) if isinstance(columns, str) else tuple(columns)


class _Submitting(WithLineage, JobMaker):
    """What submit and the single operator have in common: the parameters."""

    template_fields: Sequence[str] = ("rows", "endpoint", "custom_id", "conn_id", "storage", "max_cost", "prices")
    operator_extra_links = LINKS
    ui_color = "#d7efe6"

    def __init__(
        self,
        *,
        rows: Any,
        on_null: OnNull = "skip",
        on_empty: OnEmpty = "fail",
        custom_id: str | None = None,
        endpoint: str,
        body: Any,
        response_model: Any = None,
        conn_id: str = OpenAIBatchHook.default_conn_name,
        max_enqueued_tokens: int | None = None,
        max_requests_per_batch: int | None = None,
        completion_window: str = "24h",
        metadata: dict[str, str] | None = None,
        column_prefix: str | None = None,
        max_rounds: int = 2,
        retry_on: Iterable[str] = (),
        max_bad_ratio: float = 0.05,
        max_bad_rows: int | None = None,
        max_cost: float | str | None = None,
        prices: dict[str, Any] | None = None,
        reuse: str | Reuse | None = None,
        probe: bool = False,
        pilot_rows: int | None = None,
        deadline: datetime.timedelta = datetime.timedelta(hours=72),
        finish_by: str | datetime.datetime | datetime.timedelta | FinishBy | None = None,
        cancel_on_kill: bool = True,
        storage: str | None = None,
        files_expire_after: datetime.timedelta | float | str | None = None,
        delete_files: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        with told_by(self.task_id), airflow_errors():
            if not isinstance(deadline, datetime.timedelta):
                raise InputError(f"deadline must be a datetime.timedelta, not {type(deadline).__name__}.")
            check_choice("on_null", on_null, ON_NULL)
            check_choice("on_empty", on_empty, ON_EMPTY)
        self.rows = rows if is_shown(rows) else Rows(rows)
        self.endpoint = endpoint
        self.body = body
        for value in upstream_of(rows):
            XComArg.apply_upstream_relationship(self, value)
        # Not a template field, so that prompts do not show in the UI; a task's output in it is upstream all the same.
        if body is not None and not callable(body):
            XComArg.apply_upstream_relationship(self, body)
        self.response_model = response_model
        self.column_prefix = column_prefix
        self.custom_id = custom_id
        self.conn_id = conn_id
        self.storage = storage
        self.on_null = on_null
        self.on_empty = on_empty
        self.max_rounds = max_rounds
        self.retry_on = (retry_on,) if isinstance(retry_on, str) else tuple(retry_on)
        self.max_bad_ratio = max_bad_ratio
        self.max_bad_rows = max_bad_rows
        self.deadline = deadline
        self.max_enqueued_tokens = max_enqueued_tokens
        self.max_requests_per_batch = max_requests_per_batch
        self.cancel_on_kill = cancel_on_kill
        self.completion_window = completion_window
        self.reuse = reuse if reuse is None or isinstance(reuse, Reuse) else Reuse(reuse)
        with airflow_errors():
            self.finish_by = finish_by if finish_by is None or isinstance(finish_by, FinishBy) else FinishBy(finish_by)
        self.pilot_rows = pilot_rows
        self.probe = probe
        self.max_cost = max_cost
        self.prices = prices
        self.metadata = metadata
        self.files_expire_after = files_expire_after
        self.delete_files = delete_files
        with told_by(self.task_id):
            check_request(rows=rows, endpoint=endpoint, body=body, response_model=response_model, custom_id=custom_id)
            check_finish_by(self.finish_by, endpoint)
            check_settings(self._policy, self._settings, max_requests_per_batch)

    def _do_render_template_fields(self, *args: Any, **kwargs: Any) -> None:
        """Render, the ledger's name too, then hide rows that came through XCom from the stored rendered fields."""
        super()._do_render_template_fields(*args, **kwargs)
        context = context_of(args, kwargs)
        if self.reuse is not None:
            # In no template field, which must be a text or a list or dict of texts.
            self.reuse = msgspec.structs.replace(self.reuse, name=str(self.render_template(self.reuse.name, context)))
        if isinstance(self.rows, Rows):
            self.rows = Rows(rendered_rows(self, self.rows.value, context))
        if not isinstance(self.rows, str | Rows) and not lists_files(self.rows):
            self.rows = Rows(self.rows)


class OpenAIBatchSubmitOperator(_Submitting):
    """Turn rows into batches at OpenAI, and return a handle of the job. A retry or clear takes the same job up again.

    An automatic retry goes on with what the first try planned: neither ``rows`` nor ``body`` is looked at again. When a
    person clears the task, what would be sent is compared with what was planned, and only what differs is asked.

    The arguments are, in this order, those about the rows, the request, the results, money, time and custody.

    Args:
        rows: A list of dicts, a DataFrame, the output of another task, a callable that returns or yields dicts, or the
            path or URI of ``.parquet``, ``.csv`` or ``.jsonl`` files: of one, a list of them, a directory or a pattern
            such as ``s3://lake/day=*/part-*.parquet`` (templated). Folders such as ``day=2026-01-01`` are columns too.
            ``options.CsvFile(path, delimiter=";", …)`` for CSV files with another dialect or with types.
            ``sql.SqlQuery(sql, conn_id)`` for rows of a database, ``chunking.Chunks(rows, text=…, key=…, …)`` for parts
            of documents.
        on_null: What to do with a row of which the prompt has nothing, because every column that it uses is null, blank
            or an empty list: ``skip`` (it is not sent, costs nothing, comes back with the status ``skipped``, and is no
            bad row), ``send`` or ``fail``. A body function may return None for a row to be skipped.
        on_empty: What to do if there are no rows: ``fail``, ``skip`` (the task and those after it are skipped), or
            ``succeed`` (the results are an empty file with its columns).
        custom_id: Template of the request ids, unique over the job; by default the row number and a short digest
            (templated).
        endpoint: ``/v1/responses``, ``/v1/chat/completions``, ``/v1/embeddings``, ``/v1/moderations``, …, or one that
            the connection's extra allows (templated); see docs/servers.md.
        body: The request body that OpenAI documents; in its strings ``{column}`` is the row's value and
            ``"{column!json}"`` alone in a string its JSON (templated by Airflow too). Or a callable ``row -> body``, or
            None when the rows are ready-made request lines.
        response_model: A Pydantic class or a strict JSON Schema: the answers follow it, are checked against it, and
            their fields become columns. What OpenAI's strict mode refuses is refused here, with what to write instead.
        conn_id: A connection of type ``openai`` (templated).
        max_enqueued_tokens: Estimated input tokens that the job may have in OpenAI's queue at once.
        max_requests_per_batch: Cut smaller batches than OpenAI's limit of 50,000: more of them, each done sooner.
        completion_window: OpenAI and Azure accept ``24h``; compatible servers have others.
        metadata: Up to 12 pairs of texts for the batches' metadata.
        column_prefix: What stands in front of these columns' names: with ``answer_`` the field ``label`` becomes the
            column ``answer_label``. Needed where a field is called like a column of the rows or like one that all
            results have (``status``, ``output``, ``model``, …): such a clash is an error before anything is sent.
            A column of the rows that is called like one of the latter becomes ``input_<name>``.
        max_rounds: How often a row that expired, went missing or failed for a passing reason is asked again.
        retry_on: More outcomes to ask again: ``invalid`` (with the validation error added), ``refused``, ``truncated``.
        max_bad_ratio: The largest share of rows without a good answer that is still green.
        max_bad_rows: The largest number of such rows; None for no limit of its own.
        max_cost: The most that all answers of the job may cost, in US dollars, over all rounds. A batch that would not
            fit any more is not created, and the task fails with the figures; raise it and clear to go on. The body must
            bound its answers (``max_output_tokens``). Of a mapped task, each index has this cap for itself. By default
            the option ``[openai_batch] max_cost`` (templated).
        prices: Prices of models or deployments that go before those of the option ``[openai_batch] prices`` and those
            that the package ships, in dollars for a million tokens in a batch, for example
            ``{"my-deployment": {"input": 0.05, "output": 0.25}}``, or the model that costs as much, as in
            ``{"my-deployment": "gpt-6-luna"}`` (templated); see docs/money.md.
        reuse: The name of a ledger, or ``options.Reuse(name, max_age)``: good answers of earlier jobs that name it, to
            the very same requests, are used again for nothing, and those of this job are added. Requests that are
            equal are asked once. Such rows name the job that asked in the column ``reused_from``. To start over
            asks everything anew. The name is templated.
        probe: Whether to ask one row synchronously before anything is uploaded, at twice the price. If OpenAI refuses
            it (a wrong body, model, key or account), the task fails with OpenAI's message after seconds, not hours; a
            blip stops nothing. In its batch the row is asked with all others. The key needs the endpoint's scope.
        pilot_rows: How many rows to ask first, alone (of each model). The rest is sent only when these rows pass the
            thresholds and, by what they cost, the rest fits under ``max_cost``; otherwise the task fails with the
            reason, and has cost no more than them.
        deadline: How long after submission to wait at most; never less than a running batch's own expiry.
        finish_by: The moment by which all rows shall have an answer: ``"06:00"`` (the next after the submission, in the
            Dag's timezone), a datetime or its ISO text, a timedelta after the submission, or
            ``options.FinishBy(at, tier="flex", parallel=8)`` (a text is templated). At that moment batches that run are
            cancelled, what they have answered is used, and the other rows are asked synchronously, within
            ``max_cost``, at OpenAI's synchronous prices (``default``: twice those of a batch). The column ``via`` says
            which way a row went; see docs/on-time.md. Not for images and videos.
        cancel_on_kill: Whether marking the waiting task failed, success or skipped cancels its batches.
        storage: Where the job is kept; by default the option ``[openai_batch] storage`` (templated).
        files_expire_after: How long OpenAI keeps each file of the job, input and result, counted from its creation: a
            timedelta, a number of seconds, or a text such as ``"7d"``, up to 30 days (Azure: 14 to 30 days). At least
            2 hours more than ``deadline``, so that no answer is gone before it is fetched. By default the option
            ``[openai_batch] files_expire_after``, or else OpenAI's 30 days.
        delete_files: Whether the job's files at OpenAI are deleted once the results are written, by the task that
            writes them. What cannot be deleted is told and turns nothing red. By default the option ``[openai_batch]
            delete_files``.

    Returns:
        The job's handle, for ``OpenAIBatchSensor`` and ``OpenAIBatchResultsOperator``.

    Raises:
        OpenAIBatchFailure: The rows, the request or a setting cannot be used: nothing was sent.
    """

    def execute(self, context: Any) -> JobHandle:
        """Write the plan and send what can be sent now; in a run that only plans, tell the plan."""
        engine, handle = self.prepare_job(context)
        if self.plans_only(context):
            return {**handle, "plan": tell_plan(engine, make_plan(engine, context), context)}  # type: ignore[typeddict-unknown-key] # whoever takes the handle drops it
        advance_and_report(engine, context)
        return handle

    def _check_plan(self, engine: Engine, context: Any) -> None:
        from airflow_openai_batch.task.results_tasks import results_tasks
        from airflow_openai_batch.task.xcom_limits import check_returned_rows

        tasks = results_tasks(self, OpenAIBatchResultsOperator)
        check_dropped_columns(engine, tasks)
        check_returned_rows(engine, tasks, context)


class OpenAIBatchPlanOperator(OpenAIBatchSubmitOperator):
    """Write the plan of a job and tell what it would ask and cost. Nothing is sent: no upload, no batch.

    It takes the arguments of ``OpenAIBatchSubmitOperator``, makes the same checks, and is followed by the same tasks:
    the job is sent when ``OpenAIBatchSensor(job=plan.output)`` begins, for example after Airflow's
    ``ApprovalOperator``. Until then nothing else sends it, and to cancel it costs nothing. A retry or clear of the
    plan after that takes the job up again; if other rows or another prompt make a new plan of it, the sensor has to be
    cleared too.

    Returns:
        The job's handle, and as ``plan`` the plan: ``rows``, ``requests``, ``batches``, ``bytes``, ``reused``,
        ``equal``, ``skipped``, tokens, ``expected_cost`` and ``upper_cost`` in dollars, ``cap``, ``first_requests`` (a
        file with the first 20 requests), and ``text``, the same in Markdown.

    Raises:
        OpenAIBatchFailure: The rows, the request or a setting cannot be used.
    """

    def plans_only(self, context: Any) -> bool:
        """Return True."""
        return True


class OpenAIBatchResultsOperator(WithLineage, BaseOperator):
    """Write the results of a finished job, in input order, and judge them by the job's thresholds.

    Args:
        job: The output of the submit or plan task (templated).
        output: The URI or absolute path of a ``.parquet``, ``.jsonl`` or ``.csv`` file (templated), or
            ``sql.SqlTable(table, conn_id, key=[…])``; all rows appear in it, or none. None returns the rows through
            XCom, as long as they are few.
        drop_columns: Columns to leave out of the results, by their names there: bulky inputs, or ``output`` where the
            fields of a ``response_model`` say it all.

    Returns:
        The rows (``output=None``), or a manifest: where they are, counts by outcome, tokens, batches, error codes.

    Raises:
        OpenAIBatchFailure: More rows have no good answer than the thresholds allow. The file was written all the same.
    """

    template_fields: Sequence[str] = ("job", "output_uri")
    operator_extra_links = LINKS
    ui_color = "#d7efe6"

    def __init__(
        self, *, job: Any, output: str | SqlTable | None = None, drop_columns: Sequence[str] = (), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.output_uri = output_text(output)  # `output` is the task's own XComArg in every operator
        self.drop_columns = _names(drop_columns)
        with told_by(self.task_id):
            check_job(job)
            check_constant_output(self.output_uri)

    def _do_render_template_fields(self, *args: Any, **kwargs: Any) -> None:
        """Render, what stands in a table's name too."""
        super()._do_render_template_fields(*args, **kwargs)
        self.output_uri = rendered_output(self, self.output_uri, context_of(args, kwargs))

    def execute(self, context: Any) -> Any:
        """Write and judge."""
        skip_in_plan_only_run(context)
        check_output(self.output_uri)
        check_mapped_output(context)
        engine = engine_for(checked_handle(self.job), self.log)
        check_results(engine, self.output_uri, self.drop_columns)
        return write_results(engine, self.output_uri, context, self.drop_columns)


class OpenAIBatchOperator(_Submitting):
    """Submit, wait and write the results in one task, which holds no worker while it waits.

    Takes the arguments of ``OpenAIBatchSubmitOperator``, and:

    Args:
        output: Where the results go; see ``OpenAIBatchResultsOperator`` (templated).
        drop_columns: Columns to leave out of them; see there.
        deferrable: Whether to wait in the triggerer. Otherwise the task sleeps and holds its worker.
        poll_interval: Seconds between two looks at a batch; by default the option ``[openai_batch] poll_interval``.

    Returns:
        The rows (``output=None``) or a manifest.

    Raises:
        OpenAIBatchFailure: See the other two operators.
    """

    template_fields: Sequence[str] = (*_Submitting.template_fields, "output_uri")

    def __init__(
        self,
        *,
        output: str | SqlTable | None = None,
        drop_columns: Sequence[str] = (),
        deferrable: bool = True,
        poll_interval: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.output_uri = output_text(output)  # `output` is the task's own XComArg in every operator
        self.drop_columns = _names(drop_columns)
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        with told_by(self.task_id):
            check_constant_output(self.output_uri)
            check_poll_interval(poll_interval)

    def _do_render_template_fields(self, *args: Any, **kwargs: Any) -> None:
        """Render, what stands in a table's name too."""
        super()._do_render_template_fields(*args, **kwargs)
        self.output_uri = rendered_output(self, self.output_uri, context_of(args, kwargs))

    def execute(self, context: Any) -> Any:
        """Make the job or take it up, and move it on; in a run that only plans, tell the plan and skip the task."""
        engine, handle = self.prepare_job(context)
        if self.plans_only(context):
            tell_plan(engine, make_plan(engine, context), context)
            raise AirflowSkipException(PLANS_ONLY)
        return self._go_on(engine, handle, context)

    def _check_arguments(self, context: Any) -> None:
        check_output(self.output_uri)
        check_mapped_output(context)

    def _check_plan(self, engine: Engine, context: Any) -> None:
        from airflow_openai_batch.task.xcom_limits import check_returned_rows

        check_results(engine, self.output_uri, self.drop_columns)
        check_returned_rows(engine, [self], context)

    def execute_complete(self, context: Any, event: dict[str, Any] | None = None) -> Any:
        """Go on after the trigger saw that there may be something to do."""
        self.log.info("Woken: %s", (event or {}).get("reason", "no reason given"))
        handle = handle_of(context, self.conn_id, self.storage)
        return self._go_on(engine_for(handle, self.log, self.response_model), handle, context, look_of(event))

    def _go_on(self, engine: Engine, handle: JobHandle, context: Any, look: Look | None = None) -> Any:
        from airflow_openai_batch.engine.job.status import Done

        while True:
            reached, shown = advance_and_report(engine, context, look)
            look = shown.look
            if isinstance(reached, Done):
                return write_results(engine, self.output_uri, context, self.drop_columns)
            if self.deferrable:
                self._defer(reached, shown, handle)
            time.sleep(pause_s(reached, poll_interval(self.poll_interval)))

    def _defer(self, wait: Wait, shown: Shown, handle: JobHandle) -> NoReturn:
        interval = poll_interval(self.poll_interval)
        trigger = trigger_for(wait, shown, handle, poll_interval_s=interval, cancel_on_kill=self.cancel_on_kill)
        self.defer(trigger=trigger, method_name="execute_complete")
