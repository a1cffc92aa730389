"""Prices of models, and what one request costs.

The package ships a dated table of OpenAI's prices (``prices.json``, made by ``.ci/update_prices.py``); a deployment and
a job can add to it and override it, for Azure deployments, compatible servers and contracts. A price that is not known
is unknown, never zero.

Amounts are whole picodollars (a millionth of a millionth of a US dollar): so many a token is what a million tokens cost
in millionths of a dollar, so that no sum is ever rounded.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from importlib.resources import files
from typing import Any, Literal, NamedTuple

import msgspec

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import Policy, ServiceTier, Usage

Tier = Literal["batch", "flex", "standard"]
"""By which way a request is asked: in a batch, or synchronously in one of OpenAI's service tiers."""


def tier_of(service_tier: ServiceTier) -> Tier:
    """Return the tier of the prices of a synchronous request."""
    return "flex" if service_tier == "flex" else "standard"


_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}\Z")
_PICODOLLARS_A_TOKEN = 10**6
"""Of each dollar that a million tokens cost."""

_MOST_DOLLARS = 10_000
"""The highest price of a million tokens that is taken for one: more than ten times that of any model so far."""


class Rates(NamedTuple):
    """Picodollars for a token of each kind; None where that is not known."""

    input: int
    cached_input: int
    cache_write: int
    output: int | None


class Tariff(NamedTuple):
    """What requests to a model cost.

    Attributes:
        rates: The usual rates.
        long_rates: Those of a request with more than `long_above` input tokens, for all its tokens; None if there are
            no such rates.
        long_above: Input tokens of one request.
    """

    rates: Rates
    long_rates: Rates | None = None
    long_above: int = 0

    def cost(self, usage: Usage, n_requests: int = 1) -> int | None:
        """Return the picodollars of one request, or of several of about the same size; None if they are not known.

        OpenAI's usage counts cached tokens and cache writes among the input tokens, reasoning among the output tokens.

        Args:
            usage: The tokens of one request, or the sum of several.
            n_requests: How many they are.
        """
        is_long = self.long_rates is not None and usage.input_tokens > self.long_above * n_requests
        rates = self.long_rates if is_long and self.long_rates is not None else self.rates
        if rates.output is None and usage.output_tokens:
            return None
        plain = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens
        return (
            max(plain, 0) * rates.input
            + usage.cached_tokens * rates.cached_input
            + usage.cache_write_tokens * rates.cache_write
            + usage.output_tokens * (rates.output or 0)
        )


class ModelPrices(NamedTuple):
    """The tariffs of one model; None where they are not known."""

    batch: Tariff
    flex: Tariff | None = None
    standard: Tariff | None = None


class Prices:
    """Looks up what models cost.

    Args:
        overrides: Prices by model or deployment, which go before those that the package ships.
        has_openais: Whether those hold at all.
    """

    def __init__(self, overrides: Mapping[str, ModelPrices] | None = None, *, has_openais: bool = True) -> None:
        self._overrides = overrides or {}
        self._shipped = shipped() if has_openais else {}
        self._tariffs: dict[tuple[str | None, str | None, Tier], Tariff | None] = {}

    def tariff(self, asked: str | None, answered: str | None = None, tier: Tier = "batch") -> Tariff | None:
        """Return what requests cost, or None if that is not known.

        A dated name has the price of its model, unless it has one of its own; a fine-tuned model (``ft:MODEL:…``) has
        that of OpenAI's fine-tunes of the model.

        Args:
            asked: The model that the request names: a deployment on Azure.
            answered: The model that the answer names, which is exacter.
            tier: The way it is asked.
        """
        key = (asked, answered, tier)
        if key not in self._tariffs:
            self._tariffs[key] = self._find(*key)
        return self._tariffs[key]

    def _find(self, asked: str | None, answered: str | None, tier: Tier) -> Tariff | None:
        # An override may name a deployment; what is behind `gpt-4o` at OpenAI, only the answer tells.
        for table, models in ((self._overrides, (asked, answered)), (self._shipped, (answered, asked))):
            for name in (name for model in models if model for name in _names(model)):
                if name in table:
                    found: Tariff | None = getattr(table[name], tier)
                    return found
        return None


def _names(model: str) -> Iterator[str]:
    """Yield the names under which a model may have a price, the most exact first."""
    yield model
    if model.startswith("ft:"):
        base = ":".join(model.split(":")[:2])  # what follows is the organization's
        if base != model:
            yield base
        model = base
    if _DATE.search(model):
        yield _DATE.sub("", model)


class _Rates(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Dollars for a million tokens, as written in a table."""

    input: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    output: Decimal | None = None

    def exact(self) -> Rates:
        plain = _exact(self.input)
        cached, write = (plain if price is None else _exact(price) for price in (self.cached_input, self.cache_write))
        return Rates(plain, cached, write, None if self.output is None else _exact(self.output))


class _Long(_Rates, forbid_unknown_fields=True, kw_only=True):
    above_tokens: int


class _Tariff(_Rates, forbid_unknown_fields=True, kw_only=True):
    long_context: _Long | None = None

    def tariff(self) -> Tariff:
        if self.long_context is None:
            return Tariff(self.exact())
        return Tariff(self.exact(), self.long_context.exact(), self.long_context.above_tokens)


class _Model(_Tariff, forbid_unknown_fields=True, kw_only=True):
    flex: _Tariff | None = None
    standard: _Tariff | None = None


def _exact(dollars: Decimal) -> int:
    if dollars.is_finite() and dollars > _MOST_DOLLARS:
        raise ValueError(f"it is more than {_MOST_DOLLARS:,} dollars for a million tokens")
    amount = dollars * _PICODOLLARS_A_TOKEN
    if not amount.is_finite() or amount < 0 or amount != int(amount):
        raise ValueError(f"{dollars} is no price: dollars for a million tokens, with at most six decimal places")
    return int(amount)


def parse_prices(table: Any, where: str) -> dict[str, ModelPrices]:
    """Read prices that a user gives.

    Args:
        table: By model or deployment a dict of dollars for a million tokens in a batch: ``input``, ``output`` (not for
            embeddings), ``cached_input`` and ``cache_write`` (by default as ``input``), and ``long_context`` with the
            same and ``above_tokens``; ``flex`` and ``standard`` hold the same for synchronous requests. A text in place
            of the dict is the name of another model of the table, or of OpenAI, which costs the same.
        where: The setting that the table comes from, for the error message.

    Raises:
        InputError: It is something else.
    """
    if not isinstance(table, Mapping):
        raise InputError(f"{where} must be a dict of prices by model, not {type(table).__name__}.")
    prices: dict[str, ModelPrices] = {}
    for model, entry in table.items():
        if isinstance(entry, str):
            continue
        try:
            read = msgspec.convert(entry, _Model)
            tiers = (tier.tariff() if tier is not None else None for tier in (read.flex, read.standard))
            prices[str(model)] = ModelPrices(read.tariff(), *tiers)
        except (msgspec.ValidationError, ValueError, ArithmeticError) as error:
            raise InputError(
                f"{where}: the price of {model!r} cannot be used: {error}. Give dollars for a million tokens, for "
                'example {"input": 0.05, "output": 0.25}.'
            ) from None
    named = {str(model): name for model, name in table.items() if isinstance(name, str)}
    return prices | {model: _prices_like(name, prices, f"{where}: {model!r}") for model, name in named.items()}


def _prices_like(name: str, prices: Mapping[str, ModelPrices], where: str) -> ModelPrices:
    """Return the prices of a model that another one costs as much as."""
    for table in (prices, shipped()):
        for candidate in _names(name):
            if candidate in table:
                return table[candidate]
    raise InputError(
        f"{where} is to cost what {name!r} costs, which is not known. Give dollars for a million tokens, for example "
        '{"input": 0.05, "output": 0.25}.'
    )


def prices_of(policy: Policy) -> Prices:
    """Return what models cost for a job with a policy."""
    return Prices(parse_prices(policy.prices, "prices"), has_openais=policy.has_openais_prices)


class ShippedTable(msgspec.Struct):
    """The table in the package: when it was made, of what, and the prices in dollars for a million tokens."""

    date: str
    sources: dict[str, str]
    models: dict[str, Any]


def shipped_table() -> ShippedTable:
    """Return the table as it is written in the package."""
    return msgspec.json.decode(files("airflow_openai_batch").joinpath("prices.json").read_bytes(), type=ShippedTable)


@functools.cache
def shipped() -> dict[str, ModelPrices]:
    """Return the prices that the package ships."""
    return parse_prices(shipped_table().models, "prices.json")
