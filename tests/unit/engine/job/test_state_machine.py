"""What OpenAI says of a batch becomes a fact about its shard."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from builders import TIMING, batch, shard

from airflow_openai_batch.engine.job.state_machine import (
    MAX_FILE_RETRIES,
    MAX_UPLOADS,
    NEXT,
    Fact,
    ShardUpdate,
    backoff_s,
    fact_of,
    learn,
)
from airflow_openai_batch.engine.model import ENDED_STATUSES, Batch, LineError, State

NOW = 1000.0


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "cancelling", "unknown", "paused"])
def test_a_status_that_is_not_known_as_an_end_is_still_running(status: str) -> None:
    assert fact_of(batch(status), shard(State.RUNNING), NOW, TIMING) is Fact.STILL_RUNNING


@pytest.mark.parametrize("status", ["completed", "expired", "cancelled"])
def test_an_ended_batch_is_harvested_however_it_ended(status: str) -> None:
    assert status in ENDED_STATUSES
    all_failed = batch(status, error_file_id="f", n_total=2, n_failed=2)
    for found in (batch(status, output_file_id="f"), all_failed, batch(status, ended_at=NOW - TIMING.late_file_s)):
        assert fact_of(found, shard(State.RUNNING), NOW, TIMING) is Fact.BATCH_ENDED


def test_an_ended_batch_may_get_its_file_later_but_not_for_ever() -> None:
    late = batch("completed", n_total=2, n_completed=2, ended_at=NOW)
    assert fact_of(late, shard(State.RUNNING), NOW + 1, TIMING) is Fact.STILL_RUNNING
    assert fact_of(late, shard(State.RUNNING), NOW + TIMING.late_file_s, TIMING) is Fact.BATCH_ENDED
    for status in ("expired", "cancelled"):
        unpaid, paid = batch(status, n_total=2, ended_at=NOW), batch(status, n_total=2, n_completed=1, ended_at=NOW)
        assert fact_of(unpaid, shard(State.RUNNING), NOW, TIMING) is Fact.STILL_RUNNING  # counts come late too
        unanswered = msgspec.structs.replace(unpaid, error_file_id="f")
        assert fact_of(unanswered, shard(State.RUNNING), NOW, TIMING) is Fact.BATCH_ENDED
        assert fact_of(paid, shard(State.RUNNING), NOW, TIMING) is Fact.STILL_RUNNING
        assert fact_of(paid, shard(State.RUNNING), NOW + TIMING.late_file_s, TIMING) is Fact.BATCH_ENDED


def failed(code: str, message: str = "told you", **more: Any) -> Batch:
    return batch("failed", errors=(LineError(code=code, message=message),), **more)


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        ("token_limit_exceeded", "Enqueued token limit reached for m in organization o.", Fact.QUEUE_FULL),
        ("other", "Enqueued token limit reached", Fact.QUEUE_FULL),
        ("billing_hard_limit_reached", "pay", Fact.QUEUE_FULL),
        ("insufficient_quota", "pay", Fact.QUEUE_FULL),
        ("invalid_request", "Cannot find file file-1, or organization org", Fact.FILE_NOT_FOUND),
        ("invalid_json_line", "not parseable", Fact.LINES_REJECTED),
        ("missing_required_parameter", "Missing required parameter: 'body.messages'", Fact.LINES_REJECTED),
        ("invalid_request", "Model parameter is required.", Fact.LINES_REJECTED),
        ("invalid_url", "does not match", Fact.LINES_REJECTED),
        ("model_not_found", "not supported", Fact.LINES_REJECTED),
        ("mismatched_model", "single model", Fact.LINES_REJECTED),
        ("duplicate_custom_id", "duplicate", Fact.LINES_REJECTED),
        ("streaming_unsupported", "stream", Fact.LINES_REJECTED),
        ("empty_file", "empty", Fact.LINES_REJECTED),
        ("something_new", "?", Fact.LINES_REJECTED),
    ],
)
def test_a_failed_batch_is_classified_by_code_then_by_words(code: str, message: str, expected: Fact) -> None:
    of = shard(State.RUNNING, n_creates=1, n_uploads=1)
    assert fact_of(failed(code, message), of, NOW, TIMING) is expected


def test_a_failed_batch_without_a_reason_is_given_up() -> None:
    assert fact_of(batch("failed"), shard(State.RUNNING), NOW, TIMING) is Fact.LINES_REJECTED


def test_a_failed_batch_with_a_file_has_answers() -> None:
    assert fact_of(failed("x", output_file_id="f"), shard(State.RUNNING), NOW, TIMING) is Fact.BATCH_ENDED


def test_a_missing_file_is_tried_again_then_uploaded_again_then_given_up() -> None:
    missing = failed("invalid_request", "Cannot find file file-1")
    found = []
    n_uploads = 1
    while not found or found[-1] is not Fact.LINES_REJECTED:
        # Creates that failed for other reasons count for nothing.
        running = shard(State.RUNNING, n_creates=50, n_misses=len(found), n_uploads=n_uploads)
        found.append(fact_of(missing, running, NOW, TIMING))
        n_uploads += found[-1] is Fact.FILE_LOST
    assert found.count(Fact.FILE_LOST) == MAX_UPLOADS - 1
    assert len(found) == MAX_FILE_RETRIES * MAX_UPLOADS


def test_the_pause_doubles_up_to_its_limit() -> None:
    found = [backoff_s(n, TIMING) for n in range(1, 30)]
    assert found[:3] == [30.0, 60.0, 120.0] and found[-1] == TIMING.backoff_max_s
    assert found == sorted(found)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("fact", Fact)
def test_every_fact_is_in_the_table_or_changes_nothing(state: State, fact: Fact) -> None:
    before = shard(state, problem="as it was", file_id="file-0")
    if (state, fact) in NEXT:
        assert learn(before, fact, ShardUpdate(problem=None)).state is NEXT[state, fact]
    else:
        with pytest.raises(KeyError):
            learn(before, fact, ShardUpdate(problem=None))
    assert before == shard(state, problem="as it was", file_id="file-0")


@pytest.mark.parametrize("fact", [Fact.QUEUE_FULL, Fact.FILE_NOT_FOUND])
def test_a_batch_that_was_adopted_without_a_file_is_uploaded_before_it_is_sent_again(fact: Fact) -> None:
    assert learn(shard(State.RUNNING), fact, ShardUpdate(batch=None)).state is State.PLANNED
    assert learn(shard(State.RUNNING, file_id="file-0"), fact, ShardUpdate(batch=None)).state is State.UPLOADED


def test_every_state_can_be_reached_and_left() -> None:
    assert {after for _, after in ((k, v) for k, v in NEXT.items())} >= set(State) - {State.DRAFTED}
    assert {state for (state, _), after in NEXT.items() if after is not state} == set(State) - {State.SETTLED}
