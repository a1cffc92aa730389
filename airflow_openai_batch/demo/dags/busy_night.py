"""What else may run in a night, on the same rows as the example Dags: many small batches, a queue, a strict extraction.

All three read the descriptions of the Python packages installed beside Airflow, so that they run anywhere.
"""

import os
from datetime import UTC, datetime
from typing import Literal

from airflow.sdk import dag
from pydantic import BaseModel

from airflow_openai_batch.demo.packages import package_rows
from airflow_openai_batch.operators import (
    OpenAIBatchOperator,
    OpenAIBatchResultsOperator,
    OpenAIBatchSubmitOperator,
)
from airflow_openai_batch.sensors import OpenAIBatchSensor

# A folder or bucket that all workers reach, e.g. s3://aws_default@lake/packages.
FOLDER = os.environ.get("LABELING_FOLDER") or os.path.join(
    os.environ.get("AIRFLOW_HOME") or os.path.expanduser("~/airflow"), "packages"
)
LARGE, SMALL = "gpt-6-sol", "gpt-6-luna"
MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)


@dag(schedule="@daily", start_date=MIDNIGHT, catchup=False, max_active_runs=1, tags=["openai_batch"])
def package_summaries() -> None:
    """Summarize the packages in many small batches, some at a time: the large model's queue is short."""
    submit = OpenAIBatchSubmitOperator(
        task_id="submit",
        rows=package_rows,
        endpoint="/v1/responses",
        body={
            "model": LARGE,
            "instructions": "Say in one sentence what this Python package is good for.",
            "input": "{name}: {summary}\n\n{description}",
        },
        custom_id="{name}",
        max_requests_per_batch=10,  # so the first summaries are there long before the last
        max_enqueued_tokens=14_000,  # about three such batches; the others wait for their turn
    )
    wait = OpenAIBatchSensor(task_id="wait", job=submit.output)
    results = OpenAIBatchResultsOperator(
        task_id="results", job=submit.output, output=FOLDER + "/summaries/{{ ds }}.parquet"
    )
    wait >> results


@dag(schedule="@daily", start_date=MIDNIGHT, catchup=False, max_active_runs=1, tags=["openai_batch"])
def package_slogans() -> None:
    """Find a slogan for each package, with the same model as the summaries: it waits for room in its queue."""
    OpenAIBatchOperator(
        task_id="slogans",
        rows=package_rows,
        output=FOLDER + "/slogans/{{ ds }}.parquet",
        endpoint="/v1/responses",
        body={"model": LARGE, "instructions": "Find a slogan for this package.", "input": "{name}: {summary}"},
        custom_id="{name}",
    )


class PackageFacts(BaseModel):
    """The answer for one row."""

    audience: Literal["developers", "scientists", "administrators", "everybody"]
    is_maintained: bool
    needs_network: bool


@dag(schedule="@daily", start_date=MIDNIGHT, catchup=False, max_active_runs=1, tags=["openai_batch"])
def package_facts() -> None:
    """Extract facts for a database that takes no gaps: more than a few bad rows, and the task is red."""
    OpenAIBatchOperator(
        task_id="facts",
        rows=package_rows,
        output=FOLDER + "/facts/{{ ds }}.parquet",
        endpoint="/v1/chat/completions",
        body={
            "model": SMALL,
            "messages": [
                {"role": "system", "content": "Extract these facts about a Python package."},
                {"role": "user", "content": "{name}: {summary}\n\n{description}"},
            ],
        },
        response_model=PackageFacts,
        custom_id="{name}",
        max_rounds=1,
        max_bad_ratio=0.01,  # the rows are written all the same, with what became of each
    )


package_summaries()
package_slogans()
package_facts()
