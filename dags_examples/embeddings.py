"""Embed a table of texts: the vectors end up as a column of a Parquet file."""

import os
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import dag, task

from airflow_openai_batch.demo.packages import write_package_rows
from airflow_openai_batch.operators import OpenAIBatchOperator

# [START embeddings]
# A folder or bucket that all workers reach, e.g. s3://aws_default@lake/embeddings.
FOLDER = os.environ.get("EMBEDDINGS_FOLDER") or os.path.join(
    os.environ.get("AIRFLOW_HOME") or os.path.expanduser("~/airflow"), "embeddings"
)
ROWS = FOLDER + "/rows/{{ ds }}.parquet"
VECTORS = FOLDER + "/vectors/{{ ds }}.parquet"


@dag(
    schedule="@weekly",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["openai_batch"],
)
def embeddings() -> None:
    """Embed the descriptions of the installed packages."""

    @task
    def rows(uri: str) -> int:
        return write_package_rows(uri)

    vectors = OpenAIBatchOperator(
        task_id="vectors",
        rows=ROWS,
        output=VECTORS,
        endpoint="/v1/embeddings",
        body={"model": "text-embedding-3-small", "input": "{name}: {summary}\n\n{description}", "dimensions": 256},
        custom_id="{name}",
        retries=2,
    )

    @task
    def neighbours(manifest: dict[str, Any], of: str = "apache-airflow") -> list[str]:
        """Return the five packages whose descriptions are nearest, to see that the vectors mean something."""
        import numpy as np
        import pyarrow.parquet as pq
        from airflow.sdk import ObjectStoragePath

        with ObjectStoragePath(manifest["output"]).open("rb") as file:
            table = [row for row in pq.read_table(file).to_pylist() if row["status"] == "succeeded"]
        matrix = np.array([row["output"] for row in table])  # OpenAI's vectors have length 1
        names = [row["name"] for row in table]
        nearest = np.argsort(-(matrix @ matrix[names.index(of)]))
        return [names[i] for i in nearest[1:6]]

    rows(ROWS) >> vectors
    neighbours(vectors.output)


embeddings()
# [END embeddings]
