"""Rows from databases and results into them, through the connections of Airflow's own SQL hooks."""

from airflow_openai_batch.sql.query import SqlQuery
from airflow_openai_batch.sql.table import SqlTable

__all__ = ["SqlQuery", "SqlTable"]
