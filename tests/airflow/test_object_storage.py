"""Rows, job store and results on a real S3 server, through Airflow's own object storage paths and connection."""

from __future__ import annotations

import json

import pandas as pd
import pytest


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, s3_endpoint: str) -> dict[str, object]:
    import s3fs

    connection = {
        "conn_type": "aws",
        "login": "key",
        "password": "secret",
        "extra": {"endpoint_url": s3_endpoint, "region_name": "us-east-1"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_AWS_LAKE", json.dumps(connection))
    options = {"key": "key", "secret": "secret", "client_kwargs": {"endpoint_url": s3_endpoint}}
    s3fs.S3FileSystem(**options).makedirs("lake", exist_ok=True)
    return options


def test_rows_store_and_results_live_on_s3(run_dag, emulator, s3, monkeypatch: pytest.MonkeyPatch) -> None:
    pd.DataFrame({"text": ["a", "b", "c"]}).to_parquet("s3://lake/in/t.parquet", storage_options=s3)
    monkeypatch.setenv("STORE", "s3://aws_lake@lake/jobs")
    run = run_dag("""
        submit = OpenAIBatchSubmitOperator(task_id="submit", rows="s3://aws_lake@lake/in/{{ 't' }}.parquet", **CHAT)
        wait = OpenAIBatchSensor(task_id="wait", job=submit.output)
        results = OpenAIBatchResultsOperator(
            task_id="results", job=submit.output, output="s3://aws_lake@lake/out/labels.parquet"
        )
        wait >> results
    """)
    assert run.state == "success"
    frame = pd.read_parquet("s3://lake/out/labels.parquet", storage_options=s3)
    assert list(frame["text"]) == ["a", "b", "c"]
    assert set(frame["status"]) == {"succeeded"}
    assert run.xcom("results")["output"] == "s3://aws_lake@lake/out/labels.parquet"
    assert len(emulator.batches) == 1


def test_a_bucket_that_is_not_there_is_named_before_anything_is_sent(run_dag, emulator, s3, monkeypatch) -> None:
    monkeypatch.setenv("STORE", "s3://aws_lake@nowhere/jobs")
    run = run_dag("OpenAIBatchSubmitOperator(task_id='submit', rows=ROWS, **CHAT)")
    assert run.states == {"submit": "failed"}
    assert emulator.ledger.calls == []
