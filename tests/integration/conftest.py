"""One real Airflow for all tests of a session, with every outlet of facts open, and the emulator behind it."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from airflow_openai_batch.emulator import Emulator, ManualClock

# pytest's importlib mode does not put the tests' folders on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "airflow"))

from chaos import environment
from needs import unavailable
from outlets import Collector, Outlets
from statsd_listener import StatsdListener

from airflow_openai_batch.local_airflow.postgres import find_postgres
from airflow_openai_batch.local_airflow.settings import QUICK
from airflow_openai_batch.local_airflow.stack import AirflowStack

HERE = Path(__file__).resolve().parent


# Of two processes one has the page and the jobs; the other has these, first those that start an Airflow of their own.
BESIDE = ("test_celery.py", "test_demo_ui.py", "test_chaos.py", "test_facts.py", "test_live.py")


class TwoShares(LoadScopeScheduling):
    """Shares the tests out to two processes, so that no more Airflows are started than take the same time."""

    def _split_scope(self, nodeid: str) -> str:
        return "beside" if nodeid.partition("::")[0].endswith(BESIDE) else "page and jobs"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> TwoShares:
    """Let xdist keep together what shares an Airflow."""
    return TwoShares(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the page come first, which counts all jobs there are, and then what is slow to start."""

    def place(item: pytest.Item) -> tuple[bool, int]:
        name = item.path.name
        # A plan that is sent lets so much time pass that what runs on the page ends.
        return "browser" not in item.path.parts, BESIDE.index(name) if name in BESIDE else len(BESIDE) + (
            name == "test_plan.py"
        )

    items.sort(key=place)


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """OpenAI, as far as the stack knows. Its clock stands still: batches end when the test says so."""
    with Emulator(clock=ManualClock(time.time()), duration=60, seed=1) as running:
        yield running


@pytest.fixture(scope="session")
def outlets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outlets]:
    """What listens to Airflow's metrics, traces and OpenLineage events."""
    with StatsdListener() as statsd, Collector() as collector:
        yield Outlets(statsd, collector, tmp_path_factory.mktemp("lineage") / "events.jsonl")


@pytest.fixture(scope="session")
def stack_env(
    emulator: Emulator, outlets: Outlets, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Additional environment of all Airflow processes. Results go where pictures for the docs may show it."""
    lineage = {"type": "file", "log_file_path": str(outlets.lineage), "append": True}
    with tempfile.TemporaryDirectory(prefix="lake-") as lake:
        yield {
            **environment(emulator, tmp_path_factory.mktemp("openai-batch")),
            "OPENAI_BATCH_TEST_OUTPUT": lake,
            "LABELING_FOLDER": f"{lake}/labeling",
            **outlets.statsd.environment,
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
            **outlets.collector.environment,
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(lineage),
        }


@pytest.fixture(scope="session")
def airflow_stack(tmp_path_factory: pytest.TempPathFactory, stack_env: dict[str, str]) -> Iterator[AirflowStack]:
    """Airflow in separate processes on PostgreSQL, started at the first use and shared by the session."""
    if find_postgres() is None:
        unavailable("no PostgreSQL server on this machine (initdb and postgres)")
    with AirflowStack(tmp_path_factory.mktemp("airflow"), HERE / "dags", QUICK, stack_env) as stack:
        yield stack


@pytest.fixture(autouse=True)
def _heal_stack(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let no test see what another did to the processes."""
    yield
    if "airflow_stack" in request.fixturenames:
        request.getfixturevalue("airflow_stack").heal()
