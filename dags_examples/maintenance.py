"""Keep the storage within bounds: once a week, what is old or what nobody needs goes."""

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag

from airflow_openai_batch.operators import OpenAIBatchCleanupOperator


# [START maintenance]
@dag(schedule="@weekly", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, tags=["openai_batch"])
def maintenance() -> None:
    """Remove jobs that ended three months ago, and files that no job needs, in the storage and at OpenAI."""
    OpenAIBatchCleanupOperator(task_id="clean", older_than=timedelta(days=90), retries=2)


maintenance()
# [END maintenance]
