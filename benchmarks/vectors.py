"""A table of vectors: how fast vectors get into it, and what a night costs in which one document in a hundred changed.

    python benchmarks/vectors.py [--rows 100000]

`load` writes vectors of 1,536 numbers into an empty table of pgvector without an index: ours through staging tables,
COPY in its text form straight into the table, and the same in its binary form, which is the least that can be done. The
text form gets a tenth of the vectors by default, and stands for what any way takes that prints numbers.

`nights` are two nights of a living table of so many documents, each of them one chunk: `plan` reads the documents by a
query, cuts them, looks their requests up in the ledger and brings known answers into the job, `results` writes the
table and deletes what vanished. In the second night 1 % of the documents changed and 0.1 % are gone. What OpenAI
does, and reading its answers, is left out: embeddings.py measures that. The server runs on the same machine, and its
memory is not counted.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import sys
from pathlib import Path
from typing import IO, Any

import database
from measure import Benchmark
from sample import Case
from summary import Goal, over_base, ratio

DIMENSIONS = 1536
TEXT_SHARE = 10
CHANGED_EVERY, GONE_EVERY = 100, 1000
PHASES = ("first_plan", "first_results", "second_plan", "second_results")

GOALS: tuple[Goal, ...] = (
    ratio("Vectors: time of a binary COPY straight into the table", "load", "ours", "limit", 3.5),
    over_base("Vectors: memory of loading over base", "load", "ours", 150),
    *(over_base(f"Vectors: memory of {phase.replace('_', ' ')} over base", "nights", phase, 150) for phase in PHASES),
)

bench = Benchmark(__file__, __doc__, GOALS)


def prepare_vectors(case: Case) -> None:
    """Make the results of an embeddings job."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(7)
    vector = pa.list_(pa.float32())
    schema = pa.schema([("id", pa.int64()), ("text", pa.string()), ("status", pa.string()), ("output", vector)])
    with pq.ParquetWriter(case.shared / "results.parquet", schema) as writer:
        for start in range(0, case.rows, 1000):
            n = min(1000, case.rows - start)
            numbers = pa.array(rng.normal(size=n * DIMENSIONS).astype("f4"))
            vectors = pa.ListArray.from_arrays(pa.array(range(0, n * DIMENSIONS + 1, DIMENSIONS), pa.int32()), numbers)
            ids = range(start, start + n)
            columns = [pa.array(ids), pa.array(f"text {i}" for i in ids), pa.array(["succeeded"] * n), vectors]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


load = bench.group(
    "load",
    "{rows} vectors of 1,536 numbers are loaded",
    rows=100_000,
    quick_rows=200,
    unit="vectors",
    prepare=prepare_vectors,
    around=database.running,
)


def _batches(case: Case) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(case.shared / "results.parquet", pre_buffer=False, buffer_size=1 << 20).iter_batches(680)


def _table() -> None:
    with database.connect() as cursor:
        cursor.execute("DROP TABLE IF EXISTS docs")
        cursor.execute(f"CREATE TABLE docs (id bigint PRIMARY KEY, text text, embedding vector({DIMENSIONS}))")


@load.method("ours", "this package: SqlTable")
def load_ours(case: Case) -> None:
    database.hook()
    from airflow_openai_batch.sql import SqlTable
    from airflow_openai_batch.sql.sink import SqlSink

    _table()
    columns = {"id": "id", "text": "text", "output": "embedding"}
    table = SqlTable("docs", database.CONN_ID, key="id", columns=columns)
    with case.timed(), SqlSink(table, logging.getLogger("benchmark")) as sink:
        for i, batch in enumerate(_batches(case)):
            if not i:
                sink.begin(batch.schema)
            sink.write(batch)
        sink.finish()
    case.check(**database.fingerprint("docs"))


@load.method("text", "COPY in text form, a tenth of the vectors", most=2)
def load_text(case: Case) -> None:
    import io

    database.hook()
    _table()
    n = 0
    with case.timed(), database.connect() as cursor:
        for batch in _batches(case):
            lines = (f"{row['id']}\t{row['text']}\t{row['output']}\n" for row in batch.to_pylist())
            cursor.copy_expert("COPY docs FROM STDIN", io.StringIO("".join(lines)))
            n += batch.num_rows
            if n >= case.rows // TEXT_SHARE:
                break
    case.check(has_rows=n > 0)
    case.note(vectors=n)


@load.method("limit", "limit: binary COPY straight into the table")
def load_limit(case: Case) -> None:
    import io
    import struct

    database.hook()
    _table()
    with case.timed(), database.connect() as cursor:
        for batch in _batches(case):
            vectors = batch.column("output").flatten().to_numpy().reshape(-1, DIMENSIONS).astype(">f4")
            parts = [b"PGCOPY\n\xff\r\n\0" + bytes(8)]
            texts = batch.column("text").to_pylist()
            for key, text, vector in zip(batch.column("id").to_pylist(), texts, vectors, strict=True):
                data = text.encode()
                parts += [struct.pack(f">hiqi{len(data)}s", 3, 8, key, len(data), data)]
                parts += [struct.pack(">ihh", 4 + 4 * DIMENSIONS, DIMENSIONS, 0), vector.tobytes()]
            cursor.copy_expert("COPY docs FROM STDIN (FORMAT binary)", io.BytesIO(b"".join(parts) + b"\xff\xff"))
    case.check(**database.fingerprint("docs"))


# -- nights ------------------------------------------------------------------------------------------------------------

nights = bench.group(
    "nights",
    "two nights of {rows} documents",
    rows=100_000,
    quick_rows=300,
    unit="documents",
    chained=True,
    is_compared=False,
    around=database.running,
)


def _documents(case: Case) -> None:
    with database.connect() as cursor:
        cursor.execute(
            "CREATE TABLE documents AS SELECT i AS id, 'Document ' || i || repeat(' and what it says of ' || i, 40) "
            f"AS body FROM generate_series(1, {case.rows}) i"
        )


def _change() -> None:
    with database.connect() as cursor:
        cursor.execute(f"UPDATE documents SET body = 'Changed: ' || body WHERE id % {CHANGED_EVERY} = 0")
        cursor.execute(f"DELETE FROM documents WHERE id % {GONE_EVERY} = 1")


def _engine(case: Case, night: str) -> Any:
    from upath import UPath

    from airflow_openai_batch.engine.job.context import Engine
    from airflow_openai_batch.engine.model import JobKey
    from airflow_openai_batch.engine.store.job_store import JobStore

    key = JobKey(dag_id="benchmark", run_id=night, task_id="vectors")
    return Engine(JobStore(UPath(case.shared / "store"), key), _answering(case.work), parallel=4)


def _answering(folder: Path) -> Any:
    """Return a stand-in for OpenAI that answers whatever was uploaded, a text always with the same vector."""
    from local_openai import LocalOpenAI

    files: list[Path] = []

    class Answering(LocalOpenAI):
        def upload(self, name: str, file: IO[bytes], expires_after_s: int | None = None) -> Any:
            from airflow_openai_batch.engine.api.batch_json import UploadedFile

            answers, n = folder / f"{name}.answers", 0
            with answers.open("w") as out:
                for n, line in enumerate(file, 1):  # noqa: B007 - the last one counts
                    out.write(_answer(json.loads(line)))
            files.append(answers)
            return UploadedFile(f"file-{len(files) - 1}-{n}")

    return Answering(lambda number, n: (files[number], None))


def _answer(request: dict[str, Any]) -> str:
    seed = hashlib.blake2b(request["body"]["input"].encode(), digest_size=64).digest()
    numbers = b"".join(bytes((b, b, b & 127, 60)) for b in seed) * (DIMENSIONS // 64)
    entry = {"object": "embedding", "index": 0, "embedding": base64.b64encode(numbers).decode()}
    usage = {"prompt_tokens": 20, "total_tokens": 20}
    body = {"object": "list", "data": [entry], "model": request["body"]["model"], "usage": usage}
    response = {"status_code": 200, "request_id": "r", "body": body}
    return json.dumps({"id": "b", "custom_id": request["custom_id"], "response": response, "error": None}) + "\n"


def _plan(case: Case, night: str) -> int:
    """Plan a night, and bring known answers into it. Returns how many requests it has."""
    from airflow_openai_batch.chunking import Chunks
    from airflow_openai_batch.engine.job.actions import execute
    from airflow_openai_batch.engine.job.context import Learned
    from airflow_openai_batch.engine.job.state_machine import learn
    from airflow_openai_batch.engine.job.submit import Request, submit
    from airflow_openai_batch.engine.model import Policy, State
    from airflow_openai_batch.sql import SqlQuery
    from airflow_openai_batch.sql.source import SqlSource

    source = SqlSource(SqlQuery("SELECT id, body FROM documents ORDER BY id", database.CONN_ID))
    body = {"model": "text-embedding-3-small", "input": "{body}"}
    n = 0
    with case.timed():
        chunks = Chunks(source, text="body", key="id", max_tokens=400, overlap=40)
        request = Request(chunks, endpoint="/v1/embeddings", body=body, custom_id="{chunk_id}")
        engine = _engine(case, night)
        job = submit(engine, request, Policy(reuse="vectors", max_rounds=0))
        for shard in job.shards:
            result = execute(engine, job, shard, "carry") if shard.state is State.DRAFTED else None
            n += (learn(shard, result.fact, result.update) if isinstance(result, Learned) else shard).n_requests
    return n


def _results(case: Case, night: str) -> None:
    """Take a night to its end, and measure how its results get into the table."""
    from local_openai import finish

    from airflow_openai_batch.engine.results.writer import write_results
    from airflow_openai_batch.sql import SqlTable
    from airflow_openai_batch.sql.sink import SqlSink

    engine = _engine(case, night)
    job = finish(engine)
    columns = {"chunk_id": "chunk_id", "id": "document", "body": "text", "output": "embedding"}
    table = SqlTable("chunks", database.CONN_ID, key="chunk_id", columns=columns, create=True, delete_vanished=True)
    with case.timed():
        write_results(engine.store, job, SqlSink(table, logging.getLogger("benchmark")))


def _n(query: str) -> int:
    with database.connect() as cursor:
        cursor.execute(query)
        return int(cursor.fetchone()[0])


@nights.method("first_plan", "first night: plan")
def first_plan(case: Case) -> None:
    database.hook()
    _documents(case)
    case.check(first_asked=_plan(case, "first") == case.rows)


@nights.method("first_results", "first night: the table")
def first_results(case: Case) -> None:
    database.hook()
    _results(case, "first")
    case.check(first_rows=_n("SELECT count(*) FROM chunks") == case.rows)


@nights.method("second_plan", "second night: plan")
def second_plan(case: Case) -> None:
    database.hook()
    _change()
    n_asked = _plan(case, "second")
    case.check(second_asked=n_asked == _n("SELECT count(*) FROM documents WHERE body LIKE 'Changed: %'"))


@nights.method("second_results", "second night: the table")
def second_results(case: Case) -> None:
    database.hook()
    _results(case, "second")
    same = "SELECT count(*) FROM documents d JOIN chunks c ON d.id = c.document AND d.body = c.text"
    n_documents = _n("SELECT count(*) FROM documents")
    case.check(second_rows=_n("SELECT count(*) FROM chunks") == n_documents, same=_n(same) == n_documents)


if __name__ == "__main__":
    sys.exit(bench.main())
