"""Loading into PostgreSQL: Arrow writes CSV, and the server reads it by COPY, which checks every value's type."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import is_json
from airflow_openai_batch.sql.loader import Loader, Target, check_columns
from airflow_openai_batch.sql.postgres_csv import csv_column
from airflow_openai_batch.sql.postgres_vectors import VectorColumn, numbered, vector_columns, wrong_dimensions
from airflow_openai_batch.sql.statements import STAGING, create_staging, listed, quoted

if TYPE_CHECKING:
    import pyarrow as pa

_UNEQUALLED = frozenset({"json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle", "citext"})
"""Types that have no equality, or one that takes different texts for equal."""

_SESSION = "SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL synchronous_commit = on"


class PostgresLoader(Loader):
    """PostgreSQL, through psycopg or psycopg2.

    Args:
        connection: The connection, as its hook makes it.
        hook: The hook.
    """

    def __init__(self, connection: Any, hook: Any) -> None:
        super().__init__(connection, hook)
        self._is_psycopg2 = type(connection).__module__.startswith("psycopg2")
        self._types: dict[str, tuple[str, int]] = {}
        self._compared_as_text: frozenset[str] = frozenset()
        self._vectors: list[VectorColumn] = []

    def begin(self) -> None:
        """Begin the transaction."""
        self.execute(_SESSION)

    def execute(self, sql: str) -> int:
        """Run a statement. Returns how many rows it changed."""
        with self._cursor() as cursor:
            cursor.execute(sql)
            return max(0, int(cursor.rowcount))

    def count(self, sql: str) -> int:
        """Return the number that a query yields."""
        with self._cursor() as cursor:
            cursor.execute(sql)
            return int(cursor.fetchone()[0])

    def look_at(self, target: str, columns: Sequence[str]) -> None:
        """Learn the types of the table's columns."""
        with self._cursor() as cursor:
            cursor.execute(
                "SELECT attname::text, typname::text, atttypmod, pg_type_is_visible(pg_type.oid), "
                "coalesce(to_jsonb(pg_collation)->>'collisdeterministic', 'true')::boolean FROM pg_attribute "
                "JOIN pg_type ON pg_type.oid = atttypid LEFT JOIN pg_collation ON pg_collation.oid = attcollation "
                "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                [target],
            )
            rows = cursor.fetchall()
        self._types = {name: (type_name, int(modifier)) for name, type_name, modifier, _, _ in rows}
        check_columns(target, columns, list(self._types))
        # An extension's type that the search path does not lead to has its operators where that does not lead either.
        self._compared_as_text = frozenset(
            name for name, type_name, _, seen, is_exact in rows if type_name in _UNEQUALLED or not seen or not is_exact
        )

    def differs(self, column: str) -> str:
        """Return the condition; by the texts where the type or its collation does not tell."""
        if column not in self._compared_as_text:
            return super().differs(column)
        old, new = (f'CAST({table}.{quoted(column)} AS text) COLLATE "C"' for table in ("target", "excluded"))
        return f"{old} IS DISTINCT FROM {new}"

    def check_vectors(self, schema: pa.Schema, embeddings: str | None, n: int | None) -> None:
        """Refuse a table whose column for embeddings has another dimension.

        Args:
            schema: The columns, by their names in the table.
            embeddings: The column that embeddings go to, if one does.
            n: How many numbers an embedding has; None if that is not known.
        """
        for column in vector_columns(schema, self._types):
            if column.name == embeddings and n is not None and column.dimensions not in (None, n):
                raise wrong_dimensions(column, n, "the embeddings will have")

    def stage(self, target: str, schema: pa.Schema) -> None:
        """Create the staging tables: vectors have their own."""
        self._vectors = vector_columns(schema, self._types)
        elsewhere = [column.name for column in self._vectors]
        rest = [name for name in schema.names if name not in elsewhere]
        self.execute(create_staging(target, rest, self.boolean, is_numbered=bool(elsewhere)))
        self.staging = [STAGING, *(column.staging for column in self._vectors)]
        for column in self._vectors:
            self.execute(column.create_staging(target))
            self.source = column.joined(self.source)

    def load(self, rows: pa.RecordBatch, first_row: int) -> int:
        """Append rows."""
        if self._vectors:
            rows, copies, n = numbered(rows, self._vectors, first_row)
            self.n_not_finite += n
            for sql, content in copies:
                self._copy(sql, io.BytesIO(content))
        return self._load_plain(rows, first_row)

    def _load_plain(self, rows: pa.RecordBatch, first_row: int) -> int:
        import pyarrow as pa
        import pyarrow.csv as pa_csv

        columns, n_replaced = [], 0
        for name, column in zip(rows.schema.names, rows.columns, strict=True):
            try:
                text, n = csv_column(column, self._types.get(name, ("", -1))[0])
            except pa.ArrowInvalid as error:
                raise InputError(f"SqlTable: column {name!r}, rows {first_row} and on: {error}") from None
            columns.append(text)
            n_replaced += n
        buffer = io.BytesIO()
        table = pa.Table.from_arrays(columns, names=rows.schema.names)
        pa_csv.write_csv(table, buffer, pa_csv.WriteOptions(include_header=False))
        self._copy(f"COPY {STAGING} ({listed(rows.schema.names)}) FROM STDIN (FORMAT csv)", buffer)
        return n_replaced

    def empty(self, target: Target) -> int:
        """Remove all rows. Readers go on; another who replaces them waits, and then sees and removes ours."""
        self.execute(f"LOCK TABLE {target.name} IN SHARE ROW EXCLUSIVE MODE")
        return super().empty(target)

    def type_of(self, arrow_type: pa.DataType) -> str:
        """Return the type of a column."""
        import pyarrow as pa

        types = pa.types
        if types.is_list(arrow_type) or types.is_large_list(arrow_type):
            inner = self.type_of(arrow_type.value_type)
            return "jsonb" if inner in ("jsonb", "bytea") else f"{inner}[]"
        if types.is_decimal(arrow_type):
            return f"numeric({arrow_type.precision}, {arrow_type.scale})"
        if types.is_timestamp(arrow_type):
            return "timestamp" if arrow_type.tz is None else "timestamptz"
        for is_one, sql_type in (
            (is_json, "jsonb"),
            (types.is_boolean, "boolean"),
            (types.is_uint64, "numeric(20)"),
            (types.is_integer, "bigint"),
            (types.is_float32, "real"),
            (types.is_floating, "double precision"),
            (types.is_date, "date"),
            (types.is_time, "time"),
            (types.is_binary, "bytea"),
            (types.is_large_binary, "bytea"),
            (types.is_struct, "jsonb"),
            (types.is_map, "jsonb"),
        ):
            if is_one(arrow_type):
                return sql_type
        return "text"

    def embedding_type(self, arrow_type: pa.DataType, target: str) -> str:
        """Return pgvector's type. A table that is there has a type of its own, which may be another."""
        if self._schema_of_pgvector() is None and self.count(f"SELECT count(to_regclass({_literal(target)}))"):
            return self.type_of(arrow_type)
        return self._pgvector("vector")

    def finish_table(self, target: str) -> None:
        """Give columns of vectors the dimension of those that came, which an index on them needs."""
        for column in self._vectors:
            if column.dimensions is not None or not column.seen:
                continue
            if self.count(f"SELECT count(*) FROM (SELECT 1 FROM {target} LIMIT 1) AS rows"):  # noqa: S608 - quoted
                continue
            sql_type = f"{self._pgvector(column.type_name)}({column.dimensions_seen()})"
            self.execute(f"ALTER TABLE {target} ALTER COLUMN {quoted(column.name)} TYPE {sql_type}")

    def _pgvector(self, type_name: str) -> str:
        """Return the name of a type of pgvector with its schema, which need not be in the search path."""
        schema = self._schema_of_pgvector()
        if schema is None:
            raise InputError(
                "SqlTable: create=True makes a column of the type vector for embeddings, and this database has no "
                "pgvector. Install it on the server and run CREATE EXTENSION vector in the database, or create the "
                "table yourself with a column of another type, such as real[]."
            )
        return f"{schema}.{type_name}"

    def _schema_of_pgvector(self) -> str | None:
        with self._cursor() as cursor:
            cursor.execute(
                "SELECT quote_ident(nspname)::text FROM pg_extension "
                "JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'vector'"
            )
            row = cursor.fetchone()
        return None if row is None else str(row[0])

    def uri(self, parts: tuple[str, ...]) -> str:
        """Return the table's address, in the form of Airflow's assets."""
        with self._cursor() as cursor:
            cursor.execute("SELECT current_database()::text, current_schema()::text")
            database, schema = cursor.fetchone()
        connection = self.hook.get_connection(self.hook.get_conn_id())
        named = parts if len(parts) == 3 else (database, *parts) if len(parts) == 2 else (database, schema, *parts)
        place = "/".join(named)
        return f"postgres://{connection.host or 'localhost'}:{connection.port or 5432}/{place}"

    def _cursor(self) -> Any:
        """Return a cursor that yields tuples, whatever the connection's extra says."""
        if self._is_psycopg2:
            from psycopg2.extensions import cursor

            return self.connection.cursor(cursor_factory=cursor)
        from psycopg.rows import tuple_row

        return self.connection.cursor(row_factory=tuple_row)

    def _copy(self, sql: str, content: io.BytesIO) -> None:
        with self._cursor() as cursor:
            if self._is_psycopg2:
                content.seek(0)
                cursor.copy_expert(sql, content)
                return
            with cursor.copy(sql) as copy:
                copy.write(content.getbuffer())


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
