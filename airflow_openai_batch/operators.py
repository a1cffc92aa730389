"""The operators: submit, results, and both with the wait between them in one task."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import AirflowSkipException, BaseOperator, XComArg

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.files import lists_files
from airflow_openai_batch.engine.requests.nulls import ON_EMPTY, ON_NULL, check_choice
from airflow_openai_batch.exceptions import OpenAIBatchFailure, airflow_errors
from airflow_openai_batch.hooks import OpenAIBatchHook, as_path
from airflow_openai_batch.links import LINKS
from airflow_openai_batch.options import CsvFile
from airflow_openai_batch.reporting.openlineage import WithLineage
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
    with_options,
    write_results,
)
from airflow_openai_batch.task.mapped_output import check_mapped_output
from airflow_openai_batch.task.output_checks import check_dropped_columns, check_output, check_results
from airflow_openai_batch.task.parse_checks import (
    check_constant_output,
    check_job,
    check_max_requests,
    check_poll_interval,
    check_request,
    check_settings,
)

# What only a running task needs is imported where it is used: a Dag file is parsed again and again.
if TYPE_CHECKING:
    from airflow_openai_batch.engine.endpoints import Limits
    from airflow_openai_batch.engine.job.context import Engine
    from airflow_openai_batch.engine.job.status import Wait
    from airflow_openai_batch.engine.job.submit import Request
    from airflow_openai_batch.engine.model import Policy
    from airflow_openai_batch.engine.progress.model import Look
    from airflow_openai_batch.engine.requests.nulls import OnEmpty, OnNull
    from airflow_openai_batch.reporting.worker_progress import Shown

START_OVER = "openai_batch_start_over"
"""Key in a Dag run's conf: any text there makes the job start over, once for each text."""


class Rows:
    """Rows that travel through an operator's attributes without showing in the UI or the serialized Dag.

    Not those written into ``.partial()`` or ``.expand()`` of a mapped task: Airflow keeps such literals in the Dag.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __str__(self) -> str:
        size = f"{len(self.value):,} " if hasattr(self.value, "__len__") else ""
        return f"({size}rows, not shown)"


class _Submitting(WithLineage, BaseOperator):
    """What submit and the single operator have in common: the parameters, and making the job."""

    template_fields: Sequence[str] = ("rows", "endpoint", "custom_id", "conn_id", "storage")
    operator_extra_links = LINKS
    ui_color = "#d7efe6"

    def __init__(
        self,
        *,
        rows: Any,
        endpoint: str,
        body: Any,
        response_model: Any = None,
        column_prefix: str | None = None,
        custom_id: str | None = None,
        conn_id: str = OpenAIBatchHook.default_conn_name,
        storage: str | None = None,
        on_null: OnNull = "skip",
        on_empty: OnEmpty = "fail",
        max_rounds: int = 2,
        retry_on: Iterable[str] = (),
        max_bad_ratio: float = 0.05,
        max_bad_rows: int | None = None,
        deadline: datetime.timedelta = datetime.timedelta(hours=72),
        max_enqueued_tokens: int | None = None,
        max_requests_per_batch: int | None = None,
        cancel_on_kill: bool = True,
        completion_window: str = "24h",
        pilot_rows: int | None = None,
        max_cost: float | None = None,
        prices: dict[str, Any] | None = None,
        metadata: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(deadline, datetime.timedelta):
            raise TypeError(f"deadline must be a datetime.timedelta, not {type(deadline).__name__}.")
        check_choice("on_null", on_null, ON_NULL)
        check_choice("on_empty", on_empty, ON_EMPTY)
        self.rows = rows if _is_shown(rows) else Rows(rows)
        self.endpoint = endpoint
        self.body = body
        if isinstance(rows, CsvFile):
            XComArg.apply_upstream_relationship(self, rows.path)
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
        self.pilot_rows = pilot_rows
        self.max_cost = max_cost
        self.prices = prices
        self.metadata = metadata
        check_request(rows=rows, endpoint=endpoint, body=body, response_model=response_model, custom_id=custom_id)
        check_settings(self._policy, self._settings, max_requests_per_batch)

    def _do_render_template_fields(self, *args: Any, **kwargs: Any) -> None:
        """Render, then hide rows that came through XCom from the stored rendered fields."""
        super()._do_render_template_fields(*args, **kwargs)
        if isinstance(self.rows, Rows) and isinstance(self.rows.value, CsvFile):
            context = kwargs["context"] if "context" in kwargs else args[2]
            csv_file = self.rows.value
            self.rows = Rows(dataclasses.replace(csv_file, path=self.render_template(csv_file.path, context)))
        if not isinstance(self.rows, str | Rows) and not lists_files(self.rows):
            self.rows = Rows(self.rows)

    def _submit(self, context: Any) -> tuple[Engine, JobHandle]:
        """Write the job's plan, or take up the one that is there.

        Raises:
            AirflowSkipException: There are no rows, and ``on_empty`` is ``skip``.
        """
        from airflow_openai_batch.engine.job.submit import submit

        handle = handle_of(context, self.conn_id, self.storage)
        with airflow_errors():
            engine = engine_for(handle, self.log, self.response_model)
            job = submit(
                engine,
                lambda: self._request(context),
                lambda: with_options(self._policy()),
                start_over=_start_over_text(context),
                max_tries=context["ti"].max_tries,
                is_first_try=context["ti"].try_number <= 1,
                conn_id=self.conn_id,
            )
        if not job.n_rows and self.on_empty == "skip":
            advance_and_report(engine, context)  # what still runs for rows that were there before is cancelled
            raise AirflowSkipException("There are no rows: nothing to ask (on_empty='skip').")
        return engine, handle

    def _request(self, context: Any) -> Request:
        """Return the rows and what to ask of each, which an automatic retry does not need."""
        from airflow_openai_batch.engine.job.submit import Request

        return Request(
            self._rows(context),
            endpoint=self.endpoint,
            body=self._body(context),
            response_model=self.response_model,
            column_prefix=self.column_prefix,
            custom_id=self.custom_id,
            limits=self._limits(),
            on_null=self.on_null,
            on_empty=self.on_empty,
        )

    def _body(self, context: Any) -> Any:
        from airflow_openai_batch.task.body_rendering import rendered_body

        return self.body if self.body is None or callable(self.body) else rendered_body(self, self.body, context)

    def _rows(self, context: Any) -> Any:
        rows = self.rows.value if isinstance(self.rows, Rows) else self.rows
        if isinstance(rows, str) and (rows in ("", "None") or rows[0] in "[{"):
            raise InputError(
                "rows was rendered to a text that is no path. To pass another task's output, give it as it is "
                "(rows=other_task.output), not through Jinja."
            )
        if isinstance(rows, CsvFile):
            return dataclasses.replace(rows, path=self._paths(rows.path))
        return self._paths(rows)

    def _paths(self, rows: Any) -> Any:
        if lists_files(rows):
            return [as_path(path) if isinstance(path, str) else path for path in rows]
        return as_path(rows) if isinstance(rows, str) else rows

    def _limits(self) -> Limits:
        from airflow_openai_batch.engine.endpoints import Limits

        check_max_requests(self.max_requests_per_batch)
        return Limits() if self.max_requests_per_batch is None else Limits(max_requests=self.max_requests_per_batch)

    @property
    def _settings(self) -> list[Any]:
        """The arguments that the job's policy is made of."""
        return [
            self.max_rounds,
            self.retry_on,
            self.max_bad_ratio,
            self.max_bad_rows,
            self.max_enqueued_tokens,
            self.cancel_on_kill,
            self.completion_window,
            self.pilot_rows,
            self.max_cost,
            self.prices,
            self.metadata,
        ]

    def _policy(self) -> Policy:
        from airflow_openai_batch.engine.model import Policy, Status
        from airflow_openai_batch.engine.money.budget import parse_dollars

        statuses = [status.value for status in Status]
        unknown = [name for name in self.retry_on if name not in statuses]
        if unknown:
            raise OpenAIBatchFailure(
                f"retry_on: unknown outcome {', '.join(unknown)}; there are {', '.join(statuses)}."
            )
        return Policy(
            max_rounds=self.max_rounds,
            retry_on=frozenset(Status(name) for name in self.retry_on),
            max_bad_ratio=self.max_bad_ratio,
            max_bad_rows=self.max_bad_rows,
            deadline_s=self.deadline.total_seconds(),
            max_enqueued_tokens=self.max_enqueued_tokens,
            cancel_on_kill=self.cancel_on_kill,
            completion_window=self.completion_window,
            pilot_rows=self.pilot_rows,
            max_cost=None if self.max_cost is None else parse_dollars(self.max_cost, "max_cost"),
            prices=self.prices or {},
            metadata=self.metadata or {},
        )


def _is_shown(rows: Any) -> bool:
    """Return whether Airflow may see ``rows``: paths, which it renders, and XComArgs, which name the upstream task."""
    return isinstance(rows, str) or lists_files(rows) or (hasattr(rows, "resolve") and hasattr(rows, "iter_references"))


def _names(columns: Sequence[str]) -> tuple[str, ...]:
    """Return column names; a text is one name."""
    return (columns,) if isinstance(columns, str) else tuple(columns)


def _start_over_text(context: Mapping[str, Any]) -> str | None:
    conf = getattr(context.get("dag_run"), "conf", None) or {}
    text = conf.get(START_OVER)
    return str(text) if text else None


class OpenAIBatchSubmitOperator(_Submitting):
    """Turn rows into batches at OpenAI, and return a handle of the job. A retry or clear takes the same job up again.

    An automatic retry goes on with what the first try planned: neither ``rows`` nor ``body`` is looked at again. When a
    person clears the task, what would be sent is compared with what was planned, and only what differs is asked.

    Args:
        rows: A list of dicts, a DataFrame, the output of another task, a callable that returns or yields dicts, or the
            path or URI of ``.parquet``, ``.csv`` or ``.jsonl`` files: of one, a list of them, a directory or a pattern
            such as ``s3://lake/day=*/part-*.parquet`` (templated). Folders such as ``day=2026-01-01`` are columns too.
            ``options.CsvFile(path, delimiter=";", …)`` for CSV files with another dialect or with types.
        endpoint: ``/v1/responses``, ``/v1/chat/completions``, ``/v1/embeddings``, ``/v1/moderations``, … (templated).
        body: The request body that OpenAI documents; in its strings ``{column}`` is the row's value and
            ``"{column!json}"`` alone in a string its JSON (templated by Airflow too). Or a callable ``row -> body``, or
            None when the rows are ready-made request lines.
        response_model: A Pydantic class or a strict JSON Schema: the answers follow it, are checked against it, and
            their fields become columns. What OpenAI's strict mode refuses is refused here, with what to write instead.
        column_prefix: What stands in front of these columns' names: with ``answer_`` the field ``label`` becomes the
            column ``answer_label``. Needed where a field is called like a column of the rows or like one that all
            results have (``status``, ``output``, ``model``, …): such a clash is an error before anything is sent.
            A column of the rows that is called like one of the latter becomes ``input_<name>``.
        custom_id: Template of the request ids, unique over the job; by default the row number and a short digest
            (templated).
        conn_id: A connection of type ``openai`` (templated).
        storage: Where the job is kept; by default the option ``[openai_batch] storage`` (templated).
        on_null: What to do with a row of which the prompt has nothing, because every column that it uses is null, blank
            or an empty list: ``skip`` (it is not sent, costs nothing, comes back with the status ``skipped``, and is no
            bad row), ``send`` or ``fail``. A body function may return None for a row to be skipped.
        on_empty: What to do if there are no rows: ``fail``, ``skip`` (the task and those after it are skipped), or
            ``succeed`` (the results are an empty file with its columns).
        max_rounds: How often a row that expired, went missing or failed for a passing reason is asked again.
        retry_on: More outcomes to ask again: ``invalid`` (with the validation error added), ``refused``, ``truncated``.
        max_bad_ratio: The largest share of rows without a good answer that is still green.
        max_bad_rows: The largest number of such rows; None for no limit of its own.
        deadline: How long after submission to wait at most; never less than a running batch's own expiry.
        max_enqueued_tokens: Estimated input tokens that the job may have in OpenAI's queue at once.
        max_requests_per_batch: Cut smaller batches than OpenAI's limit of 50,000: more of them, each done sooner.
        cancel_on_kill: Whether marking the waiting task failed, success or skipped cancels its batches.
        completion_window: OpenAI accepts ``24h``; compatible servers have others.
        pilot_rows: How many rows to ask first, alone (of each model). The rest is sent only when these rows pass the
            thresholds and, by what they cost, the rest fits under ``max_cost``; otherwise the task fails with the
            reason, and has cost no more than them.
        max_cost: The most that all answers of the job may cost, in US dollars, over all rounds. A batch that would not
            fit any more is not created, and the task fails with the figures; raise it and clear to go on. The body must
            bound its answers (``max_output_tokens``). By default the option ``[openai_batch] max_cost``.
        prices: Prices of models or deployments that go before those of the option ``[openai_batch] prices`` and those
            that the package ships, in dollars for a million tokens in a batch, for example
            ``{"my-deployment": {"input": 0.05, "output": 0.25}}``; see docs/money.md.
        metadata: Up to 12 pairs of texts for the batches' metadata.

    Returns:
        The job's handle, for ``OpenAIBatchSensor`` and ``OpenAIBatchResultsOperator``.

    Raises:
        OpenAIBatchFailure: The rows, the request or a setting cannot be used: nothing was sent.
    """

    def execute(self, context: Any) -> JobHandle:
        """Write the plan and send what can be sent now."""
        from airflow_openai_batch.task.results_tasks import results_tasks
        from airflow_openai_batch.task.xcom_limits import check_returned_rows

        engine, handle = self._submit(context)
        tasks = results_tasks(self, OpenAIBatchResultsOperator)
        check_dropped_columns(engine, tasks)
        check_returned_rows(engine, tasks, context)
        advance_and_report(engine, context)
        return handle


class OpenAIBatchResultsOperator(WithLineage, BaseOperator):
    """Write the results of a finished job, in input order, and judge them by the job's thresholds.

    Args:
        job: The submit task's output (templated).
        output: The path or URI of a ``.parquet``, ``.jsonl`` or ``.csv`` file (templated); it appears whole or not at
            all. None returns the rows through XCom, as long as they are few.
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

    def __init__(self, *, job: Any, output: str | None = None, drop_columns: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.output_uri = output  # `output` is the task's own XComArg in every operator
        self.drop_columns = _names(drop_columns)
        check_job(job)
        check_constant_output(output)

    def execute(self, context: Any) -> Any:
        """Write and judge."""
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
        output: str | None = None,
        drop_columns: Sequence[str] = (),
        deferrable: bool = True,
        poll_interval: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.output_uri = output  # `output` is the task's own XComArg in every operator
        self.drop_columns = _names(drop_columns)
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        check_constant_output(output)
        check_poll_interval(poll_interval)

    def execute(self, context: Any) -> Any:
        """Make the job or take it up, and move it on."""
        from airflow_openai_batch.task.xcom_limits import check_returned_rows

        check_output(self.output_uri)
        check_mapped_output(context)
        engine, handle = self._submit(context)
        check_results(engine, self.output_uri, self.drop_columns)
        check_returned_rows(engine, [self], context)
        return self._go_on(engine, handle, context)

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
