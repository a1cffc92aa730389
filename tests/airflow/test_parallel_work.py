"""How many processes of a task read answers: as the deployment says, or by the CPUs that the task may use."""

from __future__ import annotations

import logging

import pytest

from airflow_openai_batch.engine import concurrency
from airflow_openai_batch.task.job import engine_for


@pytest.mark.parametrize(
    ("option", "cpus", "n"), [(None, 8, 2), (None, 1, 1), ("0", 4, 2), ("1", 8, 1), ("3", 1, 3), ("-1", 8, 1)]
)
def test_the_option_and_the_cpus_decide(emulator, monkeypatch, tmp_path, option, cpus, n):
    monkeypatch.setattr(concurrency, "usable_cpus", lambda: cpus)
    if option is not None:
        monkeypatch.setenv("AIRFLOW__OPENAI_BATCH__PARALLEL_WORK", option)
    task = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
    engine = engine_for({**task, "conn_id": "openai_default", "storage": str(tmp_path)}, logging.getLogger("test"))
    assert engine.readers.most == n
