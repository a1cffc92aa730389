"""The parts of Airflow's public REST API that tests need, with waits that explain themselves when they run out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import httpx

T = TypeVar("T")
POLL_S = 0.2
FINAL_RUN_STATES = frozenset({"success", "failed"})


class ApiError(RuntimeError):
    """The API answered with an error status."""

    def __init__(self, response: httpx.Response) -> None:
        request = response.request
        super().__init__(f"{request.method} {request.url} → {response.status_code}: {response.text[:2000]}")
        self.status_code = response.status_code


class AirflowApi:
    """A client of /api/v2 in all-admins mode.

    Args:
        base_url: the API server's address.
        check: called at each poll of a wait; raises if waiting has become pointless.
        describe: returns what to add to the message of a wait that failed.
    """

    def __init__(self, base_url: str, check: Callable[[], None], describe: Callable[[], str]) -> None:
        self._check, self._describe = check, describe
        # trust_env=False: a proxy from the environment must not see loopback traffic.
        self._http = httpx.Client(base_url=base_url, timeout=30, trust_env=False)

    def close(self) -> None:
        self._http.close()

    # --- plain calls

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Call `/api/v2{path}` and return the decoded answer (None if it is empty)."""
        if "Authorization" not in self._http.headers:
            self._http.headers["Authorization"] = f"Bearer {self._token()}"
        response = self._http.request(method, f"/api/v2{path}", **options)
        if response.is_error:
            raise ApiError(response)
        return response.json() if response.content else None

    def health(self) -> dict[str, Any]:
        """Ask without a token: this must work before anything else does."""
        response = self._http.get("/api/v2/monitor/health", timeout=5)
        if response.is_error:
            raise ApiError(response)
        return response.json()

    def import_errors(self) -> dict[str, str]:
        """Return file name → traceback of the Dag files that cannot be imported."""
        return {error["filename"]: error["stack_trace"] for error in self.call("GET", "/importErrors")["import_errors"]}

    def connections(self) -> list[dict[str, Any]]:
        """Connections of the metadata database; those from environment variables are not listed by Airflow."""
        return self.call("GET", "/connections")["connections"]

    def pools(self) -> dict[str, dict[str, Any]]:
        return {pool["name"]: pool for pool in self.call("GET", "/pools")["pools"]}

    def used_slots(self, pool: str = "default_pool") -> int:
        """Slots taken by queued and running tasks; deferred tasks take none unless the pool includes them."""
        return self.pools()[pool]["occupied_slots"]

    def live_jobs(self, job_type: str) -> set[int]:
        """Ids of the jobs (`SchedulerJob`, `TriggererJob`, `DagProcessorJob`) that have a recent heartbeat."""
        answer = self.call("GET", "/jobs", params={"job_type": job_type, "is_alive": True})
        return {job["id"] for job in answer["jobs"]}

    # --- Dags and runs

    def unpause(self, dag_id: str, timeout: float = 60) -> None:
        """Wait until the Dag has been parsed, then let its runs start."""

        def is_unpaused() -> bool:
            try:
                return not self.call("PATCH", f"/dags/{dag_id}", json={"is_paused": False})["is_paused"]
            except ApiError as error:
                if error.status_code != httpx.codes.NOT_FOUND:
                    raise
                return False

        self.wait_until(is_unpaused, f"Dag {dag_id} to be parsed", timeout, more=self._import_errors_text)

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Create a Dag run and return its id."""
        body = {"logical_date": None, "conf": conf or {}}
        return self.call("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"]

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        return self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        self.call("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", json={"state": state})

    def delete_run(self, dag_id: str, run_id: str) -> None:
        """Delete a run; Airflow refuses (409) while it is running."""
        self.call("DELETE", f"/dags/{dag_id}/dagRuns/{run_id}")

    def wait_for_run(self, dag_id: str, run_id: str, state: str = "success", timeout: float = 60) -> dict[str, Any]:
        """Wait until the run has reached the state; fails at once if it ends in the other final state."""

        def reached() -> dict[str, Any] | None:
            run = self.run(dag_id, run_id)
            if run["state"] != state and run["state"] in FINAL_RUN_STATES:
                text = f"{dag_id} {run_id} is {run['state']}, expected {state}\n"
                raise AssertionError(text + self._run_text(dag_id, run_id) + self._describe())
            return run if run["state"] == state else None

        what = f"{dag_id} {run_id} to be {state}"
        return self.wait_until(reached, what, timeout, more=lambda: self._run_text(dag_id, run_id))

    # --- task instances

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        return self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]

    def task_instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        return self.call("GET", _task_path(dag_id, run_id, task_id, map_index))

    def set_task_state(self, dag_id: str, run_id: str, task_id: str, state: str, map_index: int = -1) -> None:
        """Mark a task instance `success`, `failed` or `skipped`, as a person does in the UI."""
        self.call("PATCH", _task_path(dag_id, run_id, task_id, map_index), json={"new_state": state})

    def clear(self, dag_id: str, run_id: str, task_ids: Iterable[str], **options: Any) -> list[str]:
        """Clear task instances, whatever their state, and return the ids of the tasks it touched."""
        body = {"dry_run": False, "only_failed": False, "dag_run_id": run_id, "task_ids": list(task_ids), **options}
        answer = self.call("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)
        return [instance["task_id"] for instance in answer["task_instances"]]

    def wait_for_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        state: str,
        timeout: float = 60,
        *,
        map_index: int = -1,
        try_number: int | None = None,
    ) -> dict[str, Any]:
        """Wait until the task instance has the state (and, if given, has reached that try)."""

        def reached() -> dict[str, Any] | None:
            instance = self.task_instance(dag_id, run_id, task_id, map_index)
            is_reached = instance["state"] == state and instance["try_number"] >= (try_number or 0)
            return instance if is_reached else None

        what = f"{dag_id}.{task_id} to be {state}" + (f" in try {try_number}" if try_number else "")
        return self.wait_until(reached, what, timeout, more=lambda: self._run_text(dag_id, run_id))

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """Return the log of one try as lines of text, the triggerer's part included; works while it is deferred."""
        # The log's path takes no map index; it is a query parameter here.
        path = f"{_task_path(dag_id, run_id, task_id)}/logs/{try_number}"
        answer = self.call(
            "GET",
            path,
            params={"full_content": True, "map_index": map_index},
            headers={"Accept": "application/json"},
        )
        lines = [_log_line(line) for line in answer["content"]]
        # The first group tells where Airflow looked for the log, not what the task said.
        body = lines.index("::endgroup::") + 1 if "::endgroup::" in lines else 0
        return "\n".join(lines[body:])

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """Return an XCom's value; ApiError 404 if there is none."""
        path = f"{_task_path(dag_id, run_id, task_id)}/xcomEntries/{key}"
        return self.call("GET", path, params={"map_index": map_index, "stringify": False})["value"]

    def wait_for_xcom(
        self, dag_id: str, run_id: str, task_id: str, key: str, timeout: float = 60, map_index: int = -1
    ) -> Any:
        """Wait until the XCom exists and return its value."""

        def reached() -> tuple[Any] | None:
            try:
                return (self.xcom(dag_id, run_id, task_id, key, map_index),)
            except ApiError as error:
                if error.status_code != httpx.codes.NOT_FOUND:
                    raise
                return None

        what = f"XCom {key} of {dag_id}.{task_id}"
        return self.wait_until(reached, what, timeout, more=lambda: self._run_text(dag_id, run_id))[0]

    # --- waiting

    def wait_until(self, probe: Callable[[], T | None], what: str, timeout: float, more: Callable[[], str] = str) -> T:
        """Poll until the probe returns something true; an API server that does not answer counts as not yet."""
        deadline = time.monotonic() + timeout
        while True:
            self._check()
            try:
                if result := probe():
                    return result
            except httpx.TransportError:
                result = None
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {timeout:g} s for {what}\n{_or_error(more)}{self._describe()}")
            time.sleep(POLL_S)

    def _token(self) -> str:
        response = self._http.get("/auth/token")
        if response.is_error:
            raise ApiError(response)
        return response.json()["access_token"]

    def _import_errors_text(self) -> str:
        return "".join(f"import error in {name}:\n{trace}\n" for name, trace in self.import_errors().items())

    def _run_text(self, dag_id: str, run_id: str) -> str:
        """Describe every task of the run, and show the log of those that are not well."""
        text = f"run is {self.run(dag_id, run_id)['state']}\n"
        for task in self.task_instances(dag_id, run_id):
            index = task["map_index"]
            text += f"task {task['task_id']}[{index}]: {task['state']}, try {task['try_number']}\n"
            if task["try_number"] and task["state"] != "success":
                text += _or_error(
                    lambda task=task, index=index: self.task_log(
                        dag_id, run_id, task["task_id"], task["try_number"], index
                    )[-4000:]
                )
        return text + "\n"


def _task_path(dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str:
    path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
    return path if map_index < 0 else f"{path}/{map_index}"


def _log_line(line: str | dict[str, Any]) -> str:
    if isinstance(line, str):
        return line
    words = (line.get("timestamp"), line.get("level"), line.get("event"))
    text = " ".join(str(word) for word in words if word)
    return text + (" " + json.dumps(line["error_detail"]) if line.get("error_detail") else "")


def _or_error(describe: Callable[[], str]) -> str:
    """A description must never hide the failure it belongs to."""
    try:
        return describe()
    except (ApiError, httpx.HTTPError) as error:
        return f"(no details: {error})\n"
