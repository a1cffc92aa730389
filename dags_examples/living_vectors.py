"""Keep a table of vectors as its documents are: each night only what is new or changed is embedded."""

import os
from datetime import UTC, datetime, timedelta

from airflow.sdk import dag

from airflow_openai_batch.chunking import Chunks
from airflow_openai_batch.operators import OpenAIBatchOperator
from airflow_openai_batch.options import Reuse
from airflow_openai_batch.sql import SqlQuery, SqlTable

# [START living_vectors]
# A connection of a PostgreSQL with pgvector.
WAREHOUSE = os.environ.get("VECTORS_CONN_ID", "warehouse")
DOCUMENTS = "SELECT id, title, body FROM documents ORDER BY id"


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["openai_batch"],
)
def living_vectors() -> None:
    """Cut the documents into chunks, embed those without a vector, and let the table have just these chunks."""
    OpenAIBatchOperator(
        task_id="vectors",
        rows=Chunks(SqlQuery(DOCUMENTS, WAREHOUSE), text="body", key="id", max_tokens=400, overlap=40),
        endpoint="/v1/embeddings",
        body={"model": "text-embedding-3-small", "input": "{title}\n\n{body}"},
        custom_id="{chunk_id}",
        reuse=Reuse("document_vectors", max_age=timedelta(days=400)),
        output=SqlTable(
            "document_chunks",
            WAREHOUSE,
            key=["chunk_id"],
            columns={
                "chunk_id": "chunk_id",
                "id": "document_id",
                "chunk_start": "chunk_start",
                "body": "text",
                "output": "embedding",
            },
            create=True,
            delete_vanished=True,
        ),
        retries=2,
    )


living_vectors()
# [END living_vectors]
