"""A Dag of the shape of dags_examples/nightly_labeling.py, with operators of Airflow's own: what any Dag costs."""

from datetime import UTC, datetime
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import dag, task
from pydantic import BaseModel


class Label(BaseModel):
    """An answer."""

    topic: str
    confidence: float
    evidence: str


@dag(schedule="@daily", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, max_active_runs=1, tags=["plain"])
def plain() -> None:
    """Do nothing five times."""

    @task
    def rows(uri: str) -> int:
        return len(uri)

    submit, wait, results = (EmptyOperator(task_id=name, retries=2) for name in ("submit", "wait", "results"))

    @task
    def report(manifest: dict[str, Any]) -> dict[str, Any]:
        return manifest

    rows("rows/{{ ds }}.parquet") >> submit >> wait >> results
    report(results.output)


plain()
