"""Facts for other tools from real processes: a triggerer's polls, and spans below the tasks' own."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import pytest
from outlets import Outlets
from statsd_listener import StatsdListener

from airflow_openai_batch.emulator import Emulator, Rule
from airflow_openai_batch.local_airflow.processes import PATIENCE_S
from airflow_openai_batch.local_airflow.stack import AirflowStack

pytestmark = pytest.mark.slow
DAG_ID, LAST_TASK = "batch_three", "worker.results"


@pytest.fixture(scope="module")
def run_id(airflow_stack: AirflowStack, emulator: Emulator, outlets: Outlets) -> str:
    """A run of three tasks, with a blip while the triggerer watches."""
    emulator.reset()
    outlets.statsd.texts.clear()
    outlets.collector.spans.clear()
    airflow_stack.api.unpause(DAG_ID)
    run_id = airflow_stack.api.trigger(DAG_ID)
    airflow_stack.wait_until_parked(DAG_ID, run_id, "wait")
    emulator.faults.add(Rule("GET /v1/batches/*", {"status": 503}, times=1))
    outlets.statsd.wait_until(lambda: polls(outlets.statsd)["openai_batch.poll_errors"], PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while airflow_stack.api.run_state(DAG_ID, run_id) in ("queued", "running"):
        assert time.monotonic() < deadline, airflow_stack.tails()
        emulator.complete_all()
        time.sleep(0.5)
    is_exported = lambda: "openai_batch.results" in outlets.collector.parents(LAST_TASK)  # noqa: E731
    airflow_stack.wait_until(is_exported, "the last span")
    return run_id


def polls(statsd: StatsdListener) -> Counter[str]:
    n_polls: Counter[str] = Counter()
    for metric in statsd.received():
        if metric.tags.get("by") == "trigger":
            assert metric.tags["conn_id"] == "openai_default"
            n_polls[metric.name] += int(metric.value)
    return n_polls


def test_a_triggerer_counts_its_polls_and_those_that_fail(run_id: str, outlets: Outlets) -> None:
    n_polls = polls(outlets.statsd)
    assert n_polls["openai_batch.polls"] >= 2
    assert n_polls["openai_batch.poll_errors"] == 1


def test_workers_count_what_the_job_has_learned_once(run_id: str, outlets: Outlets) -> None:
    counts = outlets.statsd.counts(dag_id=DAG_ID)
    assert counts["jobs.submitted"] == counts["jobs.good"] == 1
    assert counts["rows.submitted"] == counts["rows.succeeded"] == 30
    assert counts["batches.created"] == counts["batches.completed"] == 1


def test_spans_nest_below_the_span_of_the_task_that_did_the_work(run_id: str, outlets: Outlets) -> None:
    parents = outlets.collector.parents(LAST_TASK)
    assert parents["openai_batch.build"] == {"worker.submit"}
    assert parents["openai_batch.upload"] == parents["openai_batch.create"] == {"worker.submit"}
    assert parents["openai_batch.harvest"] == {"worker.wait"}
    assert parents["openai_batch.results"] == {"worker.results"}
    assert "nothing" not in set().union(*parents.values())


def test_openlineage_hears_of_the_results(run_id: str, outlets: Outlets) -> None:
    events: list[Any] = [json.loads(line) for line in outlets.lineage.read_text().splitlines()]
    ended = [e for e in events if e["job"]["name"] == f"{DAG_ID}.results" and e["eventType"] == "COMPLETE"]
    outputs = [output for event in ended for output in event["outputs"] if run_id in output["name"]]
    (written,) = outputs
    assert written["name"].endswith(f"{run_id}.parquet")
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == 30
