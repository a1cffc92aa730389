"""What the demos run, and what the emulator of OpenAI does to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow_openai_batch.demo.packages import package_rows
from airflow_openai_batch.demo.stack import Scene
from airflow_openai_batch.examples import examples_folder

FAILING_ROWS = (7, 31, 64, 98)
"""Rows of the first batch that are answered with an error 500, once, so that a second round is seen."""

_SAME_QUEUE = ("package_summaries", "package_slogans")

BUSY_NIGHT = {
    "package_summaries": "many small batches, some at a time",
    "package_facts": "bad rows, more than are allowed: red at the end",
    "nightly_labeling": "goes well; some rows are asked again",
    "partitioned_labeling": "mapped: a job for each file",
    "package_slogans": "waits for room in OpenAI's queue, which the summaries fill",
}
"""Dags of the busy night, in the order of their start, and what is to be seen of each."""


def nightly_labeling(batch_s: float) -> Scene:
    """Return one Dag with a second round."""
    error = {"http_error": {"status": 500, "code": "server_error"}}
    return Scene(batch_s=batch_s, faults=[{"on": "row", "match": {"batch": 1, "nth": list(FAILING_ROWS)}, "do": error}])


def busy_night(batch_s: float) -> Scene:
    """Return several Dags with jobs in all states."""
    n_packages = sum(1 for _ in package_rows())
    files = [examples_folder() / f"{name}.py" for name in ("nightly_labeling", "partitioned_labeling")]
    return Scene(
        batch_s=batch_s,
        faults=[
            *(_rows_of("package_facts", fault, 0.02) for fault in ("invalid", "refusal")),
            _rows_of("package_facts", _error(400, "context_length_exceeded", "The input is too long."), 0.02),
            _rows_of("nightly_labeling", _error(500, "server_error", "The server had an error."), 0.03),
            *(_queue_of(dag_id, n_packages + 5) for dag_id in _SAME_QUEUE),
            # Else their batches could be over before the other's begin, where Airflow is slow to start tasks.
            *(_slow(dag_id, 4 * batch_s) for dag_id in _SAME_QUEUE),
        ],
        dags=[Path(__file__).parent / "dags" / "busy_night.py", *files],
    )


def _rows_of(dag_id: str, fault: Any, share: float) -> dict[str, Any]:
    return {"on": "row", "match": {"metadata": {"dag_id": dag_id}}, "do": fault, "probability": share}


def _error(status: int, code: str, message: str) -> dict[str, Any]:
    return {"http_error": {"status": status, "code": code, "message": message}}


def _queue_of(dag_id: str, n_requests: int) -> dict[str, Any]:
    """Return a queue that has room for the slogans, or for summaries, and for none of the others beside them."""
    limit = {"queue_limit": {"requests": n_requests}}
    return {"on": "batch", "match": {"metadata": {"dag_id": dag_id}}, "do": limit}


def _slow(dag_id: str, seconds: float) -> dict[str, Any]:
    return {
        "on": "batch",
        "match": {"metadata": {"dag_id": dag_id}},
        "do": {"stuck": {"seconds": seconds, "state": "in_progress"}},
    }
