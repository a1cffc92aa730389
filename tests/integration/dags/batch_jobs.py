"""Dags of the provider under test: three tasks, the single operator, and mapped tasks."""

from __future__ import annotations

import datetime
import os

from airflow.sdk import DAG

from airflow_openai_batch.operators import (
    OpenAIBatchOperator,
    OpenAIBatchResultsOperator,
    OpenAIBatchSubmitOperator,
)
from airflow_openai_batch.options import FinishBy
from airflow_openai_batch.sensors import OpenAIBatchSensor

OUT = os.environ.get("OPENAI_BATCH_TEST_OUTPUT", "/nowhere")
ROWS = [{"id": i, "text": f"ticket {i}"} for i in range(30)]
REQUEST = {
    "endpoint": "/v1/responses",
    "body": {"model": "gpt-6-luna", "input": "{text}"},
    "custom_id": "t-{id}",
}
ALWAYS = {
    "schedule": None,
    "start_date": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "default_args": {"retries": 2},
}

with DAG("batch_three", **ALWAYS):
    submit = OpenAIBatchSubmitOperator(task_id="submit", rows=ROWS, **REQUEST)
    wait = OpenAIBatchSensor(task_id="wait", job=submit.output)
    results = OpenAIBatchResultsOperator(task_id="results", job=submit.output, output=OUT + "/{{ run_id }}.parquet")
    wait >> results

with DAG("batch_reschedule", **ALWAYS):
    submit = OpenAIBatchSubmitOperator(task_id="submit", rows=ROWS, **REQUEST)
    OpenAIBatchSensor(task_id="wait", job=submit.output, deferrable=False, mode="reschedule", poke_interval=1)

with DAG("batch_timeout", **ALWAYS):
    submit = OpenAIBatchSubmitOperator(task_id="submit", rows=ROWS, **REQUEST)
    OpenAIBatchSensor(task_id="wait", job=submit.output, timeout=8)

with DAG("batch_one", **ALWAYS):
    OpenAIBatchOperator(task_id="one", rows=ROWS, **REQUEST)

N_CHAOS = int(os.environ.get("OPENAI_BATCH_TEST_ROWS", "2000"))

with DAG("batch_chaos", **{**ALWAYS, "default_args": {"retries": 100}}):
    OpenAIBatchOperator(
        task_id="one",
        rows=lambda: ({"id": i, "text": f"ticket {i}"} for i in range(N_CHAOS)),
        output=OUT + "/{{ run_id }}.parquet",
        response_model={
            "title": "label",
            "type": "object",
            "properties": {"topic": {"type": "string", "enum": ["bug", "question", "praise"]}},
            "required": ["topic"],
            "additionalProperties": False,
        },
        retry_on=["invalid"],
        max_rounds=5,
        max_requests_per_batch=N_CHAOS // 4,
        **REQUEST,
    )

N_LATE = int(os.environ.get("OPENAI_BATCH_TEST_LATE_ROWS", "400"))
LATE_S = float(os.environ.get("OPENAI_BATCH_TEST_LATE_S", "30"))

with DAG("batch_late", **{**ALWAYS, "default_args": {"retries": 100}}):
    OpenAIBatchOperator(
        task_id="one",
        rows=lambda: ({"id": i, "text": f"late ticket {i}"} for i in range(N_LATE)),
        output=OUT + "/{{ run_id }}.parquet",
        finish_by=FinishBy(datetime.timedelta(seconds=LATE_S), parallel=16),
        max_requests_per_batch=N_LATE // 4,
        **REQUEST,
    )

with DAG("batch_large", **ALWAYS):  # two batches, of whose answers each has about 20 MB
    OpenAIBatchOperator(
        task_id="one",
        rows=lambda: ({"id": i, "text": f"ticket {i}"} for i in range(40_000)),
        output=OUT + "/{{ run_id }}.parquet",
        max_requests_per_batch=20_000,
        **REQUEST,
    )

with DAG("batch_mapped", **ALWAYS):
    OpenAIBatchOperator.partial(task_id="one", **REQUEST).expand(rows=[ROWS[:10], ROWS[10:]])
