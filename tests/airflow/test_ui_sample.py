"""The route that serves a sample of a job: who may read it, from where, and what it says when it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from airflow_openai_batch.ui import plugin

Ask = Callable[..., httpx.Response]


@pytest.fixture
def ask(_airflow_db: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ask:
    """Return a function that asks for a sample as a person of Airflow's simple auth manager, or as nobody."""
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "x" * 64)
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__STORAGE", str(tmp_path / "store"))
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__DEPLOYMENT", "ours")
    from airflow.api_fastapi.app import create_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    manager = create_auth_manager()
    app = Starlette(routes=[Mount(plugin.URL_PREFIX, plugin.LazyApp())])

    def get(dag: str, role: str | None = None, **query: Any) -> httpx.Response:
        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
                if role is not None:
                    token = manager.generate_jwt(SimpleAuthManagerUser(username=role, role=role or None))
                    client.cookies.set("_token", token)
                return await client.get(f"{plugin.URL_PREFIX}/sample/{dag}", params={"task_id": "ask", **query})

        return asyncio.run(call())

    return get


@pytest.fixture
def job(ask: Ask, run_dag: Any, emulator: Any) -> Any:
    """A job of this deployment that has ended."""
    return run_dag('OpenAIBatchOperator(task_id="ask", rows=ROWS, custom_id="row-{id}", **CHAT)')


def test_who_may_read_the_logs_of_a_task_sees_requests_and_answers(job: Any, ask: Ask) -> None:
    answer = ask(job.dag.dag_id, "viewer", run_id=job.run_id)
    assert answer.status_code == 200, answer.text
    rows = answer.json()["rows"]
    assert [row["custom_id"] for row in rows] == [f"row-{i}" for i in range(10)]
    assert "ticket 3" in rows[3]["request"]
    assert rows[3]["status"] == "succeeded"
    assert rows[3]["answer"]
    assert answer.json()["is_cut"] is True
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("role", "status"), [(None, 401), ("", 403)], ids=["nobody", "a person without the right"])
def test_nobody_else_sees_anything(job: Any, ask: Ask, role: str | None, status: int) -> None:
    answer = ask(job.dag.dag_id, role, run_id=job.run_id)
    assert answer.status_code == status
    assert "ticket" not in answer.text
    assert "row-" not in answer.text


def test_the_right_is_asked_for_the_very_dag_whose_job_is_read(job: Any, ask: Ask, monkeypatch: Any) -> None:
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    asked = []

    def is_authorized_dag(self: Any, *, method: str, user: Any, access_entity: Any = None, details: Any = None) -> bool:
        asked.append((method, access_entity, details.id))
        return bool(details.id == "another_dag")

    monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", is_authorized_dag)
    # A second dag_id must not be the one that is checked.
    answer = ask(job.dag.dag_id, "viewer", run_id=job.run_id, dag_id="another_dag")
    assert answer.status_code == 403
    assert asked == [("GET", DagAccessEntity.TASK_LOGS, job.dag.dag_id)]


def test_rows_of_one_outcome_can_be_asked_for(job: Any, ask: Ask) -> None:
    answer = ask(job.dag.dag_id, "viewer", run_id=job.run_id, status="failed")
    assert (answer.status_code, answer.json()) == (200, {"rows": [], "is_cut": False})
    assert ask(job.dag.dag_id, "viewer", run_id=job.run_id, status="nonsense").status_code == 422


@pytest.mark.parametrize(
    "change", [{"run_id": "another"}, {"task_id": "other"}, {"map_index": 3}, {"task_id": "../ask"}]
)
def test_a_job_that_is_not_there_names_the_setting(job: Any, ask: Ask, change: dict[str, Any]) -> None:
    answer = ask(job.dag.dag_id, "viewer", **{"run_id": job.run_id, **change})
    assert answer.status_code == 404
    assert "[openai_batch] storage" in answer.json()["detail"]


def test_a_job_that_was_removed_is_told(job: Any, ask: Ask, tmp_path: Path, monkeypatch: Any) -> None:
    import msgspec
    from upath import UPath

    from airflow_openai_batch.engine.cleaning.folders import bury_and_remove
    from airflow_openai_batch.engine.cleaning.rules import tombstone_of
    from airflow_openai_batch.engine.model import JobKey
    from airflow_openai_batch.engine.store.job_store import JobStore

    store = JobStore(UPath(tmp_path / "store"), JobKey(dag_id=job.dag.dag_id, run_id=job.run_id, task_id="ask"))
    snapshot = store.load()
    assert bury_and_remove(store, snapshot.number + 1, tombstone_of(snapshot.job, "forgotten", 1.8e9), store.walk())
    answer = ask(job.dag.dag_id, "viewer", run_id=job.run_id)
    assert answer.status_code == 410
    assert "as a person asked to forget it" in answer.json()["detail"]
    assert msgspec.json.decode(answer.content).keys() == {"detail"}


def test_a_job_of_another_deployment_is_not_shown(job: Any, ask: Ask, monkeypatch: Any) -> None:
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__DEPLOYMENT", "another")
    answer = ask(job.dag.dag_id, "viewer", run_id=job.run_id)
    assert answer.status_code == 503
    assert "[openai_batch] deployment" in answer.json()["detail"]
    assert "ticket" not in answer.text


@pytest.mark.parametrize("storage", ["nonsense://secret@bucket", "s3://secret@bucket/jobs", "file://{secret}"])
def test_a_store_out_of_reach_is_told_without_what_the_storage_says(
    ask: Ask, monkeypatch: Any, tmp_path: Path, storage: str
) -> None:
    (tmp_path / "secret").write_text("a file where a folder should be")
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__STORAGE", storage.format(secret=tmp_path / "secret"))
    answer = ask("dag", "viewer", run_id="run")
    assert answer.status_code == 503, answer.text
    assert "[openai_batch] storage" in answer.json()["detail"]
    assert "secret" not in answer.text
