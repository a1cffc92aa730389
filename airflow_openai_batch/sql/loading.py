"""Loading Arrow batches into a staging table, by what the driver of its database can do best."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import is_json
from airflow_openai_batch.sql.connecting import MYSQL_CLIENTS
from airflow_openai_batch.sql.loader import Loader, check_columns
from airflow_openai_batch.sql.mysql_loading import MysqlLoader
from airflow_openai_batch.sql.statements import STAGING, listed, quoted
from airflow_openai_batch.sql.values import python_values

if TYPE_CHECKING:
    import pyarrow as pa


def loader_of(connection: Any, hook: Any) -> Loader:
    """Return the loader for a connection.

    Raises:
        InputError: Its database is none of those that results can be written to.
    """
    match type(connection).__module__.partition(".")[0]:
        case "psycopg" | "psycopg2":
            from airflow_openai_batch.sql.postgres_loading import PostgresLoader

            return PostgresLoader(connection, hook)
        case "sqlite3":
            return SqliteLoader(connection, hook)
        case "duckdb" | "_duckdb":
            return DuckdbLoader(connection, hook)
        case module if module in MYSQL_CLIENTS:
            return MysqlLoader(connection, hook)
        case module:
            raise InputError(
                f"output: results can be written to PostgreSQL, MySQL, MariaDB, SQLite and DuckDB, not through "
                f"{module}. Write them to a .parquet file, and load that with your database's own means."
            )


class SqliteLoader(Loader):
    """SQLite: rows by ``executemany``; values are texts where SQLite has no type of its own."""

    boolean = "integer"

    def begin(self) -> None:
        """Begin the transaction, which takes DDL in too, unlike those that Python's module begins by itself."""
        self.connection.isolation_level = None
        self.connection.execute("BEGIN IMMEDIATE")

    def load(self, rows: pa.RecordBatch, first_row: int) -> int:
        """Append rows."""
        columns = [python_values(column, (int, float, bytes)) for column in rows.columns]
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {STAGING} ({listed(rows.schema.names)}) VALUES ({marks})"  # noqa: S608 - quoted
        try:
            self.connection.executemany(statement, zip(*columns, strict=True))
        except OverflowError:
            raise InputError(
                f"SqlTable: rows {first_row} to {first_row + rows.num_rows - 1} have a whole number of more than 64 "
                "bits with its sign, which SQLite cannot hold. Leave its column out (columns=…)."
            ) from None
        return 0

    def differs(self, column: str) -> str:
        """Return the condition; for numbers the collation means nothing."""
        old, new = (f"{table}.{quoted(column)} COLLATE BINARY" for table in ("target", "excluded"))
        return f"{old} IS DISTINCT FROM {new}"

    def type_of(self, arrow_type: pa.DataType) -> str:
        """Return the type of a column."""
        import pyarrow as pa

        if pa.types.is_integer(arrow_type) or pa.types.is_boolean(arrow_type):
            return "integer"
        return "real" if pa.types.is_floating(arrow_type) else "blob" if pa.types.is_binary(arrow_type) else "text"

    def uri(self, parts: tuple[str, ...]) -> str:
        """Return the table's address."""
        path = next((row[2] for row in self.connection.execute("PRAGMA database_list") if row[1] == "main"), "")
        return f"sqlite://{path}/{parts[-1]}"


class DuckdbLoader(Loader):
    """DuckDB: it reads Arrow by itself."""

    def begin(self) -> None:
        """Begin the transaction."""
        self.connection.begin()

    def execute(self, sql: str) -> int:
        """Run a statement. Returns how many rows it changed."""
        row = self.connection.execute(sql).fetchone()
        return int(row[0]) if row and isinstance(row[0], int) else 0

    def count(self, sql: str) -> int:
        """Return the number that a query yields."""
        return int(self.connection.execute(sql).fetchone()[0])

    def look_at(self, target: str, columns: Sequence[str]) -> None:
        """Refuse a table without one of the columns."""
        there = self.connection.execute(f"SELECT * FROM {target} WHERE 1 = 0").description  # noqa: S608 - quoted
        check_columns(target, columns, [column[0] for column in there])
        self._texts = frozenset(column[0] for column in there if column[1] == "VARCHAR")

    def differs(self, column: str) -> str:
        """Return the condition; of texts without their collation."""
        if column not in self._texts:
            return super().differs(column)
        return f"encode(target.{quoted(column)}) IS DISTINCT FROM encode(excluded.{quoted(column)})"

    def load(self, rows: pa.RecordBatch, first_row: int) -> int:
        """Append rows."""
        import pyarrow as pa

        plain = [column.storage if is_json(column.type) else column for column in rows.columns]
        table = pa.Table.from_arrays(plain, names=rows.schema.names)
        name = f"rows_{uuid.uuid4().hex}"
        self.connection.register(name, table)
        try:
            self.connection.execute(
                f"INSERT INTO {STAGING} ({listed(rows.schema.names)}) SELECT * FROM {name}"  # noqa: S608 - quoted
            )
        finally:
            self.connection.unregister(name)
        return 0

    def type_of(self, arrow_type: pa.DataType) -> str:
        """Return the type that DuckDB itself takes values of a type in Arrow for."""
        import duckdb
        import pyarrow as pa

        if is_json(arrow_type):
            return "json"
        empty = pa.table({"column": pa.array([], arrow_type)})
        return str(duckdb.from_arrow(empty).types[0])

    def uri(self, parts: tuple[str, ...]) -> str:
        """Return the table's address."""
        path = self.connection.execute(
            "SELECT coalesce(path, '') FROM duckdb_databases() WHERE database_name = current_database()"
        ).fetchone()
        return f"duckdb://{path[0] if path else ''}/{'/'.join(parts)}"
