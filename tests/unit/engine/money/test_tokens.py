"""How many tokens a request has, and how many its answer may have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_openai_batch.engine.money import tokens
from airflow_openai_batch.engine.money.tokens import (
    UNBOUNDED,
    TokenCounter,
    body_of,
    bound_of_json,
    has_uncounted_input,
    most_output_tokens,
)

RESPONSES, CHAT, EMBEDDINGS = "/v1/responses", "/v1/chat/completions", "/v1/embeddings"
COMPLETIONS = "/v1/completions"
HELLO = "Hello, world!"
N_HELLO, AROUND, REPLY = 4, 4, 3
"""Tokens of that text in o200k and cl100k, of what stands around a message, and of the beginning of a reply."""


def message(content: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("endpoint", "body", "n"),
    [
        (RESPONSES, {"input": HELLO}, N_HELLO + AROUND + REPLY),
        (RESPONSES, {"input": HELLO, "instructions": HELLO}, 2 * (N_HELLO + AROUND) + REPLY),
        (RESPONSES, {"input": [message(HELLO), message(HELLO, "assistant")]}, 2 * (N_HELLO + AROUND) + REPLY),
        (RESPONSES, {"input": [message([{"type": "input_text", "text": HELLO}])]}, N_HELLO + AROUND + REPLY),
        (CHAT, {"messages": [message(HELLO, "system"), message(HELLO)]}, 2 * (N_HELLO + AROUND) + REPLY),
        (CHAT, {"messages": [message([{"type": "image_url", "image_url": {"url": "data:xyz"}}])]}, AROUND + REPLY),
        (EMBEDDINGS, {"input": HELLO}, N_HELLO),
        (EMBEDDINGS, {"input": [HELLO, HELLO]}, 2 * N_HELLO),
        (EMBEDDINGS, {"input": [9906, 11, 1917, 0]}, 4),
        (EMBEDDINGS, {"input": [[9906, 11], [1917]]}, 3),
        ("/v1/completions", {"prompt": [HELLO, HELLO]}, 2 * N_HELLO),
        ("/v1/moderations", {"input": HELLO}, N_HELLO),
    ],
)
def test_texts_count_and_what_stands_around_messages(endpoint: str, body: dict[str, Any], n: int) -> None:
    assert TokenCounter(endpoint).count({"model": "gpt-6-luna", "temperature": 0, **body}) == n


def image(url: Any) -> dict[str, Any]:
    return {"input": [message([{"type": "input_text", "text": HELLO}, {"type": "input_image", "image_url": url}])]}


WORDS = "word " * 1000


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (RESPONSES, {"input": "data: " + WORDS}),
        (RESPONSES, {"input": "data:image/png;base64," + WORDS}),
        (RESPONSES, {"instructions": "data:" + WORDS, "input": HELLO}),
        (RESPONSES, {"input": [message("data:" + WORDS)]}),
        (RESPONSES, {"input": [message([{"type": "input_text", "text": "data:" + WORDS}])]}),
        (CHAT, {"messages": [message([{"type": "text", "text": "data:" + WORDS}])]}),
        (EMBEDDINGS, {"input": ["data:" + WORDS]}),
        (RESPONSES, {"prompt": {"id": "pmpt_1", "variables": {"topic": "data:" + WORDS}}}),
    ],
)
def test_a_text_counts_whatever_it_begins_with(endpoint: str, body: dict[str, Any]) -> None:
    assert TokenCounter(endpoint).count({"model": "gpt-6-luna", **body}) > 1000


@pytest.mark.parametrize(
    "body",
    [
        image("data:image/png;base64," + "QUJD" * 1000),
        image("https://example.com/" + "picture" * 1000),
        {"input": [message([{"type": "input_file", "file_data": "data:application/pdf;base64," + "QUJD" * 1000}])]},
        {"input": [message([{"type": "input_file", "file_id": "file-1"}])]},
        {"messages": [message([{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "QUJD" * 999}}])]},
        {"messages": [message([{"type": "file", "file": {"file_data": "QUJD" * 999}}])]},
        {"messages": [message([{"type": "input_audio", "input_audio": {"data": "QUJD" * 999, "format": "wav"}}])]},
        {"input": [{"type": "reasoning", "encrypted_content": "QUJD" * 999}]},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": HELLO, "previous_response_id": "resp_1"},
        {"input": HELLO, "conversation": {"id": "conv_1"}},
        {"prompt": {"id": "pmpt_1", "variables": {"picture": {"type": "input_image", "file_id": "file-1"}}}},
        {"prompt": {"id": "pmpt_1"}},
        {"input": HELLO, "tools": [{"type": "web_search"}]},
        {"input": HELLO, "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
    ],
)
def test_what_nothing_tells_the_tokens_of_is_not_counted_and_that_is_told(body: dict[str, Any]) -> None:
    assert has_uncounted_input(body)
    endpoint = CHAT if "messages" in body else RESPONSES
    assert TokenCounter(endpoint).count({"model": "gpt-6-luna", **body}) < 100


@pytest.mark.parametrize(
    "body",
    [
        {"input": HELLO},
        {"input": "data:image/png;base64,QUJD"},
        {"input": [message([{"type": "input_text", "text": HELLO}])], "previous_response_id": None},
        {"input": HELLO, "tools": [{"type": "function", "name": "file_id", "parameters": {"image_url": {}}}]},
        {"prompt": [HELLO, HELLO]},
    ],
)
def test_where_all_is_text_all_is_counted(body: dict[str, Any]) -> None:
    assert not has_uncounted_input(body)


def test_what_the_answer_has_to_follow_is_read_by_the_model_too() -> None:
    counter, body = TokenCounter(RESPONSES), {"model": "gpt-6-luna", "input": HELLO}
    schema = {"type": "object", "properties": {"label": {"type": "string"}}}
    more = counter.count({**body, "text": {"format": {"type": "json_schema", "schema": schema}}})
    assert counter.count(body) + 15 < more < counter.count(body) + 40


CHINESE = "今天天气很好我们去公园散步"


@pytest.mark.parametrize(
    ("model", "is_older"),
    [
        ("text-embedding-3-small", True),
        ("gpt-4", True),
        ("gpt-4-turbo-2024-04-09", True),
        ("gpt-3.5-turbo", True),
        ("ft:gpt-3.5-turbo:org::1", True),
        ("gpt-4o-mini", False),
        ("gpt-4.1", False),
        ("ft:gpt-4.1-mini:org::1", False),
        ("gpt-6-luna", False),
        ("o3", False),
        ("my-deployment", False),
        (None, False),
    ],
)
def test_older_models_count_with_an_older_vocabulary(model: str | None, is_older: bool) -> None:
    n = TokenCounter(EMBEDDINGS).count({"model": model, "input": CHINESE})
    assert n == (16 if is_older else 10)


@pytest.mark.parametrize(
    ("endpoint", "body", "most"),
    [
        (RESPONSES, {"max_output_tokens": 9}, 9),
        (CHAT, {"max_completion_tokens": 9, "n": 3}, 27),
        (CHAT, {"max_tokens": 9}, 9),
        (CHAT, {"max_tokens": 9, "max_completion_tokens": 12}, 12),
        (CHAT, {}, None),
        (CHAT, {"max_output_tokens": 9}, None),  # of another endpoint: a server may ignore it
        (RESPONSES, {"max_tokens": 9}, None),
        (RESPONSES, {"max_output_tokens": 9.0}, 9),  # as a data frame with nulls has it
        (RESPONSES, {"max_output_tokens": True}, None),
        (RESPONSES, {"max_output_tokens": -1}, None),  # some servers: no bound
        (RESPONSES, {"max_output_tokens": "9"}, None),
        (RESPONSES, {"max_output_tokens": 10**30}, 2**40),
        (EMBEDDINGS, {}, 0),
        (COMPLETIONS, {"max_tokens": 9, "prompt": HELLO}, 9),
        (COMPLETIONS, {"max_tokens": 9, "prompt": [HELLO] * 20}, 180),
        (COMPLETIONS, {"max_tokens": 9, "prompt": [9906, 11]}, 9),  # one prompt, as tokens
        (COMPLETIONS, {"max_tokens": 9, "prompt": [[9906], [11]]}, 18),
        (COMPLETIONS, {"max_tokens": 9, "prompt": HELLO, "best_of": 10, "n": 2}, 90),
        (COMPLETIONS, {"max_tokens": 9, "prompt": [HELLO, HELLO], "n": 3}, 54),
    ],
)
def test_the_body_bounds_its_answer(endpoint: str, body: dict[str, Any], most: int | None) -> None:
    assert most_output_tokens(body, endpoint) == most
    assert bound_of_json(json.dumps(body).encode(), endpoint) == (UNBOUNDED if most is None else most)


def test_the_body_of_a_line_is_as_it_was_written() -> None:
    body = '{"b":1,  "a":"\\u00e9"}'
    assert body_of(f'{{"custom_id":"x","body":{body}}}\n'.encode()) == body.encode()
    assert json.loads(body_of(b'{"body":{"a":[1]}}')) == {"a": [1]}


def test_what_all_requests_begin_with_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []

    def load(name: str) -> Any:
        def encode(text: str) -> list[int]:
            encoded.append(text)
            return list(range(len(text)))

        return encode

    monkeypatch.setattr(tokens, "load_encoder", load)
    counter = tokens.TokenCounter("/v1/responses")
    bodies = [{"model": "m", "instructions": "label it", "input": f"row {i}" + " " * i} for i in range(100)]
    counts = [counter.count(body) for body in bodies]
    assert counts == sorted(set(counts))
    assert encoded.count("label it") == 1
    long = "x" * 200_000
    assert counter.count({"model": "m", "input": long}) == counter.count({"model": "m", "input": long})
    assert encoded.count(long) == 2, "it would be kept in memory"
