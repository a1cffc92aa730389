"""What of a job may be removed, on paper."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from builders import job, shard

from airflow_openai_batch.engine.cleaning.report import CleaningReport
from airflow_openai_batch.engine.cleaning.rules import (
    DAY_S,
    garbage_in,
    is_unsent,
    removed_with_job,
    texts_of,
    tombstone_of,
    unneeded_requests,
    why_unfinished,
)
from airflow_openai_batch.engine.model import (
    Batch,
    CarriedAnswers,
    Commands,
    Evidence,
    OutcomePart,
    Policy,
    State,
    Status,
    Timing,
)
from airflow_openai_batch.engine.store.files import StoredFile

GOOD = OutcomePart(name="e0/outcomes/a.parquet", tally={Status.SUCCEEDED: 3})
BAD = OutcomePart(name="e0/outcomes/b.parquet", tally={Status.SUCCEEDED: 2, Status.FAILED: 1})


def settled(name: str, part: OutcomePart = GOOD, **changes: Any) -> Any:
    return msgspec.structs.replace(
        shard(State.SETTLED, name), outcomes=part, requests=f"e0/requests/{name}.jsonl", **changes
    )


def why(one: Any, names: tuple[str, ...] = (), **commands: Any) -> str | None:
    return why_unfinished(one, Commands(**commands), names, 1e6, Timing())


@pytest.mark.parametrize("state", [s for s in State if s is not State.SETTLED])
def test_a_job_with_a_shard_that_is_not_settled_is_left(state: State) -> None:
    assert why(job(settled("0-00000"), shard(state, "0-00001"))) is not None


def test_a_finished_job_may_go_unless_somebody_wants_more_of_it() -> None:
    done = job(settled("0-00000"), policy=Policy(max_rounds=0))
    assert why(done) is None
    assert why(done, ("start_over-1",)) is not None
    assert why(done, ("replay-1",), replays=("replay-1",)) is not None
    assert why(job(settled("0-00000"), earlier=(shard(State.RUNNING, "0-00009"),))) is not None


def test_a_job_that_waits_for_another_round_is_left_and_a_cancelled_one_is_not() -> None:
    retryable = msgspec.structs.replace(BAD, retryable={Status.FAILED: 1})
    waiting = job(settled("0-00000", retryable))
    assert why(waiting) is not None
    assert why(waiting, cancel=True) is None


def test_a_plan_of_which_nothing_was_sent_may_go() -> None:
    plan = job(shard(State.PLANNED), is_plan_only=True)
    assert is_unsent(plan)
    assert why(plan) is None
    for sent in (shard(State.UPLOADED, n_creates=1), settled("0-00001"), shard(State.RUNNING)):
        tried = job(msgspec.structs.replace(sent, n_creates=1), is_plan_only=True)
        assert not is_unsent(tried)


def test_requests_go_only_where_no_round_can_need_them() -> None:
    shards = (
        settled("0-00000"),
        settled("0-00001", BAD),  # a person may replay it
        settled("0-00002", BAD, child="0-00002.1"),
        shard(State.RUNNING, "0-00003", requests="e0/requests/0-00003.jsonl"),
    )
    earlier = (settled("0-00009", BAD), shard(State.ENDED, "0-00008", requests="e0/requests/0-00008.jsonl"))
    gone = unneeded_requests(job(*shards, earlier=earlier))
    assert gone == {f"e0/requests/{name}.jsonl" for name in ("0-00000", "0-00002", "0-00009")}


def test_every_file_that_a_snapshot_names_is_found_in_it_whatever_field_names_it() -> None:
    names = [f"e0/{kind}/{n}.x" for kind in ("rows", "index", "requests", "outcomes", "unmatched") for n in range(2)]
    names += ["e1/outcomes/known", "e1/outcomes/carried", "e1/index/rows", "e1/unmatched/raw", "e1/outcomes/copied"]
    full = msgspec.structs.replace(
        shard(State.SETTLED),
        row_parts=(names[0], names[1]),
        index=names[2],
        requests=names[4],
        outcomes=OutcomePart(name=names[6], unmatched=names[8]),
        known=names[10],
        carried=CarriedAnswers(name=names[11], n_rows=1, row_index=names[12]),
        evidence=Evidence(since=1.0, reason="cut", raw=(names[13],)),
        copied_from=(names[14],),
    )
    earlier = msgspec.structs.replace(
        shard(State.SETTLED, "0-00007"),
        index=names[3],
        requests=names[5],
        outcomes=OutcomePart(name=names[7], unmatched=names[9]),
    )
    one = job(full, earlier=(earlier,))
    assert set(names) <= texts_of(one)
    files = [StoredFile(name, 1, 0.0) for name in names]
    assert garbage_in(files, texts_of(one), 10 * DAY_S, DAY_S) == []


@pytest.mark.parametrize(
    "name",
    ["state/000001.json", "commands/cancel-1.json", "told/e0-good.json", "e0/plan/first.json", "e0/other/x", "x.txt"],
)
def test_what_is_no_write_once_file_is_no_garbage(name: str) -> None:
    assert garbage_in([StoredFile(name, 1, 0.0)], set(), 1e9, DAY_S) == []


def test_a_file_is_garbage_only_when_it_is_certainly_old() -> None:
    name = "e0/rows/0-00000-aaaaaaaaaaaa.parquet"
    assert garbage_in([StoredFile(name, 1, 5.0)], set(), 5.0 + DAY_S, DAY_S)
    assert not garbage_in([StoredFile(name, 1, 6.0)], set(), 5.0 + DAY_S, DAY_S)
    assert not garbage_in([StoredFile(name, 1, None)], set(), 1e12, DAY_S)
    assert not garbage_in([StoredFile(f"e0/rows/.new-{'0' * 32}", 1, 0.0)], set(), 1e12, DAY_S)


def test_what_a_later_job_in_the_same_place_writes_does_not_go_with_the_old_one() -> None:
    names = ["e0/rows/a", "e1/rows/b", "e2/rows/c", "commands/x", "state/000003.json"]
    gone = removed_with_job([StoredFile(name, 1, 0.0) for name in names], 1)
    assert [file.name for file in gone] == ["e0/rows/a", "e1/rows/b", "commands/x"]


def test_a_tombstone_has_the_ids_at_openai_and_nothing_of_rows() -> None:
    batch = Batch(id="batch_1", status="completed", input_file_id="in", output_file_id="out", error_file_id="err")
    one = job(settled("0-00000", batch=batch), conn_id="openai", owner="ours", epoch=3, compared_at=2)
    tombstone = tombstone_of(one, "cleaned", 5.0)
    assert tombstone.file_ids == ("in", "out", "err")
    assert (tombstone.epoch, tombstone.compared_at, tombstone.conn_id, tombstone.is_unsent) == (3, 2, "openai", False)


def test_a_report_tells_what_and_how_much() -> None:
    report = CleaningReport(is_dry_run=False)
    assert report.text() == "Nothing was removed."
    report.jobs += ["a b c", "d e f"]
    report.count("files of old jobs", 3, 4_000_000)
    report.keep("it runs", "g h i")
    assert report.text().split("\n") == [
        "2 jobs were removed: a b c, d e f",
        "3 files of old jobs (4.0 MB)",
        "4.0 MB of the storage was freed.",
        "Left, as it runs: g h i",
    ]
