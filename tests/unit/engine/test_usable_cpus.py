from __future__ import annotations

import os
from pathlib import Path

import pytest

from airflow_openai_batch.engine.concurrency import usable_cpus


@pytest.mark.parametrize(
    ("quota", "n"),
    [("max 100000", 8), ("150000 100000", 1), ("50000 100000", 1), ("400000 100000", 4), ("no quota", 8), (None, 8)],
)
def test_a_container_may_have_fewer_cpus_than_the_machine(
    monkeypatch: pytest.MonkeyPatch, quota: str | None, n: int
) -> None:
    def read_text(path: Path, encoding: str) -> str:
        if quota is None:
            raise FileNotFoundError(path)
        return quota

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(Path, "read_text", read_text)
    assert usable_cpus() == n


@pytest.mark.parametrize(("quota", "n"), [("-1", 8), ("150000", 1), ("400000", 4)])
def test_so_it_may_where_the_kernel_has_the_older_files(monkeypatch: pytest.MonkeyPatch, quota: str, n: int) -> None:
    def read_text(path: Path, encoding: str) -> str:
        if path.name == "cpu.max":
            raise FileNotFoundError(path)
        return f"{quota}\n" if path.name == "cpu.cfs_quota_us" else "100000\n"

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(Path, "read_text", read_text)
    assert usable_cpus() == n
