"""What OpenAI's refusals and the SDK's exceptions mean."""

from __future__ import annotations

import json
import traceback
from typing import Any

import httpx2
import openai
import pytest

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.api.batch_json import batch_of
from airflow_openai_batch.engine.api.errors import (
    QueueLimit,
    is_file_message,
    is_file_pending,
    is_queue_message,
    queue_limit,
    translate,
    translated,
)

KEY = "sk-SECRET0123456789"
REQUEST = httpx2.Request("POST", "https://api.openai.com/v1/batches", headers={"authorization": f"Bearer {KEY}"})


def answered(status: int, content: bytes, **headers: str) -> errors.ApiError:
    response = httpx2.Response(status, request=REQUEST, content=content, headers={"x-request-id": "req_9", **headers})
    found = translate(openai.APIStatusError("x", response=response, body=None))
    assert found is not None
    return found


def refusal(status: int, code: Any = None, message: Any = "no", **headers: str) -> errors.ApiError:
    return answered(status, json.dumps({"error": {"message": message, "code": code}}).encode(), **headers)


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (400, "invalid_value", "bad endpoint", errors.Refused),
        (400, "token_limit_exceeded", "x", errors.QueueFull),
        (429, None, "Enqueued token limit reached for m", errors.QueueFull),
        (429, None, "Enqueued request limit reached for text-embedding-3-small", errors.QueueFull),
        (429, "rate_limit_exceeded", "slow down", errors.Unavailable),
        (429, None, "Batch queue is full", errors.Unavailable),
        (429, "insufficient_quota", "pay", errors.Denied),
        (400, "billing_hard_limit_reached", "pay", errors.Denied),
        (401, "incorrect_hostname", "region", errors.Denied),
        (401, None, "Missing scopes: api.batch.write", errors.Denied),
        (403, None, "no", errors.Denied),
        (404, None, "No batch found", errors.NotFound),
        (413, None, "too large", errors.Refused),
        (422, None, "no", errors.Refused),
        (400, "invalidPayload", "The input file is in 'pending' state. Only files with …", errors.FilePending),
        (409, None, "The file is not ready", errors.FilePending),
        (402, None, "x", errors.Unclear),
        (408, None, "x", errors.Unclear),
        (409, None, "x", errors.Unclear),
        (418, None, "x", errors.Unclear),
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


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 413, 418, 422, 425, 429, 451, 499, 500, 502])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html><body>Forbidden</body></html>",
        b'{"detail": "Not Found"}',
        b'{"error": "insufficient_quota"}',
        b'{"error": {"code": "insufficient_quota"}}',
        b'{"error": {"message": ""}}',
        b'{"message": "Enqueued token limit reached", "code": "token_limit_exceeded"}',
        b"[]",
        b"null",
    ],
)
def test_only_an_error_in_openais_form_is_a_refusal(status: int, content: bytes) -> None:
    found = answered(status, content, **{"retry-after": "7"})
    is_strange = status < 500 and status not in (413, 425, 429, 499)
    assert type(found) is (errors.Stranger if is_strange else errors.Unclear)
    assert issubclass(errors.Stranger, errors.Unclear), "a create may have had its effect all the same"
    assert (found.status, found.code, found.retry_after_s) == (status, None, 7.0)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-1", 0.0),
        ("99999999", 3600.0),
        ("1e18", 3600.0),
        ("soon", None),
        ("", None),
        ("inf", None),
        ("-Infinity", None),
        ("nan", None),
        ("1e999", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 480.0),
        ("Wed, 21 Oct 2026 07:00:00 GMT", 0.0),
        ("Fri, 21 Oct 9999 07:28:00 GMT", 3600.0),
        ("Wed, Oct 2026 GMT", None),
    ],
)
def test_retry_after_is_read_and_bounded(header: str, seconds: float | None) -> None:
    found = refusal(429, **{"retry-after": header, "date": "Wed, 21 Oct 2026 07:20:00 GMT"})
    assert found.retry_after_s == seconds


def test_retry_after_as_a_date_is_read_without_the_servers_clock() -> None:
    assert refusal(429, **{"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}).retry_after_s == 0.0


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


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("https://api.openai.com/v1/files", "OpenAI at api.openai.com: "),
        ("http://127.0.0.1:8080/v1/batches", "OpenAI at 127.0.0.1:8080: "),
        ("http://[::1]:8080/v1/batches", "OpenAI at [::1]:8080: "),
        ("https://user:sk-SECRET@gateway.example/v1?key=sk-SECRET", "OpenAI at gateway.example: "),
    ],
)
def test_a_server_that_is_not_there_is_named(url: str, server: str) -> None:
    error = openai.APIConnectionError(request=httpx2.Request("GET", url))
    error.__cause__ = httpx2.ConnectError("refused")
    assert str(translate(error)).startswith(f"No connection to {server}")
    assert "SECRET" not in str(translate(error))


@pytest.mark.parametrize("content", [b"<html>", b"", b"[]", b"{}", b'{"id":""}', b'{"id":[1]}', b"[" * 100_000])
def test_an_answer_without_a_batch_may_have_had_an_effect(content: bytes) -> None:
    with pytest.raises(errors.Unclear), translated():
        batch_of(content)


def test_a_client_that_cannot_sign_in_is_denied() -> None:
    assert isinstance(translate(openai.OpenAIError("The api_key must be set")), errors.Denied)


def test_errors_of_our_own_pass_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), translated():
        raise ZeroDivisionError
    with pytest.raises(errors.StoreError, match="as it is"), translated():
        raise errors.StoreError("as it is")


def _wrapped(cause: Exception) -> Exception:
    error = openai.APIConnectionError(request=REQUEST)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        _wrapped(httpx2.LocalProtocolError(f"Illegal header value b'Bearer {KEY}\\n'")),
        _wrapped(httpx2.RemoteProtocolError(f"illegal header line: bytearray(b'x-echo {KEY}')")),
        _wrapped(httpx2.ConnectError(f"http://proxy/?key={KEY}")),
        openai.APIStatusError(
            f"Error code: 401 - Incorrect API key provided: {KEY}",
            response=httpx2.Response(
                401, request=REQUEST, json={"error": {"message": f"Incorrect API key provided: {KEY}", "code": KEY}}
            ),
            body=None,
        ),
        openai.APIStatusError("x", response=httpx2.Response(403, request=REQUEST, text=f"<p>{KEY}</p>"), body=None),
        openai.OpenAIError("Bad key sk-SECRET0123456789abcdef"),
    ],
)
def test_the_key_stands_in_no_message_and_no_traceback(error: Exception) -> None:
    with pytest.raises(errors.ApiError) as caught, translated():
        raise error
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.code)
    assert "SECRET" not in told


def test_texts_of_a_server_are_cleaned_and_bounded() -> None:
    content = b'{"error": {"message": "a\\ud800b\\u001b[31m\\nc' + b"x" * 5000 + b'", "code": 7}}'
    found = answered(400, content)
    assert str(found).startswith("HTTP 400: a\ufffdb cxx") and len(str(found)) == 2000
    assert found.code == "7"


@pytest.mark.parametrize(
    ("code", "message", "is_queue"),
    [
        ("token_limit_exceeded", "x", True),
        (None, "Enqueued token limit reached for gpt", True),
        (None, "Enqueued request limit reached for text-embedding-3-small", True),
        ("rate_limit_exceeded", "too many requests", False),
        (None, "The queue is full", False),
        (None, "", False),
    ],
)
def test_a_full_queue_is_told_by_code_or_words(code: str | None, message: str, is_queue: bool) -> None:
    assert is_queue_message(code, message) is is_queue


@pytest.mark.parametrize(
    ("message", "is_pending"),
    [
        ("The input file is in 'pending' state. Only files with status 'Processed' are accepted.", True),
        ("Only files with status 'Processed' are accepted for batch inferencing.", True),
        ("File file-1 has not been processed yet.", True),
        ("The file is not ready", True),
        ("The file is still being processed.", True),
        ("Cannot find file file-1, or organization org-1 does not have access to it.", False),
        ("Invalid file format for Batch API. Must be .jsonl", False),
        ("3 batches are pending", False),
    ],
)
def test_a_file_that_is_not_processed_is_told_by_words(message: str, is_pending: bool) -> None:
    assert is_file_pending(message) is is_pending


def test_messages_are_read() -> None:
    assert queue_limit("... Limit: 2,000,000 enqueued tokens. Please") == QueueLimit(2_000_000, "tokens")
    assert queue_limit("... Limit: 1,000,000 enqueued requests.") == QueueLimit(1_000_000, "requests")
    assert queue_limit("Limit: none") is None
    assert queue_limit(f"Limit: {'9' * 5000} enqueued tokens") is None
    assert is_file_message("Cannot find file file-1") and not is_file_message("Cannot find model")


@pytest.mark.parametrize(
    ("url", "status", "is_hinted"),
    [
        ("https://llm.example.com/files", 404, True),
        ("https://llm.example.com/batches/batch_1", 404, True),
        ("https://llm.example.com/v1/files", 404, False),
        ("https://llm.example.com/files", 502, False),
    ],
)
def test_a_host_without_a_path_is_told(url: str, status: int, is_hinted: bool) -> None:
    request = httpx2.Request("POST", url)
    response = httpx2.Response(status, request=request, content=b'{"detail": "Not Found"}')
    found = translate(openai.APIStatusError("x", response=response, body=None))
    assert ("most servers have their API under /v1" in str(found)) is is_hinted
