from __future__ import annotations

import pytest

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.job.policy import check_policy, window_s
from airflow_openai_batch.engine.model import Policy, Status


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Policy(max_bad_ratio=1.5), "max_bad_ratio must be between 0 and 1"),
        (Policy(max_rounds=-1), "max_rounds must not be negative"),
        (Policy(max_bad_rows=-1), "max_bad_rows"),
        (Policy(deadline_s=-1.0), "deadline_s"),
        (Policy(max_enqueued_tokens=-1), "max_enqueued_tokens"),
        (Policy(retry_on=frozenset({Status.SUCCEEDED})), "never paid for twice"),
        (Policy(files_expire_after_s=3599), "files_expire_after must be between 1 hour and 30 days"),
        (Policy(files_expire_after_s=31 * 24 * 3600), "files_expire_after must be between 1 hour and 30 days"),
        (Policy(files_expire_after_s=72 * 3600), "files_expire_after=3d is too short.*it must be at least 74h"),
        (Policy(files_expire_after_s=25 * 3600, deadline_s=3600.0), "it must be at least 26h"),
        (Policy(files_expire_after_s=30 * 24 * 3600, deadline_s=31 * 24 * 3600.0), "shorten `deadline`"),
        (
            Policy(files_expire_after_s=8 * 24 * 3600, completion_window="14d"),
            "the deadline or the completion window, whichever is longer",
        ),
        (Policy(delete_files="yes"), "A setting has the wrong type"),  # type: ignore[arg-type]
        (Policy(metadata={str(i): "x" for i in range(13)}), "metadata may have 12 pairs"),
        (Policy(metadata={"k": "v" * 513}), r"metadata\['k'\]"),
        (Policy(metadata={"k" * 65: "v"}), "keys up to 64"),
        (Policy(metadata={"k": ["a"]}), "texts only"),  # type: ignore[dict-item]
        (Policy(reuse=""), "reuse must be the name of a ledger"),
        (Policy(reuse="a\ud800"), "reuse: the name .* is no valid Unicode"),
        (Policy(prices={"a\ud800": {"input": 1}}), "no valid Unicode"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_by_name(policy: Policy, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_policy(policy)


@pytest.mark.parametrize(
    "policy",
    [
        Policy(files_expire_after_s=74 * 3600),
        Policy(files_expire_after_s=30 * 24 * 3600),
        Policy(files_expire_after_s=26 * 3600, deadline_s=24 * 3600.0),
        Policy(files_expire_after_s=26 * 3600, deadline_s=0.0, completion_window="immediate"),
    ],
)
def test_files_may_live_as_long_as_answers_may_be_fetched(policy: Policy) -> None:
    check_policy(policy)


@pytest.mark.parametrize(("window", "seconds"), [("24h", 86_400), ("7d", 604_800), ("1H", 3600), ("immediate", 86_400)])
def test_a_completion_window_is_read_as_a_duration_where_it_is_one(window: str, seconds: float) -> None:
    assert window_s(Policy(completion_window=window)) == seconds
