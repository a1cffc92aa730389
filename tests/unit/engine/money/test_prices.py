"""What requests cost, and how a model's price is found."""

from __future__ import annotations

import datetime

import pytest

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import Cost, Usage
from airflow_openai_batch.engine.money.dollars import PICODOLLARS, cost_text, format_dollars, in_dollars
from airflow_openai_batch.engine.money.prices import Prices, parse_prices, shipped, shipped_table

MILLION = 1_000_000


def dollars(amount: str) -> int:
    whole, _, part = amount.partition(".")
    return int(whole) * PICODOLLARS + int(part.ljust(12, "0"))


# OpenAI's page of prices on 2026-11-28: input and output of a million tokens in batches.
@pytest.mark.parametrize(
    ("model", "input_price", "output_price"),
    [
        ("gpt-6-luna", "0.05", "0.25"),
        ("gpt-6-sol", "1", "5"),
        ("gpt-6-astra", "5", "25"),
        ("gpt-5.6-luna", "0.1", "0.6"),
        ("gpt-5.4-mini", "0.375", "2.25"),
        ("gpt-5", "0.625", "5"),
    ],
)
def test_the_shipped_prices_are_those_of_batches(model: str, input_price: str, output_price: str) -> None:
    tariff = Prices().tariff(model)
    assert tariff is not None
    assert tariff.rates.input * MILLION == dollars(input_price)
    assert tariff.cost(Usage(output_tokens=MILLION)) == dollars(output_price)


def test_embeddings_have_the_price_of_batches_and_no_output() -> None:
    tariff = Prices().tariff("text-embedding-3-small")
    assert tariff is not None
    assert tariff.cost(Usage(input_tokens=MILLION)) == dollars("0.01")
    assert tariff.cost(Usage(input_tokens=1, output_tokens=1)) is None


def test_each_kind_of_token_has_its_own_price() -> None:
    """Cached tokens and cache writes are among the input tokens, reasoning is among the output tokens."""
    tariff = Prices().tariff("gpt-6-luna")
    assert tariff is not None
    usage = Usage(input_tokens=1000, cached_tokens=300, cache_write_tokens=200, output_tokens=100, reasoning_tokens=60)
    assert tariff.cost(usage) == 500 * 50_000 + 300 * 5_000 + 200 * 62_500 + 100 * 250_000


def test_a_long_request_costs_more_for_all_its_tokens() -> None:
    tariff = Prices().tariff("gpt-6-luna")
    assert tariff is not None
    assert tariff.cost(Usage(input_tokens=272_000, output_tokens=10)) == 272_000 * 50_000 + 10 * 250_000
    assert tariff.cost(Usage(input_tokens=272_001, output_tokens=10)) == 272_001 * 100_000 + 10 * 375_000


def test_older_models_have_no_discount_for_cached_input_in_batches() -> None:
    tariff = Prices().tariff("gpt-4o-mini")
    assert tariff is not None
    assert tariff.cost(Usage(input_tokens=100, cached_tokens=100)) == tariff.cost(Usage(input_tokens=100))


@pytest.mark.parametrize(
    ("model", "like"),
    [
        ("gpt-6-luna-2026-10-01", "gpt-6-luna"),
        ("gpt-4.1-mini-2025-04-14", "gpt-4.1-mini"),
        ("ft:gpt-4.1-mini-2025-04-14:acme:labels:Ab12", "ft:gpt-4.1-mini-2025-04-14"),
        ("ft:gpt-3.5-turbo:acme::Ab12", "ft:gpt-3.5-turbo"),
    ],
)
def test_dated_and_fine_tuned_names_have_a_price(model: str, like: str) -> None:
    assert Prices().tariff(model) == shipped()[like].batch


@pytest.mark.parametrize(
    "model", ["ft:gpt-6-luna:acme::1", "gpt-7", "llama-4", "gpt-6-luna-mini", "", "gpt-6-luna-2026"]
)
def test_an_unknown_price_is_unknown(model: str) -> None:
    assert Prices().tariff(model) is None
    assert Prices().tariff(None, model) is None


def test_a_price_that_a_user_gives_by_the_full_name_goes_first() -> None:
    name = "ft:gpt-4.1-mini-2025-04-14:acme::x"
    table = {name: {"input": 9}, "ft:gpt-4.1-mini-2025-04-14": {"input": 5}, "ft:gpt-oss:acme::Abc1": {"input": 7}}
    prices = Prices(parse_prices(table, "prices"))
    rates = [prices.tariff(asked) for asked in (name, "ft:gpt-4.1-mini-2025-04-14:acme::y", "ft:gpt-oss:acme::Abc1")]
    assert [tariff and tariff.rates.input for tariff in rates] == [9 * MILLION, 5 * MILLION, 7 * MILLION]
    assert prices.tariff("gpt-4.1-mini", name) == prices.tariff(name)


def test_an_absurd_price_is_refused() -> None:
    parse_prices({"m": {"input": 10_000}}, "prices")
    with pytest.raises(InputError, match="the price of 'm' cannot be used: it is more than 10,000 dollars"):
        parse_prices({"m": {"input": 1, "standard": {"input": 1e12}}}, "prices")
    with pytest.raises(InputError, match="more than 10,000 dollars"):
        parse_prices({"m": {"input": "1e9999999"}}, "prices")


def test_what_costs_less_synchronously_saves_nothing_and_no_negative_amount() -> None:
    cost = Cost(picodollars=MILLION, saved_picodollars=-60 * MILLION)
    assert "saved" not in cost_text(cost)
    assert in_dollars(cost)["saved"] == 0


def test_a_dated_name_may_have_a_price_of_its_own() -> None:
    prices = Prices()
    assert prices.tariff("gpt-4o", "gpt-4o-2024-05-13") == shipped()["gpt-4o-2024-05-13"].batch
    assert prices.tariff("gpt-4o", "gpt-4o-2024-11-20") == shipped()["gpt-4o"].batch


def test_own_prices_go_first_and_by_what_was_asked() -> None:
    own = parse_prices(
        {"my-deployment": {"input": 2, "output": 8}, "gpt-6-sol": {"input": "0.9", "output": 4}}, "prices"
    )
    prices = Prices(own)
    assert prices.tariff("my-deployment", "gpt-6-luna-2026-10-01") == own["my-deployment"].batch
    assert prices.tariff("gpt-6-sol") == own["gpt-6-sol"].batch
    assert prices.tariff("gpt-6-sol", tier="standard") is None
    assert prices.tariff("gpt-6-luna") == shipped()["gpt-6-luna"].batch


def test_a_deployment_may_cost_what_a_model_costs() -> None:
    """One of OpenAI's, by any of its names, or one of the same table."""
    table = {"a": "gpt-6-luna-2026-10-01", "b": "mine", "mine": {"input": 3}}
    prices = Prices(parse_prices(table, "prices"), has_openais=False)
    assert prices.tariff("a") == Prices().tariff("gpt-6-luna")
    assert prices.tariff("a", tier="standard") == Prices().tariff("gpt-6-luna", tier="standard")
    assert prices.tariff("b") == prices.tariff("mine") is not None


@pytest.mark.parametrize("table", [{"a": "gpt-7"}, {"a": "b", "b": "gpt-6-luna"}, {"a": "a"}, {"a": ""}])
def test_a_model_of_unknown_price_is_no_price(table: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"prices: 'a' is to cost what .* costs, which is not known"):
        parse_prices(table, "prices")


def test_openais_prices_are_not_those_of_deployments_with_the_same_names() -> None:
    prices = Prices(has_openais=False)
    assert prices.tariff("gpt-6-luna") is prices.tariff("labels", "gpt-6-luna") is None


def test_a_price_holds_every_kind_and_tier() -> None:
    entry = {
        "input": 2,
        "cached_input": 0.5,
        "cache_write": 2.5,
        "output": 8,
        "long_context": {"above_tokens": 1000, "input": 4, "output": 12},
        "flex": {"input": 3, "output": 9},
        "standard": {"input": 4, "output": 16},
    }
    prices = Prices(parse_prices({"m": entry}, "prices"))
    batch, flex = prices.tariff("m"), prices.tariff("m", tier="flex")
    assert batch is not None
    assert flex is not None
    assert batch.cost(Usage(input_tokens=10, cached_tokens=10)) == 10 * 500_000
    assert batch.cost(Usage(input_tokens=1001, cached_tokens=1)) == 1001 * 4_000_000
    assert flex.cost(Usage(output_tokens=1)) == 9_000_000


@pytest.mark.parametrize(
    "entry",
    [
        {"input": -1},
        {"inptu": 1},
        {"output": 1},
        3,
        None,
        {"input": "cheap"},
        {"input": 1e-9},
        {"input": float("nan")},
        {"input": float("inf")},
        {"input": 1, "long_context": {"input": 2}},
    ],
)
def test_a_price_that_is_none_names_the_model_and_the_setting(entry: object) -> None:
    with pytest.raises(InputError, match=r"\[openai_batch\] prices: the price of 'my-model' cannot be used: "):
        parse_prices({"my-model": entry}, "[openai_batch] prices")


def test_prices_are_a_dict() -> None:
    with pytest.raises(InputError, match="prices must be a dict of prices by model, not list"):
        parse_prices([1], "prices")


def test_the_shipped_table_says_when_and_of_what_it_was_made() -> None:
    table = shipped_table()
    assert datetime.date.fromisoformat(table.date) >= datetime.date(2026, 11, 28)
    assert set(table.sources) == {"litellm", "genai-prices"}
    for model, prices in shipped().items():
        standard = prices.standard
        assert standard is not None, model
        assert prices.batch.rates.input <= standard.rates.input, model


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "$0.00"),
        ("0.0042", "$0.0042"),
        ("0.25", "$0.25"),
        ("0.5", "$0.50"),
        ("0.0000131", "$0.000013"),
        ("0.000000000001", "$0.000000000001"),
        ("0.01005", "$0.01"),
        ("0.0999", "$0.10"),
        ("0.999", "$1.00"),
        ("1234.5", "$1,234.50"),
    ],
)
def test_dollars_have_as_many_digits_as_they_need(amount: str, text: str) -> None:
    assert format_dollars(dollars(amount)) == text


def test_a_negative_amount_keeps_its_sign() -> None:
    assert format_dollars(-dollars("0.25")) == "-$0.25"
