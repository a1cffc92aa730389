"""A real browser in front of the Airflow."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

# pytest's importlib mode does not put the tests' folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from needs import unavailable
from night import Night
from viewer import Viewer

from airflow_openai_batch.emulator import Emulator
from airflow_openai_batch.local_airflow.stack import AirflowStack

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


@pytest.fixture(scope="package")
def night(airflow_stack: AirflowStack, emulator: Emulator) -> Iterator[Night]:
    """Jobs in all states: one runs, one is done, one has too many bad rows."""
    if "openai_batch" not in importlib.metadata.entry_points(group="airflow.plugins").names:
        unavailable("the installed package does not know its plugin yet: run `make setup`")
    night = Night.begin(airflow_stack, emulator)
    yield night
    night.end()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        unavailable("no Chromium on this machine")
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
