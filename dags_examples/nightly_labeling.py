"""Label a table of texts every night: rows, submit, wait, results, report.

The rows are the descriptions of the Python packages installed beside Airflow, so that this Dag runs anywhere. Put your
own table in place of the task `rows`, and your own class in place of `PackageLabel`.
"""

import os
from datetime import UTC, datetime
from typing import Any, Literal

from airflow.sdk import dag, task
from pydantic import BaseModel

from airflow_openai_batch.demo.packages import compare_with_topics, write_package_rows
from airflow_openai_batch.operators import OpenAIBatchResultsOperator, OpenAIBatchSubmitOperator
from airflow_openai_batch.sensors import OpenAIBatchSensor

# [START nightly_labeling]
MODEL = "gpt-6-luna"

# A folder or bucket that all workers reach, e.g. s3://aws_default@lake/labeling.
FOLDER = os.environ.get("LABELING_FOLDER") or os.path.join(
    os.environ.get("AIRFLOW_HOME") or os.path.expanduser("~/airflow"), "labeling"
)
# One pair of files a night: a retry, a clear or a backfill of a night meets that night's rows again.
ROWS = FOLDER + "/rows/{{ ds }}.parquet"
LABELS = FOLDER + "/labels/{{ ds }}.parquet"


class PackageLabel(BaseModel):
    """The answer for one row. OpenAI is held to it, each answer is checked by it, its fields become columns."""

    topic: Literal[
        "Database",
        "File Formats",
        "Internet",
        "Scientific/Engineering",
        "Security",
        "Software Development",
        "System",
        "Text Processing",
        "Utilities",
    ]
    confidence: float
    evidence: str


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["openai_batch"],
)
def nightly_labeling() -> None:
    """Label the night's packages by topic."""

    @task
    def rows(uri: str) -> int:
        return write_package_rows(uri)  # your own query goes here

    submit = OpenAIBatchSubmitOperator(
        task_id="submit",
        rows=ROWS,
        endpoint="/v1/responses",
        body={
            "model": MODEL,
            "instructions": "Choose the topic of this Python package. Name the words that decided as evidence.",
            "input": "{name}: {summary}\n\n{description}",
        },
        response_model=PackageLabel,
        custom_id="{name}",  # the ids in OpenAI's files and in the results; any unique column will do
        max_rounds=2,  # rows that expired or failed for a passing reason are asked again, up to twice
        max_bad_ratio=0.02,  # more rows than this without a good label: the results task is red
        retries=2,  # safe: a retry takes the same batches up again, nothing is paid twice
    )
    # Holds no worker while OpenAI works: the wait may take 24 hours.
    wait = OpenAIBatchSensor(task_id="wait", job=submit.output)
    results = OpenAIBatchResultsOperator(task_id="results", job=submit.output, output=LABELS)

    @task
    def report(manifest: dict[str, Any]) -> dict[str, Any]:
        compared = compare_with_topics(manifest["output"])
        print(f"{compared['right']} of {compared['rows_with_truth']} labels are a topic that the authors chose")
        return compared

    rows(ROWS) >> submit >> wait >> results
    report(results.output)


nightly_labeling()
# [END nightly_labeling]
