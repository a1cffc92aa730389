"""Several machines: CeleryExecutor on Redis, two workers with nothing in common but S3, one of which is lost twice."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from chaos import environment
from needs import unavailable

from airflow_openai_batch.emulator import Emulator, ManualClock, Rule
from airflow_openai_batch.engine.identity import nonce, parse_nonce
from airflow_openai_batch.engine.model import JobKey
from airflow_openai_batch.local_airflow.celery import CeleryStack, find_redis
from airflow_openai_batch.local_airflow.postgres import find_postgres
from airflow_openai_batch.local_airflow.settings import QUICK

pytestmark = pytest.mark.slow
HERE = Path(__file__).resolve().parent
DAG_ID = "partitioned_labeling"
MACHINES = ("machine-1", "machine-2")
BUCKET = "machines"


@pytest.fixture(scope="module")
def openai() -> Iterator[Emulator]:
    """OpenAI for these tests. Its clock stands still: batches end when the test says so."""
    with Emulator(clock=ManualClock(time.time()), duration=60, seed=1) as running:
        yield running


@pytest.fixture(scope="module")
def s3(s3_endpoint: str) -> Any:
    """A bucket on a real S3 server, as a file system."""
    import s3fs

    fs = s3fs.S3FileSystem(
        key="key",
        secret="secret",
        client_kwargs={"endpoint_url": s3_endpoint},
        use_listings_cache=False,
    )
    fs.makedirs(BUCKET, exist_ok=True)
    return fs


@pytest.fixture(scope="module")
def stack(openai: Emulator, s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CeleryStack]:
    """Airflow with the example Dag, and two machines."""
    if find_postgres() is None or find_redis() is None:
        unavailable("no PostgreSQL or Redis server on this machine (postgres, redis-server)")
    home = tmp_path_factory.mktemp("celery")
    dags = home / "dags"
    dags.mkdir()
    shutil.copy(HERE / "dags" / "other_machines.py", dags)
    example = (HERE.parents[1] / "dags_examples" / f"{DAG_ID}.py").read_text()
    assert "\nAT_ONCE = 8\n" in example
    # Fewer than there are partitions: these must all wait at the same time even so.
    (dags / f"{DAG_ID}.py").write_text(example.replace("\nAT_ONCE = 8\n", "\nAT_ONCE = 3\n"))
    connection = {
        "conn_type": "aws",
        "login": "key",
        "password": "secret",
        "extra": {"endpoint_url": s3.client_kwargs["endpoint_url"], "region_name": "us-east-1"},
    }
    env = {
        **environment(openai, home),
        "AIRFLOW_CONN_AWS_LAKE": json.dumps(connection),
        "AIRFLOW__OPENAI_BATCH__STORAGE": f"s3://aws_lake@{BUCKET}/jobs",
        # A third of it is what the paid call may take: long enough here to be interrupted.
        "AIRFLOW__OPENAI_BATCH__CREATE_GRACE": "30",
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
        "LABELING_FOLDER": f"s3://aws_lake@{BUCKET}/labeling",
    }
    with CeleryStack(home / "airflow", dags, QUICK, env) as running:
        for name in MACHINES:
            running.start_machine(name)
        yield running


class Run:
    """A run of the example Dag."""

    def __init__(self, stack: CeleryStack, openai: Emulator, s3: Any, date: str) -> None:
        self.stack, self.api, self.openai, self.s3, self.date = stack, stack.api, openai, s3, date
        self.api.unpause(DAG_ID)
        self.run_id = self.api.trigger(DAG_ID, logical_date=f"{date}T00:00:00Z")

    def states(self, task_id: str) -> list[str]:
        """States of a task by map index."""
        found = [ti for ti in self.instances() if ti["task_id"] == task_id]
        return [ti["state"] for ti in sorted(found, key=lambda ti: ti["map_index"])]

    def instances(self) -> list[dict[str, Any]]:
        return self.api.task_instances(DAG_ID, self.run_id)

    def machine_of(self, task_id: str, map_index: int) -> str:
        """The machine that runs a task now."""
        ti = self.api.task_instance(DAG_ID, self.run_id, task_id, map_index)
        assert ti["state"] == "running", ti
        return ti["hostname"]

    def try_number(self, task_id: str, map_index: int) -> int:
        return self.api.task_instance(DAG_ID, self.run_id, task_id, map_index)["try_number"]

    def index_of(self, batch: Any) -> int:
        """The partition that made a batch."""
        (who, *_) = parse_nonce(next(value for value in batch.metadata.values() if parse_nonce(value)))
        keys = (JobKey(dag_id=DAG_ID, run_id=self.run_id, task_id="partition.submit", map_index=i) for i in range(99))
        owner = self.stack.env["AIRFLOW__API__BASE_URL"].rstrip("/")
        return next(key.map_index for key in keys if nonce(key, 0, "", "", owner=owner).startswith(who))

    def finish(self, state: str = "success", timeout: float = 500) -> None:
        """Let OpenAI finish whatever it is asked."""
        deadline = time.monotonic() + timeout
        while (found := self.api.run_state(DAG_ID, self.run_id)) in ("queued", "running"):
            assert time.monotonic() < deadline, f"{self.instances()}\n{self.stack.tails()}"
            self.openai.complete_all()
            time.sleep(0.5)
        assert found == state, self.stack.tails()

    def labels(self) -> Any:
        """The results, read as one data set."""
        folder = f"{BUCKET}/labeling/package_labels/{self.date}"
        return ds.dataset(folder, filesystem=self.s3, format="parquet").to_table().to_pandas()

    def manifest(self) -> dict[str, Any]:
        return json.loads(self.s3.cat_file(f"{BUCKET}/labeling/package_labels/{self.date}/_manifest.json"))


@pytest.fixture
def start(stack: CeleryStack, openai: Emulator, s3: Any) -> Iterator[Callable[[str], Run]]:
    openai.reset()
    yield lambda date: Run(stack, openai, s3, date)
    stack.api.fail_unfinished_runs(DAG_ID)  # that of a test that failed would keep the next one waiting
    for name in MACHINES:
        if not stack.is_running(name):
            stack.start_machine(name)


def n_fired(openai: Emulator, on: str) -> int:
    return sum(rule["fired"] for rule in openai.faults.to_json() if rule["on"] == on)


def test_machines_are_lost_while_they_pay_and_while_they_fetch_and_each_row_is_paid_for_once(
    start, stack: CeleryStack, openai: Emulator, s3: Any
) -> None:
    openai.faults.add(
        # OpenAI makes the first batch and keeps its answer back.
        Rule(on="POST /v1/batches", do={"delay": {"seconds": 30, "after": True}}, match={"nth": 1}, times=1),
        # The second is done long before all others.
        Rule(on="batch", do={"stuck": {"seconds": 3600, "state": "in_progress"}}, match={"nth": [1, *range(3, 50)]}),
    )
    run = start("2026-11-23")
    # A machine dies between a paid call and knowing of it, with whatever else it runs.
    stack.wait_until(lambda: n_fired(openai, "POST /v1/batches") and openai.batches, "a paid call")
    (unheard, *_) = openai.batches.values()
    lost = run.machine_of("partition.submit", run.index_of(unheard))
    stack.lose_machine(lost)
    n_partitions = len(run.states("partition.submit"))
    assert n_partitions > 3
    stack.wait_until(lambda: run.states("partition.wait") == ["deferred"] * n_partitions, "all to wait")
    stack.start_machine(lost)
    # A machine dies while it fetches results.
    openai.faults.add(Rule(on="GET /v1/files/*/content", do={"delay": 30}, times=1))
    openai.clock.advance(120)
    (_, early, *_) = openai.batches.values()
    stack.wait_until(lambda: n_fired(openai, "GET /v1/files/*/content"), "the harvest")
    lost_again = run.machine_of("partition.wait", run.index_of(early))
    stack.lose_machine(lost_again)
    stack.start_machine(lost_again)
    openai.faults.clear()
    run.finish()

    frame, told = run.labels(), run.manifest()
    assert len(frame) == frame["name"].nunique() == told["rows"] == told["by_status"]["succeeded"]
    assert openai.ledger.n_rows() == told["rows"]
    assert openai.ledger.rows_billed_twice() == []
    assert len(openai.ledger.batches) == len(told["files"]) == n_partitions
    assert {ti["hostname"] for ti in run.instances()} == set(MACHINES)
    # Both were lost in the middle of it: the tasks needed another try.
    assert run.try_number("partition.submit", run.index_of(unheard)) == 2
    assert run.try_number("partition.wait", run.index_of(early)) == 2
    # Jobs live on S3 alone.
    snapshots = s3.glob(f"{BUCKET}/jobs/{DAG_ID}/*/*/state/000000.json")
    assert len(snapshots) == n_partitions
    for name in MACHINES:
        assert not list(stack.disk(name).rglob("openai*batch*"))


def test_one_bad_partition_is_mended_by_clearing_its_index_and_nothing_is_paid_again(
    start, openai: Emulator, stack: CeleryStack
) -> None:
    refusal = Rule(on="POST /v1/files", do={"status": {"code": 401}}, match={"nth": 2}, times=1)
    openai.faults.add(refusal)
    run = start("2026-11-24")
    run.finish("failed")
    states = run.states("partition.submit")
    bad = states.index("failed")
    assert states.count("success") == len(states) - 1
    assert run.states("partition.results")[bad] == "upstream_failed"
    assert run.states("partition.results").count("success") == len(states) - 1
    assert run.states("collect") == ["upstream_failed"]
    n_paid = openai.ledger.n_rows()

    # What the UI does: clear the one map index, with its downstream tasks.
    cleared = run.api.clear(DAG_ID, run.run_id, [["partition.submit", bad]], include_downstream=True)
    assert {(ti["task_id"], ti["map_index"]) for ti in cleared} == {
        ("collect", -1),
        *((f"partition.{name}", bad) for name in ("submit", "wait", "results")),
    }
    run.finish()
    assert openai.ledger.n_rows() == run.manifest()["rows"] == len(run.labels()) > n_paid
    assert len(openai.ledger.batches) == len(states)


def test_a_machine_that_keeps_jobs_on_its_own_disk_sends_nothing(stack: CeleryStack, openai: Emulator) -> None:
    openai.reset()
    env = {"AIRFLOW__OPENAI_BATCH__STORAGE": ""}
    stack.start_machine("machine-3", queue="default_storage", env=env)
    stack.api.unpause("batch_default_storage")
    run_id = stack.api.trigger("batch_default_storage")
    stack.api.wait_for_run("batch_default_storage", run_id, "failed")
    assert openai.ledger.calls == []
    log = stack.api.task_log("batch_default_storage", run_id, "submit")
    assert "runs tasks on several machines" in log
    assert "[openai_batch] storage" in log
