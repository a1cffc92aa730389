"""One real Airflow for all integration tests of a session."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_openai_batch.emulator import Emulator, ManualClock

# pytest's importlib mode does not put the tests' folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from chaos import environment
from postgres import find_binaries
from provider import provider_path
from stack import AirflowStack

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """OpenAI, as far as the stack knows. Its clock stands still: batches end when the test says so."""
    with Emulator(clock=ManualClock(time.time()), duration=60, seed=1) as running:
        yield running


@pytest.fixture(scope="session")
def stack_env(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Additional environment of all Airflow processes (connections, variables, options)."""
    folder = tmp_path_factory.mktemp("openai-batch")
    return environment(emulator, folder)


@pytest.fixture(scope="session")
def airflow_stack(tmp_path_factory: pytest.TempPathFactory, stack_env: dict[str, str]) -> Iterator[AirflowStack]:
    """Airflow in separate processes on PostgreSQL, started at the first use and shared by the session."""
    if find_binaries() is None:
        # In CI a skipped promise would look like a kept one.
        unavailable = pytest.fail if os.environ.get("CI") else pytest.skip
        unavailable("no PostgreSQL server on this machine (initdb and postgres); install it to run these tests")
    home = tmp_path_factory.mktemp("airflow")
    with AirflowStack(home, HERE / "dags", {"PYTHONPATH": provider_path(home), **stack_env}) as stack:
        yield stack


@pytest.fixture(autouse=True)
def _heal_stack(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let no test see what another did to the processes."""
    yield
    if "airflow_stack" in request.fixturenames:
        request.getfixturevalue("airflow_stack").heal()
