"""A plan as text for a log, a terminal and a person who approves it, and as a value for scripts. Pure."""

from __future__ import annotations

from typing import Any

from airflow_openai_batch.engine.job.plan import CapVerdict, Plan
from airflow_openai_batch.engine.job.summary import counted
from airflow_openai_batch.engine.money.dollars import PICODOLLARS, format_dollars
from airflow_openai_batch.engine.money.estimate import Estimate, format_count, uncounted_text
from airflow_openai_batch.engine.progress.forecast import Forecast, forecast_text

_BASES = {
    "own": "by the answers so far",
    "earlier": "by the answers of an earlier run",
    "bound": "by the bound in the body",
    "": "",
}


def told_plan(plan: Plan, forecast: Forecast | None = None, now: float = 0.0) -> dict[str, Any]:
    """Return a plan as XCom and scripts take it: counts, and amounts in dollars, None where they are not known.

    Args:
        plan: The plan.
        forecast: When its job will be over if it is sent now, or None.
        now: Epoch seconds.
    """
    estimate = plan.estimate
    return {
        "rows": plan.n_rows,
        "requests": plan.n_to_ask,
        "batches": plan.n_batches,
        "bytes": plan.n_bytes,
        "reused": plan.n_reused,
        "carried_over": plan.n_carried,
        "equal": plan.n_equal,
        "skipped": plan.n_skipped,
        "done": plan.n_done,
        "sent": plan.n_sent,
        "being_cancelled": plan.n_ending,
        "input_tokens": estimate.input_tokens,
        "output_tokens": estimate.output_tokens,
        "max_output_tokens": estimate.max_output_tokens,
        "spent": _dollars(estimate.spent_picodollars),
        "expected_cost": _dollars(estimate.expected_picodollars),
        "upper_cost": _dollars(estimate.upper_picodollars),
        "cost_unknown": estimate.unknown,
        "basis": estimate.basis,
        "saved_by_reuse": _dollars(plan.reuse_saved_picodollars),
        "max_cost": _dollars(plan.max_cost),
        "cap": plan.cap_verdict,
        "probe": plan.is_probed,
        "probe_cost": _dollars(plan.probe_picodollars) if plan.is_probed else None,
        "uncounted_requests": estimate.n_uncounted,
        "sampled_requests": estimate.n_sampled,
        "pilot_rows": plan.n_pilot,
        "first_requests": plan.first_requests or None,
        "forecast_p50_s": _seconds(forecast.p50_at if forecast is not None else None, now),
        "forecast_p90_s": _seconds(forecast.p90_at if forecast is not None else None, now),
    }


def _seconds(at: float | None, now: float) -> float | None:
    return None if at is None else round(at - now, 1)


def _dollars(picodollars: int | None) -> float | None:
    return None if picodollars is None else picodollars / PICODOLLARS


def plan_table(plan: Plan, forecast: Forecast | None = None, now: float = 0.0) -> str:
    """Return a plan as aligned lines, for a log or a terminal.

    Args:
        plan: The plan.
        forecast: When its job will be over if it is sent now, or None.
        now: Epoch seconds.
    """
    facts = _facts(plan, forecast_text(forecast, now))
    width = max(len(name) for name, _ in facts) + 2
    return "\n".join(f"{name:<{width}}{text}" for name, text in facts)


def plan_markdown(plan: Plan, forecast: Forecast | None = None, now: float = 0.0) -> str:
    """Return a plan as a list in Markdown, for the text that a person approves.

    Args:
        plan: The plan.
        forecast: When its job will be over if it is sent now, or None.
        now: Epoch seconds.
    """
    return "\n".join(f"* **{name}**: {text}" for name, text in _facts(plan, forecast_text(forecast, now)))


def _facts(plan: Plan, finish: str) -> list[tuple[str, str]]:
    estimate = plan.estimate
    saved = f" ({format_dollars(plan.reuse_saved_picodollars)} not paid again)" if plan.reuse_saved_picodollars else ""
    cap = "" if plan.max_cost is None else f"{format_dollars(plan.max_cost)}: {_CAP_TEXTS[plan.cap_verdict]}"
    facts = [
        ("rows", f"{plan.n_rows:,}"),
        ("to ask", counted(plan.n_to_ask, "request") + _batches_text(plan)),
        ("sent", _if_any(plan.n_sent, "request", ", and not again")),
        ("done", _if_any(plan.n_done, "row")),
        ("reused", _if_any(plan.n_reused, "row", saved)),
        ("carried over", _if_any(plan.n_carried, "row", ", answered before the job started over")),
        ("equal", _if_any(plan.n_equal, "row", ", answered by an equal request that is asked once")),
        ("skipped", _if_any(plan.n_skipped, "row", " without a prompt")),
        ("cancelled", _if_any(plan.n_ending, "request", " of before; what they still answer is not asked again")),
        ("tokens", _tokens_text(estimate) if estimate.n_requests else ""),
        ("cost", _cost_text(estimate)),
        ("not counted", uncounted_text(estimate) if estimate.n_uncounted else ""),
        ("cap", cap),
        ("time", f"{finish}, if it is sent now" if finish and plan.n_to_ask else ""),
        ("probe", _probe_text(plan)),
        ("pilot", _if_any(plan.n_pilot, "row", " first, and alone")),
        ("first requests", plan.first_requests),
    ]
    return [(name, text) for name, text in facts if text]


def _if_any(n: int, one: str, more: str = "") -> str:
    return counted(n, one) + more if n else ""


def _batches_text(plan: Plan) -> str:
    if not plan.n_to_ask:
        return ""
    size = f"{plan.n_bytes:,} B" if plan.n_bytes < 10_000 else f"{format_count(plan.n_bytes)}B"
    return f" in {counted(plan.n_batches, 'batch', 'batches')}, {size}"


_CAP_TEXTS: dict[CapVerdict | None, str] = {
    "fits": "all of it fits, however long the answers are",
    "may not fit": "it fits by what is expected, but not if every answer is as long as it may be",
    "does not fit": "it does not fit, and the job would be held before that is passed",
    "not known": "whether it fits is not known",
}


def _probe_text(plan: Plan) -> str:
    if not plan.is_probed:
        return ""
    most = plan.probe_picodollars
    cost = f", for at most about {format_dollars(most)} more" if most else ""
    return f"one row is asked synchronously before the others, at synchronous prices{cost}"


def _tokens_text(estimate: Estimate) -> str:
    expected = None if estimate.basis == "bound" else estimate.output_tokens
    counts = [
        f"about {format_count(expected)}" if expected is not None else "",
        f"at most {format_count(estimate.max_output_tokens)}" if estimate.max_output_tokens is not None else "",
    ]
    output = ", ".join(filter(None, counts)) or "not known"
    return f"input about {format_count(estimate.input_tokens)}; output {output}"


def _cost_text(estimate: Estimate) -> str:
    expected, upper = estimate.expected_picodollars, estimate.upper_picodollars
    if not estimate.n_requests and expected is not None:
        return f"{format_dollars(expected)}, all of it spent" if expected else "nothing"
    texts = []
    if expected is not None and estimate.basis != "bound":
        texts.append(f"about {format_dollars(expected)} {_BASES[estimate.basis]}".rstrip())
    if upper is not None:
        texts.append(f"at most {format_dollars(upper)} {_BASES['bound']}")
    if estimate.spent_picodollars:
        texts.append(f"of which {format_dollars(estimate.spent_picodollars)} are spent")
    if estimate.unknown is not None:
        texts.append(f"not known: {estimate.unknown}" if not texts else estimate.unknown)
    return ", ".join(texts)
