"""Rows of a query: of real databases, as a stream, exactly."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_openai_batch.engine.errors import DatabaseError, InputError
from airflow_openai_batch.engine.requests.arrow import json_type
from airflow_openai_batch.exceptions import OpenAIBatchFailure
from airflow_openai_batch.sql import SqlQuery
from airflow_openai_batch.sql.source import SqlSource

UTC = datetime.UTC
JSON = json_type()
TEXT = pa.large_string()


def read(query: SqlQuery) -> pa.Table:
    batches = list(SqlSource(query).batches())
    return pa.Table.from_batches(batches)


POSTGRES_TYPES = {
    "bool": ("true", pa.bool_(), True),
    "int2": ("(-32768)::int2", pa.int16(), -32768),
    "int4": ("2147483647", pa.int32(), 2147483647),
    "int8": ("9007199254740993", pa.int64(), 9007199254740993),
    "oid": ("4294967295::oid", pa.int64(), 4294967295),
    "float4": ("0.1::float4", pa.float32(), pytest.approx(0.1)),
    "float8": ("0.1::float8", pa.float64(), 0.1),
    "float8_most": ("1.7976931348623157e308::float8", pa.float64(), 1.7976931348623157e308),
    "numeric_of_digits": ("123456789012.34::numeric(14,2)", pa.decimal128(14, 2), decimal.Decimal("123456789012.34")),
    "numeric_of_many": ("1.5::numeric(50,10)", pa.decimal256(50, 10), decimal.Decimal("1.5000000000")),
    "numeric": ("12345678901234567890123456789.000000000000001", TEXT, "12345678901234567890123456789.000000000000001"),
    "numeric_nan": ("'NaN'::numeric", TEXT, "NaN"),
    "text": ("E'a\\u00e9\\n\"{x}'", TEXT, 'aé\n"{x}'),
    "varchar": ("'x'::varchar(3)", TEXT, "x"),
    "char": ("'x'::char(3)", TEXT, "x  "),
    "empty": ("''", TEXT, ""),
    "name": ("'n'::name", TEXT, "n"),
    "uuid": ("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid", TEXT, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    "date": ("date '2026-02-28'", pa.date32(), datetime.date(2026, 2, 28)),
    "time": ("time '23:59:59.000001'", pa.time64("us"), datetime.time(23, 59, 59, 1)),
    "timetz": ("timetz '23:59:59+02'", TEXT, "23:59:59+02"),
    "timestamp": (
        "timestamp '2026-02-28 01:02:03.000004'",
        pa.timestamp("us"),
        datetime.datetime(2026, 2, 28, 1, 2, 3, 4),  # noqa: DTZ001
    ),
    "timestamptz": (
        "timestamptz '2026-02-28 01:02:03.000004+02'",
        pa.timestamp("us", "UTC"),
        datetime.datetime(2026, 2, 27, 23, 2, 3, 4, UTC),
    ),
    "interval": ("interval '1 day 02:00'", TEXT, "P1DT2H"),
    "json": ("""'{"b": 1.10, "a": 12345678901234567890}'::json""", JSON, '{"b": 1.10, "a": 12345678901234567890}'),
    "jsonb": ("""'{"a": [1.10, null]}'::jsonb""", JSON, '{"a": [1.10, null]}'),
    "array": ("array[1, null, 3]", JSON, "[1,null,3]"),
    "array_of_texts": ("array['a', 'NULL', '{', null]", JSON, '["a","NULL","{",null]'),
    "array_of_two": ("array[[1,2],[3,4]]", JSON, "[[1,2],[3,4]]"),
    "record": ("row(1, 'x')", JSON, '{"f1":1,"f2":"x"}'),
    "range": ("int4range(1, 5)", JSON, '"[1,5)"'),
    "bytea": (r"'\x00ff'::bytea", pa.binary(), b"\x00\xff"),
    "enum": ("'high'::level", TEXT, "high"),
    "domain": ("7::positive", pa.int32(), 7),
    "inet": ("'10.0.0.1'::inet", TEXT, "10.0.0.1"),
    "bit": ("B'101'", TEXT, "101"),
    "money": ("'12.50'::money", TEXT, "$12.50"),
    "vector": ("'[1,2.5]'::vector", JSON, "[1,2.5]"),
    "point": ("point '(1,2)'", TEXT, "(1,2)"),
    'a "name" with %': ("1", pa.int32(), 1),
}
SETUP = (
    "CREATE TYPE level AS ENUM ('low', 'high')",
    "CREATE DOMAIN positive AS int4 CHECK (VALUE > 0)",
)


def test_every_type_of_postgresql(postgres: Any) -> None:
    postgres.run(*SETUP)
    columns = ", ".join(
        '{} AS "{}"'.format(value, name.replace('"', '""')) for name, (value, _, _) in POSTGRES_TYPES.items()
    )
    table = read(SqlQuery(f"SELECT {columns};", "pg"))
    for name, (_, arrow_type, value) in POSTGRES_TYPES.items():
        column = table.column(name)
        assert column.type == arrow_type, name
        assert column.combine_chunks().to_pylist()[0] == value or (arrow_type == JSON and _text(column) == value), name


def _text(column: pa.ChunkedArray) -> str:
    return column.chunk(0).storage.to_pylist()[0]


def test_nulls_of_every_type_of_postgresql(postgres: Any) -> None:
    postgres.run(*SETUP)
    columns = ", ".join(
        f'nullif({value}, {value}) AS "c{i}"'
        for i, (value, t, _) in enumerate(
            entry for name, entry in POSTGRES_TYPES.items() if name not in ("json", "point", "record")
        )
    )
    table = read(SqlQuery(f"SELECT {columns}", "pg"))
    assert all(column.null_count == 1 for column in table.columns)
    types = [t for name, (_, t, _) in POSTGRES_TYPES.items() if name not in ("json", "point", "record")]
    assert table.schema.types == types


@pytest.mark.parametrize(
    ("text", "type_name"),
    [
        ("infinity", "timestamptz"),
        ("-infinity", "timestamp"),
        ("infinity", "date"),
        ("0044-03-15 BC", "date"),
        ("0044-03-15 00:00+00 BC", "timestamptz"),
        ("294276-01-01", "timestamp"),
        ("24:00", "time"),
        ("NaN", "numeric(5,2)"),
    ],
)
def test_what_arrow_cannot_hold_is_refused_by_row_and_column(postgres: Any, text: str, type_name: str) -> None:
    odd = f"CAST(CASE WHEN i = 3 THEN '{text}' END AS {type_name})"
    sql = "SELECT i AS id, {} AS odd FROM generate_series(1, 5) i ORDER BY i"
    with pytest.raises(InputError, match=r"row 2, column 'odd': this .* has no exact form in .* Cast the column"):
        read(SqlQuery(sql.format(odd), "pg"))
    assert read(SqlQuery(sql.format(f"{odd}::text"), "pg")).column("odd").null_count == 4


def test_floats_that_are_no_numbers(postgres: Any) -> None:
    table = read(SqlQuery("SELECT 'NaN'::float8 AS a, '-Infinity'::float4 AS b", "pg"))
    assert math.isnan(table.column("a")[0].as_py())
    assert table.column("b")[0].as_py() == -math.inf


def test_rows_come_as_a_stream_in_their_order(database: Any) -> None:
    database.run("CREATE TABLE t (id integer, text varchar(20))")
    database.run(*(f"INSERT INTO t VALUES ({i}, 'ticket {i}')" for i in range(3)))
    many = "SELECT a.id * 10000 + b.id * 100 + c.id AS id, a.text FROM t a, t b, t c ORDER BY 1 DESC"
    batches = list(SqlSource(SqlQuery(many, database.conn_id)).batches())
    ids = [i for batch in batches for i in batch.column("id").to_pylist()]
    assert ids == sorted(ids, reverse=True) and len(ids) == 27


def test_many_rows_are_never_all_in_memory(postgres: Any) -> None:
    batches = SqlSource(
        SqlQuery("SELECT i AS id, repeat('x', 100) AS text FROM generate_series(1, 20000) i", "pg")
    ).batches()
    sizes = [batch.num_rows for batch in batches]
    assert sum(sizes) == 20_000 and max(sizes) == 4096


def test_whole_documents_come_a_few_at_a_time(database: Any) -> None:
    """40 MB, which would be one record batch if only rows were counted."""
    sql_type = "longtext" if database.conn_id == "my" else "text"
    database.run(f"CREATE TABLE t (id integer, text {sql_type})")
    text = "word " * 20_000
    database.run(*(f"INSERT INTO t VALUES ({i}, '{i} {text}')" for i in range(400)))
    batches = list(SqlSource(SqlQuery("SELECT id, text FROM t ORDER BY id", database.conn_id)).batches())
    if database.conn_id != "duck":  # it has vectors of 2,048 rows
        assert max(batch.nbytes for batch in batches) < 10 * 1024 * 1024
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert rows == [{"id": i, "text": f"{i} {text}"} for i in range(400)]


@pytest.mark.parametrize("sql", ["SELECT id, text FROM t WHERE id < 0", "SELECT id, text FROM t WHERE id < 0 -- none"])
def test_no_rows_have_columns_all_the_same(database: Any, sql: str) -> None:
    database.run("CREATE TABLE t (id integer, text varchar(20))")
    table = read(SqlQuery(sql, database.conn_id))
    assert (table.num_rows, table.column_names) == (0, ["id", "text"])


@pytest.mark.parametrize(
    ("conn_id", "sql", "parameters"),
    [
        ("pg", "SELECT %(day)s::date AS day, '100%%' AS share, array[1] AS list", {"day": "2026-01-31"}),
        ("pg", "SELECT '100%' AS share, DATE '2026-01-31' AS day, array[1] AS list", None),
        ("pg", "SELECT %s::date AS day, '100%%' AS share -- a comment", ["2026-01-31"]),
    ],
)
def test_placeholders_and_percent_signs(postgres: Any, conn_id: str, sql: str, parameters: Any) -> None:
    (row,) = read(SqlQuery(sql, conn_id, parameters)).select(["day", "share"]).to_pylist()
    assert row == {"day": datetime.date(2026, 1, 31), "share": "100%"}


def test_placeholders_of_the_others(sqlite: Any, duckdb: Any) -> None:
    for database in (sqlite, duckdb):
        query = SqlQuery("SELECT ? AS a, ? AS b", database.conn_id, ["x", 2])
        assert read(query).to_pylist() == [{"a": "x", "b": 2}]


SQLITE_TYPES = {
    "integer": ("9007199254740993", 9007199254740993),
    "real": ("0.1", 0.1),
    "text": ("'aé'", "aé"),
    "blob": ("x'00ff'", b"\x00\xff"),
    "null": ("NULL", None),
    "date": ("date('2026-02-28')", "2026-02-28"),
    "boolean": ("true", 1),
    "json": ("""json('{"a": 1}')""", '{"a":1}'),
}


def test_every_type_of_sqlite(sqlite: Any) -> None:
    columns = ", ".join(f'{value} AS "{name}"' for name, (value, _) in SQLITE_TYPES.items())
    (row,) = read(SqlQuery(f"SELECT {columns};", "lite")).to_pylist()
    assert row == {name: value for name, (_, value) in SQLITE_TYPES.items()}


DUCKDB_TYPES = {
    "bool": ("true", True),
    "tinyint": ("1::tinyint", 1),
    "ubigint": ("18446744073709551615::ubigint", 18446744073709551615),
    "hugeint": ("170141183460469231731687303715884105::hugeint", decimal.Decimal(170141183460469231731687303715884105)),
    "double": ("0.1::double", 0.1),
    "decimal": ("1.50::decimal(5,2)", decimal.Decimal("1.50")),
    "varchar": ("'aé'", "aé"),
    "blob": (r"'\x00\xFF'::blob", b"\x00\xff"),
    "date": ("date '2026-02-28'", datetime.date(2026, 2, 28)),
    "time": ("time '23:59:59.000001'", datetime.time(23, 59, 59, 1)),
    "timestamp": ("timestamp '2026-02-28 01:02:03'", datetime.datetime(2026, 2, 28, 1, 2, 3)),  # noqa: DTZ001
    "uuid": ("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    "enum": ("'high'::enum('low', 'high')", "high"),
    "list": ("[1, 2]", [1, 2]),
    "struct": ("{'a': 1, 'b': 'x'}", {"a": 1, "b": "x"}),
    "json": ("""'{"a": 1.10}'::json""", '{"a": 1.10}'),
}


def test_every_type_of_duckdb(duckdb: Any) -> None:
    columns = ", ".join(f'{value} AS "{name}"' for name, (value, _) in DUCKDB_TYPES.items())
    (row,) = read(SqlQuery(f"SELECT {columns};", "duck")).to_pylist()
    assert row == {name: value for name, (_, value) in DUCKDB_TYPES.items()}
    with pytest.raises(InputError, match="Column 'odd' has the type month_day_nano_interval"):
        read(SqlQuery("SELECT interval 3 day AS odd", "duck"))


@pytest.mark.parametrize("sql", ["SELECT 1 AS a, 2 AS a", "SELECT 1 AS a, 2 AS b, 3 AS a"])
def test_two_columns_of_one_name_are_refused(database: Any, sql: str) -> None:
    with pytest.raises(InputError, match="'a'"):
        read(SqlQuery(sql, database.conn_id))


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("SELEC 1", "(?i)syntax|parser"),
        ("SELECT * FROM nowhere", "nowhere"),
        ("INSERT INTO t VALUES (1)", "(?i)syntax|read[ -]?only"),
    ],
)
def test_a_wrong_query_is_no_reason_for_a_retry(database: Any, sql: str, problem: str) -> None:
    database.run("CREATE TABLE t (id integer)")
    with pytest.raises(InputError, match=problem) as told:
        read(SqlQuery(sql, database.conn_id))
    assert "Nothing of these rows was sent or paid for" in str(told.value)
    assert "clear this task" in str(told.value)
    assert database.rows("SELECT count(*) FROM t") == [(0,)]


def test_a_query_never_writes(postgres: Any) -> None:
    postgres.run(
        "CREATE TABLE t (id integer)",
        "CREATE FUNCTION sly() RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO t VALUES (1) RETURNING id'",
    )
    with pytest.raises(InputError, match="read-only"):
        read(SqlQuery("SELECT sly() AS id", "pg"))
    assert postgres.rows("SELECT count(*) FROM t") == [(0,)]


def test_a_server_that_is_gone_is_a_reason_for_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {"conn_type": "postgres", "host": str(tmp_path), "login": "x", "schema": "x", "password": "hunter2-secret"}
    monkeypatch.setenv("AIRFLOW_CONN_PG", json.dumps(given))
    with pytest.raises(DatabaseError, match="the connection 'pg' says") as told:
        read(SqlQuery("SELECT 1 AS a", "pg"))
    assert "hunter2" not in str(told.value)


def test_values_of_rows_are_in_no_message(postgres: Any) -> None:
    with pytest.raises(InputError, match="invalid input syntax for type integer") as told:
        read(SqlQuery("SELECT text::int AS n FROM (VALUES ('1'), ('my secret diagnosis')) AS t(text)", "pg"))
    assert "diagnosis" not in str(told.value)
    assert told.value.__cause__ is None and told.value.__suppress_context__


@pytest.mark.parametrize(
    ("connection", "problem"),
    [
        ({"conn_type": "http", "host": "x"}, "no database"),
        ({"conn_type": "never_heard_of", "host": "x"}, "provider"),
    ],
)
def test_a_connection_of_something_else(monkeypatch: pytest.MonkeyPatch, connection: Any, problem: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ODD", json.dumps(connection))
    with pytest.raises(InputError, match=problem):
        read(SqlQuery("SELECT 1 AS a", "odd"))


def test_the_connections_options_reach_the_server(postgres: Any) -> None:
    table = read(SqlQuery("SELECT current_setting('application_name') AS name, current_schema() AS schema", "pg"))
    assert table.to_pylist() == [{"name": "ours", "schema": "tests"}]


TASK = """
    from airflow_openai_batch.sql import SqlQuery
    OpenAIBatchOperator(
        task_id="one", rows=SqlQuery({sql}, "{{{{ 'pg' }}}}", {parameters}), output=OUT + "/out.parquet", **CHAT
    )
"""


def test_a_dag_labels_the_rows_of_a_query(run_dag, emulator, postgres: Any, tmp_path: Path, capfd) -> None:
    postgres.run(
        "CREATE TABLE tickets (id int8, text text, meta jsonb)",
        "INSERT INTO tickets SELECT i, 'a private text ' || i, '{\"n\": 1.50}' FROM generate_series(1, 30) i",
    )
    sql = repr("SELECT * FROM tickets WHERE id <= %(most)s AND '{{ ds }}' > '2000' ORDER BY id")
    run = run_dag(TASK.format(sql=sql, parameters={"most": 20}))
    assert run.state == "success"
    table = pq.read_table(tmp_path / "out" / "out.parquet")
    assert table.column("id").to_pylist() == list(range(1, 21))
    assert table.column("meta").to_pylist() == ['{"n": 1.50}'] * 20
    assert len(list(emulator.ledger.rows())) == 20
    told = capfd.readouterr()
    assert "private text" not in told.out + told.err


def test_sql_of_a_file_beside_the_dag(run_dag, emulator, postgres: Any, tmp_path: Path) -> None:
    (Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]) / "tickets.sql").write_text(
        "SELECT {{ dag_run.conf['n'] }} AS id, 'x' AS text -- one\n;\n"
    )
    run = run_dag(TASK.format(sql="'tickets.sql'", parameters=None), conf={"n": 7})
    assert run.state == "success"
    assert pq.read_table(tmp_path / "out" / "out.parquet").column("id").to_pylist() == [7]
    assert run_dag(TASK.format(sql="'nowhere.sql'", parameters=None)).state == "failed"


def test_what_cannot_be_a_query_is_refused_when_the_dag_is_parsed(run_dag) -> None:
    for wrong in ("SqlQuery('', 'pg')", "SqlQuery('SELECT 1', None)"):
        with pytest.raises(InputError, match="SqlQuery: "):
            run_dag(f"""
                from airflow_openai_batch.sql import SqlQuery
                OpenAIBatchOperator(task_id="one", rows={wrong}, **CHAT)
            """)
    with pytest.raises(OpenAIBatchFailure, match="body=None"):
        run_dag("""
            from airflow_openai_batch.sql import SqlQuery
            OpenAIBatchOperator(task_id="one", rows=SqlQuery("SELECT 1", "pg"), endpoint="/v1/responses", body=None)
        """)
