"""Requests that are answered at once, with the real SDK as their client."""

from __future__ import annotations

import json

import pytest
from openai import APIStatusError, BadRequestError, InternalServerError, NotFoundError, RateLimitError

from airflow_openai_batch.emulator import Limits, ManualClock, Rule

CHAT = "/v1/chat/completions"
LUNA = {"input": 100_000, "output": 500_000}
"""Picodollars for a token of gpt-6-luna, synchronously: dollars for a million of them."""


def test_each_endpoint_answers_as_it_does_in_a_batch(kit):
    chat = kit.client.chat.completions.create(**kit.body("hi"))
    response = kit.client.responses.create(**kit.body("hi", "/v1/responses"))
    vectors = kit.client.embeddings.create(model="text-embedding-3-small", input=["a", "b"], dimensions=8)
    kit.client.moderations.create(input="hi", model="omni-moderation-latest")
    assert chat.choices[0].message.content == response.output_text == "Echo: hi"
    assert [len(item.embedding) for item in vectors.data] == [8, 8]
    batch = kit.ended([kit.line("a", body=kit.body("hi"))])
    assert kit.texts(batch)["a"] == "Echo: hi"


def test_it_is_billed_at_the_synchronous_price(kit):
    answer = kit.client.chat.completions.create(**kit.body("hi"))
    invoice = kit.emu.ledger.invoice()
    usage = answer.usage
    assert invoice.picodollars == usage.prompt_tokens * LUNA["input"] + usage.completion_tokens * LUNA["output"]
    assert kit.emu.ledger.invoice("direct") == invoice
    assert [(row.batch_id, row.custom_id) for row in kit.emu.ledger.rows()] == [("direct", "")]
    assert kit.emu.ledger.batches == []


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        ({"model": "gpt-nothing"}, NotFoundError, "model_not_found"),
        ({"messages": None}, BadRequestError, "missing_required_parameter"),
    ],
)
def test_a_body_that_openai_would_refuse_is_refused_and_not_billed(start, change, error, code):
    kit = start(limits=Limits(models=frozenset({"gpt-6-luna"})))
    with pytest.raises(error) as caught:
        kit.client.chat.completions.create(**{**kit.body("hi"), **change})
    assert caught.value.code == code
    assert kit.emu.ledger.n_rows() == 0


def test_faults_of_rows_and_of_calls_apply(kit):
    bad_row = {"http_error": {"status": 400, "code": "invalid_value", "message": "Bad row."}}
    kit.emu.faults.add(
        Rule("row", bad_row, match={"body": "one"}),
        Rule("row", "missing", match={"body": "two"}),
        Rule("POST /v1/chat/completions", {"status": {"code": 503}}, match={"body": "three"}),
    )
    for text, error, message in (
        ("one", BadRequestError, "Bad row."),
        ("two", InternalServerError, "The server had an error."),
        ("three", InternalServerError, "503"),
    ):
        with pytest.raises(error, match=message):
            kit.client.chat.completions.create(**kit.body(text))
    assert kit.emu.ledger.n_rows() == 0


def test_a_malformed_answer_is_billed_all_the_same(kit):
    kit.emu.faults.add(Rule("row", {"malformed": {"data": "<html>"}}))
    answer = kit.client.chat.completions.with_raw_response.create(**kit.body("hi"))
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.content)
    (row,) = kit.emu.ledger.rows()
    assert row.delivered == "malformed"


def test_a_call_without_a_key_is_refused(kit):
    with pytest.raises(APIStatusError):
        kit.client.with_options(api_key="").chat.completions.create(
            **kit.body("hi"), extra_headers={"authorization": ""}
        )


def test_flex_costs_what_a_batch_does(kit):
    usage = kit.client.chat.completions.create(**kit.body("hi"), service_tier="flex").usage
    cost = usage.prompt_tokens * LUNA["input"] // 2 + usage.completion_tokens * LUNA["output"] // 2
    assert kit.emu.ledger.invoice().picodollars == cost


def test_a_request_is_known_by_its_body_whatever_its_service_tier(kit):
    kit.client.chat.completions.create(**kit.body("hi"), service_tier="flex")
    kit.client.chat.completions.create(**kit.body("hi"))
    assert len({row.body_hash for row in kit.emu.ledger.rows()}) == 1


@pytest.mark.parametrize("name", ["requests", "tokens"])
def test_rate_limits_are_told_and_kept(start, name):
    kit = start(clock=ManualClock(), **{f"{name}_per_minute": 60})
    create = kit.client.with_options(max_retries=0).chat.completions.with_raw_response.create
    answer = create(**kit.body("hi"))
    left = int(answer.headers[f"x-ratelimit-remaining-{name}"])
    assert 0 < left < 60
    assert answer.headers[f"x-ratelimit-limit-{name}"] == "60"
    assert answer.headers[f"x-ratelimit-reset-{name}"].endswith("s")
    refused = None
    while refused is None:
        try:
            create(**kit.body("hi"))
        except RateLimitError as error:
            refused = error
    n_billed = kit.emu.ledger.n_rows()
    wait_s = float(refused.response.headers["retry-after"])
    assert 0 < wait_s <= 60
    kit.emu.clock.advance(wait_s + 0.01)
    create(**kit.body("hi"))
    assert kit.emu.ledger.n_rows() == n_billed + 1
