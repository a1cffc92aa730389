"""Costs of many requests at once."""

from __future__ import annotations

import decimal

import numpy as np
import pyarrow as pa
import pytest

from airflow_openai_batch.engine.model import Cost, Usage
from airflow_openai_batch.engine.money.costs import Costs, TokenCounts, costs_of, total_cost
from airflow_openai_batch.engine.money.dollars import PICODOLLARS
from airflow_openai_batch.engine.money.prices import Prices, parse_prices

MODELS = ["gpt-6-luna", "gpt-4o-2024-05-13", "my-model", None]


def test_each_request_costs_what_it_costs_alone() -> None:
    rng = np.random.default_rng(1)
    n = 200
    names = [MODELS[i] for i in rng.integers(0, 4, n)]
    counts = rng.integers(1, 300_000, (4, n))
    tokens = TokenCounts(counts[0] * 3, counts[1], counts[2], counts[3])
    costs = costs_of(Prices(), "gpt-6-sol", pa.array(names), tokens, np.full(n, True)).column().to_pylist()
    for name, cost, read, cached, written, output in zip(names, costs, *tokens, strict=True):
        usage = Usage(
            input_tokens=int(read),
            cached_tokens=int(cached),
            cache_write_tokens=int(written),
            output_tokens=int(output),
        )
        tariff = Prices().tariff("gpt-6-sol", name)
        assert tariff is not None
        assert cost * PICODOLLARS == decimal.Decimal(tariff.cost(usage) or 0)


@pytest.mark.parametrize("kind", range(4))
def test_a_nonsensical_count_of_any_kind_leaves_the_cost_unknown(kind: int) -> None:
    counts = np.full((4, 2), 5)
    counts[kind, 0] = 2**40
    column = costs_of(Prices(), "gpt-6-luna", pa.nulls(2, pa.string()), TokenCounts(*counts), np.full(2, True)).column()
    assert column.to_pylist()[0] is None
    assert column.to_pylist()[1] is not None


def priced(n: int, n_input: int, n_output: int, **prices: float) -> tuple[Costs, Costs, np.ndarray]:
    """Return what so many requests cost in a batch, and synchronously."""
    table = {"m": {"input": 10_000, "output": 10_000, "standard": {"input": 1, "output": 1}, **prices}}
    known, billed = Prices(parse_prices(table, "prices")), np.full(n, True)
    zeros = np.zeros(n, dtype=np.int64)
    tokens = TokenCounts(np.full(n, n_input), zeros, zeros, np.full(n, n_output))
    asked = [costs_of(known, "m", pa.nulls(n, pa.string()), tokens, billed, tier) for tier in ("batch", "standard")]
    return asked[0], asked[1], billed


def test_sums_that_64_bits_do_not_hold_are_exact_and_saving_nothing_is_no_negative_amount() -> None:
    batch, standard, billed = priced(2000, 1_000_000, 3)
    assert total_cost(batch, standard, billed, np.full(2000, False)) == Cost(
        picodollars=2000 * 1_000_003 * 10**10, bad_picodollars=2000 * 1_000_003 * 10**10, saved_picodollars=0
    )


def test_a_request_that_costs_more_than_any_column_holds_has_no_known_cost() -> None:
    batch, _, _ = priced(1, 2**27 - 1, 2**27 - 1)
    assert batch.column().to_pylist() == [None]


def test_what_was_not_billed_costs_nothing_and_what_has_no_tokens_is_unknown() -> None:
    nothing = TokenCounts(*np.zeros((4, 2), dtype=np.int64))
    costs = costs_of(Prices(), "gpt-6-luna", pa.nulls(2, pa.string()), nothing, np.array([False, True]))
    assert costs.column().to_pylist() == [0, None]
