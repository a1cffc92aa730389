"""Rows through the engine: what is sent for each, and what comes back in the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from builders import RESPONSES, World, answer
from upath import UPath

from airflow_openai_batch.engine.encoding import rows_of
from airflow_openai_batch.engine.requests.bodies import bodies_of
from airflow_openai_batch.engine.requests.sources import source_of
from airflow_openai_batch.engine.results.sinks import FileSink, ListSink
from airflow_openai_batch.engine.results.writer import write_results


def sent(rows: Any, template: Any = "{v}") -> list[Any]:
    """Return what stands for a template in the body of each row's request."""
    bodies = bodies_of({"model": "m", "input": "i", "metadata": template}, RESPONSES)
    found: list[Any] = []
    for batch in source_of(rows, endpoint=RESPONSES).batches():
        bodies.check(batch.schema.names)
        made = bodies.render(batch, len(found)).bodies
        found += [json.loads(body)["metadata"] for body in rows_of(made, batch.num_rows)]
    return found


def sent_as_json(rows: Any) -> list[Any]:
    """Return what stands for ``{v!json}``, with null allowed."""
    return [entry["value"] for entry in sent(rows, {"value": "{v!json}"})]


def returned(world: World, rows: Any, name: str = "v") -> list[Any]:
    """Run a job to its end. Return a column of its result rows, as XCom has it."""
    world.ended(answer, rows, body={"model": "m", "input": "i"}, custom_id=None)
    sink = ListSink(max_bytes=1 << 30)
    write_results(world.store, world.job, sink)
    return [row[name] for row in sink.rows]


def written(world: World, path: Path) -> Path:
    """Write the results of the job that has ended."""
    write_results(world.store, world.job, FileSink(UPath(path)))
    return path
