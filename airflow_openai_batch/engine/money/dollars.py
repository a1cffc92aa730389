"""Amounts of money: as integers of picodollars, as users give them, and as people read them."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import Cost

PICODOLLARS = 10**12
"""Picodollars in a dollar."""

_MOST_DOLLARS = 9_000_000
"""The largest cap: picodollars are stored as 64-bit integers."""


def parse_dollars(amount: object, where: str) -> int:
    """Return an amount of dollars in picodollars.

    Args:
        amount: A number, or a text of one.
        where: The setting, for the error message.

    Raises:
        InputError: It is no amount.
    """
    try:
        dollars = Decimal(str(amount))
    except InvalidOperation:
        dollars = Decimal("nan")
    if not dollars.is_finite() or dollars < 0 or isinstance(amount, bool):
        raise InputError(f"{where} must be an amount of US dollars, for example 25 or 0.5, not {amount!r}.")
    if dollars > _MOST_DOLLARS:
        raise InputError(f"{where} may be at most {_MOST_DOLLARS:,} US dollars, is {amount}. None is no cap.")
    return int(dollars * PICODOLLARS)


def in_dollars(cost: Cost) -> dict[str, float | int | None]:
    """Return what is told of a cost: ``cost``, ``cost_of_bad_rows``, ``saved`` in dollars, ``rows_without_price``.

    Args:
        cost: The sums. A cost of which no part is known is None.
    """
    is_known = cost.picodollars or not cost.n_unknown
    return {
        "cost": cost.picodollars / PICODOLLARS if is_known else None,
        "cost_of_bad_rows": cost.bad_picodollars / PICODOLLARS,
        "saved": max(0, cost.saved_picodollars) / PICODOLLARS,
        "rows_without_price": cost.n_unknown,
    }


def cost_text(cost: Cost) -> str:
    """Return a cost for a person: ``$12.40 ($0.31 for bad rows), $12.40 saved``.

    Args:
        cost: The sums.
    """
    if cost.n_unknown and not cost.picodollars:
        return "not known: no price for the model; see [openai_batch] prices"
    bad = f" ({format_dollars(cost.bad_picodollars)} for bad rows)" if cost.bad_picodollars else ""
    texts = [format_dollars(cost.picodollars) + bad]
    if cost.saved_picodollars > 0:
        texts.append(f"{format_dollars(cost.saved_picodollars)} saved")
    if cost.n_unknown:
        texts.append(f"without {cost.n_unknown:,} row{'s' * (cost.n_unknown != 1)} of unknown price")
    return ", ".join(texts)


def short_cost_text(cost: Cost) -> str:
    """Return a cost for a column of a list: its sum, or that it is not known."""
    return "not known" if cost.n_unknown and not cost.picodollars else format_dollars(cost.picodollars)


def format_dollars(picodollars: int) -> str:
    """Return an amount with as many digits as it needs: ``$1,234.50``, ``$0.25``, ``$0.0042``.

    Args:
        picodollars: The amount.
    """
    sign, dollars = "-" if picodollars < 0 else "", Decimal(abs(picodollars)) / PICODOLLARS
    n_digits = 2 if not dollars or dollars >= 1 else max(2, 1 - dollars.adjusted())
    text = f"{dollars:,.{n_digits}f}"
    if n_digits > 2:
        whole, _, decimals = text.partition(".")
        text = f"{whole}.{decimals.rstrip('0'):0<2}"
    return f"{sign}${text}"
