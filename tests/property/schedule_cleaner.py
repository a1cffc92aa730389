"""A schedule in which a cleaner strikes at random times, freezes and dies, and removes the whole job in the end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from schedule_direct import DIRECT
from schedule_plan import Plan
from schedule_run import Schedule
from schedule_witness import Violation
from schedule_world import KEY, DangerousStore, Process, World
from upath import UPath

from airflow_openai_batch.emulator.model import Status
from airflow_openai_batch.engine.cleaning import clean as clean_module
from airflow_openai_batch.engine.cleaning import folders
from airflow_openai_batch.engine.errors import JobCleaned, StoreError
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.submit import submit
from airflow_openai_batch.engine.store.files import Files

OWNER = "schedules"
_NEVER_S = 1e12
_SHARE = 0.25
"""Of a schedule's steps, how many are followed by a cleaning."""


class CleanedSchedule(Schedule):
    """One seed's story, with cleaners in it."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        super().__init__(plan, folder)
        self._cleaner_rng = random.Random(f"cleaner:{plan.seed}:{plan.is_frozen}")
        self._cleaners: list[Any] = []
        self.world.store = self._store  # type: ignore[method-assign]

    def _store(self) -> DangerousStore:
        store = DangerousStore(UPath(self.world.store_folder), KEY, OWNER)
        store.world = self.world
        return store

    def _step(self) -> None:
        super()._step()
        if self._cleaner_rng.random() < _SHARE and len(self.world.frozen()) <= self.plan.n_workers:
            self._clean(_NEVER_S)

    def _clean(self, older_than_s: float) -> Any:
        """Clean as if every file were old enough: what is safe must be so by construction, not by its age."""
        self.n["cleanings"] += 1

        def work(engine: Engine) -> Any:
            return clean_module.clean(
                UPath(self.world.store_folder),
                OWNER,
                engine.clock(),
                older_than_s=older_than_s,
                api_of=lambda conn_id: engine.api,
                conn_ids=("openai",),
                timing=engine.timing,
                unused_after_s=-_NEVER_S,
            )

        process = self.world.start(work)
        self._cleaners.append(process)
        if process.error is not None:
            raise process.error
        for what, amount in process.found.freed.items() if process.found is not None else ():
            self.n[what] += amount.n
        return process.found

    def _submit_and_advance(self, engine: Engine) -> Any:
        if _is_removed(engine):  # a plan that was never finished, which nobody can have given a command
            submit(engine, self._request(), self._policy, start_over=self._start_over)
        return super()._submit_and_advance(engine)

    def _judge_end(self, process: Process) -> None:
        if _is_harmless(process.error):
            process.error = None
            self.n["retries for what was removed"] += 1
        super()._judge_end(process)

    def run(self) -> None:
        """Let everything happen and end, judge, remove the job, and only then wake who sleeps."""
        self._begin()
        for _ in range(self.plan.n_steps):
            self._step()
        self._calm_down()
        self._finish()
        self._clean(_NEVER_S)
        if not self.plan.is_frozen or not self.world.frozen():
            self._judge()
        self.world.pass_time(10 * 86_400.0)
        if not self._clean(0.0).jobs:
            self.n["not removed"] += 1
            return
        self._wake_all()

    def _wake_all(self) -> None:
        """Nobody who slept while the job was removed may go on with it."""
        ledger = self.world.backend.ledger
        n_rows, n_good, n_sleepers = ledger.n_rows(), len(ledger.batches), len(self.world.frozen())
        n_direct = ledger.n_rows(DIRECT)
        for sleeper in self.world.frozen():
            is_cleaner = sleeper in self._cleaners
            sleeper.go()
            if _is_harmless(sleeper.error):
                continue
            if sleeper.error is not None and (is_cleaner or not isinstance(sleeper.error, JobCleaned)):
                raise sleeper.error
            if not is_cleaner and sleeper.error is None and sleeper.found is not None:
                self.n["slept till its end"] += 1
        self.n["woken after all"] += 1
        if any(b.status is not Status.CANCELLING for b in ledger.live_batches()):
            raise Violation("A batch runs for a job that was removed")
        if len(ledger.batches) > n_good and not self.plan.is_frozen:
            raise Violation("A batch was made for a job that was removed")
        self.world.pass_time(3 * 86_400.0)
        # Whoever froze while it asked synchronously makes that one call, which the job has counted since.
        n_asked = ledger.n_rows(DIRECT) - n_direct
        if n_asked > n_sleepers or ledger.n_rows() - n_asked > n_rows:
            raise Violation("Rows of a job that was removed were billed")


def _is_harmless(error: BaseException | None) -> bool:
    """Return whether all that happened is that a retry is due: what a submit had written, and not named yet, is gone.

    These cleanings do not wait for days before they remove such files.
    """
    if isinstance(error, JobCleaned):
        return bool(error.tombstone.is_unsent)
    is_gone = "FileNotFoundError" in str(error) or "lets a file be created twice" in str(error)
    return isinstance(error, StoreError) and is_gone


def _is_removed(engine: Engine) -> bool:
    try:
        engine.store.load()
    except JobCleaned:
        return True
    return False


@contextmanager
def cleaners_can_freeze(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[World]]:
    """Let a cleaner's every removal and commit be a moment at which it may freeze or die."""
    worlds: list[World] = []
    real = Files.remove

    def store_of(root: Any, key: Any, owner: str) -> DangerousStore:
        return worlds[-1].store()

    def remove(files: Files, which: Any) -> None:
        for file in which:
            worlds[-1].moment(f"before removing {file.name}")
            real(files, file.name)
            worlds[-1].moment(f"after removing {file.name}")

    bury = folders.bury

    def dangerous_bury(files: Files, number: int, tombstone: Any) -> bool:
        worlds[-1].moment("before burying")
        is_buried = bury(files, number, tombstone)
        worlds[-1].moment("after burying")
        return is_buried

    monkeypatch.setattr(clean_module, "JobStore", store_of)
    monkeypatch.setattr(clean_module, "remove_files", remove)
    monkeypatch.setattr(folders, "remove_files", remove)
    monkeypatch.setattr(folders, "bury", dangerous_bury)
    yield worlds
