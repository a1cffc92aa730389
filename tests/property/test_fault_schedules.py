"""The engine against the emulator under random schedules of faults, deaths and freezes, each replayable by its seed.

A schedule that fails is told by `python tests/property/schedule_run.py SEED [frozen]`. The environment variable
FAULT_SCHEDULES runs more of them; `benchmarks/fault_schedules.py` runs thousands.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from schedule_plan import LAG_S, NEW, TIMING, draw
from schedule_run import Schedule, run
from schedule_witness import NONCE, Violation
from schedule_world import World

from airflow_openai_batch.emulator import Rule
from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.direct.answer_log import AnswerLog
from airflow_openai_batch.engine.job.advance import advance
from airflow_openai_batch.engine.job.direct_budget import Budget
from airflow_openai_batch.engine.job.direct_lease import DirectLease
from airflow_openai_batch.engine.job.remote_files import delete_files
from airflow_openai_batch.engine.model import Policy
from airflow_openai_batch.engine.money.tokens import TokenCounter

N = int(os.environ.get("FAULT_SCHEDULES", "90"))
_CHUNK = 25
# Each of these once found a defect.
_PATIENT_FINDS = (2543, 2921, 3257, 3460, 10684)
_FROZEN_FINDS = (5000, 5042, 5097, 5192, 5211, 5310, 5485, 5799, 5999, 6040, 6285, 11435)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for job stores; in memory where there is such a place, as stores write through to the disk."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else tmp_path


def _fails(seeds: Any, folder: Path, *, is_frozen: bool, new: Sequence[str] = NEW) -> list[tuple[int, str]]:
    reports = [run(seed, is_frozen=is_frozen, folder=folder, new=new) for seed in seeds]
    return [(report.seed, report.violation + report.where) for report in reports if report.violation]


@pytest.mark.parametrize("first", range(0, N * 2 // 3, _CHUNK))
def test_under_any_schedule_no_row_is_paid_twice_or_lost_and_the_job_ends(first: int, folder: Path) -> None:
    assert _fails(range(first, min(first + _CHUNK, N * 2 // 3)), folder, is_frozen=False) == []


@pytest.mark.parametrize("first", range(0, N // 3, _CHUNK))
def test_a_process_frozen_past_the_grace_leaves_no_batch_running(first: int, folder: Path) -> None:
    assert _fails(range(first, min(first + _CHUNK, N // 3)), folder, is_frozen=True) == []


def test_schedules_that_once_found_a_defect_find_none(folder: Path) -> None:
    assert _fails(_PATIENT_FINDS, folder, is_frozen=False, new=()) == []
    assert _fails(_FROZEN_FINDS, folder, is_frozen=True, new=()) == []


@pytest.mark.parametrize("is_frozen", [False, True])
def test_deleting_what_can_be_deleted_at_any_moment_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, folder: Path, is_frozen: bool
) -> None:
    """Whoever moves the job deletes files as soon as it rests, while others move it, are frozen or are killed."""
    n_deleted = 0

    def advance_and_delete(engine: Any) -> Any:
        nonlocal n_deleted
        reached = advance(engine)
        n_deleted += delete_files(engine).n_deleted
        return reached

    monkeypatch.setattr("schedule_run.advance", advance_and_delete)
    assert _fails(range(40, 50), folder, is_frozen=is_frozen) == []
    assert n_deleted > 20


@pytest.mark.parametrize("seed", [3, 17, 2543])
def test_a_seed_replays_exactly(seed: int, folder: Path) -> None:
    def story() -> list[str]:
        # The names of files in the store, and of its folder, end in a random part, which decides nothing.
        return [re.sub(r"[0-9a-f]{12,32}|schedule-\w+", "#", line) for line in run(seed, folder=folder).trace]

    first = story()
    assert len(first) > 20 and first == story()


# -- the witness is awake --------------------------------------------------------------------------------------------


def _first_violation(seeds: range, folder: Path) -> str:
    found = (run(seed, folder=folder, new=()).violation for seed in seeds)
    return next((violation for violation in found if violation), "")


def test_the_schedules_notice_a_store_that_overwrites(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def overwrite(self: Any, name: str, data: bytes) -> None:
        target = Path(self._at(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("probe") and target.exists():
            raise FileExistsError(name)
        target.write_bytes(data)

    monkeypatch.setattr("airflow_openai_batch.engine.store.job_store.JobStore._link", overwrite)
    assert re.search("live batches|still run|paid for twice", _first_violation(range(80), folder))


def test_the_schedules_notice_a_client_that_repeats_the_paid_call(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    def with_retries(self: Any, client: Any) -> None:
        self._client = client.with_options(max_retries=2)

    monkeypatch.setattr("airflow_openai_batch.engine.api.client.Api.__init__", with_retries)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert "sent twice" in _first_violation(range(40), folder)


def test_the_schedules_notice_expired_batches_that_are_not_fetched(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    from airflow_openai_batch.engine.answers import harvest

    real = harvest._download_all

    def forgetful(stack: Any, store: Any, api: Any, shard: Any, sleep: Any) -> Any:
        is_early = shard.batch is not None and shard.batch.status != "completed"
        batch = (
            msgspec.structs.replace(shard.batch, output_file_id=None, error_file_id=None) if is_early else shard.batch
        )
        return real(stack, store, api, msgspec.structs.replace(shard, batch=batch), sleep)

    monkeypatch.setattr(harvest, "_download_all", forgetful)
    monkeypatch.setattr(harvest, "doubt_of", lambda batch, lines: None)
    assert re.search("is lost|paid for twice", _first_violation(range(40), folder))


def _first_violation_with(name: str, folder: Path) -> str:
    found = (run(seed, folder=folder, new=(name,)).violation for seed in range(200))
    return next((violation for violation in found if violation), "")


def test_the_schedules_notice_rows_that_are_asked_again_without_proof(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr("airflow_openai_batch.engine.answers.harvest.doubt_of", lambda batch, lines: None)
    assert "paid for twice" in _first_violation_with("file_empty", folder)


def test_the_schedules_notice_a_proxy_that_is_believed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    from airflow_openai_batch.engine.api import errors as api_errors

    real = api_errors.translate

    def believe(error: Exception) -> Any:
        found = real(error)
        is_refusal = 400 <= getattr(error, "status_code", 0) < 500
        return errors.Refused(str(found), status=400) if is_refusal and isinstance(found, errors.Unclear) else found

    monkeypatch.setattr(api_errors, "translate", believe)
    assert _first_violation_with("create_without_envelope", folder)


def test_the_schedules_notice_a_batch_that_is_found_by_its_nonce_only(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    from airflow_openai_batch.engine.job import create_batch

    real = create_batch._is_of_shard
    monkeypatch.setattr(
        create_batch, "_is_of_shard", lambda batch, shard, intent: bool(batch.nonce) and real(batch, shard, intent)
    )
    assert re.search("live batches|paid for twice", _first_violation_with("create_wrapped", folder))


@pytest.mark.parametrize("ignored", ["what runs", "what is spent"])
def test_the_schedules_notice_a_cap_that_is_passed(monkeypatch: pytest.MonkeyPatch, folder: Path, ignored: str) -> None:
    if ignored == "what runs":
        monkeypatch.setattr("airflow_openai_batch.engine.money.estimate.Estimator._committed", [])
    else:
        monkeypatch.setattr("airflow_openai_batch.engine.money.estimate.spent_by", lambda *_, **__: 0)
    found = (run(seed, folder=folder, new=("times_odd",)).violation for seed in range(120))
    assert any(violation and "picodollars were billed" in violation for violation in found)


@pytest.mark.parametrize("forgotten", ["who died", "what is saved", "the cap"])
def test_the_schedules_notice_what_is_asked_synchronously_and_paid_again(
    monkeypatch: pytest.MonkeyPatch, folder: Path, forgotten: str
) -> None:
    if forgotten == "who died":
        monkeypatch.setattr(DirectLease, "_n_left_on_their_way", lambda self: 0)
    elif forgotten == "what is saved":
        monkeypatch.setattr(AnswerLog, "read", lambda self: None)
    else:
        monkeypatch.setattr(Budget, "refusal", lambda self, request, cost: None)
    found = (run(seed, folder=folder).violation for seed in range(200))
    noticed = "allowed for all" if forgotten == "the cap" else "paid for again synchronously"
    assert any(violation and noticed in violation for violation in found)


# -- stories that dice tell too seldom -------------------------------------------------------------------------------


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Callable[..., Schedule]]:
    """Make a schedule in which nothing happens that the test does not make happen."""
    told: list[Schedule] = []

    def tell(*rules: Rule, **changes: Any) -> Schedule:
        calm = {"n_rows": 8, "n_poison": 0, "has_schema": False, "policy": Policy(), "queue_limit": None, "n_steps": 0}
        rates = dict.fromkeys(("wire_rate", "kill_rate", "pause_rate", "repeat_rate"), 0.0)
        plan = replace(draw(1, is_frozen=False, new=()), **{"rules": rules, "per_shard": 8, **calm, **rates, **changes})
        told.append(Schedule(plan, tmp_path / str(len(told))))
        return told[-1]

    yield tell
    for schedule in told:
        schedule.end()


def _freeze(world: World, number: int, *moments: str) -> None:
    """Freeze a process, by its number, when it comes to these moments, once each and in this order."""
    left = list(moments)

    def is_next(what: str) -> bool:
        is_it = bool(left) and world.running is world.processes[number] and what.startswith(left[0])
        return is_it and bool(left.pop(0))

    world.freeze_at = is_next


def test_a_create_as_late_and_slow_as_can_be_is_listed_before_the_last_look(story: Callable[..., Schedule]) -> None:
    schedule = story(
        Rule("batch", {"listing_lag": LAG_S}), Rule("POST /v1/batches", "drop_response", times=1), duration_s=3600.0
    )
    world = schedule.world
    _freeze(world, 0, "after writing state/000002", "before POST /v1/batches")
    late = world.start(schedule._submit_and_advance)
    world.pass_time(TIMING.grace_s - TIMING.post_timeout_s)
    late.go()
    if not late.is_over:  # it dares to post, and the call is slow
        world.pass_time(TIMING.post_timeout_s)
        late.go()
        schedule._judge_end(late)
    schedule._finish()
    schedule._judge()
    assert len(world.backend.all()) == 1


def test_what_a_frozen_process_creates_is_cancelled_though_it_dies(story: Callable[..., Schedule]) -> None:
    schedule = story(is_frozen=True, duration_s=20_000.0)
    world = schedule.world
    _freeze(world, 0, "before POST /v1/batches", "after POST /v1/batches")
    late = world.start(schedule._submit_and_advance)
    world.pass_time(TIMING.grace_s + 1)
    schedule._judge_end(world.start(advance))
    late.go()
    late.kill()
    assert len(world.backend.all()) == 2 and len(world.witness.late) == 1
    schedule._finish()
    schedule._judge()
    assert [str(batch.status) for batch in world.backend.all()] == ["completed", "cancelled"]


def test_answers_outlive_a_change_of_rows_that_is_cancelled_and_taken_up(story: Callable[..., Schedule]) -> None:
    schedule = story(duration_s=600.0, per_shard=2)
    world = schedule.world
    schedule._judge_end(world.start(schedule._submit_and_advance))
    world.pass_time(3600.0)
    schedule._rows[0] = {"id": 0, "text": "ticket 0 version 1"}
    _freeze(world, 1, "after writing state/000013")
    world.start(schedule._submit_and_advance).kill()
    world.store().command("cancel")
    schedule._judge_end(world.start(advance))
    schedule._finish()
    schedule._judge()
    assert world.backend.ledger.n_rows() == 8 + 1


def test_who_starts_over_gets_no_old_answer_even_if_the_rows_change_next(story: Callable[..., Schedule]) -> None:
    schedule = story(duration_s=3600.0)
    world = schedule.world
    schedule._judge_end(world.start(schedule._submit_and_advance))
    world.pass_time(2000.0)
    schedule._start_over = "again"
    _freeze(world, 1, "after writing state/")
    world.start(schedule._submit_and_advance).kill()
    schedule._rows[0] = {"id": 0, "text": "ticket 0 version 1"}
    schedule._finish()
    schedule._judge()
    assert [epoch.group for epoch in world.witness.epochs.values()] == [0, 1, 1]
    assert world.backend.ledger.n_rows() > 8


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_the_late_file_of_a_batch_that_ended_early_is_waited_for(story: Callable[..., Schedule], status: str) -> None:
    schedule = story(
        Rule("batch", {"late_output_file_id": 400}, times=1),
        *([Rule("batch", {"expire_at": {"fraction": 0.5}}, times=1)] if status == "expired" else []),
        duration_s=3600.0,
    )
    world = schedule.world
    schedule._judge_end(world.start(schedule._submit_and_advance))
    if status == "cancelled":
        world.pass_time(2000.0)
        world.backend.cancel(world.backend.ledger.live_batches()[0].id)
    schedule._finish()
    schedule._judge()
    assert str(world.backend.all()[0].status) == status
    assert world.backend.ledger.n_rows() == 8


def test_a_shard_larger_than_a_budget_that_was_lowered_goes_alone(story: Callable[..., Schedule]) -> None:
    schedule = story(Rule("batch", {"fail": "token_limit_exceeded"}, times=2), per_shard=4, duration_s=600.0)
    world = schedule.world
    schedule._judge_end(world.start(schedule._submit_and_advance))
    schedule._policy = Policy(max_enqueued_tokens=60)
    schedule._finish()
    schedule._judge()
    assert len(schedule._job().shards) == 2 and schedule._job().epoch == 0
    assert world.backend.ledger.n_rows() == 8


def test_a_shard_that_fills_the_budget_fits_into_it_again_in_the_next_round(story: Callable[..., Schedule]) -> None:
    per_row = TokenCounter("/v1/responses").count({"input": "Label in way 0: ticket 0 version 0"})
    budget = Policy(max_enqueued_tokens=4 * per_row)
    schedule = story(Rule("batch", {"expire_at": {"fraction": 0.0}}, times=1), policy=budget, duration_s=600.0)
    schedule._judge_end(schedule.world.start(schedule._submit_and_advance))
    schedule._finish()
    schedule._judge()
    assert [shard.n_tokens for shard in schedule._job().shards] == [4 * per_row] * 3


def test_a_create_without_an_intent_is_noticed(story: Callable[..., Schedule]) -> None:
    with pytest.raises(Violation, match="without a committed intent"):
        story().world.witness.check_intent({"metadata": {NONCE: "0f/0/0-00000-0f/0f"}})
