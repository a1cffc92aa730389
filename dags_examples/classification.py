"""Sort texts into classes: a Pydantic class says which there are, and the model is held to it.

For tickets, reviews or transactions that need one label of a fixed list, and whatever else the class asks for.
"""

import os
from datetime import UTC, datetime
from typing import Literal

from airflow.sdk import dag
from pydantic import BaseModel, Field

from airflow_openai_batch.demo.packages import package_rows
from airflow_openai_batch.operators import OpenAIBatchOperator

# [START classification]
FOLDER = os.environ.get("LABELING_FOLDER") or os.path.expanduser("~/airflow/labeling")  # or s3://aws_default@lake/…


class Label(BaseModel):
    """The answer for one row: each field becomes a column, with its type."""

    topic: Literal["Database", "Internet", "Security", "System", "Other"]
    is_for_developers: bool
    keywords: list[str] = Field(max_length=3, description="At most three, in lower case.")


@dag(schedule="@daily", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, tags=["openai_batch"])
def classification() -> None:
    """Classify the installed Python packages by what they say of themselves."""
    OpenAIBatchOperator(
        task_id="classify",
        rows=package_rows,  # your own: a path, a DataFrame, SqlQuery(…), another task's output
        endpoint="/v1/responses",
        body={
            "model": "gpt-6-luna",
            "instructions": "Classify this Python package. Choose Other only if nothing else fits.",
            "input": "{name}: {summary}",
            "max_output_tokens": 200,
        },
        response_model=Label,
        retry_on=["invalid"],  # ask once more what does not match the class
        custom_id="{name}",
        output=FOLDER + "/classes/{{ ds }}.csv",
        drop_columns=["description", "output"],
        max_cost=5,
    )


classification()
# [END classification]
