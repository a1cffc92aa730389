"""Servers other than OpenAI's by their connections: Azure OpenAI with a key or with Entra, and endpoints of others."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
import rest

from airflow_openai_batch.emulator import Emulator, Filtered, Limits, Text
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.exceptions import OpenAIBatchFailure
from airflow_openai_batch.hooks import OpenAIBatchHook

EXAMPLE = Path(__file__).parents[2] / "dags_examples" / "azure_labeling.py"
ONE = "OpenAIBatchOperator(task_id='one', rows=ROWS, custom_id='t-{id}', **CHAT)"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Emulator]]:
    """Start an emulator, and let the connection lead to it."""
    running: list[Emulator] = []

    def start(extra: dict[str, Any] | None = None, password: str | None = "key", **settings: Any) -> Emulator:
        emulator = Emulator(**{"duration": 0.3, "seed": 1, **settings}).start()
        running.append(emulator)
        connection = {"conn_type": "openai", "host": emulator.base_url, "password": password, "extra": extra or {}}
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(connection))
        return emulator

    yield start
    for emulator in running:
        emulator.stop()


@pytest.fixture
def entra(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for azure-identity: a credential whose tokens last for one call. Returns the scopes asked for."""
    scopes: list[str] = []

    def get_bearer_token_provider(credential: Any, *wanted: str) -> Callable[[], str]:
        scopes.extend(wanted)
        return credential.token

    class DefaultAzureCredential:
        n = 0

        def token(self) -> str:
            DefaultAzureCredential.n += 1
            return f"token-{DefaultAzureCredential.n}"

    identity = ModuleType("azure.identity")
    identity.DefaultAzureCredential = DefaultAzureCredential  # type: ignore[attr-defined]
    identity.get_bearer_token_provider = get_bearer_token_provider  # type: ignore[attr-defined]
    if "azure" not in sys.modules:
        monkeypatch.setitem(sys.modules, "azure", ModuleType("azure"))
    monkeypatch.setitem(sys.modules, "azure.identity", identity)
    return scopes


def test_a_job_at_azure_with_a_key(run_dag: Any, server: Any) -> None:
    """Files that are pending, rows out of order, one that the content filter refuses."""

    def answer(endpoint: str, body: dict[str, Any]) -> object:
        text = body["messages"][0]["content"]
        return Filtered(of_prompt=True) if text.endswith(" 3") else Text("fine")

    emulator = server(dialect="azure", deployments={"labels": "gpt-6-luna"}, pending=0.5, answer=answer)
    run = run_dag(
        "CHAT['body']['model'] = 'labels'\n"
        "OpenAIBatchOperator(task_id='one', rows=ROWS, custom_id='t-{id}', prices={'labels': 'gpt-6-luna'}, **CHAT)"
    )
    assert run.state == "success"
    rows = run.xcom("one")
    assert [row["custom_id"] for row in rows] == [f"t-{i}" for i in range(20)]
    assert [row["status"] for row in rows] == ["succeeded"] * 3 + ["refused"] + ["succeeded"] * 16
    assert rows[3]["error_code"] == "content_filter"
    assert all((row["cost"] is None) == (row["status"] == "refused") for row in rows)
    assert len(emulator.batches) == 1
    assert emulator.ledger.rows_billed_twice() == []


def test_a_job_at_azure_with_entra(run_dag: Any, server: Any, entra: list[str], caplog: Any) -> None:
    """Each call has a token of its own, those of the triggerer too."""
    tokens = {f"token-{n}" for n in range(1, 1000)}
    server(
        {"azure_identity": "default"},
        None,
        dialect="azure",
        pending=0,
        api_keys=tokens,
        deployments={"gpt-6-luna": "m"},
    )
    run = run_dag(ONE)
    assert run.state == "success"
    assert set(entra) == {"https://cognitiveservices.azure.com/.default"}
    assert "token-" not in caplog.text
    assert OpenAIBatchHook().test_connection() == (True, "Batches and files can be read.")


def test_a_scope_of_ones_own_goes_before_a_key(server: Any, entra: list[str]) -> None:
    extra = {"azure_identity": "https://ai.azure.com/.default", "openai_client_kwargs": {"max_retries": 1}}
    server(extra, "old-key", dialect="azure", api_keys={"token-1", "token-2"})
    assert OpenAIBatchHook().test_connection()[0]
    assert entra == ["https://ai.azure.com/.default"]


@pytest.mark.parametrize(("value", "says"), [("mine", 'It is "default", or the scope'), (True, '"default"')])
def test_a_wrong_value_is_told(server: Any, entra: list[str], value: Any, says: str) -> None:
    emulator = server({"azure_identity": value}, dialect="azure")
    with pytest.raises(InputError, match=says):
        OpenAIBatchHook().get_conn()
    assert emulator.ledger.calls == []


def test_the_package_that_is_missing_is_named(run_dag: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    emulator = server({"azure_identity": "default"}, dialect="azure")
    run = run_dag(ONE)
    assert run.states == {"one": "failed"}
    with pytest.raises(OpenAIBatchFailure, match=r"pip install azure-identity, or airflow-openai-batch\[azure\]"):
        run.execute(run.dag.get_task("one"))
    assert emulator.ledger.calls == []


def test_a_sign_in_that_fails_is_told(run_dag: Any, server: Any, entra: list[str]) -> None:
    def token(self: Any) -> str:
        raise RuntimeError("ManagedIdentityCredential: no identity is assigned")

    emulator = server({"azure_identity": "default"}, dialect="azure", pending=0)
    sys.modules["azure.identity"].DefaultAzureCredential.token = token
    is_good, message = OpenAIBatchHook().test_connection()
    assert not is_good and "Microsoft Entra gave no token: ManagedIdentityCredential: no identity" in message
    run = run_dag(ONE)
    assert run.states == {"one": "failed"}
    with pytest.raises(OpenAIBatchFailure, match="Microsoft Entra gave no token"):
        run.execute(run.dag.get_task("one"))
    assert emulator.ledger.calls == []


def test_a_triggerer_without_the_package_says_so(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_openai_batch.engine.api.client import retrieve_async
    from airflow_openai_batch.engine.errors import Denied

    monkeypatch.setitem(sys.modules, "azure.identity", None)
    server({"azure_identity": "default"}, dialect="azure")

    async def poll() -> None:
        await retrieve_async(await OpenAIBatchHook().get_async_conn(), "batch_1", 5.0)

    with pytest.raises(Denied, match="pip install azure-identity"):
        asyncio.run(poll())


RERANK = """
OpenAIBatchOperator(
    task_id='one', rows=ROWS[:3], endpoint='/v1/rerank', body={'query': '{text}'}, storage=STORE, custom_id='t-{id}'
)
"""


def test_an_endpoint_of_the_server_is_refused_with_the_extra_that_allows_it(run_dag: Any, server: Any) -> None:
    emulator = server(limits=Limits(other_endpoints=frozenset({"/v1/rerank"})))
    run = run_dag(RERANK)
    assert run.states == {"one": "failed"}
    with pytest.raises(OpenAIBatchFailure, match=r'connection\'s extra: {"batch_endpoints": \["/v1/rerank"\]}'):
        run.execute(run.dag.get_task("one"))
    assert emulator.ledger.calls == []


def test_an_endpoint_that_the_connection_allows_is_asked(run_dag: Any, server: Any) -> None:
    emulator = server({"batch_endpoints": ["/v1/rerank"]}, limits=Limits(other_endpoints=frozenset({"/v1/rerank"})))
    run = run_dag(RERANK)
    assert run.state == "success"
    rows = run.xcom("one")
    assert [row["status"] for row in rows] == ["succeeded"] * 3
    assert json.loads(rows[0]["output"])["output"].startswith("Echo:")
    assert [batch.endpoint for batch in emulator.batches.values()] == ["/v1/rerank"]


@pytest.mark.parametrize("value", ["/v1/rerank", ["rerank"], [5], {"a": 1}])
def test_a_wrong_list_of_endpoints_is_told(server: Any, value: Any) -> None:
    server({"batch_endpoints": value})
    with pytest.raises(InputError, match="It is a list of paths"):
        OpenAIBatchHook().other_endpoints("/v1/rerank")
    assert OpenAIBatchHook("not_there").other_endpoints("/v1/responses") == ()


@pytest.mark.usefixtures("_airflow_db")
def test_the_example_runs_at_azure(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [{"name": f"p{i:03}", "summary": "a driver", "description": "sql", "topics": []} for i in range(40)]
    monkeypatch.setattr("airflow_openai_batch.demo.packages.package_rows", lambda: iter(given))
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__STORAGE", str(tmp_path / "store"))
    monkeypatch.setenv("LABELING_FOLDER", str(tmp_path / "lake"))
    emulator = server(dialect="azure", deployments={"labels-batch": "gpt-6-luna"}, pending=0.2)
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_BATCH", os.environ["AIRFLOW_CONN_OPENAI_DEFAULT"])
    file = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]) / EXAMPLE.name
    shutil.copyfile(EXAMPLE, file)
    spec = importlib.util.spec_from_file_location("azure_labeling", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.azure_labeling().test()
    assert set(rest.states(made.dag_id, made.run_id).values()) == {"success"}
    (labels,) = (tmp_path / "lake" / "labels").glob("*.parquet")
    table = pq.read_table(labels)
    assert table.column("name").to_pylist() == [row["name"] for row in given]
    assert sum(table.column("cost").to_pylist()) * 10**12 == emulator.ledger.invoice().picodollars
    assert {stored.expires_at - stored.created_at for stored in emulator.files.values()} == {14 * 86_400}
