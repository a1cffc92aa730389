"""What is seen of a connection before any call."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import OpenAI

from airflow_openai_batch.engine.api.connection import connected
from airflow_openai_batch.engine.errors import InputError


def client(**arguments: Any) -> OpenAI:
    return OpenAI(**{"api_key": "sk-test", **arguments})


@pytest.mark.parametrize(
    ("base_url", "says"),
    [
        ("api.openai.com/v1", "https://api.openai.com/v1 "),
        ("gateway.corp:8080/v1", "https://gateway.corp:8080/v1 "),
        ("me:pa55word@gateway/v1", "https://gateway/v1 "),
        ("ftp://gateway/v1", "write it whole"),
        ("https://", "write it whole"),
        ("https://api.openai.com", "write https://api.openai.com/v1 "),
        ("https://eu.api.openai.com/", "write https://eu.api.openai.com/v1 "),
        ("https://x-y.openai.azure.com", "write https://x-y.openai.azure.com/openai/v1 "),
        ("https://x.openai.azure.com/v1", "write https://x.openai.azure.com/openai/v1 "),
    ],
)
def test_an_address_that_cannot_work_is_told_with_the_one_that_does(base_url: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        connected(lambda: client(base_url=base_url))
    assert says in str(caught.value) and "Nothing was sent" in str(caught.value)
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-SECRET\u2026", "sk-SECRET nine", "sk-SECRET\n", " sk-SECRET", "sk-SECRET\tnine"])
def test_a_key_that_cannot_be_sent_is_told_and_not_shown(key: str) -> None:
    with pytest.raises(InputError, match="enter it again") as caught:
        connected(lambda: client(api_key=key))
    assert "SECRET" not in str(caught.value)


def test_no_key_at_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match="password"):
        connected(lambda: OpenAI(api_key=None))


@pytest.mark.parametrize(
    "base_url",
    [
        None,
        "https://api.openai.com/v1",
        "https://api.openai.com/v1/",
        "http://localhost:8000",
        "http://litellm:4000/",
        "https://gateway/openai/deployments",
        "https://x.openai.azure.com/openai/v1/",
        "https://x.openai.azure.com/openai",  # with an api-version, as before Azure had a v1
        "https://api.openai.company.com/",
    ],
)
def test_other_addresses_may_work(base_url: str | None) -> None:
    assert isinstance(connected(lambda: client(base_url=base_url)), openai.OpenAI)


def test_errors_that_are_not_of_the_connection_pass() -> None:
    def broken() -> None:
        raise KeyError("no such connection")

    with pytest.raises(KeyError):
        connected(broken)
