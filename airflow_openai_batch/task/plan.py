"""A task that only plans: what its job would ask and cost is told, and nothing of it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_openai_batch.exceptions import OpenAIBatchFailure, Reason, airflow_errors
from airflow_openai_batch.task.job import advance_and_show

if TYPE_CHECKING:
    from airflow_openai_batch.engine.job.context import Engine
    from airflow_openai_batch.engine.job.plan import Plan
    from airflow_openai_batch.engine.progress.forecast import Forecast

PLAN_ONLY = "openai_batch_plan_only"
"""Key in a Dag run's conf: true there makes every task of the run only plan."""

PLAN_KEY = "openai_batch_plan"
"""Key of the plan in XCom."""

_NO = ("", "0", "false", "no", "off", "none", "null")

PLANS_ONLY = (
    f"This run only plans ({PLAN_ONLY} in its conf): nothing is sent to OpenAI, also not when its tasks are cleared. "
    "To send, start a run without it."
)


def is_plan_only_run(context: Mapping[str, Any]) -> bool:
    """Return whether the running task's Dag run only plans. A value that could mean either is taken for yes."""
    conf = getattr(context.get("dag_run"), "conf", None) or {}
    return not says_no(conf.get(PLAN_ONLY))


def says_no(value: Any) -> bool:
    """Return whether a value of a Dag run's conf means no, as JSON or as a person types it into a form."""
    return str(value or "").strip().lower() in _NO


def skip_in_plan_only_run(context: Mapping[str, Any]) -> None:
    """Skip the running task if its Dag run only plans.

    Raises:
        AirflowSkipException: It does.
    """
    if is_plan_only_run(context):
        raise AirflowSkipException(PLANS_ONLY)


def make_plan(engine: Engine, context: Mapping[str, Any]) -> Plan:
    """Return the plan of a job: with what is reused, which costs nothing to find, and nothing sent.

    Args:
        engine: The engine of a job that was written with ``is_plan_only``.
        context: The running task's context.

    Raises:
        OpenAIBatchFailure: The job needs manual intervention.
        OpenAIBatchError: A retry may mend it.
    """
    from airflow_openai_batch.engine.job.advance import load
    from airflow_openai_batch.engine.job.plan_writer import write_plan
    from airflow_openai_batch.engine.job.status import Held

    with airflow_errors():
        job = load(engine).job
        if job.is_plan_only:  # else a task has begun to send it: that is for that task to go on with
            reached, _ = advance_and_show(engine, context)
            if isinstance(reached, Held) and not reached.is_plan:
                raise OpenAIBatchFailure(reached.reason, Reason.HELD)
            job = reached.job
        return write_plan(engine.store, job)


def tell_plan(engine: Engine, plan: Plan, context: Mapping[str, Any]) -> dict[str, Any]:
    """Write a plan to the log and to XCom, and return it as the latter has it.

    Args:
        engine: The job's engine.
        plan: The plan.
        context: The running task's context.
    """
    from airflow_openai_batch.engine.progress.plan_text import plan_markdown, plan_table, told_plan

    now = engine.clock()
    forecast = plan_forecast(engine, now)
    engine.log.info("Planned, and not sent:\n%s", plan_table(plan, forecast, now))
    value = {**told_plan(plan, forecast, now), "text": plan_markdown(plan, forecast, now)}
    context["ti"].xcom_push(key=PLAN_KEY, value=value)
    return value


def plan_forecast(engine: Engine, now: float) -> Forecast | None:
    """Return when a planned job will be over if it is sent now; None if too little is known.

    Args:
        engine: The job's engine.
        now: Epoch seconds.
    """
    from airflow_openai_batch.engine.job.advance import load
    from airflow_openai_batch.engine.job.duration_history import earlier_durations
    from airflow_openai_batch.engine.progress.forecast import forecast_of

    with airflow_errors():
        job = load(engine).job
    return forecast_of(job, earlier_durations(engine.store, job, now, engine.log), now)
