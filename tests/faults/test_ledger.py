"""The ledger: nothing that was answered is asked again tonight, and equal requests are asked once."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from airflow_openai_batch.engine.errors import InputError, StoreError
from airflow_openai_batch.engine.job import actions
from airflow_openai_batch.engine.job.status import Wait
from airflow_openai_batch.engine.ledger import compaction, fetch
from airflow_openai_batch.engine.ledger.compaction import compact
from airflow_openai_batch.engine.ledger.segments import Ledger
from airflow_openai_batch.engine.model import JobKey, Policy, Status
from airflow_openai_batch.engine.store.files import Files

DAY_S = 24 * 3600.0
REUSE = Policy(reuse="labels")
SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "score": {"type": "integer"}},
    "required": ["label", "score"],
    "additionalProperties": False,
}


def night(w: Any, number: int, *, dag: str = "labels") -> None:
    """Let the next job be that of another night."""
    w.key = JobKey(dag_id=dag, run_id=f"night-{number}", task_id="ask")


def billed(w: Any) -> list[str]:
    """The prompts that were billed, each as often as it was."""
    asked = {(batch.id, line["custom_id"]): line["body"]["input"] for batch in w.batches for line in w.lines(batch)}
    return [asked[row.batch_id, row.custom_id] for row in w.emu.ledger.rows()]


def texts(w: Any) -> Counter[str]:
    """How often each prompt was billed."""
    return Counter(billed(w))


def rows_of(*numbers: int, text: str = "ticket {}") -> list[dict[str, Any]]:
    return [{"id": i, "text": text.format(i)} for i in numbers]


def ledger(w: Any) -> Ledger:
    return Ledger(w.root, "labels")


def test_the_next_night_asks_only_what_is_new(world: Any) -> None:
    w = world()
    w.submit(20, per_shard=6, policy=REUSE)
    w.done()
    first = {row["id"]: row["output"] for row in w.table()}
    night(w, 2)
    w.submit([*rows_of(*range(15)), *rows_of(15, 16, text="changed {}"), *rows_of(99)], per_shard=6, policy=REUSE)
    assert w.done().n_succeeded == 18
    assert set(texts(w).values()) == {1}
    assert len(billed(w)) == 20 + 3
    table = w.table()
    assert [row["custom_id"] for row in table] == [f"t-{i}" for i in (*range(17), 99)]
    for row in table[:15]:
        assert row["output"] == first[row["id"]]
        assert row["reused_from"] == "labels/manual__2026-11-22/ask"
        assert (float(row["cost"]), row["input_tokens"], row["output_tokens"]) == (0, 0, 0)
    assert all(row["reused_from"] is None and float(row["cost"]) > 0 for row in table[15:])
    assert w.job.n_reused == 15
    # What it cost this job, and what it would have.
    cost = sum(w.emu.ledger.invoice(batch.id).picodollars for batch in w.batches[4:])
    assert w.job.cost.picodollars == cost > 0
    assert 0 < w.job.reuse_saved_picodollars < w.emu.ledger.invoice().picodollars


def test_a_night_without_anything_new_sends_nothing(world: Any) -> None:
    w = world()
    w.submit(10, policy=REUSE)
    w.done()
    n_files = w.n_calls("POST", "/v1/files")
    night(w, 2)
    w.submit(10, policy=REUSE)
    assert w.done().n_succeeded == 10
    assert w.n_calls("POST", "/v1/files") == n_files
    w.assert_accounted(10)
    night(w, 3)
    w.submit(10, policy=REUSE)
    assert w.done().n_succeeded == 10
    assert w.job.reuse_saved_picodollars == w.emu.ledger.invoice().picodollars
    assert {row["reused_from"] for row in w.table()} == {"labels/manual__2026-11-22/ask"}
    assert len(w.batches) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"body": {"model": "gpt-6-luna", "input": "Better: {text}"}},
        {"body": {"model": "gpt-6-sol", "input": "Label: {text}"}},
    ],
    ids=["prompt", "model"],
)
def test_another_request_is_asked(world: Any, change: dict[str, Any]) -> None:
    w = world()
    w.submit(10, policy=REUSE)
    w.done()
    night(w, 2)
    w.submit(10, policy=REUSE, **change)
    w.done()
    assert len(billed(w)) == 20


@pytest.mark.parametrize("policy", [Policy(), Policy(reuse="others")], ids=["no ledger", "another ledger"])
def test_only_who_names_the_ledger_uses_it(world: Any, policy: Policy) -> None:
    w = world()
    w.submit(5, policy=REUSE)
    w.done()
    night(w, 2)
    w.submit(5, policy=policy)
    w.done()
    assert len(billed(w)) == 10


def test_answers_that_are_too_old_are_asked_anew(world: Any) -> None:
    w = world()
    w.submit(5, policy=REUSE)
    w.done()
    w.clock.advance(10 * DAY_S)
    night(w, 2)
    w.submit(rows_of(0, 1), policy=Policy(reuse="labels", reuse_max_age_s=11 * DAY_S))
    w.done()
    assert len(w.batches) == 1
    night(w, 3)
    w.submit(5, policy=Policy(reuse="labels", reuse_max_age_s=9 * DAY_S))
    w.done()
    assert len(billed(w)) == 10


def test_only_good_answers_are_used_again(world: Any) -> None:
    w = world()
    w.fault("row", "refusal", match={"custom_id": "t-1"})
    w.fault("row", {"http_error": {"status": 400, "code": "invalid_value"}}, match={"custom_id": "t-2"})
    w.submit(4, policy=REUSE)
    w.done()
    w.emu.faults.clear()
    night(w, 2)
    w.submit(4, policy=REUSE)
    assert w.done().n_succeeded == 4
    assert w.asked(w.batches[-1]) == ["t-1", "t-2"]


@pytest.mark.parametrize("endpoint", ["/v1/responses", "/v1/chat/completions"])
def test_an_answer_of_a_later_round_is_one_to_the_first_request(world: Any, endpoint: str) -> None:
    w = world()
    policy = Policy(reuse="labels", retry_on=frozenset({Status.INVALID}))
    prompt = (
        {"input": "Label: {text}"} if "responses" in endpoint else {"messages": [{"role": "user", "content": "{text}"}]}
    )
    asked = {"endpoint": endpoint, "body": {"model": "m", **prompt}, "response_model": SCHEMA, "policy": policy}
    w.submit(4, **asked)
    w.fault("row", {"invalid": '{"label": "x"}'}, match={"custom_id": "t-2$"}, times=1)
    assert w.done().by_status == {"succeeded": 4}
    assert w.lines(w.batches[1])[0]["body"] != w.lines(w.batches[0])[2]["body"], "the wrong answer is told"
    first, n_batches = w.table(), len(w.batches)
    night(w, 2)
    w.submit(4, **asked)
    assert w.done().by_status == {"succeeded": 4}
    assert len(w.batches) == n_batches
    assert [row["output"] for row in w.table()] == [row["output"] for row in first]


def test_a_person_who_starts_over_gets_new_answers_which_are_the_ledgers_from_then_on(world: Any) -> None:
    w = world(answer=lambda endpoint, body: "old")
    w.submit(5, policy=REUSE)
    w.done()
    night(w, 2)
    w.emu.answer = lambda endpoint, body: "new"
    w.clock.advance(100)
    w.submit(5, policy=REUSE, start_over="please")
    w.done()
    assert len(billed(w)) == 10
    night(w, 3)
    w.submit(5, policy=REUSE)
    w.done()
    assert len(billed(w)) == 10
    assert {row["reused_from"] for row in w.table()} == {"labels/night-2/ask"}


def test_who_begins_with_a_ledger_when_the_job_is_done_brings_its_answers(world: Any) -> None:
    w = world()
    w.submit(8, per_shard=3)
    w.done()
    w.submit(8, per_shard=3, policy=REUSE)  # cleared, with reuse added to the Dag
    w.done()
    night(w, 2)
    w.submit(8, policy=REUSE)
    w.done()
    assert len(billed(w)) == 8


# -- equal requests ------------------------------------------------------------------------------------------------


def test_equal_requests_are_asked_once(world: Any) -> None:
    w = world()
    rows = [{"id": i, "text": f"ticket {i % 4}"} for i in range(30)]
    w.submit(rows, per_shard=7, policy=REUSE)
    assert w.done().n_succeeded == 30
    assert len(billed(w)) == 4
    w.assert_accounted(30)
    table = w.table()
    by_text: dict[str, set[str]] = {}
    for row in table:
        by_text.setdefault(row["text"], set()).add(row["output"])
    assert all(len(outputs) == 1 for outputs in by_text.values())
    assert [row["reused_from"] for row in table] == [None] * 4 + ["labels/manual__2026-11-22/ask"] * 26
    assert w.job.n_reused == 26


def test_without_a_ledger_equal_requests_are_asked_each(world: Any) -> None:
    w = world()
    w.submit([{"id": i, "text": "same"} for i in range(5)])
    w.done()
    assert len(billed(w)) == 5


@pytest.mark.parametrize("n_models", [1, 3, 20])
def test_equal_requests_of_several_models(world: Any, n_models: int) -> None:
    w = world()
    rows = [
        {"id": i, "text": f"ticket {i // n_models % 3}", "model": f"m{i % n_models}"} for i in range(30 * n_models // 3)
    ]
    w.submit(rows, body={"model": "{model}", "input": "{text}"}, per_shard=5, policy=REUSE)
    w.done()
    assert len(billed(w)) == len({(row["text"], row["model"]) for row in rows})
    w.assert_accounted(len(rows))


def test_rows_whose_equal_has_no_good_answer_have_none_either_and_cost_nothing(world: Any) -> None:
    w = world()
    w.fault("row", "refusal", match={"custom_id": "t-1"})
    w.fault(
        "row",
        {"http_error": {"status": 400, "code": "invalid_value", "message": "Bad row."}},
        match={"custom_id": "t-2"},
    )
    rows = [{"id": i, "text": f"ticket {i % 3}"} for i in range(12)]
    w.submit(rows, policy=REUSE)
    w.done()
    assert [row["status"] for row in w.table()] == ["succeeded", "refused", "failed"] * 4
    assert len(w.batches) == 1
    assert Counter(row["error_message"] for row in w.table() if row["status"] == "failed") == {"Bad row.": 4}
    written = w.write()
    assert len(w.dead_letter(written)) == 2
    # A person asks for them again: each request once, and all rows get what came of it.
    w.emu.faults.clear()
    w.store.command("replay", at=w.clock.now())
    assert w.done().n_succeeded == 12
    assert sorted(w.asked(w.batches[-1])) == ["t-1", "t-2"]
    w.assert_accounted(12)


def test_equal_requests_of_a_job_that_is_cancelled(world: Any) -> None:
    w = world()
    w.submit([{"id": i, "text": f"ticket {i % 4}"} for i in range(20)], per_shard=2, policy=REUSE)
    assert isinstance(w.advance(), Wait)
    w.store.command("cancel", at=w.clock.now())
    w.done()
    w.assert_accounted(20)
    assert len(set(billed(w))) == len(billed(w))


def test_a_batch_that_openai_refuses_and_a_clear_that_sends_it_again(world: Any) -> None:
    w = world()
    w.fault("batch", {"fail": {"code": "invalid_request", "message": "no"}}, times=1)
    rows = [{"id": i, "text": f"ticket {i % 3}"} for i in range(9)]
    w.submit(rows, policy=REUSE)
    w.done()
    assert set(w.statuses().values()) == {"failed"}
    w.submit(rows, policy=REUSE)
    assert w.done().n_succeeded == 9
    assert len(billed(w)) == 3


# -- what may be gone or wrong -------------------------------------------------------------------------------------


def test_a_job_that_was_removed_is_forgotten(world: Any) -> None:
    w = world()
    w.submit(6, policy=REUSE)
    w.done()
    shutil.rmtree(Path(str(w.root)) / "labels" / "manual__2026-11-22")
    night(w, 2)
    w.submit(6, policy=REUSE)
    assert w.done().n_succeeded == 6
    assert len(billed(w)) == 12
    assert w.job.n_reused == 0


def test_an_answer_that_was_given_twice_is_found_when_one_of_them_is_gone(world: Any) -> None:
    w = world()
    w.submit(6, policy=REUSE)
    w.done()
    night(w, 2)
    w.clock.advance(100)
    w.submit(6, policy=REUSE, start_over="x")
    w.done()
    shutil.rmtree(Path(str(w.root)) / "labels" / "night-2")
    night(w, 3)
    w.submit(6, policy=REUSE)
    w.done()
    assert len(billed(w)) == 12
    assert w.job.n_reused == 6


def test_an_answer_that_is_used_after_a_month_outlives_the_job_that_asked(world: Any) -> None:
    w = world()
    w.submit(6, policy=REUSE)
    w.done()
    w.clock.advance(40 * DAY_S)
    night(w, 2)
    w.submit(6, policy=REUSE)
    w.done()
    shutil.rmtree(Path(str(w.root)) / "labels" / "manual__2026-11-22")
    w.clock.advance(40 * DAY_S)
    night(w, 3)
    w.submit(6, policy=REUSE)
    w.done()
    assert len(w.batches) == 1
    # It is as old as it was, whenever it was recorded.
    w.clock.advance(15 * DAY_S)
    night(w, 4)
    w.submit(6, policy=REUSE)
    w.done()
    assert len(w.batches) == 2


@pytest.mark.parametrize("damage", ["empty", "cut", "other rows"])
def test_a_damaged_outcome_part_is_never_believed(world: Any, damage: str) -> None:
    w = world()
    w.submit(6, policy=REUSE)
    w.done()
    part = Path(str(w.store)) / next(s.outcomes.name for s in w.job.shards)
    content = part.read_bytes()
    part.unlink()
    if damage == "other rows":
        night(w, 2)
        w.submit(rows_of(*range(100, 106)), policy=Policy(reuse="else"))
        w.done()
        content = (Path(str(w.store)) / next(s.outcomes.name for s in w.job.shards)).read_bytes()
    part.write_bytes({"empty": b"", "cut": content[: len(content) // 2]}.get(damage, content))
    n_before = len(billed(w))
    night(w, 3)
    w.submit(6, policy=REUSE)
    assert w.done().n_succeeded == 6
    assert len(billed(w)) == n_before + 6
    w.assert_accounted(6)


def test_answers_with_fields_and_those_that_have_none_yet(world: Any) -> None:
    w = world(answer=lambda endpoint, body: '{"label": "a", "score": 3}')
    w.submit(6, policy=REUSE, response_model=SCHEMA)
    w.done()
    night(w, 2)
    w.submit(6, policy=REUSE, response_model=SCHEMA)
    w.done()
    assert [(row["label"], row["score"]) for row in w.table()] == [("a", 3)] * 6
    assert len(w.batches) == 1


def test_vectors_are_used_again_as_they_are(world: Any) -> None:
    w = world()
    ask = {"endpoint": "/v1/embeddings", "body": {"model": "text-embedding-3-small", "input": "{text}"}}
    w.submit(6, policy=REUSE, **ask)
    w.done()
    first = [row["output"] for row in w.table()]
    night(w, 2)
    w.submit(6, policy=REUSE, **ask)
    w.done()
    assert [row["output"] for row in w.table()] == first
    assert len(w.batches) == 1


# -- many at a time, and kills -------------------------------------------------------------------------------------


def test_two_dags_share_a_ledger_at_the_same_time(world: Any) -> None:
    w = world()
    w.submit(30, per_shard=8, policy=REUSE)
    w.done()
    night(w, 2, dag="one")
    one = w.engine()
    w.submit([*rows_of(*range(30)), *rows_of(*range(100, 110))], policy=REUSE, engine=one)
    night(w, 2, dag="two")
    two = w.engine()
    w.submit([*rows_of(*range(30)), *rows_of(*range(200, 210))], policy=REUSE, engine=two)
    for _ in range(40):
        w.advance(one)
        w.advance(two)
        w.clock.advance(600)
    night(w, 3)
    everything = (*range(30), *range(100, 110), *range(200, 210))
    w.submit(rows_of(*everything), policy=REUSE)
    assert w.done().n_succeeded == 50
    assert set(texts(w).values()) == {1}
    assert len(billed(w)) == 50


class _Dying:
    """Storage that fails at its n-th write or removal, before or after that took effect."""

    def __init__(self, at: int, *, before: bool) -> None:
        self.left, self.before = at, before

    def around(self, act: Any) -> Any:
        self.left -= 1
        if self.left == 0 and self.before:
            raise _Dead
        result = act()
        if self.left == 0:
            raise _Dead
        return result


class _Dead(BaseException):
    pass


def _dies_at(monkeypatch: pytest.MonkeyPatch, at: int, *, before: bool) -> _Dying:
    dying = _Dying(at, before=before)
    publish, remove, create = Files._publish, Files.remove, Files.create
    monkeypatch.setattr(Files, "_publish", lambda self, *a: dying.around(lambda: publish(self, *a)))
    monkeypatch.setattr(Files, "remove", lambda self, *a: dying.around(lambda: remove(self, *a)))
    monkeypatch.setattr(Files, "create", lambda self, *a: dying.around(lambda: create(self, *a)))
    return dying


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.nightly)], ids=["some", "all"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_every_write_no_answer_is_lost_and_none_is_wrong(
    world: Any, monkeypatch: pytest.MonkeyPatch, before: bool, step: int
) -> None:
    """Of two nights. Whatever dies, the third night asks nothing."""
    for at in range(2 if before and step > 1 else 1, 200, step):
        w = world(answer=lambda endpoint, body: body["input"])
        with monkeypatch.context() as patch:
            dying = _dies_at(patch, at, before=before)
            for number in (1, 2):
                night(w, number)
                _until_done(w, rows_of(*range(6 * number)))
        night(w, 3)
        w.submit(12, per_shard=5, policy=REUSE)
        assert w.done().n_succeeded == 12
        assert all(row["output"] == f"Label: {row['text']}" for row in w.table())
        assert texts(w) == Counter({f"Label: ticket {i}": 1 for i in range(12)}), at
        if dying.left > 0:
            return
    raise AssertionError("the job has more writes than that")


def _until_done(w: Any, rows: list[dict[str, Any]]) -> None:
    while True:
        try:
            w.submit(rows, per_shard=5, policy=REUSE)
            w.done()
        except _Dead:
            continue
        return


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_every_step_of_a_compaction(world: Any, monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    w = world()
    monkeypatch.setattr(compaction, "_MIN_MERGED", 10**6)
    for number in range(18):
        night(w, number)
        w.submit(rows_of(*range(3 * number, 3 * number + 3)), policy=REUSE)
        w.done()
    n = len(billed(w))
    assert len(ledger(w).segments()) == 18
    for at in range(1, 100):
        with monkeypatch.context() as patch:
            patch.setattr(compaction, "_MIN_MERGED", 16)
            dying = _dies_at(patch, at, before=before)
            with contextlib.suppress(_Dead):
                compact(ledger(w), w.clock.now(), 400 * DAY_S)
        w.clock.advance(compaction._CLAIM_S)
        night(w, 100 + at)
        w.submit(54, policy=REUSE)
        assert w.done().n_succeeded == 54
        assert len(billed(w)) == n
        if dying.left > 0:
            break
    assert len(ledger(w).segments()) < 18


def test_a_ledger_that_cannot_be_compacted_holds_nobody_up(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> int:
        raise StoreError("no")

    monkeypatch.setattr("airflow_openai_batch.engine.job.reuse.compact", broken)
    w = world()
    w.submit(3, policy=REUSE)
    assert w.done().n_succeeded == 3


def test_answers_that_cannot_be_recorded_are_not_committed(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would be paid for again. Once the storage is back, the job goes on, and pays for nothing."""
    w = world()
    w.submit(3, policy=REUSE)
    w.advance()
    w.clock.advance(4000)

    def broken(*_: Any) -> None:
        raise StoreError("no")

    with monkeypatch.context() as patch:
        patch.setattr(actions, "record_answers", broken)
        with pytest.raises(StoreError):
            w.finish()
    assert w.job.shards[0].outcomes is None
    assert w.done().n_succeeded == 3
    night(w, 2)
    w.submit(3, policy=REUSE)
    w.done()
    w.assert_paid_once(3)


# -- later epochs --------------------------------------------------------------------------------------------------


def test_a_new_epoch_looks_into_the_ledger_too(world: Any) -> None:
    w = world()
    night(w, 1, dag="other")
    w.submit(rows_of(10, 11), policy=REUSE)
    w.done()
    night(w, 1)
    w.submit(rows_of(0, 1, 0), custom_id=None, policy=REUSE)
    w.done()
    w.submit(rows_of(0, 1, 10, 11, 2), policy=REUSE)
    assert w.done().n_succeeded == 5
    assert set(texts(w).values()) == {1}
    table = w.table()
    assert [row["reused_from"] for row in table] == [None, None, *["other/night-1/ask"] * 2, None]
    # What the job itself paid for is its own, whichever epoch did.
    assert float(table[0]["cost"]) > 0
    assert w.job.n_reused == 2


def test_clearing_with_a_ledger_added_or_taken_away_sends_nothing(world: Any) -> None:
    w = world()
    rows = [{"id": i, "text": f"ticket {i % 3}"} for i in range(6)]
    w.submit(rows, policy=Policy())
    w.done()
    w.submit(rows, policy=REUSE)
    w.done()
    w.submit(rows, policy=Policy())
    w.done()
    assert len(w.batches) == 1
    assert w.job.epoch == 0


def test_a_clear_looks_into_the_ledger_again(world: Any) -> None:
    """Of what was planned and not sent, another job has answered some since, and then more."""
    w = world()
    w.submit(10, per_shard=4, policy=REUSE)
    planned = w.key
    for number, n_known in ((2, 3), (3, 6)):
        night(w, number)
        w.submit(n_known, policy=REUSE)
        w.done()
        w.key = planned
        w.submit(10, per_shard=4, policy=REUSE)
        assert len(billed(w)) == n_known
    assert w.done().n_succeeded == 10
    assert set(texts(w).values()) == {1}
    assert w.job.n_reused == 6
    w.assert_accounted(10)
    assert [bool(row["reused_from"]) for row in w.table()] == [True] * 6 + [False] * 4


def test_a_clear_with_files_at_openai_already_sends_none_of_what_is_known_by_now(world: Any) -> None:
    w = world()
    w.fault("POST /v1/batches", {"status": {"code": 429, "retry_after": 700}}, times=1)
    w.submit(6, policy=REUSE)
    w.advance()
    assert not w.batches and w.n_calls("POST", "/v1/files") == 1
    held, w.key = w.key, JobKey(dag_id="labels", run_id="other", task_id="ask")
    w.submit(4, policy=REUSE)
    w.done()
    w.key = held
    w.submit(6, policy=REUSE)
    assert w.done().n_succeeded == 6
    assert set(texts(w).values()) == {1} and len(billed(w)) == 6


def test_a_ledger_that_is_added_with_another_row_gets_the_answers_that_are_there(world: Any) -> None:
    w = world()
    w.submit(10)
    w.done()
    w.submit([*rows_of(*range(9)), *rows_of(9, text="changed {}")])  # of the first epoch nine are carried over
    w.done()
    w.submit([*rows_of(*range(8)), *rows_of(8, 9, text="changed {}")], policy=REUSE)
    w.done()
    assert len(billed(w)) == 10 + 1 + 1
    night(w, 2)
    w.submit([*rows_of(*range(8)), *rows_of(8, 9, text="changed {}")], policy=REUSE)
    w.done()
    assert len(billed(w)) == 12


@pytest.mark.parametrize("damage", ["empty", "cut", "foreign", "flipped"])
def test_a_damaged_segment_costs_its_own_answers_and_no_more(world: Any, damage: str) -> None:
    w = world()
    for number, rows in ((1, rows_of(*range(5))), (2, rows_of(*range(5, 10)))):
        night(w, number)
        w.submit(rows, policy=REUSE)
        w.done()
    path = Path(str(ledger(w).files)) / ledger(w).segments()[0].name
    data = path.read_bytes()
    middle = len(data) // 2
    path.chmod(0o644)
    path.write_bytes(
        {
            "empty": b"",
            "cut": data[:middle],
            "foreign": b"PAR1" + b"x" * 100 + b"PAR1",
            "flipped": data[:8] + bytes(255 - byte for byte in data[8:40]) + data[40:],
        }[damage]
    )
    night(w, 3)
    w.submit(10, policy=REUSE)
    assert w.done().n_succeeded == 10
    assert max(texts(w).values()) <= 2
    assert len(billed(w)) <= 15
    assert [row["output"] for row in w.table()] == [f"Echo: Label: ticket {i}" for i in range(10)]
    for number in range(4, 40):  # compaction has enough to do, and stumbles over nothing
        night(w, number)
        w.submit(rows_of(100 + number), policy=REUSE)
        w.done()
    assert len(ledger(w).segments()) < 36


def test_an_outcome_part_that_is_damaged_anywhere_is_asked_anew(world: Any) -> None:
    w = world()
    w.submit(4, policy=REUSE)
    w.done()
    part = Path(str(w.store)) / w.job.shards[0].outcomes.name
    data = part.read_bytes()
    part.chmod(0o644)
    for number, at in enumerate(range(0, len(data), max(1, len(data) // 25))):
        part.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        night(w, 10 + number)
        w.submit(4, policy=REUSE)
        assert w.done().n_succeeded == 4
        assert [row["output"] for row in w.table()] == [f"Echo: Label: ticket {i}" for i in range(4)]
        shutil.rmtree(Path(str(ledger(w).files)))  # or the answers of this night would be found
        part.write_bytes(data)
        ledger(w).record(
            "/".join(["labels", "manual__2026-11-22", "ask", *part.parts[-3:]]), w.clock.now(), w.clock.now()
        )


def test_a_storage_that_fails_while_answers_are_read_is_no_damage(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world()
    w.submit(4, policy=REUSE)
    w.done()
    night(w, 2)

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("the network is down")

    with monkeypatch.context() as patch:
        patch.setattr("airflow_openai_batch.engine.ledger.fetch.read_part", fail)
        patch.setattr(Files, "read_range", lambda *_: (_ for _ in ()).throw(StoreError("the network is down")))
        with pytest.raises(StoreError, match="network"):
            w.submit(4, policy=REUSE)
    w.submit(4, policy=REUSE)
    w.done()
    assert len(billed(w)) == 4


def test_a_job_that_is_removed_while_its_answers_are_read_is_asked_anew(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = world()
    w.submit(4, policy=REUSE)
    w.done()
    folder = Path(str(w.store))
    night(w, 2)
    real = fetch.read_part

    def removed(*given: Any) -> Any:
        shutil.rmtree(folder, ignore_errors=True)
        return real(*given)

    monkeypatch.setattr(fetch, "read_part", removed)
    w.submit(4, policy=REUSE)
    monkeypatch.undo()
    assert w.done().n_succeeded == 4
    assert len(billed(w)) == 8


def test_a_ledger_that_cannot_be_written_is_found_before_anything_is_paid(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = world()
    create = Files.create

    def refuse(self: Files, name: str, data: bytes) -> bool:
        if "~ledger" in str(self):
            raise StoreError("permission denied")
        return create(self, name, data)

    monkeypatch.setattr(Files, "create", refuse)
    with pytest.raises(StoreError, match="permission"):
        w.submit(4, policy=REUSE)
    assert not w.batches


def test_answers_that_a_new_validator_refuses_are_not_used(world: Any) -> None:
    w = world()
    given = {"response_model": SCHEMA, "policy": REUSE}
    w.submit(4, **given)
    w.done()
    labels = {row["label"] for row in w.table()}
    night(w, 2)
    engine = w.engine(check=lambda text: "label: not allowed any more")
    w.submit(4, engine=engine, **given)
    assert labels and w.job.shards[0].known is None
    w.done()
    assert len(billed(w)) == 8


def test_vectors_of_single_inputs_serve_a_job_with_several(world: Any) -> None:
    w = world()
    asked = {"endpoint": "/v1/embeddings", "policy": REUSE}

    def inputs(row: dict[str, Any]) -> dict[str, Any]:
        texts = row["text"].split("|")
        return {"model": "e", "input": texts if len(texts) > 1 else texts[0]}

    w.submit(rows_of(*range(3)), body=inputs, **asked)
    w.done()
    vectors = [row["output"] for row in w.table()]
    night(w, 2)
    w.submit([*rows_of(*range(3)), {"id": 3, "text": "one|two"}], body=inputs, **asked)
    w.done()
    assert w.job.embeds_many
    assert [row["output"] for row in w.table()][:3] == [[vector] for vector in vectors]
    assert w.job.n_reused == 3


@pytest.mark.parametrize(
    "wrong", [Policy(reuse=""), Policy(reuse="x" * 101), Policy(reuse="x", reuse_max_age_s=401 * DAY_S)]
)
def test_a_ledger_that_makes_no_sense_is_refused(world: Any, wrong: Policy) -> None:
    with pytest.raises(InputError, match="reuse"):
        world().submit(3, policy=wrong)


def test_a_job_keeps_what_it_reuses_in_its_state(world: Any) -> None:
    w = world()
    w.submit(3, policy=REUSE)
    w.done()
    stored = msgspec.json.decode(msgspec.json.encode(w.job), type=type(w.job))
    assert stored == w.job
    assert stored.policy.reuse == "labels"
    assert stored.shards[0].tally == {Status.SUCCEEDED: 3}
