"""Counting some requests tells of all."""

from __future__ import annotations

import json
import random
import sys

import numpy as np
import pytest

from airflow_openai_batch.engine.model import Measure
from airflow_openai_batch.engine.money.token_sample import Tokens, TokenSample
from airflow_openai_batch.engine.money.tokens import TokenCounter

RESPONSES = "/v1/responses"
ENGLISH = ["the", "customer", "writes", "that", "the", "invoice", "was", "paid", "twice", "and", "asks", "for", "it"]
DIGITS = [str(n) for n in range(100_000, 100_400, 7)]


def bodies(n: int, words: list[str], seed: int = 0, n_words: int = 200, **more) -> list[bytes]:
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(words, k=rng.randint(n_words // 2, n_words * 3 // 2))) for _ in range(n)]
    return [json.dumps({"model": "gpt-6-luna", "input": text, **more}).encode() for text in texts]


def weigh(sample: TokenSample, requests: list[bytes], model: str = "gpt-6-luna") -> Tokens:
    return sample.weigh(np.array([len(body) for body in requests]), requests.__getitem__, model)


def true(requests: list[bytes]) -> int:
    counter = TokenCounter(RESPONSES)
    return sum(counter.count(json.loads(body)) for body in requests)


def test_few_requests_are_counted_one_by_one() -> None:
    sample, requests = TokenSample(RESPONSES), bodies(50, ENGLISH)
    counter = TokenCounter(RESPONSES)
    tokens = weigh(sample, requests)
    assert tokens.expected.tolist() == [counter.count(json.loads(body)) for body in requests]
    assert tokens.at_most.tolist() == tokens.expected.tolist()
    assert sample.measure(None) == Measure(max_output_tokens=None, n_sampled=50)


@pytest.mark.parametrize("words", [ENGLISH, DIGITS, ["今天天气很好", "我们去公园散步"]])
def test_of_many_a_sample_tells_within_one_percent(words: list[str]) -> None:
    sample = TokenSample(RESPONSES)
    pieces = [bodies(1000, words, seed) for seed in range(4)]
    weighed = [weigh(sample, piece) for piece in pieces]
    expected = sum(int(tokens.expected.sum()) for tokens in weighed)
    assert expected == pytest.approx(sum(map(true, pieces)), rel=0.01)
    measure = sample.measure(None)
    assert measure is not None and measure.n_sampled < 1500


def test_other_rows_further_down_are_estimated_by_those_near_them() -> None:
    """The rows of one language come after those of another, and each shard fits by its own."""
    sample = TokenSample(RESPONSES)
    weigh(sample, bodies(4000, ENGLISH))
    later = bodies(3000, DIGITS)
    tokens = weigh(sample, later)
    assert int(tokens.expected.sum()) == pytest.approx(true(later), rel=0.02)
    assert int(tokens.at_most.sum()) > true(later)


def test_rows_that_are_sorted_by_language_are_estimated_each_by_its_own() -> None:
    sample, english, digits = TokenSample(RESPONSES), bodies(1500, ENGLISH), bodies(1500, DIGITS)
    expected = weigh(sample, english + digits).expected
    assert int(expected[:1500].sum()) == pytest.approx(true(english), rel=0.05)
    assert int(expected[1500:].sum()) == pytest.approx(true(digits), rel=0.05)


def test_each_model_is_estimated_by_its_own_requests() -> None:
    sample = TokenSample(RESPONSES)
    large, small = bodies(2000, ENGLISH), bodies(1, DIGITS, n_words=20_000)
    weigh(sample, large, "a")
    weigh(sample, small, "b")
    assert int(weigh(sample, large, "a").expected.sum()) == pytest.approx(true(large), rel=0.01)


def test_hardly_more_than_one_byte_of_two_hundred_is_read() -> None:
    sample, n_read = TokenSample(RESPONSES), 0

    def body(place: int) -> bytes:
        nonlocal n_read
        n_read += len(requests[place])
        return requests[place]

    for seed in range(10):
        requests = bodies(1000, ENGLISH, seed)
        sample.weigh(np.array([len(body) for body in requests]), body, "m")
    n_bytes = 10 * sum(map(len, requests))
    assert 256 * 1024 < n_read < 256 * 1024 + n_bytes / 200


def test_a_single_long_request_among_many_models_is_not_counted_for_nothing() -> None:
    sample, long = TokenSample(RESPONSES), bodies(1, ENGLISH, n_words=100_000)
    first = weigh(sample, long)
    assert int(first.expected[0]) == true(long)
    for _ in range(5):
        weigh(sample, long)
    measure = sample.measure(None)
    assert measure is not None and measure.n_sampled == 1


@pytest.mark.parametrize("tokenizer", [True, False])
def test_requests_with_input_that_is_not_counted_are_told(monkeypatch, tokenizer: bool) -> None:
    if not tokenizer:
        monkeypatch.setitem(sys.modules, "splintr", None)
    sample = TokenSample(RESPONSES)
    weigh(sample, bodies(4, ENGLISH) + bodies(3, ENGLISH, previous_response_id="resp_1"))
    assert sample.measure(9) == Measure(max_output_tokens=9, n_sampled=7, n_uncounted=3)


def test_of_no_requests_nothing_is_measured() -> None:
    assert TokenSample(RESPONSES).measure(9) is None


def test_without_the_tokenizer_four_bytes_are_a_token(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "splintr", None)
    sample, requests = TokenSample(RESPONSES), bodies(10, ENGLISH, max_output_tokens=7)
    tokens = weigh(sample, requests)
    assert tokens.expected.tolist() == [len(body) // 4 + 1 for body in requests]
    assert tokens.at_most.tolist() == tokens.expected.tolist()
    assert "Tokens cannot be counted" in (sample.problem or "")
    assert sample.measure(7) == Measure(max_output_tokens=7, n_sampled=10)


def test_half_a_character_is_no_reason_not_to_send() -> None:
    broken = b'{"model":"gpt-6-luna","input":"\\ud800"}'
    tokens = weigh(TokenSample(RESPONSES), [broken, *bodies(1, ENGLISH)])
    assert all(tokens.expected > 0)
