"""The hook: what the button "Test" of a connection tests, and which loggers are quiet."""

from __future__ import annotations

import logging
import re

import pytest

from airflow_openai_batch.emulator import Rule
from airflow_openai_batch.engine.errors import StoreError
from airflow_openai_batch.hooks import OpenAIBatchHook, as_path, storage_root


def test_a_connection_is_tested_without_a_listing(emulator) -> None:
    emulator.faults.add(Rule(on="GET /v1/batches", do={"status": 405}))
    emulator.faults.add(Rule(on="GET /v1/files", do={"status": 403}))
    assert OpenAIBatchHook().test_connection() == (True, "Batches and files can be read.")
    assert emulator.ledger.n_calls("POST", "/v1/") == 0


@pytest.mark.parametrize(("on", "what"), [("GET /v1/batches/*", "batch"), ("GET /v1/files/*", "file")])
@pytest.mark.parametrize(
    "fault",
    [
        {"code": 401, "error": {"message": "Missing scopes: api.read"}},
        {"code": 403, "error": {"message": "Missing scopes: api.read"}},
        {"code": 404, "html": True},
        {"code": 502, "html": True},
    ],
    ids=str,
)
def test_a_connection_that_does_not_work_is_told(emulator, on: str, what: str, fault: dict) -> None:
    emulator.faults.add(Rule(on=on, do={"status": fault}))
    is_good, message = OpenAIBatchHook().test_connection()
    assert not is_good
    assert f"No {what} can be read: HTTP {fault['code']}" in message
    assert "error" not in fault or "Missing scopes" in message


def test_a_key_with_a_line_end_is_told_and_not_shown(emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = f"""{{"conn_type": "openai", "host": "{emulator.base_url}", "password": "sk-SECRET\\n"}}"""
    monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", connection)
    is_good, message = OpenAIBatchHook().test_connection()
    assert not is_good and "line end" in message and "SECRET" not in message


def test_libraries_that_log_each_request_are_quiet_unless_the_user_wants_them(tmp_path) -> None:
    azure, urllib3 = logging.getLogger("azure"), logging.getLogger("urllib3")
    before = azure.level, urllib3.level
    try:
        azure.setLevel(logging.NOTSET)
        urllib3.setLevel(logging.DEBUG)
        storage_root(str(tmp_path))
        policy = logging.getLogger("azure.core.pipeline.policies.http_logging_policy")
        assert not policy.isEnabledFor(logging.INFO)
        assert urllib3.level == logging.DEBUG
    finally:
        azure.setLevel(before[0])
        urllib3.setLevel(before[1])


@pytest.mark.parametrize("place", ["openai_batch", "./jobs", "../shared/jobs", "file://jobs", "local://./jobs"])
def test_an_option_that_names_another_folder_in_each_process_is_refused(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__STORAGE", place)
    with pytest.raises(StoreError, match=r"\[openai_batch\] storage is .* a relative path.*Nothing was sent"):
        storage_root()
    with pytest.raises(StoreError, match=r"The argument storage is .* a relative path.*Nothing was sent"):
        storage_root(place)


@pytest.mark.parametrize("place", ["/shared/jobs", "~/jobs", " /shared/jobs", "file:///shared/jobs"])
def test_an_option_that_names_the_same_folder_everywhere_is_taken(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__STORAGE", place)
    assert str(storage_root()).endswith("/jobs")


@pytest.mark.parametrize(
    ("place", "module", "command"),
    [
        ("s3://conn@bucket/jobs", "s3fs", "pip install 'airflow-openai-batch[s3]'"),
        ("gs://bucket/jobs", "gcsfs", "pip install 'airflow-openai-batch[gcs]'"),
        ("abfss://container@account.dfs.core.windows.net/jobs", "adlfs", "pip install 'airflow-openai-batch[azure]'"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_the_command_that_installs_it(
    place: str, module: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_openai_batch.hooks.find_spec", lambda name: None if name == module else True)
    with pytest.raises(StoreError, match=re.escape(command)) as raised:
        as_path(place)
    assert f"({module}, " in str(raised.value)


def test_a_library_without_the_provider_that_registers_it_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_openai_batch.hooks.find_spec", lambda name: True)
    monkeypatch.setattr("airflow.sdk.io.has_fs", lambda scheme: False)
    with pytest.raises(StoreError, match=re.escape("pip install 'airflow-openai-batch[gcs]'")):
        as_path("gs://bucket/jobs")


@pytest.mark.parametrize("place", ["s4://conn@bucket/jobs", "nonsense://bucket/jobs", "S3X://bucket/jobs"])
def test_a_scheme_that_nobody_knows_is_told(place: str) -> None:
    """Before anything is opened: some versions of universal_pathlib only refuse it at the first read."""
    scheme = place.partition("://")[0]
    with pytest.raises(StoreError, match=rf"'{scheme}://bucket/jobs' cannot be opened: .*no answer is lost"):
        as_path(place)


def test_organization_project_and_headers_of_the_connection_are_on_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    """By both clients: that of the worker and that of the trigger."""
    import asyncio
    import json
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from airflow_openai_batch.engine.api.client import Api, retrieve_async

    seen = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            body = b'{"id": "batch_1", "status": "in_progress"}'
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    more = {"organization": "org-9", "project": "proj_9", "default_headers": {"X-Team": "data"}}
    connection = {
        "conn_type": "openai",
        "host": f"http://127.0.0.1:{server.server_port}/v1",
        "password": "sk-wire",
        "extra": {"openai_client_kwargs": more},
    }
    monkeypatch.setenv("AIRFLOW_CONN_WIRE", json.dumps(connection))
    try:
        assert Api(OpenAIBatchHook("wire").get_conn()).retrieve("batch_1").id == "batch_1"

        async def poll() -> None:
            await retrieve_async(await OpenAIBatchHook("wire").get_async_conn(), "batch_1", 5.0)

        asyncio.run(poll())
    finally:
        server.shutdown()
        server.server_close()
    assert len(seen) == 2
    for headers in ({name.lower(): value for name, value in one.items()} for one in seen):
        assert headers["authorization"] == "Bearer sk-wire"
        assert (headers["openai-organization"], headers["openai-project"]) == ("org-9", "proj_9")
        assert headers["x-team"] == "data"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"host": "api.openai.com/v1"}, "https://api.openai.com/v1"),
        ({"host": "https://api.openai.com"}, "https://api.openai.com/v1"),
        ({"password": "sk-SECRET9876 5432"}, "holds a space"),
        ({"password": "sk-SECRET9876\u20265432"}, "cannot be sent"),
    ],
)
def test_a_mistake_in_the_connection_fails_the_task_at_once_and_says_what_to_change(
    run_dag, emulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, change: dict, says: str
) -> None:
    import json

    from airflow_openai_batch.exceptions import OpenAIBatchFailure

    connection = {"conn_type": "openai", "host": emulator.base_url, "password": "sk-emulator", **change}
    monkeypatch.setenv("AIRFLOW_CONN_WRONG", json.dumps(connection))
    run = run_dag("one = OpenAIBatchOperator(task_id='one', rows=ROWS, conn_id='wrong', **CHAT)")
    assert run.states == {"one": "failed"}
    with pytest.raises(OpenAIBatchFailure, match="Nothing was sent") as caught:
        run.execute(run.dag.get_task("one"))
    assert says in str(caught.value) and "SECRET" not in str(caught.value) + caplog.text
    assert emulator.ledger.n_calls("POST", "/v1/") == 0
