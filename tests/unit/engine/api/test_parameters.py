"""Parameters that are most likely a mistake. What the SDK knows is read from the SDK that is installed."""

from __future__ import annotations

import pytest

from airflow_openai_batch.engine.api import parameters
from airflow_openai_batch.engine.api.parameters import doubtful_parameters

OPENAI = "api.openai.com"


@pytest.mark.parametrize("endpoint", parameters._PARAMS)
def test_the_sdk_tells_the_parameters_of_every_endpoint(endpoint: str) -> None:
    assert {"model", "stream"} <= parameters._known(endpoint)


@pytest.mark.parametrize(
    ("names", "host", "doubtful"),
    [
        (["model", "input", "dimensions"], OPENAI, []),
        (["model", "input", "dimension"], OPENAI, ["'dimension' (did you mean 'dimensions'?)"]),
        (["model", "input", "wishes"], OPENAI, ["'wishes'"]),
        (["model", "input", "wishes"], "eu.api.openai.com", ["'wishes'"]),
        (["model", "input", "wishes"], "vllm.example.com", []),
        (
            ["model", "input", "temperature"],
            "vllm.example.com",
            ["'temperature' (it belongs to /v1/responses and /v1/chat/completions and /v1/completions)"],
        ),
    ],
)
def test_parameters_of_embeddings(names: list[str], host: str, doubtful: list[str]) -> None:
    assert doubtful_parameters(names, "/v1/embeddings", host) == doubtful


def test_of_an_endpoint_without_a_list_nothing_is_wrong() -> None:
    assert doubtful_parameters(["anything"], "/v1/videos", OPENAI) == []


def test_an_sdk_that_has_them_elsewhere_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(parameters._PARAMS, "/v1/embeddings", ("openai.types.no_such_module", "Nothing"))
    parameters._known.cache_clear()
    assert doubtful_parameters(["anything"], "/v1/embeddings", OPENAI) == []
    parameters._known.cache_clear()
