"""The pytest fixture `openai_batch_emulator`.

    @pytest.mark.openai_batch_emulator(duration=60, clock=ManualClock())
    def test_my_dag(openai_batch_emulator):
        ...

The marker takes the arguments of `Emulator`. While the fixture is in use, Airflow's connection `openai_default`
leads to the emulator. Imports nothing heavy: pytest loads this module in every run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_openai_batch.emulator.runner import Emulator


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", "openai_batch_emulator(**settings): settings of the emulator in this test")


@pytest.fixture
def openai_batch_emulator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Run an emulator for one test, and point the connection `openai_default` at it."""
    from airflow_openai_batch.emulator.runner import Emulator

    marker = request.node.get_closest_marker("openai_batch_emulator")
    with Emulator(**(marker.kwargs if marker else {})) as emulator:
        connection = {"conn_type": "openai", "host": emulator.base_url, "password": "sk-emulator"}
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(connection))
        yield emulator
