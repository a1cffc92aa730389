"""Cleaners that strike at random times, freeze and die, under random schedules of everything else."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from schedule_cleaner import CleanedSchedule, cleaners_can_freeze
from schedule_direct import one_at_a_time
from schedule_plan import draw

N = int(os.environ.get("FAULT_SCHEDULES", "90")) // 6
_CHUNK = 25


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for job stores; in memory where there is such a place, as stores write through to the disk."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else tmp_path


def _failure(
    seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch, n: Counter[str], *, is_frozen: bool
) -> str | None:
    home = Path(tempfile.mkdtemp(prefix="schedule-", dir=folder))
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    schedule = CleanedSchedule(draw(seed, is_frozen=is_frozen), home)
    try:
        with one_at_a_time(), cleaners_can_freeze(monkeypatch) as worlds:
            worlds.append(schedule.world)
            schedule.run()
    except Exception as error:
        return f"{seed}: {type(error).__name__}: {error}\n{traceback.format_exc()}"
    finally:
        schedule.end()
        gc.collect(0)
        monkeypatch.undo()
        n.update(schedule.n)
        shutil.rmtree(home, ignore_errors=True)
    return None


@pytest.mark.parametrize("is_frozen", [False, True], ids=["patient", "frozen"])
@pytest.mark.parametrize("first", range(0, N, _CHUNK))
def test_whatever_a_cleaner_removes_nothing_is_paid_twice_or_lost(
    first: int, folder: Path, monkeypatch: pytest.MonkeyPatch, is_frozen: bool
) -> None:
    n: Counter[str] = Counter()
    seeds = range(first, min(first + _CHUNK, N))
    failures = [_failure(seed, folder, monkeypatch, n, is_frozen=is_frozen) for seed in seeds]
    assert [failure for failure in failures if failure] == []
    assert n["cleanings"] > 2 * len(seeds) and n["woken after all"] > len(seeds) / 2
    print(dict(n))
