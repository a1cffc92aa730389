"""What a job will cost, before and while it runs."""

from __future__ import annotations

import builders as make
import msgspec
import pytest

from airflow_openai_batch.engine.model import Cost, Job, Measure, Policy, Shard, State, Status, Usage
from airflow_openai_batch.engine.money.estimate import Estimate, Estimator, Unpriced, estimate_of, estimate_text
from airflow_openai_batch.engine.money.prices import Prices, parse_prices

# Dollars for a million tokens: a token of input costs 1,000,000 picodollars, one of output ten times as much.
PRICES = Prices(
    parse_prices(
        {
            "small": {"input": 1, "cached_input": 0.1, "output": 10},
            "other": {"input": 2, "output": 20},
            "writes": {"input": 1, "cache_write": 1.25, "output": 10},
            "tiered": {"input": 1, "output": 10, "long_context": {"above_tokens": 100, "input": 2, "output": 15}},
            "vectors": {"input": 1},
        },
        "prices",
    )
)
INPUT, OUTPUT = 10**6, 10**7
MEASURE = Measure(tokens_per_byte=0.25, max_output_tokens=50)


def waiting(name: str = "0-00001", n: int = 100, model: str | None = "small", **changes) -> Shard:
    values = {"n_requests": n, "n_rows": n, "n_bytes": 40 * n, "n_tokens": 10 * n + 1, "model": model}
    return make.shard(changes.pop("state", State.PLANNED), name, **{**values, **changes})


def answered(n: int = 100, output: int = 20, model: str = "small", name: str = "0-00000", **usage) -> Shard:
    """Requests of 40 bytes, of 8 tokens each, with answers of a length."""
    used = Usage(input_tokens=8 * n, output_tokens=output * n, **usage)
    cost = Cost(picodollars=n * (8 * INPUT + output * OUTPUT))
    return waiting(name, n, model, state=State.SETTLED, tally={Status.SUCCEEDED: n}, usage=used, cost=cost)


def estimated(*shards: Shard, measure: Measure | None = MEASURE, **changes) -> Estimate:
    return estimate_of(make.job(*shards, measure=measure, **changes), PRICES)


def test_before_any_answer_the_bound_of_the_bodies_is_all_that_is_known() -> None:
    assert estimated(waiting()) == Estimate(
        n_requests=100,
        n_bytes=4000,
        input_tokens=1000,
        output_tokens=5000,
        max_output_tokens=5000,
        expected_picodollars=1000 * INPUT + 5000 * OUTPUT,
        upper_picodollars=1000 * INPUT + 5000 * OUTPUT,
        basis="bound",
    )


def test_the_jobs_own_answers_tell_of_those_to_come() -> None:
    """They beat the sample as to the input, and the bound as to the output; the cost is that of the whole job."""
    spent = 100 * (8 * INPUT + 20 * OUTPUT)
    assert estimated(answered(), waiting(n=50)) == Estimate(
        n_requests=50,
        n_bytes=2000,
        input_tokens=400,
        output_tokens=1000,
        max_output_tokens=2500,
        spent_picodollars=spent,
        expected_picodollars=spent + 400 * INPUT + 1000 * OUTPUT,
        upper_picodollars=spent + 400 * INPUT + 2500 * OUTPUT,
        basis="own",
    )


def test_an_earlier_job_of_the_task_tells_until_there_are_own_answers() -> None:
    measure = Measure(tokens_per_byte=0.25, max_output_tokens=50, expected_output_tokens={"small": 7.5})
    earlier = estimated(waiting(), measure=measure)
    assert (earlier.output_tokens, earlier.max_output_tokens, earlier.basis) == (750, 5000, "earlier")
    assert earlier.expected_picodollars == 1000 * INPUT + 750 * OUTPUT
    assert estimated(answered(19), waiting(), measure=measure).basis == "earlier"
    assert estimated(answered(20), waiting(), measure=measure).basis == "own"
    assert estimated(waiting(model="other"), measure=measure).basis == "bound"


def test_a_bound_that_was_lowered_since_bounds_what_an_earlier_job_tells() -> None:
    measure = Measure(tokens_per_byte=0.25, max_output_tokens=5, expected_output_tokens={"small": 7.5})
    assert estimated(waiting(), measure=measure).output_tokens == 500


def test_of_several_models_each_has_its_own_answers_and_the_least_sure_basis_is_told() -> None:
    both = estimated(answered(), waiting(n=10), waiting("0-00002", 10, "other"))
    spent = 100 * (8 * INPUT + 20 * OUTPUT)
    assert both.basis == "bound"
    assert both.input_tokens == 80 + 100
    assert both.output_tokens == 200 + 500
    assert both.expected_picodollars == spent + 80 * INPUT + 200 * OUTPUT + 100 * 2 * INPUT + 500 * 2 * OUTPUT


def test_what_runs_of_an_earlier_epoch_counts_and_what_is_never_sent_does_not() -> None:
    earlier = (waiting("0-00000", 10, state=State.RUNNING), waiting("0-00001", 30, state=State.UPLOADED))
    job = make.job(waiting("1-00000", 5), earlier=earlier, measure=MEASURE)
    assert estimate_of(job, PRICES).n_requests == 15


def test_what_is_cached_counts_as_it_did_so_far_but_not_for_the_upper_bound() -> None:
    told = estimated(answered(cached_tokens=400), waiting())
    spent = 100 * (8 * INPUT + 20 * OUTPUT)
    assert told.expected_picodollars == spent + 400 * INPUT + 400 * INPUT // 10 + 2000 * OUTPUT
    assert told.upper_picodollars == spent + 800 * INPUT + 5000 * OUTPUT


def test_the_upper_bound_counts_on_writes_to_the_cache() -> None:
    told = estimated(waiting(model="writes"))
    assert told.upper_picodollars == 1000 * INPUT * 5 // 4 + 5000 * OUTPUT


@pytest.mark.parametrize(("n_bytes", "input_rate", "output_rate"), [(400, 1, 10), (404, 2, 15)])
def test_the_mean_request_decides_about_the_tier(n_bytes: int, input_rate: int, output_rate: int) -> None:
    """Not the sum of all, which is above it for any job."""
    told = estimated(waiting(n=100, model="tiered", n_bytes=n_bytes * 100))
    n = n_bytes * 100 // 4
    assert told.upper_picodollars == n * input_rate * INPUT + 5000 * output_rate * INPUT


@pytest.mark.parametrize(
    ("shard", "measure", "unknown"),
    [
        (waiting(model="mine"), MEASURE, "the price of 'mine' is not known"),
        (waiting(), Measure(tokens_per_byte=0.25, max_output_tokens=None), "the body sets no bound of the answers"),
        (waiting(model="vectors"), MEASURE, "the price of 'vectors' for output is not known"),
        (waiting(), None, "the body sets no bound of the answers"),
    ],
)
def test_what_is_not_known_is_told_and_never_zero(shard: Shard, measure: Measure | None, unknown: str) -> None:
    told = estimated(shard, measure=measure)
    assert told.expected_picodollars is None
    assert told.upper_picodollars is None
    assert unknown in (told.unknown or "")
    assert told.input_tokens
    with pytest.raises(Unpriced, match=unknown):
        _ = Estimator(make.job(shard, measure=measure), PRICES).of(shard).safe


def test_answers_without_a_bound_have_an_expected_cost_only() -> None:
    measure = Measure(tokens_per_byte=0.25, max_output_tokens=None)
    told = estimated(answered(), waiting(), measure=measure)
    assert told.expected_picodollars is not None
    assert told.upper_picodollars is None
    assert told.unknown is not None


def test_answers_of_unknown_cost_leave_both_costs_unknown() -> None:
    silent = Usage()  # a server that counts no tokens
    settled = waiting(
        "0-00000", state=State.SETTLED, tally={Status.SUCCEEDED: 100}, usage=silent, cost=Cost(n_unknown=100)
    )
    told = estimated(settled, waiting())
    assert (told.expected_picodollars, told.upper_picodollars) == (None, None)
    assert "the cost of 100 answers is not known" in (told.unknown or "")


def unpriced(n_unknown: int = 100, picodollars: int = 0, **changes) -> Shard:
    changes = {"model": "small", **changes}
    return msgspec.structs.replace(
        answered(**changes),
        outcomes=msgspec.structs.replace(
            answered(**changes).outcomes, cost=Cost(n_unknown=n_unknown, picodollars=picodollars)
        ),
    )


TODAY = 100 * (8 * INPUT + 20 * OUTPUT)
"""What a hundred answers cost at the prices of today."""


@pytest.mark.parametrize(
    ("changes", "spent"),
    [
        ({}, TODAY),
        ({"n_unknown": 40, "picodollars": 7}, TODAY),  # some had a price: all are priced, and none twice
        ({"n_unknown": 40, "picodollars": 2 * TODAY}, 2 * TODAY),  # at a price that was higher
        ({"model": "mine"}, None),
    ],
)
def test_answers_that_had_no_price_count_with_the_price_of_today(changes: dict, spent: int | None) -> None:
    told = estimated(unpriced(**changes))
    assert told.expected_picodollars == spent


@pytest.mark.parametrize(
    ("model", "measure", "spent"),
    [
        ("small", MEASURE, 1001 * INPUT + 100 * 50 * OUTPUT),
        ("small", None, None),  # no bound of the answers
        ("mine", MEASURE, None),  # no price
    ],
)
def test_for_a_cap_answers_without_tokens_count_with_the_most_that_they_may_cost(
    model: str, measure: Measure | None, spent: int | None
) -> None:
    filtered = waiting(model=model, state=State.SETTLED, tally={Status.REFUSED: 100}, cost=Cost(n_unknown=100))
    estimator = Estimator(make.job(filtered, measure=measure), PRICES)
    if spent is None:
        with pytest.raises(Unpriced, match="100 answers"):
            _ = estimator.spent
    else:
        assert estimator.spent == spent


def test_what_is_remembered_no_more_counts_with_the_dearest_price_of_today() -> None:
    usage = Usage(input_tokens=800, output_tokens=2000)
    dropped = {"dropped_usage": usage, "dropped_cost": Cost(n_unknown=100)}
    assert estimated(answered(n=0), **dropped).expected_picodollars == TODAY
    two = estimated(answered(n=0), answered(n=0, model="other", name="0-00001"), **dropped)
    assert two.expected_picodollars == 2 * TODAY
    mine = estimated(answered(n=0), answered(n=0, model="mine", name="0-00001"), **dropped)
    assert mine.expected_picodollars is None


def test_input_that_is_not_counted_is_told_until_answers_tell() -> None:
    measure = Measure(max_output_tokens=50, n_sampled=64, n_uncounted=12)
    told = estimated(waiting(), measure=measure)
    assert (told.n_uncounted, told.n_sampled) == (12, 64)
    assert "without some input of 12 of 64 sampled requests" in estimate_text(told)
    assert estimated(answered(), waiting(), measure=measure).n_uncounted == 0


def test_a_job_that_is_done_costs_what_it_cost() -> None:
    spent = 100 * (8 * INPUT + 20 * OUTPUT)
    told = estimated(answered())
    assert (told.n_requests, told.input_tokens, told.output_tokens) == (0, 0, 0)
    assert told.spent_picodollars == told.expected_picodollars == told.upper_picodollars == spent


def test_embeddings_have_no_output_and_need_no_price_for_it() -> None:
    told = estimated(waiting(model="vectors"), measure=Measure(tokens_per_byte=0.25, max_output_tokens=0))
    assert told.expected_picodollars == told.upper_picodollars == 1000 * INPUT


def test_a_job_that_was_stored_before_it_was_measured_has_the_queues_estimate() -> None:
    job: Job = make.job(waiting())
    assert estimate_of(job, PRICES).input_tokens == 1001


def test_a_server_that_counts_no_tokens_tells_nothing() -> None:
    silent = waiting("0-00000", state=State.SETTLED, tally={Status.SUCCEEDED: 100})
    assert estimated(silent, waiting()).basis == "bound"


def test_a_pilot_of_a_few_rows_tells_what_answers_are_like() -> None:
    assert estimated(answered(5), waiting()).basis == "bound"
    assert estimated(answered(5), waiting(), policy=Policy(pilot_rows=5)).basis == "own"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"expected_picodollars": 41 * 10**11, "upper_picodollars": 98 * 10**11, "basis": "earlier"},
            "about 12.3 M input tokens, $4.10 expected, at most $9.80",
        ),
        (
            {"expected_picodollars": 98 * 10**11, "upper_picodollars": 98 * 10**11, "basis": "bound"},
            "about 12.3 M input tokens, at most $9.80",
        ),
        (
            {"expected_picodollars": 41 * 10**11, "basis": "own", "unknown": "the body sets no bound. Set one."},
            "about 12.3 M input tokens, $4.10 expected, the body sets no bound. Set one",
        ),
        (
            {"unknown": "the price of 'x' is not known. Give it (`prices`)."},
            "about 12.3 M input tokens, the price of 'x' is not known. Give it (`prices`)",
        ),
    ],
)
def test_an_estimate_is_one_line(values: dict, text: str) -> None:
    assert estimate_text(Estimate(input_tokens=12_340_000, **values)) == text


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (8_400, "8,400"),
        (84_000, "84 k"),
        (84_420, "84.4 k"),
        (949_900, "949.9 k"),
        (999_960, "1 M"),
        (3 * 10**9, "3 G"),
    ],
)
def test_counts_are_as_exact_as_an_estimate_is(n: int, text: str) -> None:
    assert estimate_text(Estimate(input_tokens=n)) == f"about {text} input tokens"
