"""Airflow's REST API in this process: what tests read of a run, they read as people do, not in its tables."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def _client() -> Any:
    """The API of this process's Airflow, with the session of an admin: everybody is one."""
    from airflow.api_fastapi.app import create_app
    from starlette.testclient import TestClient

    client = TestClient(create_app("core"))
    client.headers["Authorization"] = f"Bearer {client.get('/auth/token').json()['access_token']}"
    return client


def call(method: str, path: str, body: Any = None, **query: Any) -> Any:
    """Call a route of ``/api/v2`` and return its answer; None if what it names does not exist."""
    answer = _client().request(method, f"/api/v2{path}", json=body, params=query)
    if answer.status_code == 404:
        return None
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def run_path(dag_id: str, run_id: str) -> str:
    return f"/dags/{dag_id}/dagRuns/{run_id}"


def task_instances(dag_id: str, run_id: str) -> list[dict[str, Any]]:
    """All task instances of a run."""
    return list(call("GET", f"{run_path(dag_id, run_id)}/taskInstances", limit=100)["task_instances"])


def states(dag_id: str, run_id: str) -> dict[str, str]:
    """The states of a run's tasks, by id."""
    return {ti["task_id"]: str(ti["state"]) for ti in task_instances(dag_id, run_id)}


def rendered_fields(dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
    """A task's fields, as the UI shows them."""
    return dict(call("GET", f"{run_path(dag_id, run_id)}/taskInstances/{task_id}")["rendered_fields"])


def xcom(dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
    """The value of an XCom; None if there is none."""
    path = f"{run_path(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/{key}"
    entry = call("GET", path, map_index=map_index, deserialize=False, stringify=False)
    return entry["value"] if entry is not None else None


def xcoms(dag_id: str, run_id: str) -> list[Any]:
    """The values of all XComs of a run."""
    listed = call("GET", f"{run_path(dag_id, run_id)}/taskInstances/~/xcomEntries", limit=100)["xcom_entries"]
    return [xcom(dag_id, run_id, entry["task_id"], entry["key"], entry["map_index"]) for entry in listed]


def asset_events() -> list[dict[str, Any]]:
    """All asset events, oldest first."""
    return list(call("GET", "/assets/events", order_by="timestamp", limit=100)["asset_events"])
