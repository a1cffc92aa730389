"""The hook: what the button "Test" of a connection tests, and which loggers are quiet."""

from __future__ import annotations

import logging

import pytest

from airflow_openai_batch.emulator import Rule
from airflow_openai_batch.hooks import OpenAIBatchHook, storage_root


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
