"""Label texts with `@task.openai_batch`: the function returns the rows, the decorator says what is asked of each.

For a few thousand rows: they are made in the task itself, and the answers go to the next task through XCom.
"""

from collections import Counter
from datetime import UTC, datetime
from typing import Any, Literal

from airflow.sdk import dag, task
from pydantic import BaseModel

from airflow_openai_batch.demo.packages import package_rows


# [START taskflow_labeling]
class PackageLabel(BaseModel):
    """The answer for one row."""

    topic: Literal["Database", "Internet", "Security", "Software Development", "System", "Text Processing", "Other"]


@dag(schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), tags=["openai_batch"])
def taskflow_labeling() -> None:
    """Label packages by topic; no files."""

    @task.openai_batch(
        endpoint="/v1/responses",
        body={"model": "gpt-6-luna", "instructions": "Choose the topic of this package.", "input": "{name}: {summary}"},
        response_model=PackageLabel,
        custom_id="{name}",
        output=None,  # the rows themselves, refused above a megabyte; give a path for more
    )
    def labels() -> list[dict[str, Any]]:
        return [{"name": row["name"], "summary": row["summary"]} for row in package_rows()]

    @task
    def count(rows: list[dict[str, Any]]) -> dict[str, int]:
        # A row without a good answer is among the rows too: its status says so, its topic is None.
        return dict(Counter(row["topic"] or row["status"] for row in rows))

    count(labels())


taskflow_labeling()
# [END taskflow_labeling]
