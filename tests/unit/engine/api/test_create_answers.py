"""What the answer to a create tells of the batch: made, most likely made, or nothing at all."""

from __future__ import annotations

import json

import httpx2
import pytest
from openai import OpenAI

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.model import Batch


def created(content: bytes, status: int = 200) -> Batch:
    def handler(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=content)

    http = httpx2.Client(transport=httpx2.MockTransport(handler))
    api = Api(OpenAI(base_url="http://openai.test/v1", api_key="k", http_client=http))
    return api.create(file_id="f", endpoint="/v1/responses", completion_window="24h", metadata={}, timeout_s=30)


@pytest.mark.parametrize(
    "content", [b'{"job": {"status": "queued"}}', b'{"id": null}', b'{"id": "batch_1"', b"{}", b""]
)
@pytest.mark.parametrize("status", [200, 202])
def test_an_answer_of_the_server_that_cannot_be_read_is_for_a_person_if_no_batch_is_found(
    content: bytes, status: int
) -> None:
    with pytest.raises(errors.Accepted):
        created(content, status)


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><title>Sign in</title>",
        b"\n <html>",
        b"OK",
        b"[]",
        json.dumps({"object": "list", "data": [{"id": "batch_0", "status": "completed"}]}).encode(),
        json.dumps({"data": [], "has_more": False}).encode(),
    ],
)
def test_a_web_page_or_a_listing_is_no_accepted_create(content: bytes) -> None:
    with pytest.raises(errors.Unclear) as caught:
        created(content)
    assert not isinstance(caught.value, errors.Accepted)
