"""The ways on from a job with bad rows."""

from __future__ import annotations

import pytest
from builders import job, shard

from airflow_openai_batch.engine.job.advice import ways_on
from airflow_openai_batch.engine.job.summary import summarize
from airflow_openai_batch.engine.model import Job, LineError, State, Status


def advice(*shards: object, **changes: object) -> str:
    made: Job = job(*shards, **changes)
    return "\n".join(ways_on(made, summarize(made)))


def settled(tally: dict[Status, int], **changes: object) -> object:
    return shard(State.SETTLED, n_rows=sum(tally.values()), tally=tally, **changes)


def test_of_good_rows_there_is_nothing_to_do() -> None:
    assert advice(settled({Status.SUCCEEDED: 5})) == ""


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (Status.FAILED, "replay"),
        (Status.INVALID, "retry_on=['invalid']"),
        (Status.TRUNCATED, "more output tokens"),
        (Status.MISSING, "replay"),
    ],
)
def test_each_kind_of_bad_row_has_a_way_on(status: Status, says: str) -> None:
    text = advice(settled({Status.SUCCEEDED: 5, status: 2}))
    assert says in text and "all 2 rows once more" in text
    assert "max_bad_ratio, now 5.0%" in text and "max_rounds" not in text


def test_rows_that_failed_for_a_passing_reason_need_another_round() -> None:
    text = advice(settled({Status.EXPIRED: 3}, retryable={Status.EXPIRED: 3}, round=2))
    assert "For 3 rows that failed for a passing reason: raise max_rounds, now 2, and clear the submitting task" in text


def test_a_refused_batch_has_to_be_mended() -> None:
    refused = settled({Status.FAILED: 3}, rejections=(LineError(code="invalid_url", message="Wrong URL."),))
    assert "Mend what OpenAI names" in advice(refused)


def test_the_command_can_be_copied_to_a_shell() -> None:
    from airflow_openai_batch.engine.model import JobKey

    key = JobKey(dag_id="d", run_id="manual__1 of 2", task_id="t", map_index=3)
    assert "replay d 'manual__1 of 2' t --map-index 3`" in advice(settled({Status.FAILED: 1}), key=key)
