"""Make the table of prices that the package ships, and compare it with a second source.

    make prices

Both sources are published on PyPI and well kept: litellm's price list, from which the table is made, and pydantic's
genai-prices, against which it is checked. Their wheels are downloaded, nothing is installed. Each difference is
printed, for a person to look up on OpenAI's own page of prices; also what changed against the table of before.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parent.parent / "airflow_openai_batch" / "prices.json"
LITELLM = "litellm/model_prices_and_context_window_backup.json"
KINDS = {
    "input": "input_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "output": "output_cost_per_token",
}
LONG = "_above_272k_tokens"
LONG_TOKENS = 272_000
SUFFIXES = {"batch": "_batches", "flex": "_flex", "standard": ""}
# Pictures are billed by tokens of other kinds, which the usage of a batch does not tell apart.
MODES = ("chat", "responses", "embedding")
# What OpenAI's undated names stand for, where the list has a batch price for the dated one only.
ALIASES = {
    "gpt-3.5-turbo": "gpt-3.5-turbo-0125",
    "gpt-4": "gpt-4-0613",
    "gpt-4-turbo": "gpt-4-turbo-2024-04-09",
    "text-embedding-ada-002": "text-embedding-ada-002-v2",
}
DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")
# OpenAI's guide: the moderation endpoint is free.
FREE = ("omni-moderation-latest", "omni-moderation-2024-09-26")


def main() -> int:
    """Write the table. Returns 1 if prices differ between the sources."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, compare only")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheels = {name: wheel_of(name, Path(folder)) for name in ("litellm", "genai-prices")}
        listed = json.loads(zipfile.ZipFile(wheels["litellm"]).read(LITELLM), parse_float=Decimal)
        sys.path.insert(0, str(wheels["genai-prices"]))  # Python imports from a wheel as it is
        models = table_of(listed)
        differences = list(compared(models))
    print(*differences, f"{len(models)} models, {len(differences)} differences between the sources", sep="\n")
    before = json.loads(TABLE.read_text(), parse_float=Decimal)["models"] if TABLE.exists() else {}
    print(*changes(before, models), sep="\n")
    if not args.check:
        table = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "sources": {name: wheel.name.split("-")[1] for name, wheel in wheels.items()},
            "models": models,
        }
        TABLE.write_text(json.dumps(table, indent=1, default=float) + "\n")
    return 1 if differences else 0


def wheel_of(name: str, folder: Path) -> Path:
    """Download the newest wheel of a package."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), name], check=True)
    return next(folder.glob(f"{name.replace('-', '_')}-*.whl"))


def table_of(listed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the prices of OpenAI's models that have one for batches, in dollars for a million tokens."""
    models: dict[str, Any] = {name: {"input": 0, "output": 0, "standard": {"input": 0, "output": 0}} for name in FREE}
    for name, entry in sorted(listed.items()):
        is_ours = entry.get("litellm_provider") == "openai" and "/" not in name and entry.get("mode") in MODES
        if is_ours and (batch := tariff(entry, "batch")) is not None:
            others = {tier: tariff(entry, tier) for tier in ("flex", "standard")}
            models[name] = batch | {tier: prices for tier, prices in others.items() if prices is not None}
    models |= {alias: models[name] for alias, name in ALIASES.items() if name in models and alias not in models}
    return {name: prices for name, prices in models.items() if not is_said(name, models)}


def is_said(name: str, models: Mapping[str, Any]) -> bool:
    """Return whether a dated name has the price of its model, under which it is found too."""
    undated = DATE.sub("", name)
    return undated != name and models.get(undated) == models[name]


def tariff(entry: Mapping[str, Any], tier: str) -> dict[str, Any] | None:
    """Return a model's prices in one tier, or None if it has none."""
    suffix = SUFFIXES[tier]
    if KINDS["input"] + suffix not in entry:
        return None
    usual = rates(entry, suffix)
    if KINDS["input"] + LONG + suffix in entry:
        usual["long_context"] = {"above_tokens": LONG_TOKENS} | rates(entry, LONG + suffix)
    return usual


def rates(entry: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    """Return prices by kind of token. Batches of older models have no discount for cached input: it costs as other."""
    prices = {kind: entry.get(key + suffix) for kind, key in KINDS.items()}
    if entry.get("mode") == "embedding":
        prices["output"] = None
    return {kind: _plain(price * 1_000_000) for kind, price in prices.items() if price is not None}


def _plain(price: Any) -> Decimal | int:
    exact = Decimal(price).normalize()
    return int(exact) if exact == exact.to_integral_value() else exact


def compared(models: Mapping[str, Any]) -> Iterator[str]:
    """Yield each price that the second source tells another way."""
    for name, prices in models.items():
        for tier in ("batch", "standard"):
            ours = prices if tier == "batch" else prices.get("standard")
            theirs = second_opinion(name, tier)
            for kind, price in theirs.items() if ours else ():
                # Both read OpenAI's page, which rounds some prices.
                if kind in ours and abs(Decimal(ours[kind]) - price) > Decimal("0.005") * price:
                    is_standard = tier == "batch" and price == Decimal(prices["standard"].get(kind, ours[kind]))
                    why = ", which has none for batches" if is_standard else ""
                    yield f"{name} ({tier}): {kind} {ours[kind]} here, {price.normalize():f} in genai-prices{why}"


def second_opinion(name: str, tier: str) -> dict[str, Decimal]:
    """Return what a million tokens of each kind cost by genai-prices; nothing if it does not know."""
    from genai_prices import Usage, calc_price  # type: ignore[import-not-found]

    asked = {
        "input": Usage(input_tokens=100_000),
        "cached_input": Usage(input_tokens=100_000, cache_read_tokens=100_000),
        "output": Usage(output_tokens=100_000),
    }
    context = {"processing": "batch"} if tier == "batch" else None
    prices = {}
    for kind, usage in asked.items():
        try:
            answer = calc_price(usage, name, provider_id="openai", price_context=context)
        except LookupError:
            continue
        prices[kind] = answer.total_price * 10
    return prices


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each model whose price changed."""
    for name in sorted(before.keys() | after.keys()):
        old, new = (json.dumps(table.get(name), default=float) for table in (before, after))
        if old != new:
            yield f"{name}: {old} -> {new}" if before else f"{name}: {new}"


if __name__ == "__main__":
    sys.exit(main())
