"""Bodies of requests as the engine makes them from columns."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pyarrow as pa
from builders import RESPONSES

from airflow_openai_batch.engine.encoding import rows_of
from airflow_openai_batch.engine.requests.bodies import bodies_of


def table(**columns: Any) -> pa.RecordBatch:
    return pa.record_batch({name: pa.array(values) for name, values in columns.items()})


class Row(NamedTuple):
    body: bytes
    model: str
    n_inputs: int


def render(body: Any, endpoint: str = RESPONSES, first_row: int = 0, **columns: Any) -> list[Row]:
    made = bodies_of(body, endpoint)
    batch = table(**columns)
    made.check(batch.schema.names)
    requests = made.render(batch, first_row)
    n, models = batch.num_rows, requests.models
    return [
        Row(*row)
        for row in zip(
            rows_of(requests.bodies, n),
            [models] * n if isinstance(models, str) else models,
            requests.n_inputs.tolist(),
            strict=True,
        )
    ]


def first(body: Any, endpoint: str = RESPONSES, **columns: Any) -> Any:
    return json.loads(render(body, endpoint, **columns)[0].body)
