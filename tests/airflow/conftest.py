"""One Airflow in this process: SQLite, dag.test(), the emulator over HTTP. Set up before anything imports airflow."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import importlib.util
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import textwrap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# pytest's importlib mode does not put the tests' folder on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))
import rest

_HOME = Path(tempfile.mkdtemp(prefix="airflow-test-"))
_DAGS = _HOME / "dags"
_DAGS.mkdir()
_DATABASE = _HOME / "airflow.db"
os.environ.update(
    AIRFLOW_HOME=str(_HOME),
    AIRFLOW__CORE__UNIT_TEST_MODE="True",
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__DAGS_FOLDER=str(_DAGS),
    AIRFLOW__CORE__EXECUTOR="LocalExecutor",
    AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS="True",
    AIRFLOW__API_AUTH__JWT_SECRET="for these tests alone" * 4,
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_DATABASE}",
    AIRFLOW__OPENAI_BATCH__FIRST_POLL_DELAY="0.05",
    AIRFLOW__OPENAI_BATCH__POLL_INTERVAL="0.2",
)


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def airflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, made once for all processes that run tests; each has a copy of its own."""
    folder = tmp_path_factory.getbasetemp()
    made = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "migrated.db"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.exists():
            _copy(made, _DATABASE)
            return made
        from airflow.utils import db

        db.initdb()
        _copy(_DATABASE, made)
    return made


def _copy(database: Path, to: Path) -> None:
    """Copy a database as SQLite does it: a test may have opened the other one already."""
    with contextlib.closing(sqlite3.connect(database)) as one, contextlib.closing(sqlite3.connect(to)) as other:
        one.backup(other)


@pytest.fixture(scope="session")
def _airflow_db(airflow_database: Path) -> None:
    from airflow.sdk.execution_time import supervisor

    # Later Airflows make dag.test()'s API server once a process, Airflow 3.1 once a task, which takes seconds.
    if not hasattr(supervisor.in_process_api_server, "cache_info"):
        supervisor.in_process_api_server = functools.cache(supervisor.in_process_api_server)


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from airflow_openai_batch.emulator import Emulator

    with Emulator(duration=0.3, seed=1) as running:
        connection = {"conn_type": "openai", "host": running.base_url, "password": "sk-emulator"}
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(connection))
        yield running


@pytest.fixture
def stored() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function that stores a trigger's arguments as Airflow does, and reads them again."""
    try:
        from airflow.sdk.serde import deserialize, serialize
    except ImportError:  # Airflow 3.1
        from airflow.serialization.serde import deserialize, serialize
    return lambda arguments: deserialize(serialize(arguments))


@dataclasses.dataclass
class Run:
    """A finished Dag run: states and XComs by task id."""

    state: str
    states: dict[str, str]
    dag: Any
    run_id: str

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        return rest.xcom(self.dag.dag_id, self.run_id, task_id, key, map_index)

    def rendered_fields(self, task_id: str) -> dict[str, Any]:
        return rest.rendered_fields(self.dag.dag_id, self.run_id, task_id)

    def execute(self, task: Any, *, try_number: int = 1, max_tries: int = 0) -> Any:
        """Execute a task as this run's task instance once more, without a scheduler."""
        ti = SimpleNamespace(
            dag_id=self.dag.dag_id,
            run_id=self.run_id,
            task_id=task.task_id,
            map_index=-1,
            is_mapped=False,
            try_number=try_number,
            max_tries=max_tries,
            task=task,
            xcom_push=lambda **_: None,
        )
        return task.execute({"ti": ti, "dag_run": None})


@pytest.fixture
def run_dag(_airflow_db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Return a function that writes a Dag file of the given tasks and runs it with dag.test()."""
    monkeypatch.setenv("STORE", str(tmp_path / "store"))
    monkeypatch.setenv("OUT", str(tmp_path / "out"))

    def run(tasks: str, conf: dict[str, Any] | None = None) -> Run:
        dag_id = f"dag_{uuid.uuid4().hex[:8]}"
        file = _DAGS / f"{dag_id}.py"
        file.write_text(_HEAD.format(dag_id=dag_id) + textwrap.indent(textwrap.dedent(tasks), "    "))
        spec = importlib.util.spec_from_file_location(dag_id, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        dag_run = module.dag.test(run_conf=conf)
        states = rest.states(dag_id, dag_run.run_id)
        return Run(state=str(dag_run.state), states=states, dag=module.dag, run_id=dag_run.run_id)

    return run


_HEAD = """
import datetime, os
from airflow.sdk import DAG, task
from pydantic import BaseModel, field_validator
from airflow_openai_batch.operators import (
    OpenAIBatchOperator, OpenAIBatchPlanOperator, OpenAIBatchResultsOperator, OpenAIBatchSubmitOperator,
)
from airflow_openai_batch.sensors import OpenAIBatchSensor

STORE, OUT = os.environ["STORE"], os.environ["OUT"]
CHAT = dict(
    endpoint="/v1/chat/completions",
    body={{"model": "gpt-6-luna", "messages": [{{"role": "user", "content": "{{text}}"}}]}},
    storage=STORE,
)
ROWS = [{{"id": i, "text": f"ticket {{i}}"}} for i in range(20)]

class Label(BaseModel):
    topic: str

with DAG("{dag_id}", schedule=None, start_date=datetime.datetime(2026, 1, 1)) as dag:
"""
