"""A Dag for a worker that was not told where jobs are kept."""

from __future__ import annotations

import datetime

from airflow.sdk import DAG

from airflow_openai_batch.operators import OpenAIBatchSubmitOperator

with DAG("batch_default_storage", schedule=None, start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)):
    OpenAIBatchSubmitOperator(
        task_id="submit",
        rows=[{"text": "a ticket"}],
        endpoint="/v1/responses",
        body={"model": "gpt-6-luna", "input": "{text}"},
        queue="default_storage",
    )
