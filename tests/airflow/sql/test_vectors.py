"""Embeddings in columns of pgvector: exactly, whole or not at all, and never a good vector lost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.sql import SqlTable
from airflow_openai_batch.sql.sink import SqlSink

VECTOR = pa.list_(pa.float32())
TABLE = "CREATE TABLE docs (id int PRIMARY KEY, text text, embedding vector(3))"
COLUMNS = {"id": "id", "text": "text", "output": "embedding"}


class Log:
    """What a task's log would have."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str, *values: Any) -> None:
        self.lines.append(text % values)

    warning = info


def batch(*rows: tuple[Any, ...], vectors: pa.DataType = VECTOR) -> pa.RecordBatch:
    """Rows of (id, vector) or (id, vector, status); a row without a vector has failed."""
    statuses = [row[2] if len(row) > 2 else "succeeded" if row[1] is not None else "failed" for row in rows]
    columns = {
        "id": pa.array([row[0] for row in rows], pa.int64()),
        "text": pa.array([f"text {row[0]}" for row in rows], pa.large_string()),
        "status": pa.array(statuses, pa.string()),
        "output": pa.array([row[1] for row in rows], vectors),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def write(table: SqlTable, *batches: pa.RecordBatch) -> Log:
    log = Log()
    with SqlSink(table, log) as sink:
        sink.begin(batches[0].schema)
        for rows in batches:
            sink.write(rows)
        sink.finish()
    return log


def docs(database: Any) -> dict[int, str | None]:
    return dict(database.rows("SELECT id, embedding::text FROM docs ORDER BY id"))


def table(**given: Any) -> SqlTable:
    return SqlTable("docs", "pg", **{"key": ["id"], "columns": COLUMNS, **given})


def test_vectors_come_back_to_the_last_bit(postgres: Any) -> None:
    postgres.run("CREATE TABLE docs (id int PRIMARY KEY, text text, embedding vector(1536))")
    vectors = np.random.default_rng(1).normal(size=(5000, 1536)).astype("<f4")
    vectors[0, :3] = [0.0, -0.0, np.finfo("f4").max]
    rows = [batch(*((i, vectors[i]) for i in range(start, start + 1000))) for start in range(0, 5000, 1000)]
    write(table(), *rows)
    back = postgres.rows("SELECT id, encode(vector_send(embedding), 'hex') FROM docs ORDER BY id")
    assert [row[0] for row in back] == list(range(5000))
    sent = np.frombuffer(b"".join(bytes.fromhex(row[1])[4:] for row in back), ">f4").reshape(5000, 1536)
    assert (sent.astype("<f4").view("u4") == vectors.view("u4")).all()
    assert "0 added or changed" in write(table(), *rows).lines[0]


def test_halfvec_takes_rounded_numbers(postgres: Any) -> None:
    postgres.run("CREATE TABLE docs (id int PRIMARY KEY, text text, embedding halfvec(2))")
    log = write(table(), batch((1, [0.1, 2.0]), (2, [1.0, 70_000.0])))
    assert docs(postgres) == {1: "[0.099975586,2]"}
    assert "1 vectors have NaN, an infinity or numbers too large" in log.lines[1]


@pytest.mark.parametrize(
    "vectors",
    [pa.list_(pa.float32(), 3), pa.large_list(pa.float64()), pa.list_(pa.float64()), pa.list_(pa.int32())],
    ids=str,
)
def test_lists_of_numbers_of_any_kind_are_vectors(postgres: Any, vectors: pa.DataType) -> None:
    postgres.run(TABLE)
    rows = batch((1, [1, 2, 3]), (2, None), (3, [4, 5, 6]), vectors=vectors).slice(1)
    write(table(only_good=True), rows)
    assert docs(postgres) == {3: "[4,5,6]"}


def test_a_failed_row_keeps_the_vector_that_it_has(postgres: Any) -> None:
    postgres.run(TABLE, "INSERT INTO docs VALUES (1, 'old', '[1,1,1]'), (2, 'old', '[2,2,2]')")
    write(table(), batch((1, [3, 3, 3]), (2, None), (4, None)))
    assert docs(postgres) == {1: "[3,3,3]", 2: "[2,2,2]"}
    assert postgres.rows("SELECT text FROM docs WHERE id = 2") == [("old",)]
    # One who wants to see bad rows says so.
    write(table(only_good=False), batch((1, [3, 3, 3]), (2, None)))
    assert docs(postgres) == {1: "[3,3,3]", 2: None}


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, None])
def test_what_is_no_number_is_no_good_vector(postgres: Any, odd: float | None) -> None:
    postgres.run(TABLE, "INSERT INTO docs VALUES (1, 'old', '[1,1,1]')")
    log = write(table(), batch((1, [0.0, odd, 1.0]), (2, [1, 2, 3])))
    assert docs(postgres) == {1: "[1,1,1]", 2: "[1,2,3]"}
    assert log.lines[1].endswith("which pgvector refuses: their rows were left out.")
    write(table(mode="replace"), batch((1, [0.0, odd, 1.0]), (2, [1, 2, 3])))
    assert docs(postgres) == {1: None, 2: "[1,2,3]"}


def test_another_dimension_is_refused_by_column_and_row_before_anything_is_loaded(postgres: Any) -> None:
    postgres.run(TABLE, "INSERT INTO docs VALUES (1, 'old', '[1,1,1]')")
    with pytest.raises(InputError, match=r"column 'embedding' is vector\(3\), and row 1 has 4 numbers.*no answer is"):
        write(table(), batch((1, None), (2, [1, 2, 3, 4])))
    assert docs(postgres) == {1: "[1,1,1]"}
    schema = batch().schema
    SqlSink(table(), Log()).check(schema, 3)
    SqlSink(table(), Log()).check(schema)
    with pytest.raises(InputError, match=r"vector\(3\), and the embeddings will have 1,536 numbers"):
        SqlSink(table(), Log()).check(schema, 1536)


def test_a_column_without_a_dimension_takes_any(postgres: Any) -> None:
    postgres.run("CREATE TABLE docs (id int PRIMARY KEY, text text, embedding vector)")
    write(table(), batch((1, [1, 2, 3]), (2, [1]), (3, None), (4, [4, 5, 6]), (5, [math.nan])))
    assert docs(postgres) == {1: "[1,2,3]", 2: "[1]", 4: "[4,5,6]"}
    with pytest.raises(InputError, match="row 0 has 16,001 numbers"):
        write(table(), batch((1, [0.0] * 16_001)))


def test_several_vectors_a_row_are_refused_before_anything_is_paid(postgres: Any) -> None:
    postgres.run(TABLE)
    with pytest.raises(InputError, match="the rows have several vectors each"):
        SqlSink(table(), Log()).check(batch(vectors=pa.list_(VECTOR)).schema)


def test_two_columns_of_vectors(postgres: Any) -> None:
    postgres.run("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(3), other halfvec)")
    rows = batch((1, [1, 2, 3]), (2, [4, 5, 6])).append_column("v", pa.array([None, [1.5]], pa.list_(pa.float64())))
    write(table(columns={"id": "id", "output": "embedding", "v": "other"}), rows)
    assert postgres.rows("SELECT embedding::text, other::text FROM docs ORDER BY id") == [
        ("[1,2,3]", None),
        ("[4,5,6]", "[1.5]"),
    ]


def test_a_created_table_has_the_dimension_of_its_vectors(postgres: Any) -> None:
    made = table(create=True)
    SqlSink(made, Log()).check(batch().schema, 3)
    write(made, batch((1, None)), batch((2, [1, 2, 3]), (3, None)))
    kind = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'docs'::regclass AND attname = "
    assert postgres.rows(f"{kind} 'embedding'") == [("vector(3)",)]
    assert docs(postgres) == {2: "[1,2,3]"}
    with pytest.raises(InputError, match="row 0 has 2 numbers"):
        write(made, batch((2, [1, 2])))
    postgres.run("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops)", "DROP TABLE docs")
    with pytest.raises(InputError, match="the vectors for the column 'embedding' have 2 and 3 numbers"):
        write(made, batch((2, [1, 2]), (3, [1, 2, 3])))
    assert postgres.rows("SELECT to_regclass('docs')::text") == [(None,)]


def test_a_database_without_pgvector_is_told_how_to_get_it(postgres: Any) -> None:
    postgres.run("DROP EXTENSION vector CASCADE")
    try:
        with pytest.raises(InputError, match="CREATE EXTENSION vector"):
            SqlSink(table(create=True), Log()).check(batch().schema)
        postgres.run("CREATE TABLE docs (id int PRIMARY KEY, text text, embedding real[])")
        write(table(create=True), batch((1, [0.5, 1])))
        assert docs(postgres) == {1: "{0.5,1}"}
    finally:
        postgres.run("CREATE EXTENSION IF NOT EXISTS vector")


def test_pgvector_in_a_schema_that_is_not_searched(postgres: Any) -> None:
    postgres.run(
        "DROP SCHEMA IF EXISTS extra CASCADE", "CREATE SCHEMA extra", "ALTER EXTENSION vector SET SCHEMA extra"
    )
    try:
        write(table(create=True), batch((1, [0.5, 1])))
        write(table(), batch((1, [0.5, 2])))
        assert docs(postgres) == {1: "[0.5,2]"}
    finally:
        postgres.run("ALTER EXTENSION vector SET SCHEMA public", "DROP SCHEMA extra")


def test_a_key_that_failed_rows_do_not_have_deletes_nothing(postgres: Any) -> None:
    postgres.run("CREATE TABLE docs (label text PRIMARY KEY, id int)", "INSERT INTO docs VALUES ('a', 1)")
    rows = batch((1, [1.0]), (2, None)).append_column("label", pa.array(["b", None]))
    given = SqlTable("docs", "pg", key="label", columns=["label", "id"], only_good=True, delete_vanished=True)
    with pytest.raises(InputError, match=r"1 rows have null in the key \(label\)"):
        write(given, rows)
    assert postgres.rows("SELECT label FROM docs") == [("a",)]


TASK = """
    from airflow_openai_batch.sql import SqlQuery, SqlTable
    columns = {"id": "id", "text": "text", "output": "embedding"}
    OpenAIBatchOperator(
        task_id="one", rows=SqlQuery("SELECT id, text FROM source ORDER BY id", "pg"), endpoint="/v1/embeddings",
        body={"model": "text-embedding-3-small", "input": "{text}", "dimensions": 8}, storage=STORE,
        output=SqlTable("docs", "pg", key=["id"], columns=columns, create=CREATE),
    )
"""


@pytest.mark.parametrize("made", [None, "CREATE TABLE docs (id int PRIMARY KEY, text text, embedding vector(8))"])
def test_a_dag_embeds_a_table(run_dag: Any, emulator: Any, postgres: Any, made: str | None) -> None:
    postgres.run("CREATE TABLE source AS SELECT i AS id, 'text ' || i AS text FROM generate_series(1, 30) i")
    postgres.run(*([made] if made else []))
    run = run_dag(TASK.replace("CREATE", str(not made)))
    assert run.state == "success"
    found = postgres.rows("SELECT id, text, vector_dims(embedding), vector_norm(embedding) FROM docs ORDER BY id")
    assert found == [(i, f"text {i}", 8, pytest.approx(1, abs=1e-4)) for i in range(1, 31)]


def test_a_column_of_another_dimension_costs_nothing(run_dag: Any, emulator: Any, postgres: Any) -> None:
    postgres.run("CREATE TABLE source AS SELECT 1 AS id, 'text' AS text")
    postgres.run("CREATE TABLE docs (id int PRIMARY KEY, text text, embedding vector(9))")
    run = run_dag(TASK.replace("CREATE", "False"))
    assert run.states == {"one": "failed"}
    assert not emulator.ledger.batches
