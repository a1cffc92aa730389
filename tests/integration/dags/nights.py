"""Two Dags that share a ledger. Which rows a night has, and what is asked of them, stands in the run's conf."""

from __future__ import annotations

import datetime
import os

from airflow.sdk import DAG

from airflow_openai_batch.operators import OpenAIBatchOperator

for name in ("nights_a", "nights_b"):
    with DAG(name, schedule=None, start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)):
        OpenAIBatchOperator(
            task_id="one",
            rows="{{ dag_run.conf['rows'] }}",
            endpoint="/v1/responses",
            body={"model": "gpt-6-luna", "input": "{{ dag_run.conf['prompt'] }}: {text}"},
            custom_id="t-{id}",
            reuse="nights",
            max_requests_per_batch=4000,
            output=os.environ.get("OPENAI_BATCH_TEST_OUTPUT", "/nowhere") + "/{{ dag.dag_id }}-{{ run_id }}.parquet",
        )
