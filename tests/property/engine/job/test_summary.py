from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from airflow_openai_batch.engine.job.summary import Summary, check_thresholds
from airflow_openai_batch.engine.model import Policy, Status, Usage

BAD = [status for status in Status if status not in (Status.SUCCEEDED, Status.SKIPPED)]
counts = st.integers(0, 200)
policies = st.builds(Policy, max_bad_ratio=st.floats(0, 1), max_bad_rows=st.none() | st.integers(0, 200))


def summary(by_status: dict[Status, int], n_lost: int = 0) -> Summary:
    return Summary(
        n_rows=sum(by_status.values()) + n_lost,
        by_status=by_status,
        usage=Usage(),
        batch_ids=(),
        n_shards=1,
        n_settled=1,
        rounds=0,
    )


@given(st.dictionaries(st.sampled_from(Status), counts), policies, st.sampled_from(BAD), st.booleans())
def test_one_more_bad_row_never_turns_red_to_green(
    by_status: dict[Status, int], policy: Policy, bad: Status, instead: bool
) -> None:
    before = summary(by_status)
    more = {**by_status, bad: by_status.get(bad, 0) + 1}
    if instead and by_status.get(Status.SUCCEEDED):
        more[Status.SUCCEEDED] -= 1  # a good row became bad
    if check_thresholds(before, policy) is not None and before.n_rows:
        assert check_thresholds(summary(more), policy) is not None


@given(st.dictionaries(st.sampled_from(BAD), counts), policies, counts)
def test_a_job_without_a_good_answer_is_red(by_status: dict[Status, int], policy: Policy, n_lost: int) -> None:
    judged = summary(by_status, n_lost)
    assert (check_thresholds(judged, policy) is None) == (judged.n_rows == 0)  # only a job without rows has no bad ones


@given(st.dictionaries(st.sampled_from(Status), counts), policies, st.integers(1, 50))
def test_rows_that_no_outcome_accounts_for_count_as_bad(by_status: dict[Status, int], policy: Policy, n: int) -> None:
    lost = check_thresholds(summary(by_status, n), policy)
    failed = check_thresholds(summary({**by_status, Status.FAILED: by_status.get(Status.FAILED, 0) + n}), policy)
    assert (lost is None) is (failed is None)


@given(st.integers(1, 1000), policies)
def test_a_job_with_every_answer_good_is_green(n: int, policy: Policy) -> None:
    assert check_thresholds(summary({Status.SUCCEEDED: n}), policy) is None
    assert msgspec.json.decode(msgspec.json.encode(summary({Status.SUCCEEDED: n})), type=Summary).n_succeeded == n
