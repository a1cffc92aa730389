from __future__ import annotations

import json
import uuid
from typing import Any

import pyarrow as pa
from builders import EMBEDDINGS, KEY
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from airflow_openai_batch.engine.endpoints import Limits
from airflow_openai_batch.engine.model import Shard
from airflow_openai_batch.engine.money.tokens import TokenCounter
from airflow_openai_batch.engine.requests.bodies import bodies_of
from airflow_openai_batch.engine.requests.sharding import Built, build
from airflow_openai_batch.engine.requests.sources import source_of
from airflow_openai_batch.engine.store.index import read_index
from airflow_openai_batch.engine.store.job_store import JobStore

COUNTER = TokenCounter(EMBEDDINGS)
BODY = {"model": "{m}", "input": "{v!json}"}
row = st.fixed_dictionaries(
    {
        "m": st.sampled_from("aaaaab"),
        "v": st.lists(st.text(st.sampled_from("xé"), max_size=20), min_size=1, max_size=3),
    }
)
# Every request fits alone.
tight: dict[str, st.SearchStrategy[Any]] = {
    "max_requests": st.integers(1, 4),
    "max_bytes": st.integers(350, 900),
    "max_inputs": st.integers(3, 6),
    "max_tokens": st.integers(60, 100),
}
limits = st.one_of(*(st.builds(Limits, **{name: n}) for name, n in tight.items()), st.builds(Limits, **tight))


def cut(store: JobStore, data: list[dict[str, Any]], limit: Limits, chunk: int) -> Built:
    tables = [pa.Table.from_pylist(data[i : i + chunk]) for i in range(0, len(data), chunk)]
    source = source_of(lambda: iter(tables), endpoint=EMBEDDINGS)
    return build(store, source, bodies_of(BODY, EMBEDDINGS), endpoint=EMBEDDINGS, custom_id=None, limits=limit)


def lines(store: JobStore, shard: Shard) -> list[bytes]:
    return [text + b"\n" for text in store.read(shard.requests).split(b"\n") if text]


def weight(found: list[bytes]) -> tuple[int, int, int, int]:
    """Requests, bytes, inputs and tokens of some request lines."""
    bodies = [json.loads(text)["body"] for text in found]
    return (
        len(found),
        sum(map(len, found)),
        sum(len(body["input"]) for body in bodies),
        sum(map(COUNTER.count, bodies)),
    )


def fits(found: list[bytes], limit: Limits) -> bool:
    n, n_bytes, n_inputs, n_tokens = weight(found)
    return (
        n <= limit.max_requests
        and n_bytes <= limit.max_bytes
        and n_inputs <= limit.max_inputs
        and (limit.max_tokens is None or n_tokens <= limit.max_tokens)
        and len({json.loads(text)["body"]["model"] for text in found}) == 1
    )


@settings(max_examples=60)
@given(st.lists(row, min_size=4, max_size=25), limits, st.integers(1, 9))
def test_shards_keep_every_limit_and_waste_no_room(data: list[dict[str, Any]], limit: Limits, chunk: int) -> None:
    root = UPath(f"memory://{uuid.uuid4().hex}")
    store = JobStore(root, KEY)
    try:
        built = cut(store, data, limit, chunk)
        files = [lines(store, shard) for shard in built.shards]
        assert sum(shard.n_rows for shard in built.shards) == built.n_rows == len(data)
        last: dict[str, list[bytes]] = {}
        seen: dict[str, list[int]] = {}
        for shard, found in zip(built.shards, files, strict=True):
            assert fits(found, limit)
            assert (shard.n_requests, shard.n_bytes, shard.n_tokens) == (
                weight(found)[0],
                weight(found)[1],
                weight(found)[3],
            )
            ordinals = read_index(store, shard.index).ordinals
            bodies = [json.loads(text)["body"] for text in found]
            assert [(body["model"], body["input"]) for body in bodies] == [
                (data[i]["m"], data[i]["v"]) for i in ordinals
            ]
            assert kept_rows(store, shard) == [data[i] for i in ordinals]
            assert shard.first_row == ordinals[0]
            model = bodies[0]["model"]
            if model in last:
                assert not fits([*last[model], found[0]], limit)  # it would not have fitted into the one before
            last[model] = found
            seen.setdefault(model, []).extend(ordinals)
        # The shards of a model concatenate to its rows, in input order.
        assert seen == {m: [i for i, r in enumerate(data) if r["m"] == m] for m in {r["m"] for r in data}}
    finally:
        if root.exists():
            root.fs.rm(root.path, recursive=True)


def kept_rows(store: JobStore, shard: Shard) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    found: list[dict[str, Any]] = []
    for name in shard.row_parts:
        with store.open(name) as file:
            found += pq.read_table(file).to_pylist()
    return found
