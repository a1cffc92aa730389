"""What a connection says reaches the server: encryption, options. And what rows say reaches no log."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from airflow_openai_batch.engine.errors import DatabaseError, InputError
from airflow_openai_batch.sql import SqlQuery, SqlTable
from airflow_openai_batch.sql.sink import SqlSink
from airflow_openai_batch.sql.source import SqlSource

SECRET = "a private diagnosis"


def certificate() -> tuple[str, str]:
    """Return a certificate of a server called ``database.example``, signed by itself, and its key, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "database.example")])
    today = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(today).not_valid_after(today + datetime.timedelta(36_500))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    own_key = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    return builder.sign(key, hashes.SHA256()).public_bytes(pem).decode(), own_key.decode()


@pytest.fixture(scope="module")
def encrypted(system_postgres: int, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """The port of a PostgreSQL that speaks TLS, and its certificate."""
    path = tmp_path_factory.mktemp("encrypted") / "root.crt"
    path.write_text(_with_tls(system_postgres))
    return system_postgres, path


def _with_tls(port: int) -> str:
    """Let a server speak TLS. Returns its certificate."""
    import psycopg2

    texts = dict(zip(("server.crt", "server.key"), certificate(), strict=True))
    with contextlib.closing(psycopg2.connect(host="127.0.0.1", port=port, user="airflow")) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("SHOW data_directory")
        place = cursor.fetchone()[0]
        for name, text in texts.items():  # written by the server, whose own the key must be
            cursor.execute(f"COPY (SELECT unnest(%s::text[])) TO '{place}/{name}'", [text.splitlines()])
        Path(place, "server.key").chmod(0o600)
        cursor.execute("ALTER SYSTEM SET ssl = on")
        cursor.execute("SELECT pg_reload_conf()")
    _wait_for_tls(port)
    return texts["server.crt"]


def _wait_for_tls(port: int) -> None:
    """A server reads its settings anew some time after it is told to."""
    import psycopg2

    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg2.connect(host="127.0.0.1", port=port, user="airflow", sslmode="require").close()
        except psycopg2.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


@pytest.fixture(params=["psycopg", "psycopg2"])
def connect(request: Any, encrypted: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes the connection ``tls``, by either driver."""
    from airflow.providers.postgres.hooks import postgres as hooks

    if request.param == "psycopg" and not getattr(hooks, "USE_PSYCOPG3", False):
        pytest.skip("this hook does not use psycopg")
    monkeypatch.setattr(hooks, "USE_PSYCOPG3", request.param == "psycopg", raising=False)

    def made(**extra: str) -> None:
        given = {"conn_type": "postgres", "host": "127.0.0.1", "port": encrypted[0], "login": "airflow"}
        monkeypatch.setenv("AIRFLOW_CONN_TLS", json.dumps({**given, "schema": "airflow", "extra": extra}))

    return made


def read(sql: str, conn_id: str = "tls") -> list[dict[str, Any]]:
    return [row for batch in SqlSource(SqlQuery(sql, conn_id)).batches() for row in batch.to_pylist()]


IS_ENCRYPTED = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


def test_sslmode_and_options_reach_the_server(connect: Callable[..., None], encrypted: tuple[int, Path]) -> None:
    connect(sslmode="require", options="-c statement_timeout=54321")
    assert read(IS_ENCRYPTED) == [{"ssl": True}]
    assert read("SELECT current_setting('statement_timeout') AS n") == [{"n": "54321ms"}]
    connect(sslmode="verify-ca", sslrootcert=str(encrypted[1]))
    assert read(IS_ENCRYPTED) == [{"ssl": True}]
    connect(sslmode="disable")
    assert read(IS_ENCRYPTED) == [{"ssl": False}]


def test_a_server_that_is_not_who_it_should_be_is_not_talked_to(
    connect: Callable[..., None], encrypted: tuple[int, Path]
) -> None:
    connect(sslmode="verify-full", sslrootcert=str(encrypted[1]))
    with pytest.raises(DatabaseError, match=r"server certificate for .* does not match host name"):
        read(IS_ENCRYPTED)
    with pytest.raises(DatabaseError, match=r"does not match host name.*no answer is lost"):
        SqlSink(SqlTable("t", "tls", key="id"), logging.getLogger("test")).check(pa.schema([("id", pa.int64())]))
    connect(sslmode="verify-full", sslrootcert="/nowhere/root.crt")
    with pytest.raises(DatabaseError, match=r"root certificate file .* does not exist"):
        read(IS_ENCRYPTED)


def test_a_statement_that_takes_too_long_is_ended_by_the_server(connect: Callable[..., None]) -> None:
    connect(options="-c statement_timeout=50")
    with pytest.raises(DatabaseError, match=r"statement timeout \(SQLSTATE 57014\)"):
        read("SELECT pg_sleep(600)")


def test_a_table_is_written_over_an_encrypted_connection(connect: Callable[..., None]) -> None:
    connect(sslmode="require")
    log = logging.getLogger("test")
    rows = pa.RecordBatch.from_arrays([pa.array([1]), pa.array(["succeeded"])], names=["id", "status"])
    with SqlSink(SqlTable("made", "tls", mode="replace", create=True), log) as sink:
        sink.begin(rows.schema)
        sink.write(rows)
        sink.finish()
    assert read("SELECT * FROM made") == [{"id": 1, "status": "succeeded"}]


def test_nothing_of_the_rows_is_logged(database: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("airflow").propagate = True
    database.run("CREATE TABLE labels (id integer PRIMARY KEY, label varchar(50) UNIQUE)")
    log = logging.getLogger("airflow.task")
    table = SqlTable("labels", database.conn_id, key=["id"], columns=["id", "label"])

    def write(*labels: str) -> None:
        columns = [pa.array(range(len(labels))), pa.array(labels), pa.array(["succeeded"] * len(labels))]
        rows = pa.RecordBatch.from_arrays(columns, names=["id", "label", "status"])
        with SqlSink(table, log) as sink:
            sink.begin(rows.schema)
            sink.write(rows)
            sink.finish()

    write(SECRET, "x\0y")
    assert [row["label"] for row in read("SELECT * FROM labels WHERE id = 0", database.conn_id)] == [SECRET]
    with pytest.raises(InputError, match=r"(?i)unique|duplicate") as told:
        write("other", SECRET, SECRET)
    with pytest.raises(InputError) as told_of_query:
        read("SELECT CAST(label AS integer) / 0, nope FROM labels", database.conn_id)
    assert "rows of results" in caplog.text, "what is logged is heard here"
    assert SECRET not in caplog.text + str(told.value) + str(told_of_query.value)
