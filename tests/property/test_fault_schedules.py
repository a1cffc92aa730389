"""The engine against the emulator under random schedules of faults, deaths and freezes, each replayable by its seed.

A schedule that fails is told by `python tests/property/schedule_run.py SEED [frozen]`. The environment variable
FAULT_SCHEDULES runs more of them; `benchmarks/fault_schedules.py` runs thousands.
"""

from __future__ import annotations

import os
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from schedule_plan import LAG_S, TIMING, Plan, draw
from schedule_run import Schedule, run
from schedule_witness import Violation, shard_of
from schedule_world import World

from airflow_openai_batch.emulator import Rule
from airflow_openai_batch.engine.advance import advance
from airflow_openai_batch.engine.create import post
from airflow_openai_batch.engine.model import Policy

N = int(os.environ.get("FAULT_SCHEDULES", "150"))
_CHUNK = 25
# Each of these once found a defect.
_PATIENT_FINDS = (2543, 2921, 3257, 3460)
_FROZEN_FINDS = (5000, 5042, 5097, 5192, 5211, 5310, 5485, 5799, 5999, 6040, 6285)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for job stores; in memory where there is such a place, as stores write through to the disk."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else tmp_path


def _fails(seeds: Any, folder: Path, *, is_frozen: bool) -> list[tuple[int, str]]:
    reports = [run(seed, is_frozen=is_frozen, folder=folder) for seed in seeds]
    return [(report.seed, report.violation + report.where) for report in reports if report.violation]


@pytest.mark.parametrize("first", range(0, N * 2 // 3, _CHUNK))
def test_under_any_schedule_no_row_is_paid_twice_or_lost_and_the_job_ends(first: int, folder: Path) -> None:
    assert _fails(range(first, min(first + _CHUNK, N * 2 // 3)), folder, is_frozen=False) == []


@pytest.mark.parametrize("first", range(0, N // 3, _CHUNK))
def test_a_process_frozen_past_the_grace_leaves_no_batch_running(first: int, folder: Path) -> None:
    assert _fails(range(first, min(first + _CHUNK, N // 3)), folder, is_frozen=True) == []


def test_schedules_that_once_found_a_defect_find_none(folder: Path) -> None:
    assert _fails(_PATIENT_FINDS, folder, is_frozen=False) == []
    assert _fails(_FROZEN_FINDS, folder, is_frozen=True) == []


@pytest.mark.parametrize("seed", [3, 17, 2543])
def test_a_seed_replays_exactly(seed: int, folder: Path) -> None:
    def story() -> list[str]:
        # The names of files in the store end in a random part, which decides nothing.
        return [re.sub(r"[0-9a-f]{12,32}", "#", line) for line in run(seed, folder=folder).trace]

    first = story()
    assert len(first) > 20 and first == story()


# -- the witness is awake --------------------------------------------------------------------------------------------


def _first_violation(seeds: range, folder: Path) -> str:
    found = (run(seed, folder=folder).violation for seed in seeds)
    return next((violation for violation in found if violation), "")


def test_the_schedules_notice_a_store_that_overwrites(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def overwrite(self: Any, name: str, data: bytes) -> bool:
        target = Path(self._at(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        is_refused = name.startswith("probe") and target.exists()
        if not is_refused:
            target.write_bytes(data)
        return not is_refused

    monkeypatch.setattr("airflow_openai_batch.engine.store.JobStore._link", overwrite)
    assert "live batches" in _first_violation(range(80), folder)


def test_the_schedules_notice_a_client_that_repeats_the_paid_call(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    def with_retries(self: Any, client: Any) -> None:
        self._client = client.with_options(max_retries=2)

    monkeypatch.setattr("airflow_openai_batch.engine.api.Api.__init__", with_retries)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert "sent twice" in _first_violation(range(40), folder)


def test_the_schedules_notice_expired_batches_that_are_not_fetched(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    from airflow_openai_batch.engine import harvest

    real = harvest._file_ids
    forgetful = lambda shard: real(shard) if shard.batch and shard.batch.status == "completed" else []  # noqa: E731
    monkeypatch.setattr(harvest, "_file_ids", forgetful)
    assert re.search("is lost|paid for twice", _first_violation(range(40), folder))


# -- stories that dice tell too seldom -------------------------------------------------------------------------------


def _calm(rules: tuple[Rule, ...], **changes: Any) -> Plan:
    """A plan in which nothing happens that a test does not make happen."""
    drawn = draw(1, is_frozen=changes.pop("is_frozen", False))
    given = {
        "n_rows": 6,
        "per_shard": 6,
        "n_poison": 0,
        "has_schema": False,
        "policy": Policy(),
        "duration_s": 3600.0,
        "queue_limit": None,
        "rules": rules,
        "wire_rate": 0.0,
        "kill_rate": 0.0,
        "pause_rate": 0.0,
        "repeat_rate": 0.0,
        "n_steps": 0,
        **changes,
    }
    return msgspec.structs.replace(drawn, **given) if isinstance(drawn, msgspec.Struct) else _replaced(drawn, given)


def _replaced(plan: Plan, given: dict[str, Any]) -> Plan:
    from dataclasses import replace

    return replace(plan, **given)


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Callable[..., Schedule]]:
    told: list[Schedule] = []

    def tell(*rules: Rule, **changes: Any) -> Schedule:
        told.append(Schedule(_calm(rules, **changes), tmp_path / str(len(told))))
        return told[-1]

    yield tell
    for schedule in told:
        schedule.end()


def _freeze_once(world: World, *moments: str) -> None:
    """Freeze whoever comes to these moments, once each and in this order."""
    left = list(moments)

    def is_next(what: str) -> bool:
        if left and what.startswith(left[0]):
            left.pop(0)
            return True
        return False

    world.freeze_at = is_next


def test_a_late_create_is_listed_before_the_last_look(story: Callable[..., Schedule]) -> None:
    # The process is as late as it may be, the call as slow as it may be, the listing lags, and the answer is lost.
    schedule = story(Rule("batch", {"listing_lag": LAG_S}), Rule("POST /v1/batches", "drop_response", times=1))
    world = schedule.world
    _freeze_once(world, "after writing state/000002", "before POST /v1/batches")
    late = world.start(schedule._submit_and_advance)
    assert late.at == "after writing state/000002.json"
    world.pass_time(TIMING.grace_s - TIMING.post_timeout_s)
    late.go()
    if late.at is not None:  # it has dared to post
        world.pass_time(TIMING.post_timeout_s)
        late.kill() if late.is_doomed else late.go()
    world.pass_time(1.0)
    schedule._finish()
    schedule._judge()
    assert Counter(shard_of(batch) for batch in world.backend.all()) == {"0-00000": 1}


def test_what_a_frozen_process_creates_is_cancelled_when_seen(story: Callable[..., Schedule]) -> None:
    schedule = story(is_frozen=True, duration_s=20_000.0)
    world = schedule.world
    _freeze_once(world, "before POST /v1/batches", "after POST /v1/batches")
    late = world.start(schedule._submit_and_advance)
    world.pass_time(TIMING.grace_s + 1)
    world.start(advance)
    assert len(world.backend.all()) == 0 or late.at is not None
    late.go()
    late.kill()
    assert len(world.witness.late) == 1
    schedule._finish()
    schedule._judge()


def test_answers_outlive_a_change_of_rows_a_cancel_and_a_second_thought(story: Callable[..., Schedule]) -> None:
    schedule = story(duration_s=600.0, n_rows=8, per_shard=2)
    world = schedule.world
    world.start(schedule._submit_and_advance)
    world.pass_time(3600.0)
    schedule._rows[0] = {"id": 0, "text": "ticket 0 version 1"}
    _freeze_once(world, "after writing state/000014")
    process = world.start(schedule._submit_and_advance)
    world.store().wish("cancel")
    if not process.is_over:
        process.go()
    schedule._finish()
    schedule._judge()


def test_a_create_without_an_intent_is_noticed(story: Callable[..., Schedule]) -> None:
    world = story().world
    with pytest.raises(Violation, match="without a committed intent"):
        world.witness.check_intent({"metadata": {"airflow_openai_batch": f"0/0/0-00000-a/{random.random()}"}})
    assert callable(post)
