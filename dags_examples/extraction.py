"""Take structured facts out of long documents: each is cut into pieces that overlap, and the findings are put together.

For contracts, reports or manuals that are longer than a prompt should be. A piece is a row of its own, so that one
that fails is asked again alone; what several pieces say of a document is merged at the end.
"""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from airflow.sdk import dag, task
from pydantic import BaseModel

from airflow_openai_batch.demo.packages import package_rows
from airflow_openai_batch.operators import OpenAIBatchOperator

# [START extraction]
FOLDER = os.environ.get("LABELING_FOLDER") or os.path.expanduser("~/airflow/labeling")
PIECE_CHARS, OVERLAP_CHARS = 800, 100  # some thousands for real documents


class Link(BaseModel):
    """One thing that a document links to."""

    what: Literal["documentation", "source code", "chat", "other"]
    url: str


class Facts(BaseModel):
    """What one piece of a document says."""

    links: list[Link]


def pieces() -> Iterator[dict[str, Any]]:
    """Yield the documents in pieces; a fact on a border is whole in one of the two."""
    for row in package_rows():
        for start in range(0, max(1, len(row["description"]) - OVERLAP_CHARS), PIECE_CHARS - OVERLAP_CHARS):
            yield {"document": row["name"], "start": start, "piece": row["description"][start : start + PIECE_CHARS]}


@dag(schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), tags=["openai_batch"])
def extraction() -> None:
    """Collect the links in the descriptions of the installed Python packages."""
    facts = OpenAIBatchOperator(
        task_id="facts",
        rows=pieces,
        endpoint="/v1/responses",
        body={"model": "gpt-6-luna", "instructions": "List the links in the text.", "input": "{piece}"},
        response_model=Facts,
        custom_id="{document}-{start}",
        output=FOLDER + "/facts/{{ run_id }}.parquet",
    )

    @task
    def merge(manifest: dict[str, Any]) -> dict[str, int]:
        """Return how many different links each document has."""
        import pyarrow.parquet as pq
        from airflow.sdk import ObjectStoragePath

        found: dict[str, set[str]] = {}
        with ObjectStoragePath(manifest["output"]).open("rb") as file:
            for row in pq.read_table(file, columns=["document", "links"]).to_pylist():
                links = map(json.loads, row["links"] or [])  # an object in a list is JSON in Parquet
                found.setdefault(row["document"], set()).update(link["url"] for link in links)
        return {document: len(urls) for document, urls in found.items()}

    merge(facts.output)


extraction()
# [END extraction]
