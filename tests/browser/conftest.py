"""A real Airflow with the emulator behind it, a real browser in front of it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

# pytest's importlib mode puts neither folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from chaos import environment
from night import DURATION_S, Night
from postgres import find_binaries
from provider import provider_path
from stack import AirflowStack
from viewer import Viewer

from airflow_openai_batch.emulator import Emulator, ManualClock

HERE = Path(__file__).resolve().parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# A browser under test talks to the page alone, and needs neither a sandbox (root in CI) nor a graphics card.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def unavailable(what: str) -> None:
    """Skip; in CI fail, because there a skipped promise would look like a kept one."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """OpenAI, as far as Airflow knows. Its clock stands still: batches move on when the test says so."""
    with Emulator(clock=ManualClock(time.time()), duration=DURATION_S, finalizing=10, seed=1) as running:
        yield running


@pytest.fixture(scope="session")
def stack_env(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Additional environment of all Airflow processes. Results go where pictures for the docs may show it."""
    with tempfile.TemporaryDirectory(prefix="lake-") as lake:
        yield {**environment(emulator, tmp_path_factory.mktemp("jobs")), "OPENAI_BATCH_TEST_OUTPUT": lake}


@pytest.fixture(scope="session")
def make_stack(
    stack_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[dict[str, str]], AirflowStack]:
    """Return a function that makes an Airflow, not yet started, with some settings of its own."""
    if find_binaries() is None:
        unavailable("no PostgreSQL server on this machine (initdb and postgres); install it to run these tests")
    plugins = importlib.metadata.entry_points(group="airflow.plugins")
    if "openai_batch" not in plugins.names:
        unavailable("the installed package does not know its plugin yet: run `make setup`")

    def make(env: dict[str, str]) -> AirflowStack:
        home = tmp_path_factory.mktemp("airflow")
        return AirflowStack(home, HERE / "dags", {"PYTHONPATH": provider_path(home), **stack_env, **env})

    return make


@pytest.fixture(scope="session")
def airflow_stack(make_stack: Callable[[dict[str, str]], AirflowStack]) -> Iterator[AirflowStack]:
    """Airflow in separate processes, everybody an admin."""
    with make_stack({}) as stack:
        yield stack


@pytest.fixture(scope="session")
def night(airflow_stack: AirflowStack, emulator: Emulator) -> Night:
    """Jobs in all states: one runs, one is done, one has too many bad rows."""
    return Night.begin(airflow_stack, emulator)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        unavailable("no Chromium on this machine; install it to run these tests")
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=program, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def view(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Viewer]]:
    """Return a function that opens a path of an Airflow: `view(url, path, dark=False, phone=False)`.

    Without a path it opens a window and nothing in it, not even a session.
    """
    viewers: list[Viewer] = []

    def make(url: str, path: str | None, **how: object) -> Viewer:
        viewers.append(Viewer(browser, url, Path(os.environ.get("SCREENSHOTS", tmp_path)).absolute(), **how))
        if path is not None:
            viewers[-1].log_in_as_anybody()
            viewers[-1].go(path)
        return viewers[-1]

    yield make
    errors = [error for viewer in viewers for error in viewer.errors]
    for viewer in viewers:
        viewer.close()
    assert errors == [], "the browser complained"
