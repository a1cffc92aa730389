"""Costs of many requests at once, as Arrow columns, and their sums. Each request is priced by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from airflow_openai_batch.engine.model import Cost
from airflow_openai_batch.engine.money.prices import Prices, Rates, Tariff, Tier

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Counts = NDArray[np.int64]
    Flags = NDArray[np.bool_]

_DIGITS = 18
_SCALE = 12  # picodollars
_MAX_COUNT = 2**27
_NO_RATES = Rates(0, 0, 0, 0)


class TokenCounts(NamedTuple):
    """Token counts of requests, each an array of the same length; see ``Usage``."""

    input: Counts
    cached: Counts
    cache_write: Counts
    output: Counts


class Costs(NamedTuple):
    """Picodollars of requests, and which of them are known."""

    picodollars: Counts
    is_known: Flags

    def column(self) -> pa.Array:
        """Return the costs in dollars, exact; null where they are not known."""
        import numpy as np
        import pyarrow as pa

        # A decimal of Arrow is an integer of 16 bytes, the lower half first.
        words = np.zeros((len(self.picodollars), 2), dtype="<i8")
        words[:, 0] = self.picodollars
        mask = pa.array(~self.is_known)
        decimals = pa.Array.from_buffers(cost_type(), len(words), [None, pa.py_buffer(words)])
        return pa.compute.if_else(mask, pa.scalar(None, cost_type()), decimals)


def cost_type() -> pa.DataType:
    """Return the Arrow type of costs in dollars."""
    import pyarrow as pa

    return pa.decimal128(_DIGITS, _SCALE)


def picodollars_of(costs: pa.Array | pa.ChunkedArray) -> int:
    """Return the sum of a column of costs in picodollars; unknown ones are not in it."""
    import pyarrow.compute as pc

    total = pc.sum(costs).as_py()
    return int(total.scaleb(_SCALE)) if total is not None else 0


def costs_of(
    prices: Prices, asked: str | None, answered: pa.Array, tokens: TokenCounts, is_billed: Flags, tier: Tier = "batch"
) -> Costs:
    """Return what requests cost.

    Args:
        prices: What models cost.
        asked: The model that the requests name.
        answered: The models that the answers name: strings, null where an answer names none.
        tokens: The tokens of each request.
        is_billed: Which requests have an answer, good or not. The others cost nothing.
        tier: The way they were asked, or would have been.
    """
    import numpy as np

    models = answered.dictionary_encode()
    codes = models.indices.fill_null(len(models.dictionary)).to_numpy(zero_copy_only=False)
    picodollars = np.zeros(len(codes), dtype=np.int64)
    is_known = ~is_billed
    for code, model in enumerate([*models.dictionary.to_pylist(), None]):
        tariff = prices.tariff(asked, model, tier)
        is_of_model = is_billed & (codes == code)
        if tariff is None or not is_of_model.any():
            continue
        cost, is_certain = _priced(tariff, tokens)
        picodollars[is_of_model] = cost[is_of_model]
        is_known |= is_of_model & is_certain
    return Costs(np.where(is_known, picodollars, 0), is_known)


def _priced(tariff: Tariff, tokens: TokenCounts) -> tuple[Counts, Flags]:
    """Return what requests cost that all have one tariff, and where that is certain."""
    import numpy as np

    cost = _at(tariff.rates, tokens)
    has_output_price = tariff.rates.output is not None
    if tariff.long_rates is not None:
        cost = np.where(tokens.input > tariff.long_above, _at(tariff.long_rates, tokens), cost)
        has_output_price = has_output_price and tariff.long_rates.output is not None
    # A count that no model has is a nonsensical one.
    is_certain = np.all([counts < _MAX_COUNT for counts in tokens], axis=0) & (cost < 10**_DIGITS)
    if not has_output_price:
        is_certain &= tokens.output == 0
    if tariff.rates != _NO_RATES:
        # An answer is never free: a server that does not count tokens leaves its cost unknown.
        is_certain &= (tokens.input > 0) | (tokens.output > 0)
    return cost, is_certain


def _at(rates: Rates, tokens: TokenCounts) -> Counts:
    import numpy as np

    plain = np.maximum(tokens.input - tokens.cached - tokens.cache_write, 0)
    sums: Counts = plain * rates.input
    sums += tokens.cached * rates.cached_input + tokens.cache_write * rates.cache_write
    sums += tokens.output * (rates.output or 0)
    return sums


def total_cost(own: Costs, standard: Costs, is_billed: Flags, is_good: Flags) -> Cost:
    """Return the sums over requests.

    Args:
        own: What they cost, by the way they were asked.
        standard: What they would have cost synchronously.
        is_billed: Which of them have an answer.
        is_good: Which of them have a good one.
    """
    is_comparable = standard.is_known & own.is_known
    return Cost(
        picodollars=_exact_sum(own.picodollars),
        bad_picodollars=_exact_sum(own.picodollars[~is_good]),
        # Where it costs less than in a batch, by prices of one's own, nothing is saved.
        saved_picodollars=max(
            0, _exact_sum(standard.picodollars[is_comparable]) - _exact_sum(own.picodollars[is_comparable])
        ),
        n_unknown=int((is_billed & ~own.is_known).sum()),
    )


def _exact_sum(picodollars: Counts) -> int:
    """Return a sum of amounts, which may be more than 64 bits hold."""
    return (int((picodollars >> 32).sum()) << 32) + int((picodollars & (2**32 - 1)).sum())
