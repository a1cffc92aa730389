"""What OpenAI's answers and exceptions mean. The verbs themselves are tested over HTTP, against the emulator."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.api.batch_json import batch_of
from airflow_openai_batch.engine.api.errors import translate, translated
from airflow_openai_batch.engine.identity import NONCE_KEY
from airflow_openai_batch.engine.model import LineError
from airflow_openai_batch.engine.schema.response_format import strict_schema

REQUEST = httpx2.Request("POST", "https://api.openai.com/v1/batches")


def refusal(status: int, code: str | None = None, message: str = "no", **headers: str) -> errors.ApiError:
    response = httpx2.Response(status, request=REQUEST, headers={"x-request-id": "req_9", **headers})
    body = {"message": message, "code": code}
    found = translate(openai.APIStatusError("x", response=response, body=body))
    assert found is not None
    return found


def batch(**values: Any) -> Any:
    return batch_of(json.dumps({"id": "batch_1", "status": "in_progress", **values}).encode())


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (400, "invalid_value", "bad endpoint", errors.Refused),
        (400, "token_limit_exceeded", "x", errors.QueueFull),
        (429, None, "Enqueued token limit reached for m", errors.QueueFull),
        (429, "rate_limit_exceeded", "slow down", errors.Unavailable),
        (429, "insufficient_quota", "pay", errors.Denied),
        (400, "billing_hard_limit_reached", "pay", errors.Denied),
        (401, "incorrect_hostname", "region", errors.Denied),
        (401, None, "Missing scopes: api.batch.write", errors.Denied),
        (403, None, "no", errors.Denied),
        (404, None, "No batch found", errors.NotFound),
        (413, None, "too large", errors.Refused),
        (408, None, "x", errors.Unclear),
        (409, None, "x", errors.Unclear),
        (500, None, "x", errors.Unclear),
        (502, None, "x", errors.Unclear),
        (503, None, "x", errors.Unclear),
    ],
)
def test_every_http_status_says_what_is_known_of_its_effect(
    status: int, code: str | None, message: str, kind: type[errors.ApiError]
) -> None:
    found = refusal(status, code, message)
    assert type(found) is kind
    assert (found.status, found.code, found.request_id) == (status, code, "req_9")
    assert f"HTTP {status}" in str(found) and message in str(found)


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("-1", 0.0), ("soon", None), ("", None)])
def test_a_wish_to_wait_is_read(header: str, seconds: float | None) -> None:
    found = refusal(429, **{"retry-after": header})
    assert found.retry_after_s == seconds


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (httpx2.ConnectError("refused"), errors.Unavailable),
        (httpx2.ConnectTimeout("slow"), errors.Unavailable),
        (httpx2.PoolTimeout("busy"), errors.Unavailable),
        (httpx2.ReadTimeout("slow"), errors.Unclear),
        (httpx2.RemoteProtocolError("cut"), errors.Unclear),
    ],
)
def test_only_a_connection_that_was_never_made_is_sure_to_have_had_no_effect(
    cause: Exception, kind: type[errors.ApiError]
) -> None:
    wrapped = openai.APIConnectionError(request=REQUEST)
    wrapped.__cause__ = cause
    assert type(translate(wrapped)) is kind
    assert type(translate(cause)) is kind  # streaming raises the HTTP library's own


def test_an_answer_that_is_no_json_may_have_had_an_effect() -> None:
    with pytest.raises(errors.Unclear, match="not the expected JSON"), translated():
        batch_of(b"<html>")
    for content in (b"[]", b"{}", b'{"id":""}', b'{"id":5}'):
        with pytest.raises(errors.Unclear), translated():
            batch_of(content)


def test_a_client_that_cannot_sign_in_is_denied() -> None:
    assert isinstance(translate(openai.OpenAIError("The api_key must be set")), errors.Denied)


def test_errors_of_our_own_pass_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), translated():
        raise ZeroDivisionError
    with pytest.raises(errors.StoreError, match="as it is"), translated():
        raise errors.StoreError("as it is")


# -- batch objects ---------------------------------------------------------------------------------------------------


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


def test_strict_schema_allows_nothing_else() -> None:
    from pydantic import BaseModel

    class Label(BaseModel):
        a: str
        b: int = 1

    found = strict_schema(Label)
    assert found["required"] == ["a", "b"] and found["additionalProperties"] is False
