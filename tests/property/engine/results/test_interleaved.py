"""Rows of several models in any order: each model has as few batches as its rows need, results are in input order."""

from __future__ import annotations

import tempfile
from collections import Counter
from typing import Any
from unittest.mock import patch

from builders import KEY, World, answer, cut, failure
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from airflow_openai_batch.engine.model import Policy, Status
from airflow_openai_batch.engine.results.sinks import ListSink
from airflow_openai_batch.engine.results.writer import write_results
from airflow_openai_batch.engine.store.job_store import JobStore

BODY = {"model": "{m}", "input": "{text}"}
POLICY = Policy(max_rounds=1, max_bad_ratio=1.0)
ENGINE = "airflow_openai_batch.engine"


def table(world: World) -> list[dict[str, Any]]:
    sink = ListSink()
    written = write_results(world.store, world.job, sink)
    assert written.n_rows == len(sink.rows) == world.job.n_rows
    return sink.rows


def run(world: World, data: Any, flaky: set[str], dead: set[str], **request: Any) -> Counter[str]:
    """Take a job to its end. Returns how often each row was sent."""
    n_before = len(world.api.made)
    failed: set[str] = set()

    def told(name: str) -> bytes:
        if name in dead or (name in flaky and name not in failed):
            failed.add(name)
            return failure(name, 500)
        return answer(name, f"about {name}")

    world.ended(told, data, body=BODY, policy=POLICY, **request)
    made = list(world.api.made)[n_before:]
    for name in made:
        assert len({request["body"]["model"] for request in world.api.requests(name)}) == 1
    return Counter(request["custom_id"] for name in made for request in world.api.requests(name))


@settings(max_examples=30)
@given(
    st.text("aabcd", min_size=2, max_size=40),
    st.integers(1, 9),
    st.integers(1, 12),
    st.integers(1, 3),
    st.integers(1, 9),
    st.sampled_from([1, 8 * 1024 * 1024]),
    st.data(),
)
def test_results_are_in_input_order_with_every_row_once(
    models: str, per_shard: int, chunk: int, most_open: int, block_rows: int, block_bytes: int, draw: st.DataObject
) -> None:
    subset = st.sets(st.integers(0, len(models) - 1))
    flaky, dead, changed = ({f"t{i}" for i in draw.draw(subset)} for _ in range(3))
    data = [{"id": f"t{i}", "m": m, "text": f"ticket {i}"} for i, m in enumerate(models)]
    with (
        tempfile.TemporaryDirectory() as folder,
        patch(f"{ENGINE}.requests.arrow.BATCH_ROWS", chunk),
        patch(f"{ENGINE}.requests.sharding.MAX_OPEN", most_open),
        patch(f"{ENGINE}.results.row_sorter._MOST_ROWS", block_rows),
        patch(f"{ENGINE}.results.row_sorter._BLOCK_BYTES", block_bytes),
    ):
        world = World(JobStore(UPath(folder), KEY))
        sent = run(world, data, flaky, dead, limits=cut(per_shard))
        roots = [shard for shard in world.job.shards if shard.parent is None]
        assert len(roots) == sum(-(-n // per_shard) for n in Counter(models).values())
        assert sent == {row["id"]: 1 + (row["id"] in flaky | dead) for row in data}
        found = table(world)
        assert [(r["id"], r["m"], r["text"], r["custom_id"]) for r in found] == [
            (row["id"], row["m"], row["text"], row["id"]) for row in data
        ]
        for row in found:
            is_dead, is_flaky = row["id"] in dead, row["id"] in flaky
            assert row["output"] == (None if is_dead else f"about {row['id']}")
            assert row["status"] == (Status.FAILED if is_dead else Status.SUCCEEDED)
            assert row["round"] == int(is_dead or is_flaky)

        # Good answers to unchanged rows are carried over, from whichever shards had them, and nothing else is asked.
        after = [row | {"text": "changed"} if row["id"] in changed else row for row in reversed(data)]
        after.append({"id": "new", "m": "a", "text": "new"})
        sent = run(world, after, set(), set(), limits=cut(per_shard))
        assert sent == {row["id"]: 1 for row in after if row["id"] in changed | dead | {"new"}}
        found = table(world)
        assert [(r["id"], r["m"], r["text"], r["output"]) for r in found] == [
            (row["id"], row["m"], row["text"], f"about {row['id']}") for row in after
        ]
