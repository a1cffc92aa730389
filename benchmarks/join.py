"""Outcomes meet their rows: input columns and outcomes become one table of results.

    python benchmarks/join.py [--rows 1000000]

"Ours" is `write_results()` into a Parquet file: shard by shard it reads row parts and outcome parts, checks that
every row has one outcome, puts them side by side in input order with each field of the structured answers as a column
of its own, counts errors, and writes the dead letter. `limit` reads the same columns from two Parquet files, inputs
and outcomes, and writes them to two others: as many values in and out, nothing joined. It reads ahead in a thread, and
writes by the same sink.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import answers
import workload
from measure import Benchmark
from sample import Case
from summary import Goal, over_base, ratio

GOALS: tuple[Goal, ...] = (
    ratio("Join: time of writing the same columns without a join", "join", "fields", "limit", 1.2),
    over_base("Join: memory over base", "join", "fields", 150),
)
_BATCH_ROWS = 16_384  # as fast as larger ones, and bounded

bench = Benchmark(__file__, __doc__, GOALS)
group = bench.group("join", "{rows} rows and outcomes to one Parquet table", rows=1_000_000, quick_rows=2_000)


def prepare(case: Case) -> None:
    """Bring jobs with and without a schema to their end, and write the limit's two tables."""
    import pyarrow.parquet as pq
    from local_openai import LocalOpenAI, engine_in, finish, plan
    from upath import UPath

    from airflow_openai_batch.engine.results.sinks import FileSink
    from airflow_openai_batch.engine.results.writer import write_results

    rows = workload.rows_file(case.data, case.rows)
    body = {"model": workload.MODEL, "input": "{id}"}  # what was asked does not matter here, and is small
    for name, schema in (("fields", workload.SCHEMA), ("plain", None)):
        engine = engine_in(case.shared / name, LocalOpenAI(lambda first, n: answers.files(case.data, first, n)))
        plan(engine, rows, body, response_model=schema)
        job = finish(engine)
        results = case.work / f"{name}.parquet"
        write_results(engine.store, job, FileSink(UPath(results)))
        file = pq.ParquetFile(results, pre_buffer=False)
        names = file.schema_arrow.names
        n_inputs = names.index("custom_id")
        for part, columns in (("inputs", names[:n_inputs]), ("outcomes", names[n_inputs:])):
            write(file, columns, case.shared / f"{name}-{part}.parquet")


def write(source: Any, columns: list[str], target: Path) -> None:
    """Write some columns of a Parquet file to another, as a stream."""
    import pyarrow as pa
    from upath import UPath

    from airflow_openai_batch.engine.concurrency import prefetch
    from airflow_openai_batch.engine.results.sinks import FileSink

    with FileSink(UPath(target)) as sink:
        sink.begin(pa.schema([source.schema_arrow.field(name) for name in columns]))
        for batch in prefetch(source.iter_batches(batch_size=_BATCH_ROWS, columns=columns)):
            sink.write(batch)
        sink.finish()


group.prepare = prepare


def ours(case: Case, name: str) -> None:
    """Write the results of a job."""
    from local_openai import begin_task, store_in

    begin_task()
    import pyarrow.parquet as pq
    from upath import UPath

    from airflow_openai_batch.engine.results.sinks import FileSink
    from airflow_openai_batch.engine.results.writer import write_results

    store = store_in(case.shared / name)
    found = store.load()
    assert found is not None
    target = case.work / "results.parquet"
    with case.timed():
        write_results(store, found[1], FileSink(UPath(target)))
    file = pq.ParquetFile(target, pre_buffer=False)
    report(case, name, [(file, ["id", "text", "score"]), (file, ["custom_id", "status", "output", "output_tokens"])])
    case.note(written_mb=target.stat().st_size / 1e6)


def report(case: Case, name: str, columns: list[tuple[Any, list[str]]]) -> None:
    """Say what came out: the rows, and a hash of columns of both sides, in order."""
    import hashlib

    found = hashlib.blake2b(digest_size=12)
    for file, names in columns:
        for column in names:  # one at a time: how batches are cut differs
            for batch in file.iter_batches(batch_size=1 << 16, columns=[column]):
                found.update("\x00".join(map(str, batch.column(0).to_pylist())).encode())
                found.update(b"\x00")
    case.check(**{"rows": columns[0][0].metadata.num_rows, f"values of {name}": found.hexdigest()})


@group.method("fields", "this package, four fields")
def fields(case: Case) -> None:
    ours(case, "fields")


@group.method("plain", "this package, no schema")
def plain(case: Case) -> None:
    ours(case, "plain")


def unjoined(case: Case, name: str) -> None:
    """Copy the two tables, value by value."""
    from local_openai import begin_task

    begin_task()
    import pyarrow.parquet as pq

    import airflow_openai_batch.engine.results.sinks  # noqa: F401

    sides = ("inputs", "outcomes")
    targets = [case.work / f"{side}.parquet" for side in sides]
    with case.timed():
        for side, target in zip(sides, targets, strict=True):
            source = pq.ParquetFile(case.shared / f"{name}-{side}.parquet", pre_buffer=False)
            write(source, source.schema_arrow.names, target)
    files = [pq.ParquetFile(target, pre_buffer=False) for target in targets]
    report(
        case,
        name,
        [(files[0], ["id", "text", "score"]), (files[1], ["custom_id", "status", "output", "output_tokens"])],
    )
    case.note(written_mb=sum(target.stat().st_size for target in targets) / 1e6)


@group.method("limit", "limit: both tables, four fields, no join")
def limit(case: Case) -> None:
    unjoined(case, "fields")


@group.method("limit_plain", "limit: both tables, no schema, no join")
def limit_plain(case: Case) -> None:
    unjoined(case, "plain")


if __name__ == "__main__":
    sys.exit(bench.main())
