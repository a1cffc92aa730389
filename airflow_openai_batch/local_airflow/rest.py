"""The parts of Airflow's public REST API that we need, with waits that explain themselves when they run out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import httpx

from airflow_openai_batch.local_airflow.processes import PATIENCE_S, StackError

T = TypeVar("T")
POLL_S = 0.2
FINAL_RUN_STATES = frozenset({"success", "failed"})


class ApiError(httpx.HTTPStatusError):
    """The API answered with an error status."""

    def __init__(self, response: httpx.Response) -> None:
        request, self.status_code = response.request, response.status_code
        text = f"{request.method} {request.url} → {self.status_code}: {response.text[:2000]}"
        super().__init__(text, request=request, response=response)


class AirflowRest:
    """A client of /api/v2 of an Airflow in which everybody is an admin.

    Args:
        base_url: The API server's address.
        check: Called at each poll of a wait; raises if waiting has become pointless.
        describe: Returns what to add to the message of a wait that failed.
    """

    def __init__(
        self, base_url: str, check: Callable[[], None] = lambda: None, describe: Callable[[], str] = str
    ) -> None:
        self._check, self._describe = check, describe
        # trust_env=False: a proxy from the environment must not see loopback traffic.
        self._http = httpx.Client(base_url=base_url, timeout=30, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- plain calls

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Call `/api/v2{path}` and return the decoded answer (None if it is empty).

        Args:
            method: `GET`, `POST`, …
            path: What follows `/api/v2`.
            options: What `httpx.Client.request` takes besides.

        Raises:
            ApiError: The answer has an error status.
        """
        if "Authorization" not in self._http.headers:
            token = _checked(self._http.get("/auth/token")).json()["access_token"]
            self._http.headers["Authorization"] = f"Bearer {token}"
        response = _checked(self._http.request(method, f"/api/v2{path}", **options))
        return response.json() if response.content else None

    def health(self) -> dict[str, Any]:
        """Return the state of each component; needs no token, as this must work before anything else does."""
        parts: dict[str, Any] = _checked(self._http.get("/api/v2/monitor/health", timeout=5)).json()
        return parts

    def import_errors(self) -> dict[str, str]:
        """Return file name → traceback of the Dag files that cannot be imported."""
        return {error["filename"]: error["stack_trace"] for error in self.call("GET", "/importErrors")["import_errors"]}

    def used_slots(self, pool: str = "default_pool") -> int:
        """Return the slots taken by queued and running tasks; deferred tasks take none unless the pool says so."""
        return int(self.call("GET", f"/pools/{pool}")["occupied_slots"])

    def live_jobs(self, job_type: str) -> set[int]:
        """Return the ids of the jobs (`SchedulerJob`, `TriggererJob`, …) that have a recent heartbeat."""
        answer = self.call("GET", "/jobs", params={"job_type": job_type, "is_alive": True})
        return {job["id"] for job in answer["jobs"]}

    # --- Dags and runs

    def unpause(self, dag_id: str, timeout: float = PATIENCE_S) -> None:
        """Wait until the Dag has been parsed, then let its runs start.

        Raises:
            StackError: A Dag file cannot be imported.
            TimeoutError: The Dag is not there in time.
        """

        def is_unpaused() -> bool:
            try:
                return not self.call("PATCH", f"/dags/{dag_id}", json={"is_paused": False})["is_paused"]
            except ApiError as error:
                if error.status_code != httpx.codes.NOT_FOUND:
                    raise
            for name, trace in self.import_errors().items():
                raise StackError(f"{name} cannot be imported:\n{trace}")
            return False

        self.wait_until(is_unpaused, f"Dag {dag_id} to be parsed", timeout)

    def trigger(
        self,
        dag_id: str,
        conf: dict[str, Any] | None = None,
        *,
        logical_date: str | None = None,
        run_id: str | None = None,
    ) -> str:
        """Create a Dag run and return its id, which Airflow makes unless it is given.

        Args:
            dag_id: The Dag.
            conf: The run's configuration.
            logical_date: When the run is for, as ISO 8601.
            run_id: The run's id.
        """
        body = {"logical_date": logical_date, "conf": conf or {}} | ({"dag_run_id": run_id} if run_id else {})
        return str(self.call("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return a Dag run."""
        run: dict[str, Any] = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")
        return run

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a Dag run."""
        return str(self.run(dag_id, run_id)["state"])

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        """Mark a Dag run, as a person does in the UI.

        Args:
            dag_id: The Dag.
            run_id: Its run.
            state: A state of Airflow's, such as `success`.
        """
        self.call("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", json={"state": state})

    def fail_unfinished_runs(self, dag_id: str) -> None:
        """Mark the runs of a Dag that have not ended as failed."""
        for run in self.call("GET", f"/dags/{dag_id}/dagRuns?state=running&state=queued")["dag_runs"]:
            self.set_run_state(dag_id, run["dag_run_id"], "failed")

    def delete_run(self, dag_id: str, run_id: str) -> None:
        """Delete a run; Airflow refuses (409) while it is running."""
        self.call("DELETE", f"/dags/{dag_id}/dagRuns/{run_id}")

    def wait_for_run(
        self, dag_id: str, run_id: str, state: str = "success", timeout: float = PATIENCE_S
    ) -> dict[str, Any]:
        """Wait until the run has reached the state, and return the run.

        Args:
            dag_id: The Dag.
            run_id: Its run.
            state: `success` or `failed`.
            timeout: Seconds to wait.

        Raises:
            StackError: It has ended in the other final state.
            TimeoutError: It has not ended in time.
        """

        def reached() -> dict[str, Any] | None:
            run = self.run(dag_id, run_id)
            if run["state"] != state and run["state"] in FINAL_RUN_STATES:
                text = f"{dag_id} {run_id} is {run['state']}, expected {state}\n"
                raise StackError(text + self.describe_run(dag_id, run_id) + self._describe())
            return run if run["state"] == state else None

        what = f"{dag_id} {run_id} to be {state}"
        return self.wait_until(reached, what, timeout, more=lambda: self.describe_run(dag_id, run_id))

    # --- task instances

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return all task instances of a run."""
        instances: list[dict[str, Any]] = self.call("GET", _task_path(dag_id, run_id, ""))["task_instances"]
        return instances

    def task_instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """Return one task instance.

        Args:
            dag_id: The Dag.
            run_id: Its run.
            task_id: The task.
            map_index: Which of a mapped task's instances, from 0; -1 if it is not mapped.
        """
        instance: dict[str, Any] = self.call("GET", _task_path(dag_id, run_id, task_id, map_index))
        return instance

    def set_task_state(self, dag_id: str, run_id: str, task_id: str, state: str, map_index: int = -1) -> None:
        """Mark a task instance `success`, `failed` or `skipped`, as a person does in the UI.

        Args:
            dag_id: The Dag.
            run_id: Its run.
            task_id: The task.
            state: The new state.
            map_index: Which of a mapped task's instances, from 0; -1 if it is not mapped.
        """
        self.call("PATCH", _task_path(dag_id, run_id, task_id, map_index), json={"new_state": state})

    def clear(self, dag_id: str, run_id: str, task_ids: Iterable[Any], **options: Any) -> list[dict[str, Any]]:
        """Clear task instances, whatever their state, and return what was cleared.

        Args:
            dag_id: Their Dag.
            run_id: Their run.
            task_ids: Tasks, or pairs of task and map index.
            options: More of what Airflow's endpoint takes, such as `include_downstream`.
        """
        body = {"dry_run": False, "only_failed": False, "dag_run_id": run_id, "task_ids": list(task_ids), **options}
        answer = self.call("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)
        instances: list[dict[str, Any]] = answer["task_instances"]
        return instances

    def wait_for_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        state: str,
        timeout: float = PATIENCE_S,
        *,
        map_index: int = -1,
        try_number: int = 0,
    ) -> None:
        """Wait until the task instance has the state, and has reached that try.

        Args:
            dag_id: The Dag.
            run_id: Its run.
            task_id: The task.
            state: A state of Airflow's, such as `success`.
            timeout: Seconds to wait.
            map_index: Which of a mapped task's instances, from 0; -1 if it is not mapped.
            try_number: The try that it must have reached.

        Raises:
            TimeoutError: It has not in time.
        """

        def reached() -> bool:
            instance = self.task_instance(dag_id, run_id, task_id, map_index)
            return bool(instance["state"] == state and instance["try_number"] >= try_number)

        what = f"{dag_id}.{task_id} to be {state}" + (f" in try {try_number}" if try_number else "")
        self.wait_until(reached, what, timeout, more=lambda: self.describe_run(dag_id, run_id))

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """Return the log of one try as lines of text, the triggerer's part included; works while it is deferred.

        Args:
            dag_id: The Dag.
            run_id: Its run.
            task_id: The task.
            try_number: Which try, from 1.
            map_index: Which of a mapped task's instances, from 0; -1 if it is not mapped.
        """
        # The log's path takes no map index; it is a query parameter here.
        answer = self.call(
            "GET",
            f"{_task_path(dag_id, run_id, task_id)}/logs/{try_number}",
            params={"full_content": True, "map_index": map_index},
            headers={"Accept": "application/json"},
        )
        lines = [_log_line(line) for line in answer["content"]]
        # The first group tells where Airflow looked for the log, not what the task said.
        body = lines.index("::endgroup::") + 1 if "::endgroup::" in lines else 0
        return "\n".join(lines[body:])

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """Return an XCom's value; ApiError 404 if there is none.

        Args:
            dag_id: The Dag.
            run_id: Its run.
            task_id: The task.
            key: The XCom's key.
            map_index: Which of a mapped task's instances, from 0; -1 if it is not mapped.
        """
        path = f"{_task_path(dag_id, run_id, task_id)}/xcomEntries/{key}"
        return self.call("GET", path, params={"map_index": map_index, "stringify": False})["value"]

    def describe_run(self, dag_id: str, run_id: str) -> str:
        """Describe every task of the run, and show the end of the log of those that are not well."""
        text = f"run is {self.run_state(dag_id, run_id)}\n"
        for task in self.task_instances(dag_id, run_id):
            where = (dag_id, run_id, task["task_id"], task["try_number"], task["map_index"])
            text += f"task {task['task_id']}[{task['map_index']}]: {task['state']}, try {task['try_number']}\n"
            if task["try_number"] and task["state"] != "success":
                try:
                    text += self.task_log(*where)[-4000:] + "\n"
                except httpx.HTTPError as error:
                    text += f"(no log: {error})\n"
        return text + "\n"

    # --- waiting

    def wait_until(
        self, probe: Callable[[], T | None], what: str, timeout: float = PATIENCE_S, more: Callable[[], str] = str
    ) -> T:
        """Poll until the probe returns something true, and return that.

        An API server that does not answer, or cannot, counts as not yet: it may be about to start, or too busy.

        Args:
            probe: What is waited for.
            what: The same in words, for the message.
            timeout: Seconds to wait.
            more: Returns what else to say if it runs out.

        Raises:
            TimeoutError: It never does.
        """
        deadline = time.monotonic() + timeout
        unanswered: object = ""
        while True:
            self._check()
            try:
                if result := probe():
                    return result
            except (httpx.TransportError, ApiError) as error:
                if isinstance(error, ApiError) and not error.response.is_server_error:
                    raise
                unanswered = f"{error}\n"
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {timeout:g} s for {what}\n{unanswered}{_or_error(more)}{self._describe()}")
            time.sleep(POLL_S)


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_error:
        raise ApiError(response)
    return response


def _task_path(dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str:
    path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances" + (f"/{task_id}" if task_id else "")
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
    except httpx.HTTPError as error:
        return f"(no details: {error})\n"
