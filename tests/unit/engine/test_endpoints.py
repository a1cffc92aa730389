from __future__ import annotations

from typing import Any

import pytest

from airflow_openai_batch.engine.endpoints import REQUIRED, check_body, check_endpoint, count_inputs, long_form
from airflow_openai_batch.engine.errors import InputError


@pytest.mark.parametrize("endpoint", REQUIRED)
def test_every_endpoint_of_the_batch_api_is_known_and_its_bodies_checked(endpoint: str) -> None:
    check_endpoint(endpoint)
    whole = dict.fromkeys(REQUIRED[endpoint], "x")
    check_body(whole, endpoint, "row 1")
    for name in whole:
        for absent in ({k: v for k, v in whole.items() if k != name}, {**whole, name: None}, {**whole, name: ""}):
            with pytest.raises(InputError, match=f"row 1: the body lacks '{name}'.*refuse the whole batch"):
                check_body(absent, endpoint, "row 1")


@pytest.mark.parametrize("endpoint", ["", "/v1/chat", "/v1/responses/", "responses", "/v1/audio/speech"])
def test_an_unknown_endpoint_is_refused_with_those_there_are(endpoint: str) -> None:
    with pytest.raises(InputError, match="The Batch API has: /v1/responses"):
        check_endpoint(endpoint)


def test_an_endpoint_that_the_server_has_is_known_only_if_it_is_named() -> None:
    check_endpoint("/v1/rerank", ["/v1/rerank"])
    with pytest.raises(InputError, match=r'connection\'s extra: {"batch_endpoints": \["/v1/rerank"\]}'):
        check_endpoint("/v1/rerank", ["/v1/audio/transcriptions"])
    check_body({"query": "x"}, "/v1/rerank", "row 1")
    with pytest.raises(InputError, match="stream"):
        check_body({"query": "x", "stream": True}, "/v1/rerank", "row 1")


@pytest.mark.parametrize(
    ("url", "long"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/responses", "/v1/responses"),
        ("/v1/responses", "/v1/responses"),
        ("/rerank", "/rerank"),
        ("", ""),
    ],
)
def test_a_url_without_its_version_means_the_same(url: str, long: str) -> None:
    assert long_form(url) == long


@pytest.mark.parametrize("body", [None, "{}", [], 5])
def test_a_body_is_an_object(body: Any) -> None:
    with pytest.raises(InputError, match="row 1: the body must be an object"):
        check_body(body, "/v1/responses", "row 1")


@pytest.mark.parametrize(
    ("value", "n"), [("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2), (["a"] * 2048, 2048)]
)
def test_inputs_are_counted_as_openai_counts_them(value: Any, n: int) -> None:
    assert count_inputs(value, "row 1") == n


@pytest.mark.parametrize("value", [[], None, 5, {}, ["a"] * 2049])
def test_inputs_that_openai_refuses_name_the_row(value: Any) -> None:
    with pytest.raises(InputError, match="row 1: "):
        count_inputs(value, "row 1")
