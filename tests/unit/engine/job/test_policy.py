from __future__ import annotations

import pytest

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.job.policy import check_policy
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
        (Policy(metadata={str(i): "x" for i in range(13)}), "metadata may have 12 pairs"),
        (Policy(metadata={"k": "v" * 513}), r"metadata\['k'\]"),
        (Policy(metadata={"k" * 65: "v"}), "keys up to 64"),
        (Policy(metadata={"k": ["a"]}), "texts only"),  # type: ignore[dict-item]
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_by_name(policy: Policy, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_policy(policy)
