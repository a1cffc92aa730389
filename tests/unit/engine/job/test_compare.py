from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from builders import World

from airflow_openai_batch.engine.job.compare import Difference, compare_requests, frozen_rows
from airflow_openai_batch.engine.requests.arrow import BATCH_ROWS
from airflow_openai_batch.engine.requests.bodies import bodies_of
from airflow_openai_batch.engine.requests.sources import source_of

BODY = {"model": "{model}", "input": "{text}"}


def in_turns(n: int, n_models: int, text: pa.DataType) -> pa.Table:
    """Return rows whose models take turns."""
    return pa.table(
        {
            "id": pa.array([f"t{i}" for i in range(n)], text),
            "text": pa.array([f"ticket {i}" for i in range(n)], text),
            "model": pa.array([f"gpt-{i % n_models}" for i in range(n)], text),
            "tags": pa.array([[f"tag {i}"] for i in range(n)], pa.list_(pa.string())),
        }
    )


# polars exports its strings as views
@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
@pytest.mark.parametrize(("n", "n_models"), [(7, 1), (7, 3), (BATCH_ROWS + 5, 2), (2 * BATCH_ROWS, 5)])
def test_the_rows_of_the_store_are_the_planned_ones_in_their_order(
    world: World, n: int, n_models: int, text: pa.DataType
) -> None:
    table = in_turns(n, n_models, text)
    world.submit(table, body=BODY)
    assert len(world.job.shards) == n_models
    frozen = frozen_rows(world.store, world.job)
    assert frozen is not None
    assert [row for batch in frozen.batches() for row in batch.to_pylist()] == table.to_pylist()


def test_rows_of_models_in_turns_keep_the_types_they_were_planned_with(world: World) -> None:
    def rows() -> Iterator[pa.Table]:
        for i in range(6):  # in each table one row of each model, with a value of the type of the table
            values = [pa.array([7, None]), pa.array([0.5, None]), pa.array([[1], [2]])][i % 3]
            names = [f"t{2 * i}", f"t{2 * i + 1}"]
            yield pa.table({"id": names, "text": names, "model": ["a", "b"], "v": values})

    body = {"model": "{model}", "input": "{text}", "metadata": "{v!json}"}
    world.submit(rows, body=body)
    frozen = frozen_rows(world.store, world.job)
    assert frozen is not None
    planned = [row for table in rows() for row in table.to_pylist()]
    assert [row for batch in frozen.batches() for row in batch.to_pylist()] == planned
    made = bodies_of(body, world.job.spec.endpoint)
    assert compare_requests(world.store, world.job, frozen, made, "{id}") is Difference.NONE


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, Difference.NONE),
        ({"custom_id": "other-{id}"}, Difference.IDS),
        ({"body": {"model": "{model}", "input": "Label: {text}"}}, Difference.REQUESTS),
        ({"rows": in_turns(8, 3, pa.string())}, Difference.REQUESTS),
        ({"rows": in_turns(6, 3, pa.string())}, Difference.REQUESTS),
        ({"rows": in_turns(7, 2, pa.string())}, Difference.REQUESTS),
    ],
)
def test_requests_are_compared_in_row_order_whatever_their_shards(
    world: World, change: dict[str, Any], expected: Difference
) -> None:
    rows = in_turns(7, 3, pa.string())
    world.submit(rows, body=BODY)
    endpoint = world.job.spec.endpoint
    now = {"rows": rows, "body": BODY, "custom_id": world.job.spec.custom_id, **change}
    found = compare_requests(
        world.store,
        world.job,
        source_of(now["rows"], endpoint=endpoint),
        bodies_of(now["body"], endpoint),
        now["custom_id"],
    )
    assert found is expected
