from __future__ import annotations

from typing import Any

import msgspec
import pytest
from builders import TIMING, batch, job, shard

from airflow_openai_batch.engine.model import Cost, Shard, State, Status, Usage
from airflow_openai_batch.engine.progress.compute import progress_of
from airflow_openai_batch.engine.progress.forecast import Forecast, as_of
from airflow_openai_batch.engine.progress.log_format import duration, is_worth_logging, line, logged_as, table, why
from airflow_openai_batch.engine.progress.model import Failed, Look, Phase, Progress

S = State
NOW = 1_000_000.0


def of(*shards: Shard, now: float = NOW, look: Look | None = None, **known: Any) -> Progress:
    return progress_of(job(*shards), now, TIMING, look=look, **known)


def running(name: str, n: int, n_rows: int = 12_500) -> Shard:
    found = batch("in_progress", f"batch_{name}", n_total=n_rows, n_completed=n)
    return shard(S.RUNNING, name, n_rows=n_rows, n_requests=n_rows, batch=found)


def test_one_line_says_how_far_how_fast_and_what_waits() -> None:
    good = {"tally": {Status.SUCCEEDED: 5000}, "n_rows": 12_500, "n_requests": 12_500}
    ended = [shard(S.SETTLED, name, batch=batch("completed", name), **good) for name in ("a", "b")]
    waits = shard(S.UPLOADED, "e", n_rows=12_500, n_waits=1)
    made = of(*ended, running("c", 2000, 6250), running("d", 340, 6250), waits)
    made = msgspec.structs.replace(made, rate_per_h=9800.4, eta_at=NOW + 3.84 * 3600)
    assert line(made) == (
        "12,340 of 50,000 rows (24.7%), 9,800/h, about 3 h 50 min left; 2 of 4 batches ended, 2 in_progress; "
        "1 shard waits to be sent; round 0; 10,000 succeeded"
    )


def test_the_line_says_what_the_rest_waits_for_and_what_all_will_cost() -> None:
    made = of(running("a", 5, 10), shard(S.UPLOADED, "b", n_rows=2), limit="cap")
    assert "; 1 shard waits for a higher max_cost; round 0" in line(made)
    assert "; 1 shard waits for the pilot; " in line(msgspec.structs.replace(made, limit="pilot"))
    told = msgspec.structs.replace(made, cost=3.1, expected_cost=12.4, upper_cost=20.0, estimate_basis="own")
    assert "; $3.10 spent, $12.40 expected, at most $20.00; round 0" in line(told)
    assert "; $3.10 spent, at most $20.00; " in line(msgspec.structs.replace(told, estimate_basis="bound"))
    assert "spent" not in line(msgspec.structs.replace(told, phase=Phase.DONE)), "what it cost is known"


def test_what_is_not_known_is_not_said() -> None:
    assert line(of(running("a", 0, 1))) == "0 of 1 row (0%); 0 of 1 batch ended, 1 in_progress; round 0"
    assert line(of(shard(S.PLANNED, n_rows=2), shard(S.PLANNED, "b", n_rows=2))) == (
        "0 of 4 rows (0%); 0 of 0 batches ended; 2 shards wait to be sent; round 0"
    )


def test_all_but_one_row_is_not_a_hundred_percent() -> None:
    assert "(99.9%)" in line(of(running("a", 49_999, 50_000)))
    assert "(100%)" in line(of(running("a", 50_000, 50_000)))


@pytest.mark.parametrize(("n", "n_all", "text"), [(1, 6, "16.7%"), (2, 3, "66.7%"), (1, 50_000, "0.1%"), (0, 6, "0%")])
def test_shares_of_rows_are_rounded(n: int, n_all: int, text: str) -> None:
    assert f"({text})" in line(of(running("a", n, n_all)))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.04, "0 s"),
        (2.34, "2.3 s"),
        (40, "40 s"),
        (59.4, "59 s"),
        (59.6, "59 s"),
        (75, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (13_800, "3 h 50 min"),
        (86_399, "23 h 59 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_durations_in_the_words_of_their_size(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_log_is_told_of_each_change_of_a_batch_and_of_each_twentieth_of_the_rows() -> None:
    first = of(running("a", 5010, 100_000), running("b", 0, 100_000))

    def later(a: Shard, b: Shard, seconds: float = 60) -> bool:
        return is_worth_logging(logged_as(first), of(a, b, now=NOW + seconds))

    assert is_worth_logging(None, first)
    assert not later(running("a", 5010, 100_000), running("b", 0, 100_000), 5000)
    assert not later(running("a", 9000, 100_000), running("b", 0, 100_000))
    assert later(running("a", 10_001, 100_000), running("b", 0, 100_000))
    assert later(running("a", 5011, 100_000), running("b", 0, 100_000), 601)
    begun = batch("finalizing", "batch_b", n_total=100_000)
    assert later(running("a", 5010, 100_000), shard(S.RUNNING, "b", n_rows=100_000, batch=begun))
    assert later(running("a", 5010, 100_000), shard(S.ENDED, "b", n_rows=100_000, batch=batch("completed", "batch_b")))


def test_of_a_long_job_the_log_is_told_a_bounded_number_of_times() -> None:
    logged = logged_as(of(running("a", 0, 100_000)))
    n_lines = 0
    for i in range(1, 5760):  # a day of looks, 15 s apart
        progress = of(running("a", i * 17, 100_000), now=NOW + i * 15)
        if is_worth_logging(logged, progress):
            logged = logged_as(progress)
            n_lines += 1
    assert 20 <= n_lines <= 20 + 144


def results(cost: Cost = Cost(picodollars=1_240_000_000_000), **known: Any) -> Progress:  # noqa: B008 - frozen
    tally = {Status.SUCCEEDED: 49_500, Status.FAILED: 490, Status.EXPIRED: 10}
    usage = Usage(input_tokens=1_234_567, cached_tokens=1200, output_tokens=98_765, reasoning_tokens=43)
    done = shard(S.SETTLED, n_rows=50_000, batch=batch("completed"), tally=tally, usage=usage, cost=cost, round=1)
    work_s = {"build": 3.0, "upload": 12.4, "create": 0.8, "harvest": 75.0}
    on_paper = job(done, created_at=NOW, committed_at=NOW + 3 * 3600, work_s=work_s)
    errors = (
        Failed(status="failed", code="rate_limit_exceeded", n=490, custom_ids=("t-1", "t-2", "t-3")),
        Failed(status="expired", code="batch_expired", n=10, custom_ids=("t-9",)),
    )
    known = {"phase": Phase.WRITTEN, "output": "s3://lake/labels.parquet", "errors": errors, **known}
    return progress_of(on_paper, NOW + 9e6, TIMING, results_s=11.2, **known)


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (Cost(), "$0.00"),
        (
            Cost(picodollars=12_400_000_000_000, bad_picodollars=310_000_000_000, saved_picodollars=12_400_000_000_000),
            "$12.40 ($0.31 for bad rows), $12.40 saved",
        ),
        (Cost(picodollars=4_200_000_000, n_unknown=2), "$0.0042, without 2 rows of unknown price"),
        (Cost(n_unknown=2), "not known: no price for the model; see [openai_batch] prices"),
    ],
)
def test_the_cost_is_told_with_what_bad_rows_cost_and_what_was_saved(cost: Cost, text: str) -> None:
    assert f"cost       {text}" in table(results(cost)).splitlines()


def test_the_table_tells_the_cap_and_what_was_reused() -> None:
    reused = {"max_cost": 25.0, "reused_rows": 900, "saved_by_reuse": 0.0042}
    told = "cost       $1.24; max_cost is $25.00; 900 answers reused, which saved $0.0042"
    assert told in table(msgspec.structs.replace(results(), **reused)).splitlines()


def test_the_table_says_what_became_of_every_row_what_went_wrong_and_what_it_took() -> None:
    assert table(results()).splitlines() == [
        "50,000 rows, written to s3://lake/labels.parquet",
        "",
        "outcome               rows    share",
        "succeeded           49,500    99.0%",
        "failed                 490     1.0%",
        "expired                 10    <0.1%",
        "",
        "error                             rows  for example",
        "failed rate_limit_exceeded         490  t-1, t-2, t-3",
        "expired batch_expired               10  t-9",
        "",
        "tokens     input 1,234,567 (cached 1,200), output 98,765 (reasoning 43)",
        "cost       $1.24",
        "batches    1, 1 round of asking again",
        "time       build 3 s, upload 12 s, create 0.8 s, wait 2 h 58 min, harvest 1 min, results 11 s",
    ]


def test_the_table_has_the_messages_the_place_of_the_raw_lines_and_the_ways_on() -> None:
    error = Failed(status="failed", code="invalid_value", n=2, custom_ids=("t-1",), message="Invalid value: '…'.")
    advice = ("Do this.", "Or that.")
    bad = results(errors=(error,), dead_letter="s3://lake/labels.dead_letter.jsonl", n_dead_letter=2, advice=advice)
    lines = table(bad).splitlines()
    assert "  Invalid value: '…'." in lines
    assert "raw lines  2 in s3://lake/labels.dead_letter.jsonl" in lines
    assert lines[-2:] == ["- Do this.", "- Or that."]
    assert why(bad).splitlines() == [
        "2 failed invalid_value: Invalid value: '…'. (for example t-1)",
        "Their raw lines are in s3://lake/labels.dead_letter.jsonl.",
        "- Do this.",
        "- Or that.",
    ]
    many = results(errors=(error,) * 8)
    assert "and 3 more codes, in the table above" in why(many)


def test_a_table_without_errors_has_no_empty_part() -> None:
    text = table(results(errors=(), output=None))
    assert "error" not in text and "\n\n\n" not in text
    assert text.startswith("50,000 rows, returned through XCom\n")


def test_a_forecast_is_in_the_line_of_a_job_that_goes_on() -> None:
    made = of(running("a", 100))
    steps = tuple((NOW + 600.0 * k, k / 10) for k in range(1, 10))
    forecast = as_of(Forecast(basis="jobs", n_earlier=9, steps=steps), NOW)
    told = msgspec.structs.replace(made, forecast=forecast)
    assert "rows (0.8%), probably over at 14:36 UTC, nine of ten before 15:16; 0 of 1 batch" in line(told)
    late = msgspec.structs.replace(made, forecast=as_of(forecast, NOW + 6000))
    assert "rows (0.8%), takes longer than 9 of 9 earlier runs; 0 of" in line(late)
    assert "probably" not in line(msgspec.structs.replace(told, phase=Phase.WRITTEN))
