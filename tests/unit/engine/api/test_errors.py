"""What OpenAI's refusals and the SDK's exceptions mean."""

from __future__ import annotations

import httpx2
import openai
import pytest

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.api.batch_json import batch_of
from airflow_openai_batch.engine.api.errors import is_file_message, is_queue_message, queue_limit, translate, translated

REQUEST = httpx2.Request("POST", "https://api.openai.com/v1/batches")


def refusal(status: int, code: str | None = None, message: str = "no", **headers: str) -> errors.ApiError:
    response = httpx2.Response(status, request=REQUEST, headers={"x-request-id": "req_9", **headers})
    body = {"message": message, "code": code}
    found = translate(openai.APIStatusError("x", response=response, body=body))
    assert found is not None
    return found


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
def test_retry_after_is_read(header: str, seconds: float | None) -> None:
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


@pytest.mark.parametrize(
    ("code", "message", "is_queue"),
    [
        ("token_limit_exceeded", "x", True),
        (None, "Enqueued token limit reached for gpt", True),
        ("rate_limit_exceeded", "too many requests", False),
        (None, "", False),
    ],
)
def test_a_full_queue_is_told_by_code_or_words(code: str | None, message: str, is_queue: bool) -> None:
    assert is_queue_message(code, message) is is_queue


def test_messages_are_read() -> None:
    assert queue_limit("... Limit: 2,000,000 enqueued tokens. Please") == 2_000_000
    assert queue_limit("Limit: none") is None
    assert is_file_message("Cannot find file file-1") and not is_file_message("Cannot find model")
