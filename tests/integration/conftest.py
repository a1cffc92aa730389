"""One real Airflow for all integration tests of a session."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_openai_batch.emulator import Emulator, ManualClock

# pytest's importlib mode does not put the tests' folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from chaos import environment
from postgres import find_binaries
from stack import AirflowStack

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


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
    with AirflowStack(home, HERE / "dags", {"PYTHONPATH": _provider_path(home), **stack_env}) as stack:
        yield stack


@pytest.fixture(autouse=True)
def _heal_stack(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let no test see what another did to the processes."""
    yield
    if "airflow_stack" in request.fixturenames:
        request.getfixturevalue("airflow_stack").heal()


def _provider_path(home: Path) -> str:
    """Return a PYTHONPATH on which Airflow finds the package and discovers it as a provider."""
    try:
        importlib.metadata.distribution("airflow-openai-batch")
    except importlib.metadata.PackageNotFoundError:
        return os.pathsep.join([str(ROOT), str(_stand_in_for_installation(home / "site"))])
    return str(ROOT)


def _stand_in_for_installation(folder: Path) -> Path:
    """Write the metadata that `pip install` would: Airflow discovers providers by entry point only."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    metadata = folder / "airflow_openai_batch-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines.append(f"[{group}]")
        for name, target in entries.items():
            module = ROOT.joinpath(*target.split(":")[0].split("."))
            # An entry point without its module would end every Airflow command.
            if module.with_suffix(".py").exists() or module.is_dir():
                lines.append(f"{name} = {target}")
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder
