"""Embeddings become vectors in Parquet.

    python benchmarks/embeddings.py [--rows 20000]

One batch of 20,000 answers of 1,536 numbers each. "Ours" is `harvest()` of the base64 form, which the package asks
for by default; a digest, ids, tokens and a durable file included. The download is a copy of a local file and left
out. `json loop` reads the float form, which is what OpenAI sends when nobody asks for base64, with json.loads line by
line and writes Parquet in blocks. `limit` parses each base64 line with simdjson and writes the finished vectors.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import workload
from measure import Benchmark
from sample import Case
from summary import Goal, over_base, ratio

DIMENSIONS = 1536
_DISTINCT = 2000  # vectors; the files repeat them, 12 MB apart
_BLOCK_ROWS = 2048

GOALS: tuple[Goal, ...] = (
    Goal(
        "Embeddings: times as fast as a json loop",
        lambda m: m("embeddings", "json", "seconds") / m("embeddings", "ours", "seconds"),
        12,
        at_least=True,
    ),
    ratio("Embeddings: time of parsing with simdjson and writing Parquet", "embeddings", "ours", "limit", 1.6),
    over_base("Embeddings: memory over base", "embeddings", "ours", 150),
)

bench = Benchmark(__file__, __doc__, GOALS)
group = bench.group("embeddings", "{rows} vectors of 1,536 numbers", rows=20_000, quick_rows=100, unit="vectors")


def answers(case: Case, form: str) -> Path:
    """Return the output file of all rows, in a form: base64 or float."""

    def write(path: Path) -> None:
        import base64

        import numpy as np

        vectors = np.random.default_rng(7).normal(size=(_DISTINCT, DIMENSIONS)).astype("<f4")
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        if form == "base64":
            texts = [json.dumps(base64.b64encode(vector.tobytes()).decode()) for vector in vectors]
        else:  # nine digits say which float32 it is
            texts = [f"[{', '.join(f'{number:.9g}' for number in vector.tolist())}]" for vector in vectors]
        rng = random.Random("embeddings")
        with path.open("w") as file:
            for i in range(case.rows):
                file.write(_line(i, texts[i % _DISTINCT], f"{rng.getrandbits(128):032x}"))

    return workload.kept(case.data / f"embeddings-{workload.VERSION}-{case.rows}-{form}.jsonl", write)


def _line(ordinal: int, vector: str, entropy: str) -> str:
    body = '{"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": %s}], "model": "%s", %s}'
    body %= (vector, "text-embedding-3-small", '"usage": {"prompt_tokens": 120, "total_tokens": 120}')
    line = '{"id": "batch_req_%s", "custom_id": "%s", "response": {"status_code": 200, "request_id": "%s", "body": %s}'
    return line % (entropy, workload.row_id(ordinal), entropy[::-1], body) + ', "error": null}\n'


def prepare(case: Case) -> None:
    """Plan the job, make both files, and the outcome part that the limit writes again."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from local_openai import LocalOpenAI, answered, engine_in, plan

    from airflow_openai_batch.engine.answers.harvest import harvest
    from airflow_openai_batch.engine.answers.parser import LineParser

    answers(case, "float")
    pq.write_table(pa.table({"id": [workload.row_id(i) for i in range(case.rows)]}), case.shared / "rows.parquet")
    engine = engine_in(case.shared / "store")
    body = {"model": "text-embedding-3-small", "input": "{id}"}
    job = plan(engine, case.shared / "rows.parquet", body, endpoint=workload.EMBEDDINGS)
    api: Any = LocalOpenAI(lambda first, n: (answers(case, "base64"), None))
    for shard in answered(job, api):
        got = harvest(engine.store, api, job, shard, LineParser(job.spec.endpoint))
        with engine.store.open(got.outcomes) as file:
            pq.write_table(pq.read_table(file), case.shared / "outcomes.parquet")


group.prepare = prepare


@group.method("ours", "this package, base64")
def ours(case: Case) -> None:
    """Harvest."""
    from local_openai import LocalOpenAI, answered, begin_task, linked, store_in

    begin_task()
    import pyarrow.parquet as pq

    from airflow_openai_batch.engine.answers.harvest import harvest
    from airflow_openai_batch.engine.answers.parser import LineParser

    store = store_in(linked(case.shared / "store", case.work / "store"))
    found = store.load()
    assert found is not None
    job = found[1]
    api: Any = LocalOpenAI(lambda first, n: (answers(case, "base64"), None), case)
    shards = answered(job, api)
    with case.timed():
        parser = LineParser(job.spec.endpoint)
        parts = [harvest(store, api, job, shard, parser).outcomes for shard in shards]
    for name in parts:
        with store.open(name) as file:
            report(case, pq.ParquetFile(file, pre_buffer=False), "output")


@group.method("json", "json.loads of the float form, Parquet in blocks")
def json_loop(case: Case) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, target = answers(case, "float"), case.work / "vectors.parquet"
    schema = pa.schema([("custom_id", pa.string()), ("embedding", pa.list_(pa.float32(), DIMENSIONS))])
    with case.timed(), pq.ParquetWriter(target, schema) as writer, path.open("rb") as file:
        ids: list[str] = []
        vectors: list[list[float]] = []
        for number, line in enumerate(file, 1):
            value = json.loads(line)
            ids.append(value["custom_id"])
            vectors.append(value["response"]["body"]["data"][0]["embedding"])
            if len(ids) == _BLOCK_ROWS or number == case.rows:
                writer.write_batch(pa.record_batch([pa.array(ids), pa.array(vectors, schema[1].type)], schema=schema))
                ids, vectors = [], []
    report(case, pq.ParquetFile(target, pre_buffer=False), "embedding")


@group.method("limit", "limit: simdjson parses base64, Parquet is written")
def limit(case: Case) -> None:
    import pyarrow.parquet as pq
    import simdjson

    from airflow_openai_batch.engine.answers.outcome_files import REPEATING

    table, path = pq.read_table(case.shared / "outcomes.parquet"), answers(case, "base64")
    with case.timed():
        parser = simdjson.Parser()
        with path.open("rb") as file:
            for line in file:
                parser.parse(line)
        pq.write_table(table, case.work / "vectors.parquet", use_dictionary=REPEATING)
    report(case, pq.ParquetFile(case.work / "vectors.parquet", pre_buffer=False), "output")


def report(case: Case, file: Any, column: str) -> None:
    """Say what came out: a hash of the numbers, in order."""
    import hashlib

    import numpy as np

    found = hashlib.blake2b(digest_size=12)
    rows = 0
    for batch in file.iter_batches(batch_size=1000, columns=["custom_id", column]):
        found.update("\n".join(batch.column(0).to_pylist()).encode())
        found.update(np.asarray(batch.column(1).flatten(), dtype="<f4").tobytes())
        rows += batch.num_rows
    case.check(rows=rows, vectors=found.hexdigest())


if __name__ == "__main__":
    sys.exit(bench.main())
