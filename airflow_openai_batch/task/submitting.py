"""From the arguments of a submitting task to its job: rows, request and policy."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from airflow.providers.common.compat.sdk import AirflowSkipException, BaseOperator

from airflow_openai_batch.engine.errors import InputError, StoreError
from airflow_openai_batch.engine.requests.chunks import Chunks
from airflow_openai_batch.engine.requests.files import is_path, lists_files
from airflow_openai_batch.exceptions import OpenAIBatchFailure, airflow_errors
from airflow_openai_batch.hooks import OpenAIBatchHook, as_path
from airflow_openai_batch.options import CsvFile, FinishBy, Reuse
from airflow_openai_batch.sql import SqlQuery
from airflow_openai_batch.task.job import JobHandle, advance_and_show, engine_for, handle_of, lifetime_s, with_options
from airflow_openai_batch.task.parse_checks import check_absolute, check_max_requests
from airflow_openai_batch.task.plan import is_plan_only_run, says_no
from airflow_openai_batch.task.rows import Rows

# What only a running task needs is imported where it is used: a Dag file is parsed again and again.
if TYPE_CHECKING:
    from airflow_openai_batch.engine.endpoints import Limits
    from airflow_openai_batch.engine.job.context import Engine
    from airflow_openai_batch.engine.job.submit import Request
    from airflow_openai_batch.engine.model import Policy
    from airflow_openai_batch.engine.requests.nulls import OnEmpty, OnNull

START_OVER = "openai_batch_start_over"
"""Key in a Dag run's conf: any text there but "false" and the like makes the job start over, once for each text."""


class JobMaker(BaseOperator):
    """Makes the job of a task that submits one. Its attributes are the operator's arguments, rendered."""

    rows: Any
    endpoint: str
    body: Any
    response_model: Any
    column_prefix: str | None
    custom_id: str | None
    conn_id: str
    storage: str | None
    on_null: OnNull
    on_empty: OnEmpty
    max_rounds: int
    retry_on: tuple[str, ...]
    max_bad_ratio: float
    max_bad_rows: int | None
    deadline: datetime.timedelta
    max_enqueued_tokens: int | None
    max_requests_per_batch: int | None
    cancel_on_kill: bool
    completion_window: str
    reuse: Reuse | None
    finish_by: FinishBy | None
    pilot_rows: int | None
    probe: bool
    max_cost: float | str | None
    prices: dict[str, Any] | None
    metadata: dict[str, str] | None
    files_expire_after: datetime.timedelta | float | str | None
    delete_files: bool | None

    def prepare_job(self, context: Any) -> tuple[Engine, JobHandle]:
        """Write the job's plan, or take up the one that is there, and make every check. Sends nothing.

        Raises:
            AirflowSkipException: There are no rows, and ``on_empty`` is ``skip``.
            OpenAIBatchFailure: The rows, the request or a setting cannot be used.
        """
        from airflow_openai_batch.engine.job.submit import submit

        self._check_arguments(context)
        handle = handle_of(context, self.conn_id, self.storage)
        with airflow_errors():
            engine = engine_for(handle, self.log, self.response_model)
            finish_by, timezone = self._rendered_finish_by(context), _timezone_of(self.get_dag())
            job = submit(
                engine,
                lambda: self._request(context),
                lambda: with_options(self._policy(finish_by, timezone)),
                start_over=start_over_text(context),
                max_tries=context["ti"].max_tries,
                is_first_try=context["ti"].try_number <= 1,
                conn_id=self.conn_id,
                is_plan_only=self.plans_only(context),
                asked_at=_began_at(context),
                finish_at=None if finish_by is None else lambda now: finish_by.moment(now, timezone),
            )
        if not job.n_rows and self.on_empty == "skip":
            advance_and_show(engine, context)  # what still runs for rows that were there before is cancelled
            raise AirflowSkipException("There are no rows: nothing to ask (on_empty='skip').")
        self._check_plan(engine, context)
        return engine, handle

    def plans_only(self, context: Any) -> bool:
        """Return whether the task only plans, in this run."""
        return is_plan_only_run(context)

    def _check_arguments(self, context: Any) -> None:
        """Refuse arguments that cannot be used, before the rows are read."""

    def _check_plan(self, engine: Engine, context: Any) -> None:
        """Refuse a job whose plan shows that its results could not be written."""

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
            other_endpoints=OpenAIBatchHook(self.conn_id).other_endpoints(self.endpoint),
        )

    def _body(self, context: Any) -> Any:
        from airflow_openai_batch.task.body_rendering import rendered_body

        return self.body if self.body is None or callable(self.body) else rendered_body(self, self.body, context)

    def _rendered_finish_by(self, context: Any) -> FinishBy | None:
        finish_by = self.finish_by
        if finish_by is None or not isinstance(finish_by.at, str):
            return finish_by
        return msgspec.structs.replace(finish_by, at=self.render_template(finish_by.at, context))

    def _rows(self, context: Any) -> Any:
        return self._source(self.rows.value if isinstance(self.rows, Rows) else self.rows)

    def _source(self, rows: Any) -> Any:
        if isinstance(rows, Chunks):
            return msgspec.structs.replace(rows, rows=self._source(rows.rows))
        if isinstance(rows, str) and (rows in ("", "None") or rows[0] in "[{"):
            raise InputError(
                "rows was rendered to a text that is no path. To pass another task's output, give it as it is "
                "(rows=other_task.output), not through Jinja."
            )
        if isinstance(rows, CsvFile):
            return msgspec.structs.replace(rows, path=self._paths(rows.path))
        if isinstance(rows, SqlQuery):
            from airflow_openai_batch.sql.source import SqlSource

            return SqlSource(rows)
        return self._paths(rows)

    def _paths(self, rows: Any) -> Any:
        if lists_files(rows):
            return [self._path(path) for path in rows]
        return self._path(rows)

    def _path(self, path: Any) -> Any:
        if not is_path(path):
            return path
        check_absolute("rows", str(path))
        try:
            return as_path(path) if isinstance(path, str) else path
        except StoreError as error:  # no retry installs a library
            raise InputError(f"rows: nothing was sent. {error}") from None

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
            None if self.reuse is None else self.reuse.name,
            self.finish_by.parallel if self.finish_by is not None else None,
            self.pilot_rows,
            self.probe,
            self.max_cost,
            self.prices,
            self.metadata,
            self.files_expire_after,
            self.delete_files,
        ]

    def _policy(self, finish_by: FinishBy | None = None, timezone: datetime.tzinfo = datetime.UTC) -> Policy:
        from airflow_openai_batch.engine.model import Policy, Status
        from airflow_openai_batch.engine.money.dollars import parse_dollars

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
            **_of_ledger(self.reuse),
            **_of_moment(finish_by or self.finish_by, timezone),
            pilot_rows=self.pilot_rows,
            probe=self.probe,
            max_cost=None if self.max_cost is None else parse_dollars(self.max_cost, "max_cost"),
            prices=_dict_of_prices(self.prices),
            metadata=self.metadata or {},
            files_expire_after_s=lifetime_s(self.files_expire_after, "files_expire_after"),
            delete_files=self.delete_files,
        )


def _dict_of_prices(prices: Any) -> dict[str, Any]:
    if isinstance(prices, str):
        raise InputError(
            f"prices is a text, {prices[:100]!r}, and must be a dict such as {{'my-model': {{'input': 0.05, 'output': "
            "0.25}}, whose values may be templates. A template that renders a whole dict needs a Dag with "
            "render_template_as_native_obj=True; a file of prices is the option [openai_batch] prices."
        )
    return prices or {}


def _of_ledger(reuse: Reuse | None) -> dict[str, Any]:
    """Return the parts of a policy that tell which answers are used again."""
    if reuse is None:
        return {}
    return {"reuse": reuse.name, "reuse_max_age_s": reuse.max_age.total_seconds()}


def _began_at(context: Mapping[str, Any]) -> float | None:
    began_at = getattr(context["ti"], "start_date", None)
    return began_at.timestamp() if began_at is not None else None


def _of_moment(finish_by: FinishBy | None, timezone: datetime.tzinfo) -> dict[str, Any]:
    """Return the parts of a policy that tell when the rest is asked synchronously, and how."""
    if finish_by is None:
        return {}
    return {
        "finish_by": finish_by.text(timezone),
        "finish_tier": finish_by.tier,
        "finish_parallel": finish_by.parallel,
    }


def _timezone_of(dag: Any) -> datetime.tzinfo:
    """Return the timezone of a task's Dag."""
    timezone: datetime.tzinfo = getattr(dag, "timezone", None) or datetime.UTC
    return timezone


def start_over_text(context: Mapping[str, Any]) -> str | None:
    """Return the text by which a Dag run's conf asks to start over; None if it does not.

    Args:
        context: The running task's context.
    """
    conf = getattr(context.get("dag_run"), "conf", None) or {}
    text = conf.get(START_OVER)
    return None if says_no(text) else str(text)
