from __future__ import annotations

import pytest

from airflow_openai_batch.engine.job.planner import Watched, wake

NOW, AFTER = 1000.0, 300.0


def batches(*statuses: str, ended_at: float | None = NOW) -> list[Watched]:
    ends = ("completed", "failed", "expired", "cancelled")
    return [Watched(id=str(i), status=s, ended_at=ended_at if s in ends else None) for i, s in enumerate(statuses)]


@pytest.mark.parametrize(
    ("watched", "wake_at", "is_queued", "expected"),
    [
        ([], None, False, None),
        ([], NOW + 1, True, None),
        ([], NOW, False, "due"),
        (batches("in_progress"), NOW - 1, False, "due"),
        (batches("in_progress", "unknown", "validating"), None, True, None),
        (batches("completed"), None, False, "all ended"),
        (batches("expired", "cancelled", "completed"), NOW + 1, False, "all ended"),
        (batches("completed", "in_progress"), None, False, None),
        (batches("completed", "cancelling"), None, False, None),
        (batches("completed", "in_progress"), None, True, "room for more"),
        (batches("failed", "in_progress"), None, False, "failed"),
        (batches("completed", "in_progress", ended_at=NOW - AFTER), None, False, "harvest"),
        (batches("completed", "in_progress", ended_at=NOW - AFTER + 1), None, False, None),
    ],
)
def test_a_worker_is_woken_only_when_there_is_enough_to_do(
    watched: list[Watched], wake_at: float | None, is_queued: bool, expected: str | None
) -> None:
    assert wake(watched, NOW, wake_at, is_queued=is_queued, harvest_after_s=AFTER) == expected
