"""Facts for other tools from real runs: metrics over UDP, spans, asset events, OpenLineage's events in a file."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

# pytest's importlib mode does not put the tests' folder on the path.
sys.path.insert(0, str(Path(__file__).parent))

from statsd_listener import StatsdListener

KEY, PROMPT, ROW = "sk-the-very-key", "Prescribe for the patient", "Jane Roe is ill"
N_ROWS = 20

DAGS = {
    "good": """
        rows = OUT + "/in.parquet"
        labels = Asset("labels")
        submit = OpenAIBatchSubmitOperator(
            task_id="submit", rows=rows, custom_id="t-{id}", max_requests_per_batch=8, **REQUEST
        )
        wait = OpenAIBatchSensor(task_id="wait", job=submit.output)
        results = OpenAIBatchResultsOperator(
            task_id="results", job=submit.output, output=OUT + "/{{ ds }}/labels.parquet",
            outlets=[labels, AssetAlias("labels of the day")],
        )
        @task(inlets=[labels])
        def consumer(inlet_events=None):
            return inlet_events[labels][-1].extra
        wait >> results >> consumer()
    """,
    "bad": """
        OpenAIBatchOperator(
            task_id="one", rows=[{"id": i, "text": SECRET + " bad"} for i in range(4)], output=OUT + "/bad.jsonl",
            outlets=[Asset("bad labels"), AssetAlias("bad alias")], **REQUEST,
        )
    """,
    "held": """
        OpenAIBatchOperator(task_id="one", rows=[{"id": 1, "text": SECRET}], output=OUT + "/held.csv", **REQUEST)
    """,
}
HEAD = f"""
import datetime, os
from airflow.sdk import DAG, Asset, AssetAlias, task
from airflow_openai_batch.operators import OpenAIBatchOperator, OpenAIBatchResultsOperator, OpenAIBatchSubmitOperator
from airflow_openai_batch.sensors import OpenAIBatchSensor

OUT, SECRET = os.environ["OUT"], {ROW!r}
REQUEST = dict(
    endpoint="/v1/responses",
    body={{"model": "gpt-6-luna", "instructions": {PROMPT!r}, "input": "{{text}}"}},
    storage=OUT + "/store",
)

with DAG("NAME", schedule=None, start_date=datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)) as dag:
"""


@dataclasses.dataclass
class Facts:
    """What the outlets have received."""

    folder: Path
    told: dict[str, Any]
    statsd: StatsdListener

    @property
    def spans(self) -> list[dict[str, Any]]:
        return self.told["spans"]

    def spans_of(self, dag: str) -> list[dict[str, Any]]:
        """The spans of our own in the runs of a Dag."""
        parents = {span["id"]: span for span in self.spans}

        def root(span: dict[str, Any]) -> str:
            while span["parent"] in parents:
                span = parents[span["parent"]]
            return span["name"]

        return [s for s in self.spans if s["name"].startswith("openai_batch.") and root(s) == f"run {dag}"]

    def lineage(self, dag: str, task: str, kind: str) -> list[dict[str, Any]]:
        """OpenLineage's events of a task."""
        events = [json.loads(line) for line in self.lineage_file.read_text().splitlines()]
        return [e for e in events if e["job"]["name"] == f"{dag}.{task}" and e["eventType"] == kind]

    @property
    def lineage_file(self) -> Path:
        return self.folder / "lineage.jsonl"


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory, airflow_database: Path) -> Iterator[Facts]:
    """Run the Dags in a process of their own: listeners, metrics and tracers are set up once in a process."""
    folder = tmp_path_factory.mktemp("facts")
    (folder / "dags").mkdir()
    shutil.copy(airflow_database, folder / "airflow.db")
    for name, tasks in DAGS.items():
        (folder / "dags" / f"{name}.py").write_text(HEAD.replace("NAME", name) + tasks.replace("\n    ", "\n"))
    rows = [{"id": i, "text": f"{ROW} {i}"} for i in range(N_ROWS)]
    pd.DataFrame(rows).to_parquet(folder / "in.parquet")
    with StatsdListener() as statsd:
        env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        env |= {
            **statsd.environment,
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
            "AIRFLOW__OPENAI_BATCH__FIRST_POLL_DELAY": "0.05",
            "AIRFLOW__OPENAI_BATCH__POLL_INTERVAL": "0.2",
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(folder / "lineage.jsonl"), "append": True}
            ),
            "THE_KEY": KEY,
            "OUT": str(folder),
        }
        log = folder / "log"
        with log.open("wb") as out:
            command = [sys.executable, str(Path(__file__).with_name("facts_run.py")), str(folder)]
            done = subprocess.run(command, env=env, stdout=out, stderr=out, timeout=400, check=False)
        assert done.returncode == 0, log.read_text()[-5000:]
        told = json.loads((folder / "facts.json").read_text())
        assert told["states"]["good"] == dict.fromkeys(["submit", "wait", "results", "consumer"], "success")
        assert told["states"]["good again"] == told["states"]["good"]
        assert told["states"]["bad"] == told["states"]["bad again"] == {"one": "failed"}
        assert told["states"]["held"] == told["states"]["held again"] == {"one": "failed"}
        yield Facts(folder, told, statsd)


# -- metrics


def test_each_fact_is_counted_once_though_every_job_was_run_twice(facts: Facts) -> None:
    counts = facts.statsd.counts()
    assert counts.pop("polls") >= 3
    assert counts.pop("tokens.input") > 0
    assert counts.pop("tokens.output") > 0
    assert counts.pop("cost") > 0
    for kind in ("tokens.cached", "tokens.reasoning"):
        counts.pop(kind, None)
    assert counts == {
        "jobs.submitted": 3,
        "jobs.good": 1,
        "jobs.bad": 1,
        "jobs.held": 1,
        "rows.submitted": N_ROWS + 4 + 1,
        "rows.succeeded": N_ROWS,
        "rows.failed": 4,
        "rows.asked_again": 1,
        "rounds": 1,
        "batches.created": 3 + 1 + 1,
        "batches.completed": 3 + 1 + 1,
    }


def test_durations_are_sent_for_batches_and_for_jobs_that_ended(facts: Facts) -> None:
    timers = [one for one in facts.statsd.received() if one.kind == "ms"]
    assert Counter(one.name for one in timers) == {"openai_batch.batches.duration": 5, "openai_batch.jobs.duration": 2}
    assert all(0 <= one.value < 60_000 for one in timers)


# -- spans


def test_every_action_of_a_job_is_a_span_below_the_tasks(facts: Facts) -> None:
    names = Counter(span["name"].removeprefix("openai_batch.") for span in facts.spans_of("good"))
    assert names["build"] == 1
    assert names["upload"] == names["create"] == names["harvest"] == 4
    assert names["reshard"] == 1
    assert names["results"] == 2
    assert names["refresh"] >= 4


def test_spans_of_parallel_actions_have_the_same_parent_as_the_others(facts: Facts) -> None:
    spans = facts.spans_of("good")
    assert {span["parent"] for span in spans} - {None} == {s["id"] for s in facts.spans if s["name"] == "run good"}
    assert len({span["id"] for span in spans}) == len(spans)


def test_spans_say_what_was_done_to_what(facts: Facts) -> None:
    spans = {span["name"]: span["attributes"] for span in facts.spans_of("good")}
    build, create = spans["openai_batch.build"], spans["openai_batch.create"]
    assert build["openai_batch.rows"] == N_ROWS
    assert build["openai_batch.shards"] == 3
    assert build["openai_batch.bytes"] > 1000
    assert create["openai_batch.shard"] == "0-00000.1"
    assert create["openai_batch.round"] == create["openai_batch.rows"] == 1
    assert create["openai_batch.batch_id"].startswith("batch_")
    assert create["openai_batch.fact"] == "batch_known"
    failed = [span for span in facts.spans_of("held") if span["name"] == "openai_batch.upload"]
    assert {(span["status"], span["said"]) for span in failed} == {("ERROR", "stopped")}


# -- assets


def test_the_event_of_an_outlet_tells_of_the_results(facts: Facts) -> None:
    uri = f"file://{facts.folder}/2026-01-01/labels.parquet"
    seen = facts.told["seen"]
    assert seen == facts.told["assets"][0]["extra"] == facts.told["assets"][1]["extra"]
    assert seen["uri"] == uri
    assert seen["rows"] == N_ROWS
    assert seen["by_status"] == {"succeeded": N_ROWS}
    assert seen["tokens"]["input_tokens"] > 0
    assert seen["cost"] > 0
    assert (seen["max_cost"], seen["reused_rows"], seen["saved_by_reuse"]) == (None, 0, 0)
    assert len(seen["batches"]) == seen["n_batches"] == 4
    assert seen["job"]["dag_id"] == "good"
    assert seen["job"]["task_id"] == "submit"


def test_an_alias_gets_the_output_as_an_asset_and_bad_results_publish_nothing(facts: Facts) -> None:
    events = Counter(event["uri"] for event in facts.told["assets"])
    assert events == {"labels": 2, f"file://{facts.folder}/2026-01-01/labels.parquet": 2}  # the Dag ran twice
    assert (facts.folder / "bad.jsonl").exists()


# -- OpenLineage


def test_openlineage_hears_at_the_start_what_is_read_and_written(facts: Facts) -> None:
    start = facts.lineage("good", "submit", "START")[0]
    assert [(one["namespace"], one["name"]) for one in start["inputs"]] == [("file", f"{facts.folder}/in.parquet")]
    assert start["outputs"] == []
    start = facts.lineage("good", "results", "START")[0]
    out = ("file", f"{facts.folder}/2026-01-01/labels.parquet")
    assert [(one["namespace"], one["name"]) for one in start["outputs"]] == [out]


def test_openlineage_hears_at_the_end_how_many_rows_there_are(facts: Facts) -> None:
    done = facts.lineage("good", "results", "COMPLETE")[0]
    (read,), (written,) = done["inputs"], done["outputs"]
    assert (read["namespace"], read["name"]) == ("file", f"{facts.folder}/in.parquet")
    assert read["inputFacets"]["inputStatistics"]["rowCount"] == N_ROWS
    assert written["name"] == f"{facts.folder}/2026-01-01/labels.parquet"
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == N_ROWS
    assert {"id", "text", "status", "output"} <= {field["name"] for field in written["facets"]["schema"]["fields"]}
    job = done["run"]["facets"]["openai_batch"]
    assert job["rowsByStatus"] == {"succeeded": N_ROWS}
    assert (job["endpoint"], job["model"], job["rounds"]) == ("/v1/responses", "gpt-6-luna", 1)
    assert len(job["batches"]) == 4
    assert job["usage"]["input"] > 0
    assert job["cost"]["cost"] > 0
    assert {"reused_rows", "saved_by_reuse"} <= set(job["cost"])
    submitted = facts.lineage("good", "submit", "COMPLETE")[0]
    assert submitted["inputs"][0]["inputFacets"]["inputStatistics"]["rowCount"] == N_ROWS
    assert submitted["outputs"] == []


def test_openlineage_hears_of_results_that_were_written_and_are_too_bad(facts: Facts) -> None:
    failed = facts.lineage("bad", "one", "FAIL")[0]
    assert failed["inputs"] == []
    names = {one["name"]: one["outputFacets"]["outputStatistics"]["rowCount"] for one in failed["outputs"]}
    assert names == {f"{facts.folder}/bad.jsonl": 4, f"{facts.folder}/bad.jsonl.dead_letter.jsonl": 4}
    assert failed["run"]["facets"]["openai_batch"]["errors"] == [
        {"status": "failed", "code": "invalid_value", "rows": 4}
    ]
    held = facts.lineage("held", "one", "FAIL")[0]
    assert held["run"]["facets"]["openai_batch"]["rowsByStatus"] == {}


# -- promise 9


def test_no_key_prompt_or_row_is_in_any_of_them(facts: Facts) -> None:
    outlets = {
        "metrics": "\n".join(facts.statsd.texts),
        "spans": json.dumps(facts.spans),
        "assets": json.dumps([facts.told["assets"], facts.told["seen"]]),
        "lineage": facts.lineage_file.read_text(),
    }
    for name, text in outlets.items():
        assert len(text) > 1000, name
        for secret in (KEY, PROMPT, "Jane"):
            assert secret not in text, (name, secret)
