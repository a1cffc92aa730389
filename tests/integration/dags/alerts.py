"""A night whose people are told: of a failure by a callback, and of lateness by a deadline alert."""

from __future__ import annotations

import datetime
from typing import Any

from airflow.sdk import DAG
from airflow.sdk.definitions.deadline import AsyncCallback, DeadlineAlert, DeadlineReference
from notifiers import FileNotifier

from airflow_openai_batch.notifications import job_message, late_text
from airflow_openai_batch.operators import OpenAIBatchOperator

LATE_AFTER_S = 8


def tell(context: Any) -> None:
    """Tell of a failed task."""
    FileNotifier(text=job_message(context))(context)


with DAG(
    "alerted_night",
    schedule=None,
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    default_args={"on_failure_callback": tell},
    deadline=DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=datetime.timedelta(seconds=LATE_AFTER_S),
        callback=AsyncCallback("notifiers.FileNotifier", {"text": late_text()}),
    ),
):
    OpenAIBatchOperator(
        task_id="labels",
        rows=[{"id": i, "text": f"text {i}"} for i in range(20)],
        endpoint="/v1/responses",
        body={"model": "gpt-6-luna", "input": "{text}"},
        custom_id="alert-{id}",
    )
