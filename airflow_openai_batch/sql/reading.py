"""Reading the rows of a query as a stream, by what the driver of its database can do."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import BATCH_ROWS, empty_batch
from airflow_openai_batch.engine.requests.column_types import check_names
from airflow_openai_batch.engine.requests.tables import from_python, shown
from airflow_openai_batch.sql.connecting import MYSQL_CLIENTS, connected, errors_told, with_meaning

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.sql.query import SqlQuery

_PURPOSE = "rows"

_FETCHED_ROWS = 64
"""Rows that a driver is asked for at a time: few, because they may be whole documents."""

_MEANING = (
    "Nothing of these rows was sent or paid for, and what was sent before goes on. Mend the query or the connection "
    "and clear this task; what may pass by itself is tried again by Airflow's retries."
)


def read_query(query: SqlQuery) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a query; at least one record batch, which has the columns if there are no rows.

    Args:
        query: The query.

    Raises:
        InputError: The query is wrong, or a column has values that no prompt can show.
        DatabaseError: The database failed.
    """
    with (
        with_meaning(_MEANING),
        connected(query.conn_id, _PURPOSE) as connection,
        errors_told(query.conn_id, _PURPOSE),
    ):
        yield from _reader_of(connection)(connection, query)


def _reader_of(connection: Any) -> Any:
    match _driver_of(connection):
        case "psycopg" | "psycopg2":
            from airflow_openai_batch.sql.postgres_reading import read_postgres

            return read_postgres
        case "duckdb" | "_duckdb":
            return _read_duckdb
        case _:
            return _read_rows


def _read_duckdb(connection: Any, query: SqlQuery) -> Iterator[pa.RecordBatch]:
    """Yield the rows as DuckDB has them in Arrow."""
    connection.execute("BEGIN TRANSACTION READ ONLY")
    relation = connection.sql(query.sql, params=query.parameters)
    if relation is None:
        raise _no_query(query)
    reader = getattr(relation, "to_arrow_reader", None) or relation.fetch_record_batch
    with reader(BATCH_ROWS) as batches:
        check_names(batches.schema.names)
        yield from shown(_or_empty(batches, batches.schema))


def _or_empty(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    n_rows = 0
    for batch in batches:
        n_rows += batch.num_rows
        yield batch
    if not n_rows:
        yield empty_batch(schema)


def _read_rows(connection: Any, query: SqlQuery) -> Iterator[pa.RecordBatch]:
    """Yield the rows of any driver that follows PEP 249; their values decide the types. Nothing is ever committed."""
    import pyarrow as pa

    cursor = _streaming_cursor(connection)
    if (statement := _READ_ONLY.get(_driver_of(connection))) is not None:
        cursor.execute(statement)
    cursor.execute(query.sql) if query.parameters is None else cursor.execute(query.sql, query.parameters)
    if cursor.description is None:
        raise _no_query(query)
    names = [column[0] for column in cursor.description]
    check_names(names)
    n_rows = 0
    for batch in from_python(_dicts(cursor, names), endpoint="", ready=False):
        n_rows += batch.num_rows
        yield batch
    if not n_rows:
        yield empty_batch(pa.schema([(name, pa.null()) for name in names]))


_READ_ONLY = {
    "sqlite3": "PRAGMA query_only = ON",
    **dict.fromkeys(MYSQL_CLIENTS, "START TRANSACTION READ ONLY"),
}
"""What keeps a query from writing, by driver."""


def _streaming_cursor(connection: Any) -> Any:
    """Return a cursor that yields tuples as they come, where a driver's own fetches all rows when it executes."""
    driver = _driver_of(connection)
    if driver in ("MySQLdb", "pymysql"):
        return connection.cursor(importlib.import_module(f"{driver}.cursors").SSCursor)
    return connection.cursor()


def _driver_of(connection: Any) -> str:
    return type(connection).__module__.partition(".")[0]


def _dicts(cursor: Any, names: list[str]) -> Iterator[dict[str, Any]]:
    while rows := cursor.fetchmany(_FETCHED_ROWS):
        for row in rows:
            yield dict(zip(names, row, strict=True))


def _no_query(query: SqlQuery) -> InputError:
    return InputError(f"rows: {query.sql!r:.200} returns no rows. Give one query, such as a SELECT.")
