"""Label a table of texts every night with one task between the rows and the report.

The same as `nightly_labeling.py`: `OpenAIBatchOperator` submits, waits without a worker and writes the results.
Choose the three separate tasks if you want to see them apart, or to clear the results without the rest.
"""

import os
from datetime import UTC, datetime
from typing import Any, Literal

from airflow.sdk import dag, task
from pydantic import BaseModel

from airflow_openai_batch.demo.packages import compare_with_topics, write_package_rows
from airflow_openai_batch.operators import OpenAIBatchOperator

# [START nightly_labeling_single]
# A folder or bucket that all workers reach, e.g. s3://aws_default@lake/labeling.
FOLDER = os.environ.get("LABELING_FOLDER") or os.path.join(
    os.environ.get("AIRFLOW_HOME") or os.path.expanduser("~/airflow"), "labeling"
)
ROWS = FOLDER + "/rows/{{ ds }}-single.parquet"
LABELS = FOLDER + "/labels/{{ ds }}-single.parquet"


class PackageLabel(BaseModel):
    """The answer for one row."""

    topic: Literal["Database", "Internet", "Security", "Software Development", "System", "Text Processing", "Other"]
    confidence: float


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["openai_batch"],
)
def nightly_labeling_single() -> None:
    """Label the night's packages by topic, in one task."""

    @task
    def rows(uri: str) -> int:
        return write_package_rows(uri)

    labels = OpenAIBatchOperator(
        task_id="labels",
        rows=ROWS,
        output=LABELS,
        endpoint="/v1/responses",
        body={
            "model": "gpt-6-luna",
            "instructions": "Choose the topic of this Python package.",
            "input": "{name}: {summary}\n\n{description}",
        },
        response_model=PackageLabel,
        custom_id="{name}",
        retries=2,  # safe: a retry takes the same batches up again, nothing is paid twice
    )

    @task
    def report(manifest: dict[str, Any]) -> dict[str, Any]:
        return compare_with_topics(manifest["output"])

    rows(ROWS) >> labels
    report(labels.output)


nightly_labeling_single()
# [END nightly_labeling_single]
