"""What the answered rows cost, by OpenAI's published prices: the invoice at the end of the month.

The table is the package's; the reckoning is this module's own, in fractions, so that it cannot share a mistake with
what it checks.
"""

from __future__ import annotations

import json
from fractions import Fraction
from importlib.resources import files
from typing import Any

from airflow_openai_batch.emulator.model import JsonObject

UNKNOWN = -1
"""The cost of a row whose model has no price."""

_PICODOLLARS = 10**6
"""For a token, if a million cost a dollar."""


class PriceList:
    """The prices of all models, in dollars for a million tokens."""

    def __init__(self) -> None:
        text = files("airflow_openai_batch").joinpath("prices.json").read_text()
        self._models: dict[str, JsonObject] = json.loads(text, parse_float=Fraction, parse_int=Fraction)["models"]

    def cost(self, model: Any, usage: JsonObject, tier: str = "batch") -> int:
        """Return what a row costs in picodollars, or `UNKNOWN`.

        Args:
            model: The model that the answer names.
            usage: The usage that the answer tells.
            tier: `batch`, or the way it was asked synchronously: `standard`, `flex`.
        """
        prices = self._find(str(model))
        if prices is not None and tier != "batch":
            prices = prices.get(tier)
        if prices is None:
            return UNKNOWN
        asked = _count(usage, "input_tokens", "prompt_tokens")
        answered = _count(usage, "output_tokens", "completion_tokens")
        details = usage.get("input_tokens_details") or usage.get("prompt_tokens_details") or {}
        long = prices.get("long_context")
        if long is not None and asked > long["above_tokens"]:
            prices = long
        read, written = _count(details, "cached_tokens"), _count(details, "cache_write_tokens")
        full_price = prices["input"]
        total = (asked - read - written) * full_price
        total += read * prices.get("cached_input", full_price) + written * prices.get("cache_write", full_price)
        if answered:
            total += answered * prices["output"]
        return int(total * _PICODOLLARS)

    def _find(self, model: str) -> JsonObject | None:
        if model.startswith("ft:"):
            model = "ft:" + model.split(":")[1]
        stem, _, date = model.rpartition("-20")
        is_dated = len(date) == len("26-11-28") and date.replace("-", "").isdigit()
        return self._models.get(model) or (self._models.get(stem) if is_dated else None)


def _count(values: JsonObject, *names: str) -> int:
    return next((value for name in names if isinstance(value := values.get(name), int)), 0)
