"""A plan says what a job would ask, whatever has become of its rows already."""

from __future__ import annotations

import builders as make
import msgspec
import pytest

from airflow_openai_batch.engine.job.plan import Plan, plan_of
from airflow_openai_batch.engine.model import CarriedAnswers, Measure, Policy, Probe, Shard, State, Status
from airflow_openai_batch.engine.money.estimate import Estimate

PRICES = {"small": {"input": 1, "output": 10}}
MEASURE = Measure(tokens_per_byte=0.25, max_output_tokens=50)


def shard(state: State, name: str, n: int, **changes) -> Shard:
    values = {"n_requests": n, "n_rows": n, "n_bytes": 40 * n, "model": "small", **changes}
    return make.shard(state, name, **values)


def planned(*shards: Shard, **changes) -> Plan:
    policy = changes.pop("policy", Policy(prices=PRICES))
    return plan_of(make.job(*shards, policy=policy, measure=MEASURE, **changes), "first.json")


def test_a_new_job_asks_all_its_rows() -> None:
    plan = planned(shard(State.PLANNED, "0-00000", 10, is_pilot=True), shard(State.PLANNED, "0-00001", 90))
    assert (plan.n_rows, plan.n_to_ask, plan.n_batches, plan.n_bytes, plan.n_pilot) == (100, 100, 2, 4000, 10)
    assert (plan.n_sent, plan.n_done, plan.n_reused, plan.n_carried, plan.n_skipped, plan.n_ending) == (0,) * 6
    assert plan.estimate.upper_picodollars == 1000 * 10**6 + 5000 * 10**7
    assert plan.first_requests == "first.json"


def test_what_needs_no_asking_is_told_by_where_its_answer_comes_from() -> None:
    carried = CarriedAnswers(name="c", n_rows=30, row_index="i", n_reused=20, saved_picodollars=7)
    plan = planned(
        msgspec.structs.replace(shard(State.PLANNED, "1-00000", 10, n_rows=40), carried=carried),
        shard(State.SETTLED, "1-00001", 0, n_rows=5, tally={Status.SKIPPED: 5}),
        shard(State.SETTLED, "1-00002", 8, tally={Status.SUCCEEDED: 7, Status.FAILED: 1}),
        shard(State.RUNNING, "1-00003", 4),
        earlier=(shard(State.RUNNING, "0-00000", 3), shard(State.SETTLED, "0-00001", 9)),
        n_rows=57,
    )
    assert (plan.n_to_ask, plan.n_batches, plan.n_sent, plan.n_done, plan.n_ending) == (10, 1, 4, 8, 3)
    assert (plan.n_reused, plan.n_carried, plan.n_skipped, plan.reuse_saved_picodollars) == (20, 10, 5, 7)


@pytest.mark.parametrize(
    ("expected", "upper", "cap", "verdict"),
    [
        (5, 9, None, None),
        (5, 9, 9, "fits"),
        (None, 9, 9, "fits"),
        (5, 9, 8, "may not fit"),
        (5, None, 5, "may not fit"),
        (5, 9, 4, "does not fit"),
        (None, 9, 8, "not known"),
        (None, None, 8, "not known"),
    ],
)
def test_the_cap_is_judged_by_what_is_expected_and_by_what_it_may_be_at_most(expected, upper, cap, verdict) -> None:
    estimate = Estimate(expected_picodollars=expected, upper_picodollars=upper)
    assert Plan(n_rows=1, n_to_ask=1, estimate=estimate, max_cost=cap).cap_verdict == verdict


@pytest.mark.parametrize(
    ("probe", "cap", "n_uncounted", "verdict"),
    [
        (3, 12, 0, "fits"),
        (3, 11, 0, "may not fit"),
        (3, 7, 0, "does not fit"),
        (None, 12, 0, "not known"),
        (0, 12, 1, "not known"),
        (0, 4, 1, "does not fit"),
    ],
)
def test_the_probe_and_what_is_not_counted_are_in_the_verdict(probe, cap, n_uncounted, verdict) -> None:
    estimate = Estimate(expected_picodollars=5, upper_picodollars=9, n_sampled=4, n_uncounted=n_uncounted)
    plan = Plan(n_rows=1, n_to_ask=1, estimate=estimate, max_cost=cap, is_probed=True, probe_picodollars=probe)
    assert plan.cap_verdict == verdict


def test_a_probe_is_told_while_it_is_still_to_be_made() -> None:
    policy = Policy(prices=PRICES, probe=True)
    waiting = shard(State.PLANNED, "0-00000", 10)
    assert planned(waiting, policy=policy).is_probed
    assert not planned(waiting).is_probed
    assert not planned(waiting, policy=policy, probe=Probe(custom_id="a", asked_at=1.0)).is_probed
    assert not planned(shard(State.RUNNING, "0-00000", 10), policy=policy).is_probed
