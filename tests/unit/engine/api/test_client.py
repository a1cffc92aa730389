"""Batches are listed page by page. The other verbs are tested over HTTP, against the emulator."""

from __future__ import annotations

import itertools
from typing import Any

import httpx2
from openai import OpenAI

from airflow_openai_batch.engine.api.client import Api


def listing(handler: Any) -> Api:
    http = httpx2.Client(transport=httpx2.MockTransport(handler))
    return Api(OpenAI(base_url="http://openai.test/v1", api_key="sk-test", http_client=http))


def page(first: int, n: int, *, more: bool) -> httpx2.Response:
    data = [{"id": f"batch_{i}", "status": "completed", "created_at": 1_786_400_000} for i in range(first, first + n)]
    return httpx2.Response(200, json={"object": "list", "data": data, "has_more": more})


def test_a_server_that_ignores_the_cursor_does_not_keep_us_for_ever() -> None:
    calls: list[str] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        calls.append(str(request.url))
        return page(0, 100, more=True)

    found = list(itertools.islice(listing(handler).batches(0.0), 5_000))
    assert len(calls) <= 3
    # Each once: of two batches of a shard, the look adopts one and cancels the other.
    assert [batch.id for batch in found] == [f"batch_{i}" for i in range(100)]


def test_all_pages_of_a_server_that_heeds_the_cursor_are_read() -> None:
    def handler(request: httpx2.Request) -> httpx2.Response:
        after = request.url.params.get("after")
        return page(0 if after is None else int(after[6:]) + 1, 100, more=after != "batch_199")

    assert [b.id for b in listing(handler).batches(0.0)] == [f"batch_{i}" for i in range(300)]
