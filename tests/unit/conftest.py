from __future__ import annotations

import sys
from pathlib import Path

import pytest

# pytest's importlib mode does not put the tests' folder on the path.
sys.path.insert(0, str(Path(__file__).parent))

from builders import KEY, World

from airflow_openai_batch.engine.store.job_store import JobStore


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    from upath import UPath

    return JobStore(UPath(tmp_path / "store"), KEY)


@pytest.fixture
def world(store: JobStore) -> World:
    return World(store)
