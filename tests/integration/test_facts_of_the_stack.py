"""Facts for other tools from real processes: a triggerer's polls, and spans below the tasks' own."""

from __future__ import annotations

import http.server
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from chaos import environment
from postgres import find_binaries
from provider import provider_path
from stack import AirflowStack

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "airflow"))

from statsd_listener import StatsdListener

from airflow_openai_batch.emulator import Emulator, ManualClock, Rule

HERE = Path(__file__).resolve().parent
pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_binaries() is None, reason="no PostgreSQL server here")]


class Collector:
    """An OpenTelemetry collector as far as exporters know: it takes spans over HTTP and keeps them."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        self.spans: list[Any] = []
        spans = self.spans

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = ExportTraceServiceRequest()
                sent.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
                spans.extend(span for r in sent.resource_spans for s in r.scope_spans for span in s.spans)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        """What makes an Airflow send its spans here."""
        return {
            "AIRFLOW__TRACES__OTEL_ON": "True",
            "OTEL_TRACES_EXPORTER": "otlp_proto_http",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def parents(self) -> dict[str, set[str]]:
        """Return the names of the spans right above each of ours, by its name."""
        names = {span.span_id: span.name for span in self.spans}
        found: dict[str, set[str]] = {}
        for span in self.spans:
            if span.name.startswith("openai_batch."):
                found.setdefault(span.name, set()).add(names.get(span.parent_span_id, "nothing"))
        return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Run three tasks on a stack of its own, with every outlet open and a blip while the triggerer watches."""
    home = tmp_path_factory.mktemp("facts")
    emulator = Emulator(clock=ManualClock(time.time()), duration=60, seed=1)
    with emulator, StatsdListener() as statsd, Collector() as collector:
        env = {
            "PYTHONPATH": provider_path(home),
            **environment(emulator, tmp_path_factory.mktemp("openai-batch")),
            **statsd.environment,
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
            **collector.environment,
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(home / "lineage.jsonl"), "append": True}
            ),
        }
        with AirflowStack(home, HERE / "dags", env) as stack:
            stack.api.unpause("batch_three")
            run_id = stack.api.trigger("batch_three")
            stack.wait_until_parked("batch_three", run_id, "wait", timeout=180)
            emulator.faults.add(Rule("GET /v1/batches/*", {"status": 503}, times=1))
            statsd.wait_until(lambda: polls(statsd)["openai_batch.poll_errors"], 60)
            deadline = time.monotonic() + 120
            while stack.api.run("batch_three", run_id)["state"] in ("queued", "running"):
                assert time.monotonic() < deadline, stack.tails()
                emulator.complete_all()
                time.sleep(0.5)
            stack.wait_until(lambda: "openai_batch.results" in collector.parents(), "the last span", 30)
            yield {"statsd": statsd, "collector": collector, "lineage": home / "lineage.jsonl", "run_id": run_id}


def polls(statsd: StatsdListener) -> Counter[str]:
    found: Counter[str] = Counter()
    for one in statsd.received():
        if one.tags.get("by") == "trigger":
            assert one.tags["conn_id"] == "openai_default"
            found[one.name] += int(one.value)
    return found


def test_a_triggerer_counts_its_polls_and_those_that_fail(told: dict[str, Any]) -> None:
    found = polls(told["statsd"])
    assert found["openai_batch.polls"] >= 2
    assert found["openai_batch.poll_errors"] == 1


def test_workers_count_what_the_job_has_learned_once(told: dict[str, Any]) -> None:
    counts = told["statsd"].counts()
    assert counts["jobs.submitted"] == counts["jobs.good"] == 1
    assert counts["rows.submitted"] == counts["rows.succeeded"] == 30
    assert counts["batches.created"] == counts["batches.completed"] == 1


def test_spans_nest_below_the_span_of_the_task_that_did_the_work(told: dict[str, Any]) -> None:
    parents = told["collector"].parents()
    assert parents["openai_batch.build"] == {"worker.submit"}
    assert parents["openai_batch.upload"] == parents["openai_batch.create"] == {"worker.submit"}
    assert parents["openai_batch.harvest"] == {"worker.wait"}
    assert parents["openai_batch.results"] == {"worker.results"}
    assert "nothing" not in set().union(*parents.values())


def test_openlineage_hears_of_the_results(told: dict[str, Any]) -> None:
    events = [json.loads(line) for line in told["lineage"].read_text().splitlines()]
    done = [e for e in events if e["job"]["name"] == "batch_three.results" and e["eventType"] == "COMPLETE"]
    (written,) = done[0]["outputs"]
    assert written["name"].endswith(f"{told['run_id']}.parquet")
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == 30
