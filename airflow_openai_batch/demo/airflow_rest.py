"""The few calls of Airflow's public REST API that the demo makes."""

from __future__ import annotations

import datetime
import json
from typing import Any

import httpx

API = "/api/v2"


class AirflowRest:
    """A client of an Airflow in which everybody is an admin.

    Args:
        base_url: The API server's address.
    """

    def __init__(self, base_url: str) -> None:
        # trust_env=False: a proxy from the environment must not see loopback traffic.
        self._http = httpx.Client(base_url=base_url, timeout=60, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def is_up(self) -> bool:
        """Say whether the API server answers."""
        try:
            return self._http.get(f"{API}/monitor/health", timeout=3).is_success
        except httpx.HTTPError:
            return False

    def import_errors(self) -> list[str]:
        """Return what went wrong in Dag files."""
        return [str(error["stack_trace"]) for error in self._call("GET", "/importErrors")["import_errors"]]

    def knows(self, dag_id: str) -> bool:
        """Say whether the Dag has been parsed."""
        return any(dag["dag_id"] == dag_id for dag in self._call("GET", "/dags")["dags"])

    def fail_unfinished_runs(self, dag_id: str) -> int:
        """Mark runs that an interrupted demo left behind as failed, and return how many there were."""
        runs = self._call("GET", f"/dags/{dag_id}/dagRuns?state=running&state=queued")["dag_runs"]
        for run in runs:
            self._call("PATCH", f"/dags/{dag_id}/dagRuns/{run['dag_run_id']}", json={"state": "failed"})
        return len(runs)

    def trigger(self, dag_id: str) -> str:
        """Start a run for this moment and return its id."""
        # Without a logical date there would be no {{ ds }}.
        now = datetime.datetime.now(datetime.UTC).isoformat()
        run = self._call("POST", f"/dags/{dag_id}/dagRuns", json={"logical_date": now})
        return str(run["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run."""
        return str(self._call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the tasks of a run."""
        found: list[dict[str, Any]] = self._call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")[
            "task_instances"
        ]
        return found

    def pool(self) -> dict[str, Any]:
        """Return the slots of the default pool."""
        found: dict[str, Any] = self._call("GET", "/pools/default_pool")
        return found

    def returned(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return what a task returned."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        value = self._call("GET", path)["value"]
        return json.loads(value) if isinstance(value, str) else value

    def _call(self, method: str, path: str, **options: Any) -> Any:
        if "Authorization" not in self._http.headers:
            token = self._http.get("/auth/token").raise_for_status().json()["access_token"]
            self._http.headers["Authorization"] = f"Bearer {token}"
        return self._http.request(method, f"{API}{path}", **options).raise_for_status().json()
