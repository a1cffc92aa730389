"""Check texts of users with the moderation endpoint, which costs nothing, and hand on those that it flags.

For comments, reviews or chats of a night; a person, or a stricter prompt, looks at what was flagged.
"""

import json
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import dag, task

from airflow_openai_batch.demo.packages import package_rows
from airflow_openai_batch.operators import OpenAIBatchOperator


# [START moderation]
@dag(schedule="@daily", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, tags=["openai_batch"])
def moderation() -> None:
    """Moderate the summaries of the installed Python packages."""
    checked = OpenAIBatchOperator(
        task_id="checked",
        rows=package_rows,
        endpoint="/v1/moderations",
        body={"model": "omni-moderation-latest", "input": "{summary}"},
        custom_id="{name}",
        output=None,  # the rows themselves; give a path for more than a megabyte
        drop_columns=["description", "topics", "frameworks"],
        max_bad_ratio=0,  # a text that was not checked must not pass
    )

    @task
    def flagged(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
        """Return the names of what was flagged, with the categories."""
        found = {row["name"]: json.loads(row["output"])[0] for row in rows if row["status"] == "succeeded"}
        return {
            name: sorted(category for category, is_hit in result["categories"].items() if is_hit)
            for name, result in found.items()
            if result["flagged"]
        }

    flagged(checked.output)


moderation()
# [END moderation]
