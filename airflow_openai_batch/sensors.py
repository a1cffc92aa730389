"""The sensor: waits for a job, and moves it on whenever there is something to do."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
)

from airflow_openai_batch.exceptions import airflow_errors
from airflow_openai_batch.links import LINKS
from airflow_openai_batch.task.job import (
    JobHandle,
    advance_and_report,
    cancels_on_kill,
    checked_handle,
    engine_for,
    look_of,
    poll_interval,
    trigger_for,
)
from airflow_openai_batch.task.parse_checks import check_job, check_poll_interval, told_by
from airflow_openai_batch.task.plan import skip_in_plan_only_run

if TYPE_CHECKING:
    from airflow_openai_batch.engine.job.context import Engine
    from airflow_openai_batch.engine.job.status import Done, Wait
    from airflow_openai_batch.engine.progress.model import Look
    from airflow_openai_batch.reporting.worker_progress import Shown


class OpenAIBatchSensor(BaseSensorOperator):
    """Wait until every row of a job has its outcome. Holds no worker while it waits.

    Each time there is something to do, it lends its worker to the job: batches that ended are fetched, rows that
    deserve it are asked again, shards that waited for room are sent. The answers are judged by the results task. What
    ``OpenAIBatchPlanOperator`` has only planned is sent when the sensor begins.

    Args:
        job: The output of the submit or plan task (templated).
        deferrable: Whether to wait in the triggerer. Otherwise ``mode`` (``poke`` or ``reschedule``) and
            ``poke_interval`` count, as in every sensor.
        poll_interval: Seconds between two looks at a batch; by default the option ``[openai_batch] poll_interval``.

    Returns:
        A summary: rows by outcome, tokens, batches.

    Raises:
        OpenAIBatchFailure: The job needs manual intervention; nothing is lost.
    """

    template_fields: Sequence[str] = ("job",)
    operator_extra_links = LINKS
    ui_color = "#d7efe6"

    def __init__(self, *, job: Any, deferrable: bool = True, poll_interval: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        with told_by(self.task_id):
            check_job(job)
            check_poll_interval(poll_interval)
        self._look: Look | None = None

    def poke(self, context: Any) -> PokeReturnValue:
        """Move the job on once."""
        from airflow_openai_batch.engine.job.status import Done

        engine, _ = self._engine()
        reached, shown = advance_and_report(engine, context, self._look)
        self._look = shown.look
        if not isinstance(reached, Done):
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=_summary(reached))

    def execute(self, context: Any) -> Any:
        """Wait, the way that ``deferrable`` says."""
        from airflow_openai_batch.engine.job.waiting import begin_waiting

        skip_in_plan_only_run(context)
        ti = context["ti"]
        # In mode="reschedule" this is called at every poke.
        with airflow_errors():
            begin_waiting(self._engine()[0], f"{ti.dag_id}/{ti.run_id}/{ti.task_id}/{ti.map_index}", ti.max_tries)
        if not self.deferrable:
            return super().execute(context)
        try:
            return self._go_on(context, time.time())
        except AirflowException as error:
            # Airflow turns errors into skips only after a deferral; before the first one it is for us to do.
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(str(error)) from error
            raise

    def execute_complete(self, context: Any, event: dict[str, Any] | None = None, since: float | None = None) -> Any:
        """Go on after the trigger saw that there may be something to do."""
        self.log.info("Woken: %s", (event or {}).get("reason", "no reason given"))
        return self._go_on(context, since or time.time(), look_of(event))

    def _go_on(self, context: Any, since: float, look: Look | None = None) -> Any:
        from airflow_openai_batch.engine.job.status import Done

        engine, handle = self._engine()
        reached, shown = advance_and_report(engine, context, look)
        if isinstance(reached, Done):
            return _summary(reached)
        return self._defer(engine, reached, shown, handle, since)

    def _defer(self, engine: Engine, wait: Wait, shown: Shown, handle: JobHandle, since: float) -> Any:
        left = since + self.timeout - time.time()
        if left <= 0:
            raise AirflowSensorTimeout(
                f"The sensor's timeout of {self.timeout:g} s has passed. The batches run on and nothing is lost: clear "
                "this task to wait again."
            )
        trigger = trigger_for(
            wait,
            shown,
            handle,
            poll_interval_s=poll_interval(self.poll_interval),
            cancel_on_kill=cancels_on_kill(engine),
        )
        return self.defer(
            trigger=trigger,
            method_name="execute_complete",
            kwargs={"since": since},
            timeout=datetime.timedelta(seconds=left),
        )

    def _engine(self) -> tuple[Engine, JobHandle]:
        handle = checked_handle(self.job)
        return engine_for(handle, self.log, self._response_model(handle)), handle

    def _response_model(self, handle: JobHandle) -> Any:
        """Return the submit task's Pydantic class, so that its own validators check the answers too."""
        dag = self.get_dag()
        if dag is None or dag.dag_id != handle["dag_id"] or handle["task_id"] not in dag.task_dict:
            return None
        task: Any = dag.task_dict[handle["task_id"]]
        return getattr(task, "response_model", None) or getattr(task, "partial_kwargs", {}).get("response_model")


def _summary(done: Done) -> dict[str, Any]:
    # Through JSON: a tuple in XCom shows as a wrapped class in Airflow's API and UI.
    summary: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(done.summary))
    return summary
