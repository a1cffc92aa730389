"""Label a table of texts once a person has seen what it will cost.

The plan task counts and sends nothing. Its rows, batches, tokens and cost stand in Airflow's "Required actions", where
somebody approves or rejects; only then the sensor sends the job. A rejected job has cost nothing.
"""

import os
from datetime import UTC, datetime
from typing import Literal

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import dag, task
from pydantic import BaseModel

from airflow_openai_batch.demo.packages import write_package_rows
from airflow_openai_batch.operators import OpenAIBatchPlanOperator, OpenAIBatchResultsOperator
from airflow_openai_batch.sensors import OpenAIBatchSensor

# [START approved_labeling]
# A folder or bucket that all workers reach, e.g. s3://aws_default@lake/labeling.
FOLDER = os.environ.get("LABELING_FOLDER") or os.path.join(
    os.environ.get("AIRFLOW_HOME") or os.path.expanduser("~/airflow"), "labeling"
)
# The day of the run, which one that is triggered without a logical date has too.
ROWS = FOLDER + "/rows/{{ dag_run.run_after | ds }}-approved.parquet"
LABELS = FOLDER + "/labels/{{ dag_run.run_after | ds }}-approved.parquet"


class PackageLabel(BaseModel):
    """The answer for one row."""

    topic: Literal["Database", "Internet", "Security", "Software Development", "System", "Text Processing", "Other"]
    confidence: float


@dag(schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), max_active_runs=1, tags=["openai_batch"])
def approved_labeling() -> None:
    """Label packages by topic, if a person agrees with the price."""

    @task
    def rows(uri: str) -> int:
        return write_package_rows(uri)

    plan = OpenAIBatchPlanOperator(
        task_id="plan",
        rows=ROWS,
        endpoint="/v1/responses",
        body={
            "model": "gpt-6-luna",
            "instructions": "Choose the topic of this Python package.",
            "input": "{name}: {summary}\n\n{description}",
            "max_output_tokens": 200,  # the plan can tell then what the job costs at most
        },
        response_model=PackageLabel,
        custom_id="{name}",
        max_cost=5,  # dollars; nothing that exceeds it is sent, whatever is approved
    )
    approve = ApprovalOperator(
        task_id="approve",
        subject="Send the labeling of {{ dag_run.run_after | ds }} to OpenAI?",
        body="{{ ti.xcom_pull(task_ids='plan')['plan']['text'] }}",
    )
    wait = OpenAIBatchSensor(task_id="wait", job=plan.output)  # sends the job when it begins
    results = OpenAIBatchResultsOperator(task_id="results", job=plan.output, output=LABELS)

    rows(ROWS) >> plan >> approve >> wait >> results


approved_labeling()
# [END approved_labeling]
