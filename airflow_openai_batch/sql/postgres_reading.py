"""Reading from PostgreSQL: a cursor on the server, whose texts become the column types that the server tells.

The texts are exact, where the drivers' own types are not: JSON numbers, numerics of any size, times with a zone. With
either driver it takes about half as long, too.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import BATCH_BYTES, BATCH_ROWS, empty_batch, n_bytes_of
from airflow_openai_batch.engine.requests.column_types import check_names
from airflow_openai_batch.engine.requests.tables import shown
from airflow_openai_batch.sql.postgres_types import PostgresColumn, column_of

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.sql.query import SqlQuery

_FIRST_ROWS = 64
"""Rows that the server is asked for first; how large they are tells how many may come at a time."""

_SESSION = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL timezone = 'UTC'; "
    "SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'iso_8601'; SET LOCAL bytea_output = 'hex'; "
    "SET LOCAL extra_float_digits = 1"
)
"""So that texts have one form whatever the database, the role or the connection sets."""


def read_postgres(connection: Any, query: SqlQuery) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a query, in one transaction that writes nothing.

    Args:
        connection: A connection of psycopg or psycopg2, as its hook makes it.
        query: The query.

    Raises:
        InputError: A column has a value that its type in Arrow cannot hold.
    """
    import pyarrow as pa

    driver = _Psycopg2(connection) if type(connection).__module__.startswith("psycopg2") else _Psycopg3(connection)
    sql = re.sub(r"[;\s]+\Z", "", query.sql)
    with driver.cursor() as cursor:
        cursor.execute(_SESSION)
        cursor.execute(_of_query("*", sql, " LIMIT 0"), query.parameters)
        columns = [column_of(*entry) for entry in driver.described(cursor, cursor.description)]
    check_names([column.name for column in columns])
    schema = pa.schema([(column.name, column.arrow_type) for column in columns])
    with driver.server_cursor() as cursor:
        # `to_json` only where a type has no form of its own in Arrow, so that the query mostly stays as it is.
        listed = ", ".join(map(_selected, columns))
        is_plain = not any(column.is_json_made for column in columns)
        cursor.execute(sql if is_plain else _of_query(listed, sql), query.parameters)
        yield from shown(_batches(cursor, columns, schema))


def _of_query(selected: str, sql: str, after: str = "") -> str:
    # On lines of its own: the query may end in a comment.
    return f"SELECT {selected} FROM (\n{sql}\n) AS query{after}"  # noqa: S608 - the user's own query


def _selected(column: PostgresColumn) -> str:
    quoted = '"' + column.name.replace('"', '""') + '"'
    # A cast tells psycopg2's placeholders nothing new, but a percent sign in a name would.
    return f"to_json({quoted}) AS {quoted}" if column.is_json_made else quoted


def _batches(cursor: Any, columns: Sequence[PostgresColumn], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    first_row, n_rows = 0, _FIRST_ROWS
    while rows := cursor.fetchmany(n_rows):
        texts = zip(*rows, strict=True)
        arrays = [column.array(list(values), first_row) for column, values in zip(columns, texts, strict=True)]
        batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
        yield batch
        first_row += len(rows)
        n_rows = max(1, min(BATCH_ROWS, 4 * n_rows, BATCH_BYTES * len(rows) // max(1, n_bytes_of(batch))))
    if not first_row:
        yield empty_batch(schema)


class _Psycopg3:
    """What is special to psycopg."""

    def __init__(self, connection: Any) -> None:
        from psycopg.types.string import TextLoader

        self._connection = connection
        for entry in connection.adapters.types:
            for oid in filter(None, (entry.oid, entry.array_oid)):
                connection.adapters.register_loader(oid, TextLoader)

    def cursor(self) -> Any:
        """Return a cursor that yields tuples, whatever the connection's extra says."""
        from psycopg.rows import tuple_row

        return self._connection.cursor(row_factory=tuple_row)

    def server_cursor(self) -> Any:
        """Return a cursor on the server, whose values are texts."""
        from psycopg.rows import tuple_row

        return self._connection.cursor(f"rows_{uuid.uuid4().hex}", row_factory=tuple_row)

    def described(self, cursor: Any, description: Any) -> list[tuple[str, str, int | None, int | None]]:
        """Return of each column its name, its type's name, and the digits of a numeric."""
        names = _type_names(cursor, [column.type_code for column in description])
        return [(c.name, names[c.type_code], c.precision, c.scale) for c in description]


class _Psycopg2:
    """What is special to psycopg2."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._oids: tuple[int, ...] = ()

    def cursor(self) -> Any:
        """Return a cursor that yields tuples, whatever the connection's extra says."""
        from psycopg2.extensions import cursor

        return self._connection.cursor(cursor_factory=cursor)

    def server_cursor(self) -> Any:
        """Return a cursor on the server, whose values are texts."""
        from psycopg2.extensions import cursor, new_type, register_type

        made = self._connection.cursor(f"rows_{uuid.uuid4().hex}", cursor_factory=cursor)
        register_type(new_type(self._oids, "TEXTS", lambda text, _: text), made)
        return made

    def described(self, cursor: Any, description: Any) -> list[tuple[str, str, int | None, int | None]]:
        """Return of each column its name, its type's name, and the digits of a numeric."""
        names = _type_names(cursor, [column.type_code for column in description])
        self._oids = (*names, _JSON_OID)
        return [(c.name, names[c.type_code], c.precision, c.scale) for c in description]


_JSON_OID = 114


def _type_names(cursor: Any, oids: Sequence[int]) -> dict[int, str]:
    """Return the names of types by their numbers, which of an extension's types differ from database to database."""
    if not oids:
        raise InputError("rows: the query has no columns.")
    numbers = ", ".join(str(int(oid)) for oid in set(oids))
    cursor.execute(f"SELECT oid::int8::text, typname::text FROM pg_type WHERE oid IN ({numbers})")  # noqa: S608 - integers
    return {int(oid): name for oid, name in cursor.fetchall()}
