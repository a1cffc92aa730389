"""A running emulator with the real SDK as its client, and one-line helpers for what tests do with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from openai import DefaultHttpxClient, OpenAI
from openai.types import Batch

from airflow_openai_batch.emulator import Emulator, ManualClock

CHAT = "/v1/chat/completions"


class Kit:
    """One emulator and one client."""

    def __init__(self, emu: Emulator, http: DefaultHttpxClient) -> None:
        self.emu = emu
        self.client = OpenAI(base_url=emu.base_url, api_key="sk-test", max_retries=0, timeout=20, http_client=http)

    def body(self, text: str = "hello", endpoint: str = CHAT, /, **extra: Any) -> dict[str, Any]:
        content = {
            "/v1/responses": {"input": text},
            CHAT: {"messages": [{"role": "user", "content": text}]},
            "/v1/embeddings": {"input": text},
            "/v1/moderations": {"input": text},
        }.get(endpoint, {"prompt": text})
        return {"model": "gpt-6-luna", **content, **extra}

    def line(self, name: str = "row-0", endpoint: str = CHAT, **change: Any) -> dict[str, Any]:
        """A request line; `...` leaves a field out."""
        line = {"custom_id": name, "method": "POST", "url": endpoint, "body": self.body(name, endpoint)}
        return {name: value for name, value in {**line, **change}.items() if value is not ...}

    def lines(self, n: int, endpoint: str = CHAT, **extra: Any) -> list[dict[str, Any]]:
        return [
            self.line(f"row-{i}", endpoint, body=self.body(f"text of row-{i}", endpoint, **extra)) for i in range(n)
        ]

    def upload(self, lines: list[Any] | bytes, name: str = "in.jsonl", **kwargs: Any) -> str:
        content = lines if isinstance(lines, bytes) else b"".join(json.dumps(x).encode() + b"\n" for x in lines)
        return self.client.files.create(file=(name, content), purpose="batch", **kwargs).id

    def submit(self, lines: list[Any] | bytes | int = 3, endpoint: str = CHAT, **kwargs: Any) -> Batch:
        lines = self.lines(lines, endpoint) if isinstance(lines, int) else lines
        return self.create(self.upload(lines), endpoint, **kwargs)

    def create(self, file_id: str, endpoint: str = CHAT, **kwargs: Any) -> Batch:
        kwargs = {"completion_window": "24h", **kwargs}
        return self.client.batches.create(input_file_id=file_id, endpoint=endpoint, **kwargs)

    def get(self, batch: Batch) -> Batch:
        return self.client.batches.retrieve(batch.id)

    def ended(self, lines: list[Any] | bytes | int = 3, endpoint: str = CHAT, **kwargs: Any) -> Batch:
        batch = self.submit(lines, endpoint, **kwargs)
        self.emu.complete_all()
        return self.get(batch)

    def raw(self, file_id: str | None) -> bytes:
        return self.client.files.content(file_id).content if file_id else b""

    def read(self, file_id: str | None) -> dict[str, Any]:
        lines = [json.loads(line) for line in self.raw(file_id).split(b"\n") if line]
        return {line["custom_id"]: line for line in lines}

    def output(self, batch: Batch) -> dict[str, Any]:
        return self.read(batch.output_file_id)

    def errors(self, batch: Batch) -> dict[str, Any]:
        return self.read(batch.error_file_id)

    def texts(self, batch: Batch) -> dict[str, str]:
        """The answers of a chat batch by custom_id."""
        lines = self.output(batch).values()
        return {x["custom_id"]: x["response"]["body"]["choices"][0]["message"]["content"] for x in lines}


@pytest.fixture(scope="session")
def http() -> Iterator[DefaultHttpxClient]:
    """One HTTP client for all tests, because each new one loads the system's certificates."""
    with DefaultHttpxClient() as client:
        yield client


@pytest.fixture
def start(http: DefaultHttpxClient) -> Iterator[Callable[..., Kit]]:
    """Start an emulator with settings; its clock stands still unless a test says otherwise."""
    with ExitStack() as stack:

        def _start(**settings: Any) -> Kit:
            settings.setdefault("clock", ManualClock())
            settings.setdefault("seed", 7)
            return Kit(stack.enter_context(Emulator(**settings)), http)

        yield _start


@pytest.fixture
def kit(start: Callable[..., Kit]) -> Kit:
    """An emulator whose batches take 100 seconds of a clock that stands still."""
    return start(duration=100)
