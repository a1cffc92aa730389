"""MySQL and its kin, where a server and the provider are installed: what is theirs alone.

``apt-get install mariadb-server-core`` and ``pip install apache-airflow-providers-mysql``.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import json
import logging
import math
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import json_column
from airflow_openai_batch.sql import SqlQuery, SqlTable
from airflow_openai_batch.sql.loading import loader_of
from airflow_openai_batch.sql.sink import SqlSink
from airflow_openai_batch.sql.source import SqlSource
from airflow_openai_batch.sql.statements import quoted


@pytest.fixture(params=[{}, {"cursor": "dictcursor"}], ids=str)
def cursor(request: Any, mysql: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cursor to make tables with, where the tasks' connection has another kind."""
    given = json.loads(os.environ["AIRFLOW_CONN_MY"])
    given["extra"] |= request.param
    monkeypatch.setenv("AIRFLOW_CONN_MY", json.dumps(given))
    with contextlib.closing(mysql.connect()) as connection:
        connection.autocommit(True)
        yield connection.cursor()


def batches(sql: str, parameters: Any = None) -> Iterator[Any]:
    return SqlSource(SqlQuery(sql, "my", parameters)).batches()


def rows(sql: str, parameters: Any = None) -> list[dict[str, Any]]:
    return [row for batch in batches(sql, parameters) for row in batch.to_pylist()]


def test_values_come_as_they_are(cursor: Any) -> None:
    cursor.execute(
        "CREATE TABLE t (i bigint unsigned, d decimal(10, 2), f double, s varchar(20), b blob, day date, "
        "at datetime(6))"
    )
    cursor.execute(
        "INSERT INTO t VALUES (18446744073709551615, 1.50, 0.1, 'aé😀', x'00ff', '2026-02-28', "
        "'2026-02-28 01:02:03.000004'), (NULL, NULL, NULL, NULL, NULL, NULL, NULL)"
    )
    first, second = rows("SELECT * FROM t ORDER BY i DESC")
    assert first == {
        "i": 2**64 - 1,
        "d": decimal.Decimal("1.50"),
        "f": 0.1,
        "s": "aé😀",
        "b": b"\x00\xff",
        "day": datetime.date(2026, 2, 28),
        "at": datetime.datetime(2026, 2, 28, 1, 2, 3, 4),  # noqa: DTZ001
    }
    assert set(second.values()) == {None}
    assert rows("SELECT s FROM t WHERE i > %s AND s LIKE 'a%%'", [1]) == [{"s": "aé😀"}]


def test_rows_stay_on_the_server_until_they_are_read(cursor: Any) -> None:
    source = batches("SELECT seq AS id, repeat('x', 1000) AS text FROM seq_1_to_100000")
    assert next(source).num_rows == 4096
    cursor.execute(
        "SELECT state FROM information_schema.processlist WHERE info LIKE '%seq_1_to_100000%' AND id <> connection_id()"
    )
    assert cursor.fetchall(), "the query still runs"
    assert sum(batch.num_rows for batch in source) == 100_000 - 4096


def test_a_query_never_writes_and_a_wrong_one_is_no_reason_for_a_retry(cursor: Any) -> None:
    cursor.execute("CREATE TABLE t (id int)")
    for sql, problem in (("INSERT INTO t VALUES (1)", "(?i)read only"), ("SELEC 1", "syntax"), ("TABLE", "syntax")):
        with pytest.raises(InputError, match=problem):
            rows(sql)
    cursor.execute("SELECT count(*) FROM t")
    assert cursor.fetchall() == ((0,),)


VALUES: dict[str, tuple[pa.Array, str, Any]] = {
    "b": (pa.array([True, None]), "boolean", 1),
    "i": (pa.array([2**64 - 1, None], pa.uint64()), "bigint unsigned", 2**64 - 1),
    "f": (pa.array([0.1, None]), "double", 0.1),
    "d": (pa.array([decimal.Decimal("12.50"), None]), "decimal(10, 2)", decimal.Decimal("12.50")),
    "t": (pa.array(["a%s,'b'\n\\é😀\0", None]), "text", "a%s,'b'\n\\é😀\0"),
    "e": (pa.array(["", None]), "text", ""),
    "day": (pa.array([datetime.date(2026, 2, 28), None]), "date", datetime.date(2026, 2, 28)),
    "at": (
        pa.array([datetime.datetime(2026, 2, 28, 1, 2, 3, 4, datetime.UTC), None], pa.timestamp("ns", "Asia/Tokyo")),
        "timestamp(6) NULL",
        datetime.datetime(2026, 2, 28, 1, 2, 3, 4),  # noqa: DTZ001
    ),
    "x": (pa.array([b"\x00\xff", None]), "blob", b"\x00\xff"),
    "l": (pa.array([["a", None], None]), "json", '["a",null]'),
    "s": (pa.array([{"n": 1}, None]), "json", '{"n":1}'),
    "j": (json_column(['{"a": 1.10}', None]), "json", '{"a": 1.10}'),
    "dic": (pa.array(["low", None]).dictionary_encode(), "varchar(9)", "low"),
    'odd % "name"': (pa.array(["x", None]), "varchar(9)", "x"),
}


def written(table: SqlTable, rows: pa.RecordBatch) -> None:
    sink = SqlSink(table, logging.getLogger("tests"))
    with sink:
        sink.begin(rows.schema)
        sink.write(rows)
        sink.finish()


def test_every_type_goes_in_and_comes_back(mysql: Any) -> None:
    typed = ", ".join(f"{quoted(name)} {sql_type}" for name, (_, sql_type, _) in VALUES.items())
    mysql.run(f"CREATE TABLE all_types (k int PRIMARY KEY, {typed})")
    columns = [pa.array([1, 2]), *(column for column, _, _ in VALUES.values()), pa.array(["succeeded", "failed"])]
    data = pa.RecordBatch.from_arrays(columns, names=["k", *VALUES, "status"])
    table = SqlTable("all_types", "my", key="k", columns=["k", *VALUES])
    for _ in range(2):
        written(table, data)
        first, second = mysql.rows("SELECT * FROM all_types ORDER BY k")
        assert dict(zip(VALUES, first[1:], strict=True)) == {name: value for name, (_, _, value) in VALUES.items()}
        assert set(second[1:]) == {None}


def test_a_long_statement_is_sent_in_parts(mysql: Any) -> None:
    mysql.run("CREATE TABLE t (k int PRIMARY KEY, label longtext, status varchar(20))")
    texts = [str(k) * 2_000_000 for k in range(9)]
    data = pa.RecordBatch.from_arrays(
        [pa.array(range(9)), pa.array(texts), pa.array(["succeeded"] * 9)], names=["k", "label", "status"]
    )
    written(SqlTable("t", "my", key="k"), data)
    assert mysql.rows("SELECT k, char_length(label) FROM t ORDER BY k") == [(k, 2_000_000) for k in range(9)]


@pytest.mark.parametrize(
    ("sql_type", "column", "problem"),
    [
        ("varchar(3)", pa.array(["too long: my secret"]), "Data too long for column"),
        ("int", pa.array(["my secret"]), "Incorrect integer value"),
        ("double", pa.array([math.nan]), "column 'v', row 0 is nan, which MySQL cannot hold"),
        ("datetime(6)", pa.array([1], pa.timestamp("ns")), "column 'v', rows 0 and on"),
        ("json", pa.array(["my secret {"]), "CONSTRAINT"),
        ("varchar(9) NOT NULL", pa.array([None], pa.string()), "cannot be null"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_not_cut(
    mysql: Any, sql_type: str, column: pa.Array, problem: str
) -> None:
    mysql.run(f"CREATE TABLE t (k int PRIMARY KEY, v {sql_type})")
    data = pa.RecordBatch.from_arrays([pa.array([1]), column, pa.array(["succeeded"])], names=["k", "v", "status"])
    with pytest.raises(InputError, match=problem) as told:
        written(SqlTable("t", "my", key="k", columns=["k", "v"]), data)
    assert "secret" not in str(told.value)
    assert "nothing is paid again" in str(told.value)
    assert mysql.rows("SELECT count(*) FROM t") == [(0,)]


def test_another_unique_index_is_not_taken_for_the_key(mysql: Any) -> None:
    """As ON DUPLICATE KEY would: it updates the row of whichever index is met first."""
    mysql.run("CREATE TABLE t (k int PRIMARY KEY, v varchar(9) UNIQUE)", "INSERT INTO t VALUES (1, 'a')")
    data = pa.RecordBatch.from_arrays(
        [pa.array([2]), pa.array(["a"]), pa.array(["succeeded"])], names=["k", "v", "status"]
    )
    with pytest.raises(InputError, match="Duplicate entry"):
        written(SqlTable("t", "my", key="k", columns=["k", "v"]), data)
    assert mysql.rows("SELECT * FROM t") == [(1, "a")]


@pytest.mark.parametrize(
    ("made", "given", "problem"),
    [
        ("(k int PRIMARY KEY, v int) ENGINE = MyISAM", {}, "no table of an engine with transactions"),
        ("(k int, v int, UNIQUE (k, v))", {}, "no primary key or unique index on just k"),
        ("(k int, v int, INDEX (k))", {}, "no primary key or unique index on just k"),
        ("(k int PRIMARY KEY, v int)", {"create": True}, "commits a CREATE TABLE by itself"),
    ],
)
def test_a_table_that_would_not_be_whole_or_not_at_all_is_refused_before_anything_is_paid(
    mysql: Any, made: str, given: dict[str, Any], problem: str
) -> None:
    mysql.run(f"CREATE TABLE t {made}")
    with pytest.raises(InputError, match=problem):
        SqlSink(SqlTable("tests.t", "my", key="k", **given), None).check(pa.schema([("k", pa.int64())]))


def test_other_databases_are_refused_before_anything_is_paid() -> None:
    with pytest.raises(InputError, match="MariaDB, SQLite and DuckDB, not through pymssql"):
        loader_of(type("Connection", (), {"__module__": "pymssql._pymssql"})(), None)
