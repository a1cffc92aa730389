"""Label texts with a confidence, send what is doubtful to people, and turn the rest into training data.

The doubtful rows are a file for Label Studio's import (with the model's label as a prediction and its confidence as
the score) and one for Argilla; the sure ones are lines for OpenAI's fine-tuning. docs/annotation.md has the labeling
configuration.
"""

import json
import os
from datetime import UTC, datetime
from typing import Any, Literal

from airflow.sdk import ObjectStoragePath, dag, task
from pydantic import BaseModel, Field

from airflow_openai_batch.annotation import argilla_records, fine_tuning_examples, label_studio_tasks, split
from airflow_openai_batch.demo.packages import package_rows
from airflow_openai_batch.operators import OpenAIBatchOperator

# [START annotated_labeling]
FOLDER = os.environ.get("LABELING_FOLDER") or os.path.expanduser("~/airflow/labeling")
DAY = FOLDER + "/annotation/{{ ds }}"


class Label(BaseModel):
    """The answer for one row."""

    topic: Literal["Database", "Internet", "Security", "System", "Other"]
    confidence: float = Field(ge=0, le=1, description="How sure you are: 0.5 is a coin toss.")


@dag(schedule="@daily", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, tags=["openai_batch"])
def annotated_labeling() -> None:
    """Label the installed Python packages; people look at what the model is not sure of."""
    labels = OpenAIBatchOperator(
        task_id="labels",
        rows=package_rows,
        endpoint="/v1/responses",
        body={"model": "gpt-6-luna", "instructions": "Choose the topic.", "input": "{name}: {summary}"},
        response_model=Label,
        custom_id="{name}",
        output=DAY + "/labels.parquet",
    )

    @task
    def route(manifest: dict[str, Any], folder: str) -> dict[str, int]:
        """Write the files and return how many rows each has."""
        import pyarrow.parquet as pq

        with ObjectStoragePath(manifest["output"]).open("rb") as file:
            sure, doubtful = split(pq.read_table(file).to_pylist(), threshold=0.8)
        shown = ["name", "summary"]
        tasks = list(label_studio_tasks(doubtful, label="topic", data=shown, from_name="topic", to_name="summary"))
        records = list(argilla_records(doubtful, label="topic", fields=shown, question="topic"))
        lines = list(fine_tuning_examples(sure, user="{name}: {summary}", assistant="{topic}"))
        path = ObjectStoragePath(folder)
        (path / "label_studio.json").write_text(json.dumps(tasks))
        (path / "argilla.json").write_text(json.dumps(records))
        (path / "fine_tuning.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return {"to_people": len(tasks), "to_training": len(lines)}

    route(labels.output, DAY)


annotated_labeling()
# [END annotated_labeling]
