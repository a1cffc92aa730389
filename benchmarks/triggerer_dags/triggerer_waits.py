"""Tasks that only wait for a batch, and note when a worker goes on with them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator

from airflow_openai_batch.triggers import OpenAIBatchTrigger

N = int(os.environ["WAITS_N"])


class WaitForBatch(BaseOperator):
    """Waits for the batch with a number."""

    def __init__(self, *, number: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = number

    def execute(self, context: Any) -> None:
        """Wait in the triggerer."""
        trigger = OpenAIBatchTrigger(
            conn_id="waiting",
            batch_ids=[f"batch_{self.number:032x}"],
            wake_at=None,
            poll_interval_s=float(os.environ["WAITS_INTERVAL_S"]),
        )
        self.defer(trigger=trigger, method_name="go_on")

    def go_on(self, context: Any, event: dict[str, Any]) -> None:
        """Note the time."""
        with Path(os.environ["WAITS_RESUMED"]).open("a") as file:
            file.write(f"{self.number} {time.time()} {event['reason']}\n")


with DAG("triggerer_waits", schedule=None, max_active_tasks=N):
    WaitForBatch.partial(task_id="wait").expand(number=list(range(N)))
