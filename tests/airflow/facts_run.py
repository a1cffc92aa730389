"""A program for ``test_facts``: runs Dags against the emulator in an Airflow whose every outlet of facts is open.

Its one argument is a folder: ``dags/`` in it becomes the Dags' folder, ``facts.json`` what the test reads. Metrics and
OpenLineage go where the environment says.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import rest

ROOT = Path(sys.argv[1])
FROM = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
RUN_IDS: dict[str, str] = {}


def tracing() -> Any:
    """Keep all spans of this process."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def told(span: Any) -> dict[str, Any]:
    return {
        "name": span.name,
        "id": span.context.span_id,
        "parent": span.parent.span_id if span.parent else None,
        "attributes": dict(span.attributes or {}),
        "status": span.status.status_code.name,
        "said": span.status.description,
        "events": [{"name": event.name, **dict(event.attributes or {})} for event in span.events],
    }


def run(name: str) -> dict[str, str]:
    """Run a Dag below a span of its own. It is always the same run, so the second time takes its job up again."""
    from opentelemetry import trace

    file = ROOT / "dags" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with trace.get_tracer("test").start_as_current_span(f"run {name}"):
        finished = module.dag.test(run_after=FROM, logical_date=FROM)
    RUN_IDS[name] = finished.run_id
    return rest.states(name, finished.run_id)


def asset_events() -> list[dict[str, Any]]:
    found = rest.asset_events()
    return [{key: e[key] for key in ("uri", "name", "extra")} | {"task_id": e["source_task_id"]} for e in found]


def main() -> None:
    from airflow_openai_batch.emulator import Emulator, Rule

    exporter = tracing()
    states: dict[str, Any] = {}
    with Emulator(duration=0.3, seed=1) as emulator:
        connection = {"conn_type": "openai", "host": emulator.base_url, "password": os.environ["THE_KEY"]}
        os.environ["AIRFLOW_CONN_OPENAI_DEFAULT"] = json.dumps(connection)
        emulator.faults.add(Rule("row", {"http_error": {"status": 500}}, match={"custom_id": "^t-3$"}, times=1))
        states["good"] = run("good")
        states["good again"] = run("good")
        emulator.faults.add(
            Rule("row", {"http_error": {"status": 400, "code": "invalid_value"}}, match={"body": "bad"})
        )
        states["bad"] = run("bad")
        states["bad again"] = run("bad")
        emulator.faults.add(Rule("POST /v1/files", {"status": 401}))
        states["held"] = run("held")
        states["held again"] = run("held")
    facts = {
        "states": states,
        "spans": [told(span) for span in exporter.get_finished_spans()],
        "assets": asset_events(),
        "seen": rest.xcom("good", RUN_IDS["good"], "consumer"),
    }
    (ROOT / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
