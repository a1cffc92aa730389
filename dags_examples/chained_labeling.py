"""Two batches in a row: one labels, the next judges the labels; the results of the first are the rows of the second.

For answers that need a check by a larger model before anybody relies on them. Only good answers are judged, and the
label of one that does not hold is taken away.
"""

import os
from datetime import UTC, datetime
from typing import Any, Literal

from airflow.sdk import ObjectStoragePath, dag, task
from pydantic import BaseModel

from airflow_openai_batch.demo.packages import package_rows
from airflow_openai_batch.operators import OpenAIBatchOperator

# [START chained_labeling]
FOLDER = os.environ.get("LABELING_FOLDER") or os.path.expanduser("~/airflow/labeling")


class Label(BaseModel):
    """The answer of the first model."""

    topic: Literal["Database", "Internet", "Security", "System", "Other"]


class Judgement(BaseModel):
    """The answer of the second: the reason first, so that the verdict follows from it."""

    reason: str
    verdict: Literal["holds", "does not hold"]


@dag(schedule="@daily", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, tags=["openai_batch"])
def chained_labeling() -> None:
    """Label the installed Python packages, and have the labels judged."""
    labels = OpenAIBatchOperator(
        task_id="labels",
        rows=package_rows,
        endpoint="/v1/responses",
        body={"model": "gpt-6-luna", "instructions": "Choose the topic.", "input": "{name}: {summary}"},
        response_model=Label,
        custom_id="{name}",
        output=FOLDER + "/labels/{{ ds }}-to-judge.parquet",
    )

    @task.openai_batch(
        endpoint="/v1/responses",
        body={"model": "gpt-6-sol", "input": "Does the topic {topic} fit this package?\n\n{name}: {summary}"},
        response_model=Judgement,
        custom_id="{name}",
        output=FOLDER + "/labels/{{ ds }}-judged.parquet",
    )
    def judged(manifest: dict[str, Any]) -> Any:
        """Return the labeled rows as a table: it may be larger than XCom takes, as it does not go through it."""
        import pyarrow.parquet as pq

        with ObjectStoragePath(manifest["output"]).open("rb") as file:
            return pq.read_table(file, columns=["name", "summary", "topic"], filters=[("status", "==", "succeeded")])

    judged(labels.output)


chained_labeling()
# [END chained_labeling]
