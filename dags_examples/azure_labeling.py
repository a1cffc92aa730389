"""Label a table of texts at Azure OpenAI: what `nightly_labeling_single.py` does, with a deployment as the model.

The connection's host is the resource's v1 address, as https://my-resource.openai.azure.com/openai/v1/ . Its password is
a key of the resource, or its extra {"azure_identity": "default"} signs in with Microsoft Entra: docs/servers.md.
"""

import os
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from airflow.sdk import dag, task
from pydantic import BaseModel

from airflow_openai_batch.demo.packages import compare_with_topics, write_package_rows
from airflow_openai_batch.operators import OpenAIBatchOperator

# [START azure_labeling]
# A folder or bucket that all workers reach, e.g. abfss://lake@account.dfs.core.windows.net/labeling.
FOLDER = os.environ.get("LABELING_FOLDER") or os.path.join(
    os.environ.get("AIRFLOW_HOME") or os.path.expanduser("~/airflow"), "labeling"
)
ROWS = FOLDER + "/rows/{{ ds }}-azure.parquet"
LABELS = FOLDER + "/labels/{{ ds }}-azure.parquet"

DEPLOYMENT = "labels-batch"
"""A deployment of the type Global Batch or Data Zone Batch."""


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
def azure_labeling() -> None:
    """Label the night's packages by topic, with a deployment at Azure."""

    @task
    def rows(uri: str) -> int:
        return write_package_rows(uri)

    labels = OpenAIBatchOperator(
        task_id="labels",
        conn_id="azure_batch",
        rows=ROWS,
        output=LABELS,
        endpoint="/v1/chat/completions",
        body={
            "model": DEPLOYMENT,
            "messages": [
                {"role": "system", "content": "Choose the topic of this Python package."},
                {"role": "user", "content": "{name}: {summary}\n\n{description}"},
            ],
            "max_completion_tokens": 200,
        },
        response_model=PackageLabel,
        custom_id="{name}",
        prices={DEPLOYMENT: "gpt-6-luna"},  # the deployment's name tells nothing of its model
        max_cost=5,
        deadline=timedelta(days=7),  # Azure does not end a batch after a day
        files_expire_after="14d",  # the shortest life that Azure takes; it keeps only 500 files without one
        retries=2,
    )

    @task
    def report(manifest: dict[str, Any]) -> dict[str, Any]:
        return compare_with_topics(manifest["output"])

    rows(ROWS) >> labels
    report(labels.output)


azure_labeling()
# [END azure_labeling]
