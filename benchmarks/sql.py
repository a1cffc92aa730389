"""Rows come from PostgreSQL, and results go back.

    python benchmarks/sql.py [--rows 1000000]

Rows have an id, a text of about 1 KB, a category, a float and a timestamp; results have 19 columns and no long text.
`read` reads all rows of a table, as a job does before it writes requests: ours as Arrow batches, `pandas.read_sql`
with `chunksize` on a plain connection and on one with `stream_results`, and Airflow's hook with `get_df_by_chunks`.
`plan` is `submit()` of a job whose rows are the query, beside one whose rows are a Parquet file. `write` writes the
results into an empty table with a primary key, from Parquet: ours through the staging table, `DataFrame.to_sql` in one
transaction, and the hook's `insert_rows`, which commits as it goes; `again` writes the same once more, which changes
nothing. The server runs on the same machine, and its memory is not counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import database
import workload
from measure import Benchmark
from sample import Case
from summary import Goal, over_base, ratio

QUERY = "SELECT id, text, category, score, received_at FROM tickets ORDER BY id"
CHUNK_ROWS = 10_000

GOALS: tuple[Goal, ...] = (
    over_base("SQL: memory of reading over base", "read", "ours", 150),
    over_base("SQL: memory of planning over base", "plan", "query", 150),
    over_base("SQL: memory of writing over base", "write", "ours", 150),
    ratio("SQL: time of planning from a Parquet file", "plan", "query", "parquet", 2.5),
    Goal(
        "SQL: writing is so many times as fast as to_sql",
        lambda m: m("write", "to_sql", "seconds") / m("write", "ours", "seconds"),
        3,
        at_least=True,
    ),
)

bench = Benchmark(__file__, __doc__, GOALS)


def prepare_rows(case: Case) -> None:
    """Lay out the rows for the table."""
    (case.shared / "tables").mkdir()
    (case.shared / "tables" / "tickets.parquet").symlink_to(workload.rows_file(case.data, case.rows))


read = bench.group(
    "read", "{rows} rows are read", rows=1_000_000, quick_rows=2000, prepare=prepare_rows, around=database.running
)


@read.method("ours", "this package: SqlQuery")
def read_ours(case: Case) -> None:
    database.hook()
    from airflow_openai_batch.sql import SqlQuery
    from airflow_openai_batch.sql.source import SqlSource

    n = n_characters = 0
    with case.timed():
        for batch in SqlSource(SqlQuery(QUERY, database.CONN_ID)).batches():
            n, n_characters = n + batch.num_rows, n_characters + _characters(batch.column("text"))
    case.check(rows=n, characters=n_characters)


def _characters(texts: Any) -> int:
    import pyarrow.compute as pc

    return pc.sum(pc.utf8_length(texts)).as_py() or 0


def _read_frames(case: Case, frames: Iterator[Any]) -> None:
    n = n_characters = 0
    with case.timed():
        for frame in frames:
            n, n_characters = n + len(frame), n_characters + int(frame["text"].str.len().sum())
    case.check(rows=n, characters=n_characters)


@read.method("pandas", "pandas.read_sql(chunksize=10,000)", most=3)
def read_pandas(case: Case) -> None:
    engine = database.hook().get_sqlalchemy_engine()
    _read_frames(case, _pandas_frames(engine.connect()))


@read.method("pandas_streamed", "pandas.read_sql, stream_results", most=3)
def read_pandas_streamed(case: Case) -> None:
    engine = database.hook().get_sqlalchemy_engine()
    _read_frames(case, _pandas_frames(engine.connect().execution_options(stream_results=True)))


def _pandas_frames(connection: Any) -> Iterator[Any]:
    import pandas as pd
    from sqlalchemy import text

    yield from pd.read_sql(text(QUERY), connection, chunksize=CHUNK_ROWS)


@read.method("hook", "hook.get_df_by_chunks", most=3)
def read_hook(case: Case) -> None:
    hook = database.hook()
    _read_frames(case, (frame for frame in hook.get_df_by_chunks(QUERY, chunksize=CHUNK_ROWS)))


plan = bench.group(
    "plan",
    "a job of {rows} rows is planned",
    rows=1_000_000,
    quick_rows=2000,
    prepare=prepare_rows,
    around=database.running,
)


def _plan(case: Case, rows: Any) -> None:
    from local_openai import engine_in
    from local_openai import plan as planned

    engine = engine_in(case.work / "store")
    with case.timed():
        job = planned(engine, rows)
    case.check(rows=job.n_rows, requests=sum(shard.n_requests for shard in job.shards))


@plan.method("query", "rows of a query")
def plan_query(case: Case) -> None:
    database.hook()
    from airflow_openai_batch.sql import SqlQuery
    from airflow_openai_batch.sql.source import SqlSource

    _plan(case, SqlSource(SqlQuery(QUERY, database.CONN_ID)))


@plan.method("parquet", "rows of a Parquet file")
def plan_parquet(case: Case) -> None:
    database.hook()
    _plan(case, case.shared / "tables" / "tickets.parquet")


def prepare_results(case: Case) -> None:
    """Make the results: as many rows, with the columns that results have."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = pq.ParquetFile(workload.rows_file(case.data, case.rows), pre_buffer=False)
    writer = None
    for batch in source.iter_batches(10_000, columns=["id", "category", "score", "received_at"]):
        n = batch.num_rows
        numbers = np.arange(n)
        texts = {
            "custom_id": batch.column("id"),
            "status": pa.array(["succeeded"] * n),
            "output": pa.array([f'{{"topic": "{topic}", "n": {i}}}' for i, topic in enumerate(batch["category"])]),
            "topic": batch.column("category"),
            "summary": pa.array([f"The customer asks, number {i}, for something." for i in range(n)]),
            "error_code": pa.nulls(n, pa.string()),
            "finish_reason": pa.array(["stop"] * n),
            "model": pa.array([workload.MODEL] * n),
            "batch_id": pa.array(["batch_0123456789abcdef"] * n),
        }
        tokens = {f"{name}_tokens": pa.array(numbers % 777) for name in ("input", "cached", "output", "reasoning")}
        more = {"is_urgent": pa.array(numbers % 2 == 0), "confidence": pa.array(numbers / 1000)}
        columns = {**{name: batch.column(name) for name in batch.schema.names}, **texts, **tokens, **more}
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(case.shared / "results.parquet", table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _batches(case: Case) -> tuple[Any, Iterator[Any]]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(case.shared / "results.parquet", pre_buffer=False)
    return file.schema_arrow, file.iter_batches(4096)


def _empty_table(case: Case) -> str:
    schema, _ = _batches(case)
    name = case.work.name.replace("-", "_").lower()
    columns = [f"{field.name} {database.sql_type(field.type)}" for field in schema]
    with database.connect() as cursor:
        cursor.execute(f'CREATE TABLE "{name}" ({", ".join(columns)}, PRIMARY KEY (id))')
    return name


write = bench.group(
    "write",
    "{rows} rows of results are written",
    rows=1_000_000,
    quick_rows=2000,
    prepare=prepare_results,
    around=database.running,
)


def _write(case: Case, name: str) -> None:
    import logging

    from airflow_openai_batch.sql import SqlTable
    from airflow_openai_batch.sql.sink import SqlSink

    schema, batches = _batches(case)
    with SqlSink(SqlTable(f'"{name}"', database.CONN_ID, key="id"), logging.getLogger("benchmark")) as sink:
        sink.begin(schema)
        for batch in batches:
            sink.write(batch)
        sink.finish()


@write.method("ours", "this package: SqlTable")
def write_ours(case: Case) -> None:
    database.hook()
    name = _empty_table(case)
    with case.timed():
        _write(case, name)
    case.check(**database.fingerprint(f'"{name}"'))


@write.method("again", "this package, the same once more", most=3)
def write_again(case: Case) -> None:
    database.hook()
    name = _empty_table(case)
    _write(case, name)
    with case.timed():
        _write(case, name)
    case.check(**database.fingerprint(f'"{name}"'))


@write.method("to_sql", 'DataFrame.to_sql(if_exists="append")', most=2)
def write_to_sql(case: Case) -> None:
    engine = database.hook().get_sqlalchemy_engine()
    name = _empty_table(case)
    _, batches = _batches(case)
    with case.timed(), engine.begin() as connection:
        for batch in batches:
            batch.to_pandas().to_sql(name, connection, if_exists="append", index=False)
    case.check(**database.fingerprint(f'"{name}"'))


@write.method("insert_rows", "hook.insert_rows", most=2)
def write_insert_rows(case: Case) -> None:
    hook = database.hook()
    name = _empty_table(case)
    schema, batches = _batches(case)
    rows = (tuple(row.values()) for batch in batches for row in batch.to_pylist())
    with case.timed():
        hook.insert_rows(f'"{name}"', rows, target_fields=schema.names, commit_every=CHUNK_ROWS)
    case.check(**database.fingerprint(f'"{name}"'))


if __name__ == "__main__":
    sys.exit(bench.main())
