"""Rows from a query, results into a table: every night what has no label yet.

Here in SQLite, so that it runs anywhere; with the connection of a PostgreSQL or DuckDB it is the same Dag. The table
is written in one transaction, and a retry changes nothing.
"""

import os
from contextlib import closing
from datetime import UTC, datetime
from typing import Literal

from airflow.sdk import dag, task
from pydantic import BaseModel

from airflow_openai_batch.demo.packages import package_rows
from airflow_openai_batch.operators import OpenAIBatchOperator
from airflow_openai_batch.sql import SqlQuery, SqlTable

# [START sql_in_and_out]
CONN_ID = os.environ.get("LABELING_DATABASE") or "sqlite_default"
UNLABELED = """
    SELECT name, summary FROM packages WHERE name NOT IN (SELECT name FROM package_labels) ORDER BY name
"""


class Label(BaseModel):
    """The answer for one row."""

    topic: Literal["Database", "Internet", "Security", "System", "Other"]


@dag(schedule="@daily", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, tags=["openai_batch"])
def sql_in_and_out() -> None:
    """Label the packages in a database that have no label yet."""

    @task
    def tables() -> None:
        """Make tables to try this with; a database of your own has them."""
        from airflow.providers.sqlite.hooks.sqlite import SqliteHook

        with closing(SqliteHook(CONN_ID).get_conn()) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS packages (name TEXT PRIMARY KEY, summary TEXT)")
            connection.execute("CREATE TABLE IF NOT EXISTS package_labels (name TEXT PRIMARY KEY, topic TEXT)")
            rows = [(row["name"], row["summary"]) for row in package_rows()]
            connection.executemany("INSERT OR IGNORE INTO packages VALUES (?, ?)", rows)

    labels = OpenAIBatchOperator(
        task_id="labels",
        rows=SqlQuery(UNLABELED, conn_id=CONN_ID),
        endpoint="/v1/responses",
        body={"model": "gpt-6-luna", "instructions": "Choose the topic.", "input": "{name}: {summary}"},
        response_model=Label,
        on_empty="skip",  # a night without new packages
        output=SqlTable("package_labels", conn_id=CONN_ID, key=["name"], columns=["name", "topic"], only_good=True),
    )
    tables() >> labels


sql_in_and_out()
# [END sql_in_and_out]
