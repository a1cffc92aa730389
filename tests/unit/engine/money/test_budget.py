"""Whether the next batch fits under the cap: spent, running and next, of all models and epochs."""

from __future__ import annotations

import re

import builders as make
import pytest

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import Cost, Job, Measure, Policy, Shard, State, Status, Usage
from airflow_openai_batch.engine.money.budget import over_budget, warning_before
from airflow_openai_batch.engine.money.dollars import PICODOLLARS, parse_dollars
from airflow_openai_batch.engine.money.estimate import Estimator
from airflow_openai_batch.engine.money.prices import Prices, parse_prices

PRICES = Prices(
    parse_prices({"cheap": {"input": 1, "output": 10}, "dear": {"input": 10, "output": 100}, "free": {"input": 0}}, "p")
)
MEASURE = Measure(max_output_tokens=100)
CHEAP, DEAR = 10 * (10 + 1000) * 10**6, 10 * (10 + 1000) * 10**7
"""What ten requests of ten tokens with answers of a hundred cost, in picodollars."""


def shard(name: str, state: State = State.UPLOADED, model: str = "cheap", **changes) -> Shard:
    values = {"n_rows": 10, "n_requests": 10, "n_tokens": 100, "n_bytes": 400, "model": model}
    return make.shard(state, name, **{**values, **changes})


def settled(name: str, cost: int, model: str = "cheap", n: int = 10, output: int = 1000, **changes) -> Shard:
    usage = Usage(input_tokens=10 * n, output_tokens=output * n)
    tally = {Status.SUCCEEDED: n}
    more = {"n_rows": n, "n_requests": n, "n_tokens": 10 * n, "tally": tally, "usage": usage}
    return shard(name, State.SETTLED, model, cost=Cost(picodollars=cost), **more, **changes)


NEXT = shard("0-00009")


def least_cap(*shards: Shard, following: Shard = NEXT, earlier: tuple[Shard, ...] = (), **changes) -> int:
    """Return the smallest cap under which the next shard may be sent, which is found by trying."""

    def fits(cap: int) -> bool:
        job: Job = make.job(
            *shards, following, earlier=earlier, measure=MEASURE, policy=Policy(max_cost=cap), **changes
        )
        return over_budget(Estimator(job, PRICES), following) is None

    low, high = -1, 10**15
    assert fits(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def test_the_next_batch_counts_with_the_bound_of_its_answers() -> None:
    assert least_cap() == CHEAP


@pytest.mark.parametrize("state", [State.CREATING, State.RUNNING, State.ENDED])
def test_what_may_be_paid_for_counts_from_its_intent_until_its_answers_are_there(state: State) -> None:
    assert least_cap(shard("0-00000", state)) == 2 * CHEAP


@pytest.mark.parametrize("state", [State.DRAFTED, State.PLANNED, State.UPLOADED, State.REJECTED])
def test_what_is_not_sent_does_not_count_yet(state: State) -> None:
    assert least_cap(shard("0-00000", state)) == CHEAP


def test_each_model_counts_with_its_own_price() -> None:
    assert least_cap(shard("0-00000", State.RUNNING, "dear")) == DEAR + CHEAP
    assert least_cap(shard("0-00000", State.RUNNING), following=shard("0-00009", model="dear")) == DEAR + CHEAP


def test_answers_of_one_model_tell_nothing_of_another() -> None:
    """Those of the cheap one were short; the dear one counts with its bound until it has some of its own."""
    short = settled("0-00000", cost=7, n=20, output=3)
    assert least_cap(short, shard("0-00001", State.RUNNING, "dear")) == 7 + DEAR + 10 * (10 + 30) * 10**6
    assert least_cap(settled("0-00000", cost=7, n=19, output=3)) == 7 + CHEAP


def test_epochs_before_count_with_what_they_cost_and_what_still_runs_of_them() -> None:
    running = shard("0-00001", State.RUNNING, max_output_tokens=200)  # another body, with a bound of its own
    earlier = (settled("0-00000", cost=5), running, shard("0-00002", State.UPLOADED))
    dropped = Cost(picodollars=1000)
    assert least_cap(earlier=earlier, dropped_cost=dropped) == 1000 + 5 + CHEAP + 10 * (10 + 2000) * 10**6


def test_what_runs_without_a_bound_of_an_epoch_before_is_waited_for() -> None:
    job = make.job(NEXT, earlier=(shard("0-00001", State.RUNNING),), measure=MEASURE, policy=Policy(max_cost=10**18))
    assert "sets no bound" in (over_budget(Estimator(job, PRICES), NEXT) or "")


def test_short_answers_to_another_prompt_make_no_room() -> None:
    """The epoch before was answered with three tokens each; this one may answer with a hundred."""
    earlier = (settled("0-00000", cost=7, n=500, output=3),)
    assert least_cap(earlier=earlier) == 7 + CHEAP


def test_each_shard_has_the_bound_of_its_own_rows() -> None:
    assert least_cap(following=shard("0-00009", max_output_tokens=10)) == 10 * (10 + 100) * 10**6
    assert least_cap(following=shard("0-00009", max_output_tokens=1000)) == 10 * (10 + 10_000) * 10**6


SHORT = settled("0-00000", cost=0, n=20, output=3)
EXPECTED = 10 * (10 + 30) * 10**6
"""What ten requests cost, by answers of three tokens."""


def step(cap: int, n_running: int, n_next: int = 10, n_answers: int = 20) -> str | None:
    """Return why the next shard has to wait, with so many requests that run and answers so far."""
    short = settled("0-00000", cost=0, n=n_answers, output=3)
    running = [shard("0-00001", State.RUNNING, n_requests=n_running, n_tokens=10 * n_running)] if n_running else []
    following = shard("0-00009", n_requests=n_next, n_tokens=10 * n_next)
    job = make.job(short, *running, following, measure=MEASURE, policy=Policy(max_cost=cap))
    return over_budget(Estimator(job, PRICES), following)


def test_what_fits_only_by_the_answers_so_far_grows_with_them() -> None:
    cap = 100 * EXPECTED
    assert step(cap, 0, n_next=900) is None  # one batch always goes
    assert step(cap, 70, n_next=10) is None
    assert "as long as the 20 so far" in (step(cap, 71, n_next=10) or "")
    assert step(cap, 71, n_next=10, n_answers=21) is None
    assert step(1000 * CHEAP, 500, n_next=500) is None  # fits however long answers are


@pytest.mark.parametrize(
    ("cap", "measure", "warning"),
    [
        (CHEAP, MEASURE, None),
        (
            CHEAP - 1,
            MEASURE,
            r"cost about \$0.0004 if .* the 20 so far.*may cost \$0.01, more than max_cost",
        ),
        (CHEAP, Measure(max_output_tokens=None), "the job may cost any amount"),
        (None, MEASURE, None),
    ],
)
def test_a_batch_that_may_pass_the_cap_by_its_answers_is_told(cap, measure, warning: str | None) -> None:
    job = make.job(SHORT, NEXT, measure=measure, policy=Policy(max_cost=cap))
    told = warning_before(Estimator(job, PRICES), NEXT)
    assert told is None if warning is None else re.search(warning, told or "")


def test_what_an_earlier_job_of_the_task_was_answered_is_no_promise() -> None:
    measure = Measure(max_output_tokens=100, expected_output_tokens={"cheap": 1.0})
    job = make.job(NEXT, measure=measure, policy=Policy(max_cost=CHEAP - 1))
    assert over_budget(Estimator(job, PRICES), NEXT) is not None


@pytest.mark.parametrize(
    ("spent", "following", "told"),
    [
        (Cost(n_unknown=3), NEXT, "the cost of 3 answers is not known"),
        (Cost(), shard("0-00009", model="mine"), "the price of 'mine' is not known"),
        (Cost(), shard("0-00009", model="free"), "the price of 'free' for output is not known"),
    ],
)
def test_nothing_is_sent_under_a_cap_while_something_has_no_price(spent: Cost, following: Shard, told: str) -> None:
    policy = Policy(max_cost=10**15)
    job = make.job(following, measure=MEASURE, policy=policy, dropped_cost=spent)
    assert told in (over_budget(Estimator(job, PRICES), following) or "")


def test_without_a_cap_nothing_is_held_and_no_price_is_needed() -> None:
    unpriced = shard("0-00009", model="mine")
    assert over_budget(Estimator(make.job(unpriced), PRICES), unpriced) is None


def test_many_shards_are_judged_in_no_time() -> None:
    """Each with all that run is a million pairs; a thousand shards must not keep a worker from its work."""
    shards = [shard(f"0-{i:05d}", State.RUNNING) for i in range(1000)]
    estimator = Estimator(make.job(*shards, NEXT, measure=MEASURE, policy=Policy(max_cost=10**15)), PRICES)
    n_asked = 0
    real = estimator._answers.input_of

    def counting(of: Shard) -> Usage:
        nonlocal n_asked
        n_asked += 1
        return real(of)

    estimator._answers.input_of = counting  # type: ignore[method-assign]
    assert all(over_budget(estimator, of) is None for of in shards)
    assert n_asked == 2000


@pytest.mark.parametrize(("amount", "dollars"), [(25, 25.0), ("0.5", 0.5), (0, 0.0), (1e-6, 1e-6)])
def test_amounts_of_dollars_are_exact(amount: object, dollars: float) -> None:
    assert parse_dollars(amount, "max_cost") == round(dollars * PICODOLLARS)


@pytest.mark.parametrize("amount", ["1e9999999", 1e30, 9_000_001])
def test_a_cap_that_no_job_can_reach_is_refused(amount: object) -> None:
    with pytest.raises(InputError, match="max_cost may be at most 9,000,000 US dollars"):
        parse_dollars(amount, "max_cost")


@pytest.mark.parametrize("amount", ["a lot", -1, float("nan"), float("inf"), True, None])
def test_what_is_no_amount_is_refused(amount: object) -> None:
    with pytest.raises(InputError, match="max_cost must be an amount of US dollars"):
        parse_dollars(amount, "max_cost")
