"""Tasks that only wait for a batch, or until tomorrow. They note when a worker runs them.

Those whose batches will end have a task after them; for all, Airflow would take very long to begin them.
"""

from __future__ import annotations

import datetime
import json
import os
import time
from pathlib import Path
from typing import Any

from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import DAG, BaseOperator, task_group

from airflow_openai_batch.triggers import OpenAIBatchTrigger

NUMBERS: list[int] = json.loads(os.environ["WAITS_NUMBERS"])
N_ENDING = int(os.environ["WAITS_N_ENDING"])


def note(task_id: str, number: int) -> None:
    """Note the time."""
    with Path(os.environ["WAITS_RESUMED"]).open("a") as file:
        file.write(f"{task_id} {number} {time.time()}\n")


class Numbered(BaseOperator):
    """Is of one batch."""

    template_fields = ("number",)

    def __init__(self, *, number: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = number


class WaitForBatch(Numbered):
    """Waits for the batch with a number."""

    def execute(self, context: Any) -> None:
        """Wait in the triggerer."""
        if os.environ["WAITS_KIND"] == "control":
            tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
            self.defer(trigger=DateTimeTrigger(tomorrow), method_name="go_on")
        trigger = OpenAIBatchTrigger(
            conn_id="waiting",
            batch_ids=[f"batch_{int(self.number):032x}"],
            wake_at=None,
            poll_interval_s=float(os.environ["WAITS_INTERVAL_S"]),
        )
        self.defer(trigger=trigger, method_name="go_on")

    def go_on(self, context: Any, event: dict[str, Any]) -> None:
        """Note the time."""
        note("wait", self.number)


class After(Numbered):
    """Comes after a wait."""

    def execute(self, context: Any) -> None:
        """Note the time."""
        note("after", self.number)


with DAG("triggerer_waits", schedule=None, max_active_tasks=len(NUMBERS)):

    @task_group
    def each(number: int) -> None:
        """Wait, and go on."""
        WaitForBatch(task_id="wait", number=number) >> After(task_id="after", number=number)

    each.expand(number=NUMBERS[:N_ENDING])
    WaitForBatch.partial(task_id="wait").expand(number=NUMBERS[N_ENDING:])
