"""Rows of MySQL and its kin, where a server and the provider are installed: as a stream, which the drivers' own is not.

``apt-get install mariadb-server-core`` and ``pip install apache-airflow-providers-mysql``.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.sql import SqlQuery, SqlTable
from airflow_openai_batch.sql.sink import SqlSink
from airflow_openai_batch.sql.source import SqlSource


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a MariaDB."""
    drivers = pytest.importorskip("MySQLdb")
    pytest.importorskip("airflow.providers.mysql")
    server, install = (shutil.which(name, path="/usr/sbin:/usr/bin") for name in ("mariadbd", "mariadb-install-db"))
    if server is None or install is None:
        pytest.skip("no MariaDB server on this machine")
    folder = tmp_path_factory.mktemp("m")
    here = ("--no-defaults", f"--datadir={folder}/data", *(["--user=root"] if os.geteuid() == 0 else []))
    subprocess.run([install, *here, "--auth-root-authentication-method=normal"], check=True, capture_output=True)
    path = folder / "s"
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen([server, *here, f"--socket={path}", "--skip-networking"], stdout=log, stderr=log) as process,
    ):
        deadline = time.monotonic() + 120
        while True:
            try:
                drivers.connect(unix_socket=str(path), user="root").close()
                break
            except drivers.OperationalError:
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
        yield path
        process.terminate()


@pytest.fixture(params=[{}, {"cursor": "dictcursor"}], ids=str)
def mysql(request: Any, socket: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A connection, with a cursor of its own to make tables with."""
    import MySQLdb

    extra = {"unix_socket": str(socket), "charset": "utf8mb4", **request.param}
    given = {"conn_type": "mysql", "host": "localhost", "login": "root", "schema": "tests", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_MY", json.dumps(given))
    with contextlib.closing(MySQLdb.connect(unix_socket=str(socket), user="root", charset="utf8mb4")) as connection:
        connection.autocommit(True)
        cursor = connection.cursor()
        cursor.execute("DROP DATABASE IF EXISTS tests")
        cursor.execute("CREATE DATABASE tests CHARACTER SET utf8mb4")
        cursor.execute("USE tests")
        yield cursor


def batches(sql: str, parameters: Any = None) -> Iterator[Any]:
    return SqlSource(SqlQuery(sql, "my", parameters)).batches()


def rows(sql: str, parameters: Any = None) -> list[dict[str, Any]]:
    return [row for batch in batches(sql, parameters) for row in batch.to_pylist()]


def test_values_come_as_they_are(mysql: Any) -> None:
    mysql.execute(
        "CREATE TABLE t (i bigint unsigned, d decimal(10, 2), f double, s varchar(20), b blob, day date, "
        "at datetime(6))"
    )
    mysql.execute(
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


def test_rows_stay_on_the_server_until_they_are_read(mysql: Any) -> None:
    source = batches("SELECT seq AS id, repeat('x', 1000) AS text FROM seq_1_to_100000")
    assert next(source).num_rows == 4096
    mysql.execute(
        "SELECT state FROM information_schema.processlist WHERE info LIKE '%seq_1_to_100000%' AND id <> connection_id()"
    )
    assert mysql.fetchall(), "the query still runs"
    assert sum(batch.num_rows for batch in source) == 100_000 - 4096


def test_a_query_never_writes_and_a_wrong_one_is_no_reason_for_a_retry(mysql: Any) -> None:
    mysql.execute("CREATE TABLE t (id int)")
    for sql, problem in (("INSERT INTO t VALUES (1)", "(?i)read only"), ("SELEC 1", "syntax"), ("TABLE", "syntax")):
        with pytest.raises(InputError, match=problem):
            rows(sql)
    mysql.execute("SELECT count(*) FROM t")
    assert mysql.fetchall() == ((0,),)


def test_results_are_not_written_there_and_it_is_said_before_anything_is_paid(mysql: Any) -> None:
    import pyarrow as pa

    with pytest.raises(InputError, match="written to PostgreSQL, SQLite and DuckDB, not through MySQLdb"):
        SqlSink(SqlTable("t", "my", key="id"), None).check(pa.schema([("id", pa.int64())]))
