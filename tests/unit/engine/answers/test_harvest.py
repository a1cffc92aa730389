from __future__ import annotations

from typing import Any

import pytest
from builders import (
    EMBEDDINGS,
    RESPONSES,
    FakeApi,
    Lost,
    World,
    answer,
    batch,
    failure,
    job,
    line,
    line_error,
    responses_body,
    rows,
)

from airflow_openai_batch.engine.answers.harvest import Harvested, Unproven, harvest
from airflow_openai_batch.engine.answers.outcome_files import read_part
from airflow_openai_batch.engine.answers.parser import LineParser
from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.endpoints import Limits
from airflow_openai_batch.engine.errors import Denied, NotFound, Unavailable, Unclear
from airflow_openai_batch.engine.model import Batch, Job, LineError, Policy, Shard, State, Status, Usage
from airflow_openai_batch.engine.requests.bodies import bodies_of
from airflow_openai_batch.engine.requests.sharding import build
from airflow_openai_batch.engine.requests.sources import source_of
from airflow_openai_batch.engine.store.job_store import JobStore

S = Status


def draft(store: JobStore, n: int = 4, endpoint: str = RESPONSES) -> Shard:
    body = {"model": "m", "input": "{text}"}
    bodies = bodies_of(body, endpoint)
    found = build(
        store, source_of(rows(n), endpoint=endpoint), bodies, endpoint=endpoint, custom_id="{id}", limits=Limits()
    )
    return found.shards[0]


def fetch(
    world: World,
    output: bytes | None,
    errors: bytes | None = None,
    *,
    status: str = "completed",
    n: int = 4,
    counted: dict[str, int] | None = None,
    **job_is: Any,
) -> tuple[Job, Harvested]:
    """Harvest a batch whose files have the given bytes; OpenAI counts their lines, or as ``counted`` says."""
    of = draft(world.store, n, job_is.get("endpoint", RESPONSES))
    found: dict[str, Any] = {}
    files = {"output_file_id": output, "error_file_id": errors}
    for name, data in files.items():
        if data is not None:
            world.api.files[name] = data
            found[name] = name
    n_lines = {name: len([line for line in (data or b"").split(b"\n") if line.strip()]) for name, data in files.items()}
    counts = {"n_completed": n_lines["output_file_id"], "n_failed": n_lines["error_file_id"], "n_total": n}
    return read(world, of, batch(status, **{**counts, **found, **(counted or {})}), State.ENDED, **job_is)


def read(world: World, of: Shard, what: Batch | None, state: State, **job_is: Any) -> tuple[Job, Harvested]:
    import msgspec

    ended = msgspec.structs.replace(of, state=state, batch=what, rejections=job_is.pop("rejections", ()))
    made = job(ended, **job_is)
    parser = LineParser(made.spec.endpoint)
    return made, harvest(world.store, world.api, made, ended, parser, world.clock.sleep)  # type: ignore[arg-type]


def part(world: World, got: Harvested) -> list[dict[str, Any]]:
    return [row for found in read_part(world.store, got.outcomes) for row in found.to_pylist()]


def statuses(world: World, got: Harvested) -> list[str]:
    found = part(world, got)
    assert [row["ordinal"] for row in found] == list(range(len(found)))
    assert [row["custom_id"] for row in found] == [f"t{i}" for i in range(len(found))]
    return [row["status"] for row in found]


def text(*lines: bytes) -> bytes:
    return b"".join(data + b"\n" for data in lines)


def test_both_files_become_one_part_in_row_order(world: World) -> None:
    output = text(answer("t3"), answer("t0", "zero"))
    errors = text(line_error("t2"), failure("t1", 400, "bad"))
    _, got = fetch(world, output, errors)
    assert statuses(world, got) == ["succeeded", "failed", "expired", "succeeded"]
    assert got.tally.by_status == {S.SUCCEEDED: 2, S.FAILED: 1, S.EXPIRED: 1}
    assert got.tally.retryable == {S.EXPIRED: 1} and got.unmatched is None
    assert got.tally.usage == Usage(input_tokens=20, cached_tokens=8, output_tokens=10, reasoning_tokens=4)
    first, second, *_ = part(world, got)
    assert (first["output"], first["line"], first["batch_id"]) == ("zero", None, "batch_1")
    assert second["line"] == failure("t1", 400, "bad")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([failure("t0"), answer("t0", "yes")], ("succeeded", "yes")),
        ([answer("t0", "yes"), failure("t0")], ("succeeded", "yes")),
        ([answer("t0", "one"), answer("t0", "two")], ("succeeded", "one")),
        ([failure("t0", 400, "a"), failure("t0", 500, "b")], ("failed", None)),
    ],
)
def test_of_repeated_lines_success_wins(world: World, lines: list[bytes], expected: tuple[str, str | None]) -> None:
    _, got = fetch(world, text(*lines), n=1)
    [row] = part(world, got)
    assert (row["status"], row["output"]) == expected
    assert sum(got.tally.by_status.values()) == 1


def test_a_failure_in_the_output_file_and_a_success_in_the_error_file_are_read(world: World) -> None:
    _, got = fetch(world, text(failure("t0", 500)), text(answer("t1")), n=2)
    assert statuses(world, got) == ["failed", "succeeded"]


def test_lines_of_no_row_are_kept_verbatim(world: World) -> None:
    unmatched = [answer("unknown"), b"not json \xff", b'{"custom_id": 5}', b'{"custom_id":"t0"']
    _, got = fetch(world, text(b"", answer("t0"), *unmatched[:3], b"  ") + unmatched[3], n=1)
    assert statuses(world, got) == ["succeeded"]
    assert got.unmatched is not None and world.store.read(got.unmatched) == text(*unmatched)


@pytest.mark.parametrize(
    "spoilt", [b'{"custom_id":"t0","response":"oops"}', b'{"custom_id":"t0","response":{"status_code":[200]}}']
)
def test_a_line_that_names_its_row_and_nothing_else_is_kept_with_it(world: World, spoilt: bytes) -> None:
    _, got = fetch(world, text(spoilt), n=1)
    [row] = part(world, got)
    # Its line is there, so it was billed: asking again would pay twice.
    assert (row["status"], row["retryable"], row["line"]) == ("missing", False, spoilt)
    _, got = fetch(world, text(spoilt, answer("t0"), spoilt), n=1)
    assert part(world, got)[0]["status"] == "succeeded"


def test_windows_line_ends_and_u2028_do_no_harm(world: World) -> None:
    _, got = fetch(world, answer("t0", "a\u2028b") + b"\r\n" + answer("t1") + b"\r\n", n=2)
    assert [row["output"] for row in part(world, got)] == ["a\u2028b", "good"]


@pytest.mark.parametrize(
    ("status", "expected"), [("completed", "missing"), ("expired", "expired"), ("cancelled", "cancelled")]
)
def test_rows_that_no_file_mentions_are_accounted_for_and_asked_again(world: World, status: str, expected: str) -> None:
    n_failed = 3 if status == "completed" else 0
    _, got = fetch(world, text(answer("t1")), status=status, counted={"n_failed": n_failed})
    assert statuses(world, got) == [expected, "succeeded", expected, expected]
    assert got.tally.retryable == {S(expected): 3}


@pytest.mark.parametrize("counted", [{}, {"n_completed": 4}, {"n_completed": 3, "n_failed": 1}])
@pytest.mark.parametrize("files", [(None, None), (b"", b""), (None, b"\n\n")])
def test_files_that_are_absent_or_empty_prove_nothing_of_the_rows(
    world: World, files: Any, counted: dict[str, int]
) -> None:
    with pytest.raises(Unproven, match="4 of 4 rows have no line"):
        fetch(world, *files, counted=counted)
    assert world.store.names_in("e0/outcomes") == []


def test_rows_that_openai_counts_as_failed_and_does_not_list_are_asked_again(world: World) -> None:
    _, got = fetch(world, text(answer("t0"), answer("t1")), counted={"n_failed": 2})
    assert statuses(world, got) == ["succeeded", "succeeded", "missing", "missing"]
    assert got.tally.retryable == {S.MISSING: 2}


def test_a_refused_batch_fails_its_rows_for_good(world: World) -> None:
    error = LineError(code="invalid_url", message="wrong", n=4)
    _, got = read(world, draft(world.store), batch("failed"), State.REJECTED, rejections=(error,))
    assert statuses(world, got) == ["failed"] * 4 and got.tally.retryable == {}
    row = part(world, got)[0]
    assert row["error_code"] == "batch_rejected" and "invalid_url: wrong" in row["error_message"]


def test_rows_that_were_never_sent_are_cancelled(world: World) -> None:
    _, got = read(world, draft(world.store), None, State.ENDED)
    assert statuses(world, got) == ["cancelled"] * 4
    assert {row["error_code"] for row in part(world, got)} == {"called_off"}


def test_what_the_user_wants_asked_again_is_retryable(world: World) -> None:
    body = {"status": "incomplete", "output": []}
    _, got = fetch(world, text(line("t0", body)), n=1, policy=Policy(retry_on=frozenset({S.TRUNCATED})))
    assert got.tally.retryable == {S.TRUNCATED: 1}


@pytest.mark.parametrize("error", [Lost(), Unclear("broke"), Unavailable("no"), Unavailable("no", retry_after_s=7.0)])
def test_a_broken_download_starts_again_from_an_empty_file(world: World, error: Exception) -> None:
    world.api.script("download", error)
    _, got = fetch(world, text(*(answer(f"t{i}") for i in range(4))))
    assert statuses(world, got) == ["succeeded"] * 4 and got.unmatched is None
    assert world.clock.slept == [getattr(error, "retry_after_s", None) or 2.0]


@pytest.mark.parametrize("error", [Unclear("broke"), Denied("no"), NotFound("gone")])
def test_a_download_that_stays_broken_leaves_no_part(world: World, error: Exception) -> None:
    world.api.script("download", *[error] * 3)
    with pytest.raises(type(error)):
        fetch(world, text(answer("t0")))
    assert not [name for name in world.store.names_in("e0") if name in ("outcomes", "unmatched")]


@pytest.mark.parametrize(("many", "expected"), [(False, [1.0, 2.0]), (True, [[1.0, 2.0]])])
def test_vectors_are_stored_as_vectors(world: World, many: bool, expected: Any) -> None:
    body = {"data": [{"embedding": [1.0, 2.0], "index": 0}], "model": "e"}
    _, got = fetch(world, text(line("t0", body), failure("t1")), n=2, endpoint=EMBEDDINGS, embeds_many=many)
    assert [row["output"] for row in part(world, got)] == [expected, None]


def test_a_token_count_beyond_all_bounds_does_not_stop_the_harvest(world: World) -> None:
    body = {"status": "completed", "output": [], "usage": {"input_tokens": 10**30}}
    _, got = fetch(world, text(line("t0", body), answer("t1")), n=2)
    assert statuses(world, got)[1] == "succeeded"


def test_the_fake_knows_what_the_engine_calls() -> None:

    verbs = ("upload", "create", "retrieve", "batches", "cancel", "download")
    assert all(callable(getattr(FakeApi, verb)) and callable(getattr(Api, verb)) for verb in verbs)


def test_a_line_that_only_other_readers_take_for_json_is_an_answer_and_not_asked_again(world: World) -> None:
    whole = [answer(f"t{i}") for i in range(4)]
    spoilt = whole[1].replace(b'"error": null', b'"error": null, "note": "\\ud83d", "score": NaN')
    for lines in ((whole[0], spoilt, *whole[2:]), (*whole[2:], spoilt, whole[0])):
        _, got = fetch(world, text(*lines))
        assert [(row["status"], row["retryable"]) for row in part(world, got)] == [(S.SUCCEEDED, False)] * 4
        assert got.unmatched is None


def test_a_truncated_answer_beats_an_error_line(world: World) -> None:
    body = responses_body("half", status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    world.ended(lambda i: line(i, body) + b"\n" + failure(i, 500) if i == "t1" else answer(i), 3)
    assert world.job.shards[0].tally == {S.SUCCEEDED: 2, S.TRUNCATED: 1}
    assert len(world.api.made) == 1
