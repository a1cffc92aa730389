from __future__ import annotations

import pytest
from builders import batch, job, shard

from airflow_openai_batch.engine.job.summary import (
    Summary,
    check_thresholds,
    money_of,
    progress_line,
    share,
    summarize,
    whereabouts,
)
from airflow_openai_batch.engine.model import CarriedAnswers, Cost, LineError, Policy, Shard, State, Status, Usage

S = State


def summary(good: int, bad: int = 0, **changes: object) -> Summary:
    by_status = {Status.SUCCEEDED: good, Status.FAILED: bad}
    return Summary(
        n_rows=good + bad,
        by_status={status: n for status, n in by_status.items() if n},
        usage=Usage(),
        batch_ids=(),
        n_shards=1,
        n_settled=1,
        rounds=0,
        **changes,  # type: ignore[arg-type]
    )


def test_each_row_is_counted_once_in_its_last_round() -> None:
    parent = shard(
        S.SETTLED,
        n_rows=10,
        tally={Status.SUCCEEDED: 6, Status.FAILED: 3, Status.EXPIRED: 1},
        retryable={Status.FAILED: 2, Status.EXPIRED: 1},
        child="0-00000.1",
        usage=Usage(input_tokens=10, output_tokens=1),
        batch=batch("expired", "b0"),
    )
    child = shard(
        S.SETTLED,
        "0-00000.1",
        n_rows=3,
        round=1,
        parent="0-00000",
        tally={Status.SUCCEEDED: 2, Status.FAILED: 1},
        retryable={Status.FAILED: 1},
        usage=Usage(input_tokens=3, reasoning_tokens=5),
        batch=batch("completed", "b1"),
    )
    found = summarize(job(parent, child))
    assert found.by_status == {Status.SUCCEEDED: 8, Status.FAILED: 2}
    assert (found.n_rows, found.rounds, found.n_settled, found.n_shards) == (10, 1, 2, 2)
    assert found.usage == Usage(input_tokens=13, output_tokens=1, reasoning_tokens=5)
    assert found.batch_ids == ("b0", "b1")


def test_tokens_of_earlier_epochs_count_also_of_those_that_are_remembered_no_more() -> None:
    now = shard(S.SETTLED, tally={Status.SUCCEEDED: 2}, usage=Usage(input_tokens=1, output_tokens=10))
    before = shard(S.SETTLED, "0-00000", tally={Status.SUCCEEDED: 2}, usage=Usage(input_tokens=100))
    found = summarize(job(now, earlier=(before,), dropped_usage=Usage(input_tokens=1000, cached_tokens=7)))
    assert found.usage == Usage(input_tokens=1101, cached_tokens=7, output_tokens=10)
    assert found.by_status == {Status.SUCCEEDED: 2}


@pytest.mark.parametrize(
    ("shards", "says"),
    [
        ((shard(S.SETTLED, tally={Status.SUCCEEDED: 4}),), "4 rows done"),
        (
            (shard(S.SETTLED, tally={Status.SUCCEEDED: 1}), shard(S.RUNNING, "1", n_requests=3)),
            "1 row done, 3 requests sent already, and not again",
        ),
        (
            (shard(S.CREATING, n_requests=1), shard(S.PLANNED, "1", n_requests=5)),
            "0 rows done, 1 request to look for at OpenAI, 5 requests to be sent",
        ),
        (
            (shard(S.SETTLED, tally={Status.SUCCEEDED: 4, Status.EXPIRED: 2}, retryable={Status.EXPIRED: 2}),),
            "4 rows done, 2 requests to be sent",
        ),
        (
            (shard(S.SETTLED, tally={Status.SUCCEEDED: 4, Status.REFUSED: 1}, is_replayed=True),),
            "4 rows done, 1 request to be sent",
        ),
    ],
)
def test_who_takes_a_job_up_says_what_will_be_sent(shards: tuple[Shard, ...], says: str) -> None:
    assert whereabouts(job(*shards)) == says


def test_of_a_batchs_error_what_it_quotes_of_a_row_is_left_out() -> None:
    errors = (LineError(code="invalid_value", message="Line 3: 'patient Jane Roe' is no URL for 'custom_id'."),)
    refused = shard(S.SETTLED, tally={Status.FAILED: 2}, rejections=errors)
    (found,) = summarize(job(refused)).rejections
    assert found.message == "Line 3: '…' is no URL for 'custom_id'."


def test_rows_of_a_child_that_runs_are_not_settled() -> None:
    parent = shard(S.SETTLED, tally={Status.EXPIRED: 2}, retryable={Status.EXPIRED: 2}, child="0-00000.1")
    child = shard(S.RUNNING, "0-00000.1", parent="0-00000", batch=batch("in_progress", n_completed=1, n_failed=1))
    found = summarize(job(parent, child))
    assert sum(found.by_status.values()) == 0 and found.n_progress == 2
    assert "0 of 2 rows settled" in progress_line(found) and "2 rows finished at OpenAI" in progress_line(found)


def test_answers_carried_over_are_good_and_cost_nothing() -> None:
    found = summarize(job(shard(S.SETTLED, n_rows=5, n_carried=3, tally={Status.SUCCEEDED: 2})))
    assert (found.n_succeeded, found.n_carried, found.usage) == (5, 3, Usage())


@pytest.mark.parametrize("bad", [1, 100])
def test_a_job_without_any_good_answer_is_red_whatever_the_thresholds(bad: int) -> None:
    found = check_thresholds(summary(0, bad), Policy(max_bad_ratio=1.0, max_bad_rows=1000))
    assert found is not None and "No row has a good answer" in found


def test_a_rejected_batch_is_red_and_says_why() -> None:
    error = LineError(code="model_not_found", message="no such model", n=4, line=2, custom_id="t7")
    found = check_thresholds(summary(99, 1, rejections=(error,)), Policy(max_bad_ratio=1.0))
    assert found is not None and "4 x model_not_found: no such model (first: custom_id 't7', line 2)" in found


@pytest.mark.parametrize(
    ("good", "bad", "policy", "is_green"),
    [
        (100, 0, Policy(max_bad_ratio=0.0), True),
        (99, 1, Policy(max_bad_ratio=0.0), False),
        (95, 5, Policy(), True),
        (94, 6, Policy(), False),
        (95, 5, Policy(max_bad_rows=4), False),
        (95, 5, Policy(max_bad_rows=5), True),
        (1, 9, Policy(max_bad_ratio=0.95), True),
    ],
)
def test_thresholds_are_exact(good: int, bad: int, policy: Policy, is_green: bool) -> None:
    found = check_thresholds(summary(good, bad), policy)
    assert (found is None) is is_green
    assert is_green or f"{bad:,} of {good + bad:,} rows" in (found or "")


def test_rows_without_any_outcome_are_bad() -> None:
    import msgspec

    lost = msgspec.structs.replace(summary(94), n_rows=100)
    assert check_thresholds(lost, Policy()) is not None


@pytest.mark.parametrize(
    ("n", "n_all", "text"),
    [
        (0, 7, "0.0%"),
        (1, 6, "16.7%"),
        (1, 3, "33.3%"),
        (1, 10_000, "<0.1%"),
        (9_999, 10_000, ">99.9%"),
        (999, 1000, "99.9%"),
        (7, 7, "100.0%"),
    ],
)
def test_a_share_is_rounded_and_is_nothing_or_all_only_where_it_is(n: int, n_all: int, text: str) -> None:
    assert share(n, n_all) == text


def test_what_is_told_of_money_has_the_cap_and_what_was_reused() -> None:
    carried = CarriedAnswers(name="c", n_rows=3, row_index="i", n_reused=2, saved_picodollars=4_200_000_000)
    cost = Cost(picodollars=250_000_000_000)
    settled = shard(S.SETTLED, n_rows=5, tally={Status.SUCCEEDED: 2}, carried=carried, cost=cost)
    found = summarize(job(settled, policy=Policy(max_cost=25_000_000_000_000)))
    told = {"max_cost": 25.0, "reused_rows": 2, "saved_by_reuse": 0.0042, "cost": 0.25}
    assert told.items() <= money_of(found).items()
    assert found.n_succeeded == 5, "reused rows are part of those that succeeded"
    bare = money_of(summarize(job(shard(S.SETTLED, n_rows=1))))
    assert (bare["max_cost"], bare["reused_rows"], bare["saved_by_reuse"]) == (None, 0, 0)
