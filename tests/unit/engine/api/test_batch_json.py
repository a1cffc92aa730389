"""What OpenAI, or a server that speaks its language, says of a batch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_openai_batch.engine.api.batch_json import batch_of
from airflow_openai_batch.engine.identity import NONCE_KEY
from airflow_openai_batch.engine.model import LineError


def batch(**values: Any) -> Any:
    return batch_of(json.dumps({"id": "batch_1", "status": "in_progress", **values}).encode())


def test_a_batch_is_read_whole() -> None:
    found = batch(
        created_at=1_786_400_000,
        expires_at=1_786_486_400,
        input_file_id="file-1",
        output_file_id="file-2",
        request_counts={"total": 3, "completed": 2, "failed": 1},
        metadata={NONCE_KEY: "a/0/s/u", "other": "x"},
    )
    assert (found.id, found.status, found.created_at, found.expires_at) == (
        "batch_1",
        "in_progress",
        1786400000.0,
        1786486400.0,
    )
    assert (found.input_file_id, found.output_file_id, found.error_file_id) == ("file-1", "file-2", None)
    assert (found.n_total, found.n_completed, found.n_failed, found.nonce) == (3, 2, 1, "a/0/s/u")


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("completed", "completed"),
        ("Completed", "completed"),
        ("canceled", "cancelled"),
        ("succeeded", "completed"),
        (None, "unknown"),
        ("queued", "queued"),
    ],
)
def test_statuses_of_compatible_servers_are_understood(said: Any, status: str) -> None:
    assert batch(status=said).status == status


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (1_786_400_000, 1_786_400_000.0),
        (1_786_400_000_000, 1_786_400_000.0),
        ("2026-08-10T00:00:00Z", 1_786_320_000.0),
        ("2026-08-10T00:00:00", 1_786_320_000.0),
        ("yesterday", None),
        (None, None),
        (True, None),
    ],
)
def test_times_are_read_as_seconds(said: Any, seconds: float | None) -> None:
    assert batch(created_at=said).created_at == seconds


@pytest.mark.parametrize("absent", [None, ""])
def test_an_absent_file_may_be_null_or_empty(absent: Any) -> None:
    found = batch(output_file_id=absent, error_file_id=absent, request_counts=None, metadata=None, errors=None)
    assert (found.output_file_id, found.error_file_id, found.n_total, found.nonce, found.errors) == (
        None,
        None,
        0,
        None,
        (),
    )


def test_the_time_of_the_end_is_that_of_the_status() -> None:
    found = batch(status="expired", expired_at=9, completed_at=5)
    assert found.ended_at == 9.0


def test_errors_are_grouped_by_code_and_message() -> None:
    data = [{"code": "invalid_url", "message": "no match", "line": n, "param": "url"} for n in range(2, 5002)]
    data.append({"code": "other", "message": "x", "line": None})
    assert batch(errors={"object": "list", "data": data}).errors == (
        LineError(code="invalid_url", message="no match", n=5000, line=2, param="url"),
        LineError(code="other", message="x"),
    )


@pytest.mark.parametrize(
    ("said", "message"), [("it broke", "it broke"), (["it broke"], "it broke"), ([{"message": "it broke"}], "it broke")]
)
def test_errors_of_compatible_servers_are_understood(said: Any, message: str) -> None:
    assert [error.message for error in batch(errors=said).errors] == [message]


def test_many_kinds_of_errors_are_capped() -> None:
    data = [{"code": f"c{n}", "message": "x" * 5000} for n in range(1000)]
    found = batch(errors={"data": data}).errors
    assert len(found) == 50 and len(found[0].message) == 1000
