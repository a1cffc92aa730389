"""A plan in words."""

from __future__ import annotations

import pytest

from airflow_openai_batch.engine.job.plan import Plan
from airflow_openai_batch.engine.money.estimate import Estimate
from airflow_openai_batch.engine.progress.plan_text import plan_markdown, plan_table, told_plan

DOLLAR = 10**12
ESTIMATE = Estimate(
    n_requests=9_500,
    n_bytes=12_300_000,
    input_tokens=1_234_567,
    output_tokens=300_000,
    max_output_tokens=1_000_000,
    spent_picodollars=DOLLAR // 2,
    expected_picodollars=12 * DOLLAR,
    upper_picodollars=40 * DOLLAR,
    basis="earlier",
)
PLAN = Plan(
    n_rows=10_000,
    n_to_ask=9_500,
    n_sent=7,
    n_done=93,
    n_reused=300,
    n_carried=50,
    n_equal=2,
    n_skipped=50,
    n_ending=4,
    n_batches=3,
    n_bytes=12_300_000,
    estimate=ESTIMATE,
    reuse_saved_picodollars=DOLLAR,
    max_cost=25 * DOLLAR,
    n_pilot=100,
    is_probed=True,
    first_requests="s3://b/first.json",
)


def test_a_table_for_the_log() -> None:
    assert plan_table(PLAN).splitlines() == [
        "rows            10,000",
        "to ask          9,500 requests in 3 batches, 12.3 MB",
        "sent            7 requests, and not again",
        "done            93 rows",
        "reused          300 rows ($1.00 not paid again)",
        "carried over    50 rows, answered before the job started over",
        "equal           2 rows, answered by an equal request that is asked once",
        "skipped         50 rows without a prompt",
        "cancelled       4 requests of before; what they still answer is not asked again",
        "tokens          input about 1.2 M; output about 300 k, at most 1 M",
        "cost            about $12.00 by the answers of an earlier run, at most $40.00 by the bound in the body, "
        "of which $0.50 are spent",
        "cap             $25.00: it fits by what is expected, but not if every answer is as long as it may be",
        "probe           one row is asked synchronously before the others, at synchronous prices",
        "pilot           100 rows first, and alone",
        "first requests  s3://b/first.json",
    ]


def test_a_list_for_the_person_who_approves() -> None:
    assert plan_markdown(PLAN).splitlines()[:2] == [
        "* **rows**: 10,000",
        "* **to ask**: 9,500 requests in 3 batches, 12.3 MB",
    ]


def test_a_value_for_scripts() -> None:
    told = told_plan(PLAN)
    assert (told["requests"], told["expected_cost"], told["upper_cost"], told["max_cost"]) == (9_500, 12.0, 40.0, 25.0)
    assert (told["cap"], told["saved_by_reuse"], told["spent"]) == ("may not fit", 1.0, 0.5)
    assert told_plan(Plan(n_rows=0, n_to_ask=0, estimate=Estimate(unknown="why")))["upper_cost"] is None


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(n_requests=1, unknown="no price."), "not known: no price."),
        (Estimate(expected_picodollars=0, upper_picodollars=0), "nothing"),
        (Estimate(expected_picodollars=DOLLAR, upper_picodollars=DOLLAR), "$1.00, all of it spent"),
        (
            Estimate(n_requests=1, expected_picodollars=DOLLAR, upper_picodollars=DOLLAR, basis="bound"),
            "at most $1.00 by the bound in the body",
        ),
        (
            Estimate(n_requests=1, expected_picodollars=DOLLAR, basis="earlier", unknown="no bound."),
            "about $1.00 by the answers of an earlier run, no bound.",
        ),
    ],
)
def test_a_cost_says_how_it_is_known(estimate: Estimate, text: str) -> None:
    table = plan_table(Plan(n_rows=1, n_to_ask=estimate.n_requests, estimate=estimate))
    assert [line.removeprefix("cost").strip() for line in table.splitlines() if line.startswith("cost")] == [text]
