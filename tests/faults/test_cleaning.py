"""Cleaning a storage and forgetting jobs: nothing that anybody needs goes, and nothing is paid for twice."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.cleaning.clean import clean
from airflow_openai_batch.engine.cleaning.forget import Forgotten, forget
from airflow_openai_batch.engine.cleaning.report import AT_OPENAI, GARBAGE, JOBS, REQUESTS, CleaningReport
from airflow_openai_batch.engine.errors import CommitRefused, JobCleaned, StoreError, Unavailable
from airflow_openai_batch.engine.job import submit as submit_module
from airflow_openai_batch.engine.job.advance import advance
from airflow_openai_batch.engine.job.measure import measured
from airflow_openai_batch.engine.job.status import Held, Wait
from airflow_openai_batch.engine.job.submit import submit
from airflow_openai_batch.engine.ledger.lookup import look_up
from airflow_openai_batch.engine.ledger.segments import Ledger, decode_segment, digests_of
from airflow_openai_batch.engine.model import JobKey, Policy
from airflow_openai_batch.engine.store.files import Files
from airflow_openai_batch.engine.store.index import read_index_table
from airflow_openai_batch.engine.store.job_store import JobStore

DAY_S = 24 * 3600.0
OWNER = "production"
REUSE = Policy(reuse="labels")


class Dead(BaseException):
    """The process was killed here."""


def night(w: Any, number: int) -> None:
    """Let the next job be that of another night."""
    w.key = JobKey(dag_id="labels", run_id=f"night-{number}", task_id="ask")


def owned(w: Any, **changes: Any) -> Any:
    """A process of a deployment that has a name."""
    return w.engine(store=JobStore(w.root, w.key, OWNER), **changes)


def ask(w: Any, rows: Any = 6, *, policy: Policy | None = None, max_tries: int = 0, **more: Any) -> None:
    """What the submitting task does; ``max_tries`` is raised by a person's clear."""
    first = more.pop("is_first_try", False)
    submit(
        more.pop("engine", None) or owned(w),
        w.request(rows, per_shard=3, **more),
        policy or Policy(),
        max_tries=max_tries,
        is_first_try=first,
        conn_id="openai",
    )


def finished(w: Any, rows: Any = 6, **more: Any) -> None:
    """A job that is done, long ago."""
    ask(w, rows, is_first_try=True, **more)
    assert w.done(owned(w)).n_rows
    w.clock.advance(100 * DAY_S)


def cleaned(w: Any, days: float = 90, *, owner: str = OWNER, is_aged: bool = True, **more: Any) -> CleaningReport:
    """Clean; what is in the store was written long ago, unless the test says otherwise."""
    if is_aged:
        age_files(w.root, w.clock.now() - 10 * DAY_S)
    given = {"api_of": lambda conn_id: Api(w.client()), **more}
    return clean(w.root, owner, w.clock.now(), older_than_s=days * DAY_S, **given)


def age_files(root: Any, at: float) -> None:
    for path in Path(str(root)).rglob("*"):
        if path.is_file():
            os.utime(path, (at, at))


def tree(w: Any) -> dict[str, bytes]:
    """Everything in the storage."""
    root = Path(str(w.root))
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def contents(w: Any) -> set[str]:
    """The names of the files of the job that have content."""
    prefix = "/".join(("labels", w.key.run_id, w.key.task_id)) + "/"
    return {name.removeprefix(prefix) for name, data in tree(w).items() if name.startswith(prefix) and data}


def at_openai(w: Any) -> set[str]:
    api = Api(w.client())
    return {file.id for purpose in ("batch", "batch_output") for file in api.files(purpose)}


def assert_only_a_tombstone_is_left(w: Any) -> None:
    [left] = contents(w)
    assert left.startswith("state/")
    assert b"ticket" not in b"".join(tree(w).values())
    with pytest.raises(JobCleaned):
        w.store.load()


# -- old jobs ----------------------------------------------------------------------------------------------------------


def test_an_old_job_goes_and_no_late_task_asks_its_rows_again(world: Any) -> None:
    w = world()
    finished(w)
    report = cleaned(w)
    assert report.jobs == ["labels manual__2026-11-22 ask"] and report.problems == []
    assert report.freed[JOBS].n_bytes > 0
    assert_only_a_tombstone_is_left(w)
    n_batches, n_billed = len(w.batches), w.emu.ledger.n_rows()
    # Whoever comes late is told so: the sensor, the results, and an automatic retry of the submitting task.
    for late in (lambda: advance(owned(w)), w.write, lambda: ask(w), lambda: ask(w, 60)):
        with pytest.raises(JobCleaned, match=r"labels manual__2026-11-22 ask was cleaned on .*Clear the task"):
            late()
    assert (len(w.batches), w.emu.ledger.n_rows()) == (n_batches, n_billed)
    # A person's clear begins anew, and adopts none of the old batches.
    ask(w, max_tries=1)
    assert w.job.epoch == 1
    assert w.done(owned(w)).n_succeeded == 6
    assert len(w.batches) == 2 * n_batches and w.emu.ledger.n_rows() == 2 * n_billed
    w.assert_accounted(6)


def test_a_process_that_slept_since_any_earlier_snapshot_finds_its_number_taken(world: Any) -> None:
    w = world()
    ask(w)
    jobs = [w.job]
    while isinstance(w.advance(owned(w)), Wait):
        jobs.append(w.job)
        w.clock.advance(900)
    newest = w.store.load().number
    w.clock.advance(100 * DAY_S)
    cleaned(w)
    for number in range(1, newest + 2):
        with pytest.raises(CommitRefused):
            w.store.commit(number, jobs[0], w.clock.now())
    assert_only_a_tombstone_is_left(w)


@pytest.mark.parametrize("is_offline", [True, False], ids=["input file there", "input file deleted"])
def test_a_create_that_was_frozen_until_its_job_was_cleaned_leaves_no_batch_running(
    world: Any, is_offline: bool
) -> None:
    w = world()
    ask(w, 3)
    engine = owned(w)
    create, struck = engine.api.create, []

    def frozen(**args: Any) -> Any:
        if not struck:
            struck.append(1)
            w.clock.advance(3600)
            w.done(owned(w))
            w.clock.advance(5 * DAY_S)
            cleaned(w, 2, **({"api_of": None} if is_offline else {}))
        return create(**args)

    engine.api.create = frozen
    with pytest.raises(JobCleaned):
        advance(engine)
    assert struck and all(b.status == "cancelling" for b in w.emu.ledger.live_batches())
    w.clock.advance(DAY_S)
    assert [str(batch.status) for batch in w.batches] == ["completed", "cancelled"]
    assert w.emu.ledger.n_rows() == 3


def test_a_first_submission_that_was_frozen_until_its_job_was_cleaned_does_not_begin_anew(world: Any) -> None:
    w = world()
    build, struck = submit_module.build, []

    def frozen(*args: Any, **more: Any) -> Any:
        built = build(*args, **more)
        if not struck:
            struck.append(1)
            finished(w)
            assert cleaned(w).jobs
        return built

    submit_module.build = frozen
    try:
        with pytest.raises(JobCleaned):
            ask(w, is_first_try=True)
    finally:
        submit_module.build = build
    assert_paid(w, 6)


def test_a_task_that_began_before_the_cleaning_does_not_begin_anew_though_it_looked_later(world: Any) -> None:
    w = world()
    began_at = w.clock.now()
    finished(w)
    cleaned(w)
    with pytest.raises(JobCleaned):
        submit(owned(w), w.request(6), Policy(), max_tries=7, is_first_try=True, asked_at=began_at)
    submit(owned(w), w.request(6), Policy(), max_tries=7, is_first_try=True, asked_at=w.clock.now() + 1)
    assert w.job.epoch == 1


def assert_paid(w: Any, n: int) -> None:
    assert set(w.billed().values()) == {1} and w.emu.ledger.n_rows() == n


def test_what_runs_is_held_or_is_not_fetched_stays_as_it_is(world: Any) -> None:
    w = world()
    night(w, 1)
    ask(w)
    w.advance(owned(w))  # runs
    night(w, 2)
    ask(w, policy=Policy(max_rounds=0))
    w.advance(owned(w))
    w.clock.advance(2 * DAY_S)  # ended, and nobody has fetched it
    night(w, 3)
    ask(w, 3, policy=Policy(max_cost=1, prices={"gpt-6-luna": {"input": 1, "output": 1}}), body={
        "model": "gpt-6-luna", "input": "Label: {text}", "max_output_tokens": 9
    })  # fmt: skip
    assert isinstance(w.advance(owned(w)), Held)
    w.clock.advance(100 * DAY_S)
    before, files = tree(w), at_openai(w)
    report = cleaned(w, 1)
    assert tree(w) == before and at_openai(w) == files
    assert report.jobs == [] and report.freed == {}
    assert report.kept["it runs, or its answers are not fetched"] == ["labels night-1 ask", "labels night-2 ask"]
    assert report.kept["it is held, or waits for more to be sent"] == ["labels night-3 ask"]


def test_a_running_job_beside_is_not_disturbed(world: Any) -> None:
    w = world()
    night(w, 1)
    finished(w)
    night(w, 2)
    ask(w)
    for _ in range(40):
        report = cleaned(w, 1)
        if not isinstance(w.advance(owned(w)), Wait):
            break
        w.clock.advance(600)
    assert w.write().summary.n_succeeded == 6
    assert set(w.billed().values()) == {2} and len(w.batches) == 4  # each night once
    assert report.problems == []


def test_a_command_that_waits_keeps_a_job(world: Any) -> None:
    w = world()
    finished(w)
    w.store.command("start_over")
    assert cleaned(w).kept == {"a person's command waits to be obeyed": ["labels manual__2026-11-22 ask"]}


def test_a_dry_run_changes_nothing_and_tells_what_would_go(world: Any) -> None:
    w = world()
    night(w, 1)
    ask(w, policy=REUSE)
    w.done(owned(w))
    w.clock.advance(5 * DAY_S)
    night(w, 2)
    ask(w, w.rows(6, "other {}"))
    w.done(owned(w))
    w.clock.advance(3 * DAY_S)
    age_files(w.root, w.clock.now() - 10 * DAY_S)
    before, files = tree(w), at_openai(w)
    would = cleaned(w, 6, is_dry_run=True, is_aged=False)
    assert tree(w) == before and at_openai(w) == files
    did = cleaned(w, 6, is_aged=False)
    assert (would.jobs, would.freed[JOBS], would.freed[REQUESTS]) == (did.jobs, did.freed[JOBS], did.freed[REQUESTS])
    assert would.freed[AT_OPENAI] == did.freed[AT_OPENAI]
    assert "would be" in would.text() and "would be" not in did.text()


# -- killed, and two at once -------------------------------------------------------------------------------------------


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, Callable[[], None]], dict[str, int]]]:
    """Let something happen after the n-th step of a cleaning that changes anything, in the storage or at OpenAI."""

    def arm(at: int, strike: Callable[[], None]) -> dict[str, int]:
        count = {"n": 0}
        monkeypatch.undo()
        for owner, name in ((Files, "remove"), (Files, "create"), (Files, "empty"), (Api, "delete_file")):
            real = getattr(owner, name)

            def step(self: Any, *args: Any, _real: Any = real, **more: Any) -> Any:
                result = _real(self, *args, **more)
                count["n"] += 1
                if count["n"] == at:
                    strike()
                return result

            monkeypatch.setattr(owner, name, step)
        return count

    yield arm
    monkeypatch.undo()


def _die() -> None:
    raise Dead


def test_a_cleaning_that_is_killed_at_any_step_is_finished_by_the_next(
    world: Any, at_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = world()
    for n in range(1, 400):
        night(w, n)
        ask(w, is_first_try=True, policy=REUSE, max_tries=n)
        w.done(owned(w))
        w.clock.advance(5 * DAY_S)
        age_files(w.root, w.clock.now() - 10 * DAY_S)
        count = at_step(n, _die)
        try:
            cleaned(w, 2, is_aged=False)
        except Dead:
            monkeypatch.undo()
            n_batches = len(w.batches)
            with pytest.raises(JobCleaned):  # from its first step on, nobody goes on with the job
                advance(owned(w))
            with pytest.raises(JobCleaned):
                ask(w, max_tries=n)
            cleaned(w, 2, is_aged=False)
            assert len(w.batches) == n_batches
        else:
            assert 20 < count["n"] < n
            break
        assert_only_a_tombstone_is_left(w)
        assert at_openai(w) == set()
    else:
        raise AssertionError("it has no end")


def test_two_cleanings_at_once_do_the_work_of_one(world: Any, at_step: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world()
    for n in range(1, 400, 3):
        night(w, n)
        finished(w, 3)
        age_files(w.root, w.clock.now() - 10 * DAY_S)

        def other() -> None:
            monkeypatch.undo()
            cleaned(w, is_aged=False)

        count = at_step(n, other)
        cleaned(w, is_aged=False)
        assert_only_a_tombstone_is_left(w)
        assert at_openai(w) == set()
        if count["n"] < n:
            break
    else:
        raise AssertionError("it has no end")


# -- what a job that stays does not need -------------------------------------------------------------------------------


def test_request_files_go_when_no_round_needs_them_and_bad_rows_can_still_be_replayed(world: Any) -> None:
    w = world()
    w.fault("row", {"http_error": {"status": 404, "code": "model_not_found"}}, match={"custom_id": "t-5"}, times=1)
    ask(w)
    summary = w.done(owned(w))
    assert summary.n_succeeded == 5
    w.clock.advance(3 * DAY_S)
    report = cleaned(w)
    assert report.jobs == [] and report.freed[REQUESTS].n == 1  # the other shard has a row that a person may replay
    w.assert_accounted(6)
    assert cleaned(w).freed == {}
    w.store.command("replay")
    assert w.done(owned(w)).n_succeeded == 6
    w.assert_accounted(6)
    assert set(w.billed().values()) == {1}
    w.clock.advance(3 * DAY_S)
    assert cleaned(w).freed[REQUESTS].n == 2
    w.assert_accounted(6)


def test_a_clear_needs_no_request_files_that_are_gone(world: Any) -> None:
    w = world()
    ask(w)
    w.done(owned(w))
    w.clock.advance(3 * DAY_S)
    assert cleaned(w).freed[REQUESTS].n == 2
    assert measured(w.store, w.job.shards, "/v1/responses") is None
    ask(w, max_tries=1, policy=Policy(max_bad_ratio=0.5))
    assert w.done(owned(w)).n_succeeded == 6 and len(w.batches) == 2


def test_files_that_a_killed_worker_left_go_and_those_that_are_named_stay(world: Any) -> None:
    w = world()
    ask(w)
    w.done(owned(w))
    w.clock.advance(3 * DAY_S)
    cleaned(w)
    named = tree(w)
    part = next(name for name in named if "/outcomes/" in name)
    for name in (part.replace(".parquet", "x.parquet"), part.replace("outcomes", "rows"), part.replace("/e0/", "/e1/")):
        path = Path(str(w.root)) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"garbage")
    (Path(str(w.root)) / part.rpartition("/e0/")[0] / "e0" / "notes.txt").write_bytes(b"a person's")
    age_files(w.root, w.clock.now() - 1 * DAY_S)
    assert cleaned(w, is_aged=False).freed == {}, "a worker may be about to name them"
    age_files(w.root, w.clock.now() - 3 * DAY_S)
    assert cleaned(w, is_aged=False).freed[GARBAGE].n == 3
    after = {name: data for name, data in tree(w).items() if "/state/" not in name}
    assert {name: data for name, data in after.items() if not name.endswith("notes.txt")} == {
        name: data for name, data in named.items() if "/state/" not in name
    }
    assert any(name.endswith("notes.txt") for name in after)
    w.assert_accounted(6)


@pytest.mark.parametrize("at", ["before it compares", "before its commit"])
def test_a_clear_that_was_frozen_cannot_name_what_was_cleaned(world: Any, at: str) -> None:
    w = world()
    ask(w)
    w.done(owned(w))
    w.clock.advance(3 * DAY_S)
    place = "compare_shards" if at == "before it compares" else "with_known_answers"
    real, struck = getattr(submit_module, place), []

    def frozen(*args: Any) -> Any:
        if not struck:
            struck.append(1)
            assert cleaned(w).freed[GARBAGE].n  # what this process has just written
        return real(*args)

    setattr(submit_module, place, frozen)
    try:
        with contextlib.suppress(StoreError):
            ask(w, w.rows(6, "changed {}"), max_tries=1)
    finally:
        setattr(submit_module, place, real)
    ask(w, w.rows(6, "changed {}"), max_tries=1)  # a retry
    assert w.done(owned(w)).n_succeeded == 6
    w.assert_accounted(6)
    assert [row["text"] for row in w.table()] == [f"changed {i}" for i in range(6)]
    assert w.emu.ledger.n_rows() == 12 and len(w.batches) == 4


def test_what_was_written_before_a_first_snapshot_goes_and_anybody_may_begin_after_it(world: Any) -> None:
    w = world()
    store = JobStore(w.root, w.key, OWNER)
    store.commit = lambda *_: _die()
    with pytest.raises(Dead):
        ask(w, engine=w.engine(store=store), is_first_try=True)
    assert cleaned(w, is_aged=False).freed == {}
    assert cleaned(w).freed[GARBAGE].n > 0
    [left] = contents(w)
    assert left == "state/000000.json"
    ask(w)  # an automatic retry: nothing of it was paid for
    assert w.done(owned(w)).n_succeeded == 6
    assert_paid(w, 6)
    w.clock.advance(100 * DAY_S)
    assert cleaned(w).jobs


def test_what_a_killed_submission_left_in_place_of_a_cleaned_job_goes_too(world: Any) -> None:
    w = world()
    finished(w)
    cleaned(w)
    store = JobStore(w.root, w.key, OWNER)
    store.commit = lambda *_: _die()
    with pytest.raises(Dead):
        ask(w, engine=w.engine(store=store), max_tries=1)
    age_files(w.root, w.clock.now() - DAY_S)
    assert cleaned(w, is_aged=False).freed == {}, "it may be at work"
    assert cleaned(w).freed[GARBAGE].n > 0
    assert_only_a_tombstone_is_left(w)
    ask(w, max_tries=2)
    assert w.job.epoch == 2


# -- whose it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", ["staging", ""])
def test_jobs_and_files_of_another_deployment_are_left(world: Any, owner: str) -> None:
    w = world()
    night(w, 1)
    ask(w)
    w.done(owned(w))
    w.clock.advance(20 * DAY_S)
    before, files = tree(w), at_openai(w)
    report = cleaned(w, 1, owner=owner)
    assert tree(w) == before and at_openai(w) == files != set()
    assert list(report.kept) == ["it is not of this deployment"] and report.jobs == []


def test_a_job_of_a_newer_version_is_told_and_left_with_the_files_that_it_may_name(world: Any) -> None:
    w = world()
    ask(w)
    w.done(owned(w))
    w.clock.advance(20 * DAY_S)
    newest = Path(str(w.root)) / "labels" / w.key.run_id / "ask" / f"state/{w.store.load().number:06d}.json"
    state = msgspec.json.decode(newest.read_bytes())
    newest.write_bytes(msgspec.json.encode({**state, "format_version": 99}))
    stray = stray_file(w)
    before, files = tree(w), at_openai(w)
    report = cleaned(w, 1, conn_ids=("openai",))
    assert tree(w) == before and at_openai(w) == files and stray in files
    assert "a newer version wrote it" in report.kept
    assert report.kept["some job may name them that cannot be read"] == ["3 files at OpenAI"]


def stray_file(w: Any, *, days: float = 5.0, owner: str = OWNER, run_id: str = "killed") -> str:
    """An upload of a worker that was killed before it could tell anybody."""
    from airflow_openai_batch.engine.identity import upload_name

    name = upload_name(JobKey(dag_id="d", run_id=run_id, task_id="t"), owner, str(w.root), "0-00000", "abc")
    path = Path(str(w.root)) / "stray"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b'{"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"model": "m"}}\n')
    with path.open("rb") as file:
        file_id = Api(w.client()).upload(name, file).id
    path.unlink()
    w.clock.advance(days * DAY_S)
    return str(file_id)


def test_input_files_that_no_job_names_go_and_nothing_else_at_openai(world: Any) -> None:
    w = world()
    old = stray_file(w)
    foreign = stray_file(w, owner="staging")
    in_use = stray_file(w, days=0)
    w.client().batches.create(input_file_id=in_use, endpoint="/v1/responses", completion_window="24h")
    w.fault("batch", {"stuck": {"seconds": 1e9, "state": "validating"}})
    old_style = "airflow-openai-batch-0-00001-0123456789ab.jsonl"
    theirs = [w.client().files.create(file=(name, b"{}\n"), purpose="batch").id for name in (old_style, "mine.jsonl")]
    w.clock.advance(0.5 * DAY_S)
    ask(w)
    w.advance(owned(w))
    running = at_openai(w) - {old, foreign, in_use, *theirs}
    new = stray_file(w, days=1)
    before = at_openai(w)
    report = cleaned(w)
    assert before - at_openai(w) == {old} and report.freed[AT_OPENAI].n == 1
    assert {foreign, in_use, new, *theirs, *running} <= at_openai(w)
    assert report.kept[next(reason for reason in report.kept if "older version" in reason)] == ["1 files at OpenAI"]


def test_a_file_that_cannot_be_deleted_is_told_and_tried_again(world: Any) -> None:
    w = world()
    ask(w)
    w.done(owned(w))
    w.clock.advance(5 * DAY_S)
    files = at_openai(w)
    w.fault("DELETE /v1/files/*", {"status": {"code": 500}}, times=2)
    report = cleaned(w, 2)
    assert report.jobs and len(report.problems) == 2 and len(at_openai(w)) == 2 < len(files)
    assert cleaned(w, 2).freed[AT_OPENAI].n == 2
    assert at_openai(w) == set()
    w.fault("GET /v1/files", {"status": {"code": 401}})
    assert "are left" in cleaned(w, 2).problems[0]


def test_a_batch_older_than_its_answers_is_not_adopted_by_a_wiped_store(world: Any) -> None:
    w = world()
    ask(w)
    w.done(owned(w))
    shutil.rmtree(str(w.root))
    w.clock.advance(32 * DAY_S)
    ask(w)
    assert w.done(owned(w)).n_succeeded == 6
    assert len(w.batches) == 4


# -- forgetting --------------------------------------------------------------------------------------------------------


def forgotten(w: Any, *, is_dry_run: bool = False, api_of: Any = None) -> Forgotten:
    return forget(
        w.root,
        w.key,
        OWNER,
        w.clock.now(),
        api_of=api_of or (lambda conn_id: Api(w.client())),
        is_dry_run=is_dry_run,
    )


def test_forget_removes_a_job_everywhere_and_tells_who_has_copies(world: Any) -> None:
    w = world()
    night(w, 1)
    ask(w, policy=REUSE)
    w.done(owned(w))
    digests = digests_of(read_index_table(w.store, w.job.shards[0].index).column("digest"))
    digests = digests[digests.order()]
    night(w, 2)
    ask(w, 9, policy=REUSE)
    w.done(owned(w))
    assert w.job.n_reused == 6
    night(w, 1)
    before, files = tree(w), at_openai(w)
    would = forgotten(w, is_dry_run=True)
    assert tree(w) == before and at_openai(w) == files
    told = forgotten(w)
    assert told.refusal is None and told.failures == []
    assert (told.n_files, told.n_at_openai) == (would.n_files, would.n_at_openai) != (0, 0)
    assert told.reused_by == would.reused_by == ["labels night-2 ask"]
    [left] = contents(w)
    assert left.startswith("state/")
    assert len(files) - len(at_openai(w)) == told.n_at_openai == 4
    ledger = Ledger(w.root, "labels")
    assert (look_up(ledger, digests, 0.0).part >= 0).sum() == 0
    parts = [p for s in ledger.segments() for p in decode_segment(ledger.files.read(s.name)).parts]
    assert parts and all(part.startswith("labels/night-2/") for part in parts)
    assert told.n_ledger_entries == 6
    assert not any("night-1" in str(data) for name, data in tree(w).items() if name.startswith("~history"))
    with pytest.raises(JobCleaned, match="as a person asked to forget it"):
        ask(w)
    assert forgotten(w).failures == []
    night(w, 3)
    ask(w, 6, policy=REUSE)  # its rows are not known any more
    w.done(owned(w))
    assert w.job.n_reused == 0


def test_forget_refuses_a_job_that_runs_and_says_how_to_cancel_it(world: Any) -> None:
    w = world()
    ask(w)
    w.advance(owned(w))
    before, files = tree(w), at_openai(w)
    assert "airflow_openai_batch cancel labels manual__2026-11-22 ask" in str(forgotten(w).refusal)
    assert tree(w) == before and at_openai(w) == files
    w.store.command("cancel")
    w.done(owned(w))
    assert forgotten(w).refusal is None
    assert_only_a_tombstone_is_left(w)


def test_forget_tells_what_it_could_not_remove_and_a_second_one_removes_it(world: Any) -> None:
    w = world()
    ask(w)
    w.done(owned(w))

    def unreachable(conn_id: str) -> Api:
        raise Unavailable(f"no route for {conn_id}")

    told = forgotten(w, api_of=unreachable)
    assert len(told.failures) == 4 and "no route for openai" in told.failures[0] and told.n_at_openai == 0
    assert_only_a_tombstone_is_left(w)
    assert len(at_openai(w)) == 4
    told = forgotten(w)
    assert told.failures == [] and told.n_at_openai == 4 and at_openai(w) == set()
