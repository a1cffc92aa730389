"""Loading into MySQL and MariaDB: rows by ``executemany``, then joins, as ``ON CONFLICT (key)`` is not known there."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import importlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.sql.loader import Loader, Target
from airflow_openai_batch.sql.statements import IS_GOOD, STAGING, listed, quoted
from airflow_openai_batch.sql.values import python_values

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.sql.table import SqlTable

_SESSION = (
    # Names stand in double quotes, and a value that does not fit is refused in place of being cut or replaced.
    "SET SESSION sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES,STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE')",
    "SET SESSION time_zone = '+00:00'",
)

_KEPT = (int, float, decimal.Decimal, bytes, datetime.date, datetime.time)

_STATEMENT_BYTES = 1 << 20
"""Some clients make one statement of all rows, and a server takes 16 MB at most by default."""


class MysqlLoader(Loader):
    """MySQL and MariaDB, through any client of the provider. Tables of an engine with transactions."""

    boolean = "signed"

    def begin(self) -> None:
        """Begin the transaction."""
        self.hook.set_autocommit(self.connection, False)
        for statement in _SESSION:
            self.execute(statement)

    def execute(self, sql: str) -> int:
        """Run a statement. Returns how many rows it changed."""
        with self._cursor() as cursor:
            cursor.execute(sql)
            return max(0, int(cursor.rowcount))

    def count(self, sql: str) -> int:
        """Return the number that a query yields."""
        return int(self._rows(sql)[0][0])

    def refuse(self, table: SqlTable) -> None:
        """Refuse to create a table: MySQL would keep it whatever becomes of the rest.

        Raises:
            InputError: It is asked for.
        """
        if table.create:
            raise InputError(
                f"SqlTable: MySQL commits a CREATE TABLE by itself, so create=True is not for it. Create {table.table} "
                "with a unique key, and leave create out."
            )

    def look_at(self, target: str, columns: Sequence[str]) -> None:
        """Refuse a table that lacks columns, or one whose engine has no transactions."""
        super().look_at(target, columns)
        if not self.count(
            "SELECT count(*) FROM information_schema.tables JOIN information_schema.engines USING (engine) "  # noqa: S608
            f"WHERE transactions = 'YES' AND {self._is_this(target)}"
        ):
            raise InputError(
                f"SqlTable: {target} is no table of an engine with transactions, such as InnoDB: a worker that dies "
                "would leave a part of the results in it."
            )

    def check_rights(self, target: Target) -> None:
        """Refuse a table that could not be written, by statements that write nothing."""
        if target.key and not self._has_unique(target):
            raise InputError(
                f"SqlTable: {target.name} has no primary key or unique index on just {', '.join(target.key)}, so two "
                "workers could write the same rows twice. Create one."
            )
        names = listed(target.columns)
        self.execute(f"INSERT INTO {target.name} ({names}) SELECT {names} FROM {target.name} WHERE 1 = 0")  # noqa: S608
        if target.updated:
            column = quoted(target.updated[0])
            self.execute(f"UPDATE {target.name} SET {column} = {column} WHERE 1 = 0")  # noqa: S608 - quoted
        if target.is_deleted_from:
            self.execute(f"DELETE FROM {target.name} WHERE 1 = 0")  # noqa: S608 - quoted

    def stage(self, target: str, schema: pa.Schema) -> None:
        """Create the staging table: by an outer join, whose columns may all be null."""
        own = [f"target.{quoted(name)}" for name in schema.names]
        own.append(f"CAST(NULL AS {self.boolean}) AS {IS_GOOD}")
        self.execute(
            f"CREATE TEMPORARY TABLE {STAGING} AS SELECT {', '.join(own)} FROM (SELECT 1) AS one "  # noqa: S608
            f"LEFT JOIN {target} AS target ON 1 = 0 WHERE 1 = 0"
        )

    def load(self, rows: pa.RecordBatch, first_row: int) -> int:
        """Append rows."""
        columns = [
            _mysql_values(column, name, first_row) for name, column in zip(rows.schema.names, rows.columns, strict=True)
        ]
        marks = ", ".join(["%s"] * len(columns))
        names = listed(rows.schema.names).replace("%", "%%")
        statement = f"INSERT INTO {STAGING} ({names}) VALUES ({marks})"  # noqa: S608 - quoted
        with self._cursor() as cursor:
            for chunk in _chunks(zip(*columns, strict=True)):
                try:
                    cursor.executemany(statement, chunk)
                except UnicodeEncodeError as error:
                    raise InputError(
                        f"SqlTable: a text of rows {first_row} to {first_row + rows.num_rows - 1} cannot be sent in "
                        f"the character set of the connection ({error.encoding}). Give the connection's extra "
                        '"charset": "utf8mb4".'
                    ) from None
        return 0

    def insert(self, target: Target) -> int:
        """Bring the staged rows into the table. Returns how many were added or changed."""
        good = f" AND staging.{IS_GOOD}" if target.only_good else ""
        n_changed = 0
        if target.updated:
            values = ", ".join(f"target.{quoted(name)} = staging.{quoted(name)}" for name in target.updated)
            differs = " OR ".join(self.differs(name) for name in target.updated)
            n_changed += self.execute(
                f"UPDATE {target.name} AS target JOIN {STAGING} AS staging ON {_same(target)} SET {values} "  # noqa: S608
                f"WHERE ({differs}){good}"
            )
        new = f"INSERT INTO {target.name} ({listed(target.columns)}) SELECT {listed(target.columns, 'staging.')} "
        if not target.key:
            return n_changed + self.execute(f"{new} FROM {STAGING} AS staging WHERE 1 = 1{good}")
        missing = f"NOT EXISTS (SELECT 1 FROM {target.name} AS target WHERE {_same(target)})"  # noqa: S608 - quoted
        return n_changed + self.execute(f"{new} FROM {STAGING} AS staging WHERE {missing}{good}")

    def differs(self, column: str) -> str:
        """Return the condition; as bytes too, since most collations take ``Good`` and ``good`` for equal."""
        old, new = f"target.{quoted(column)}", f"staging.{quoted(column)}"
        return f"NOT {old} <=> {new} OR NOT CAST({old} AS BINARY) <=> CAST({new} AS BINARY)"

    def delete_vanished(self, target: Target) -> int:
        """Delete what no staged row has the key of. Returns how many rows."""
        return self.execute(
            f"DELETE target FROM {target.name} AS target LEFT JOIN {STAGING} AS staging ON {_same(target)} "
            f"WHERE staging.{quoted(target.key[0])} IS NULL"
        )

    def drop_staging(self) -> None:
        """Drop the staging table. Without the word, MySQL would commit here."""
        self.execute(f"DROP TEMPORARY TABLE {STAGING}")

    def type_of(self, arrow_type: pa.DataType) -> str:
        """Never asked: tables are not created."""
        raise NotImplementedError

    def uri(self, parts: tuple[str, ...]) -> str:
        """Return the table's address, in the form of Airflow's assets."""
        connection = self.hook.get_connection(self.hook.get_conn_id())
        database = parts[0] if len(parts) > 1 else self._rows("SELECT database()")[0][0]
        return f"mysql://{connection.host or 'localhost'}:{connection.port or 3306}/{database}/{parts[-1]}"

    def _has_unique(self, target: Target) -> bool:
        rows = self._rows(
            "SELECT index_name, column_name FROM information_schema.statistics "  # noqa: S608 - quoted
            f"WHERE non_unique = 0 AND {self._is_this(target.name)}"
        )
        indexes: dict[str, set[str]] = {}
        for index, column in rows:
            indexes.setdefault(index, set()).add(column.casefold())
        return {name.casefold() for name in target.key} in indexes.values()

    def _is_this(self, target: str) -> str:
        """Return the condition of the information schema's rows about a table."""
        *database, table = (part.replace('""', '"') for part in target[1:-1].split('"."'))
        schema = _literal(database[-1]) if database else "database()"
        return f"table_schema = {schema} AND table_name = {_literal(table)}"

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    @contextlib.contextmanager
    def _cursor(self) -> Iterator[Any]:
        """Give a cursor that yields tuples, whatever the connection's extra says."""
        driver = type(self.connection).__module__.partition(".")[0]
        plain = () if driver == "mysql" else (importlib.import_module(f"{driver}.cursors").Cursor,)
        with contextlib.closing(self.connection.cursor(*plain)) as cursor:
            yield cursor


def _same(target: Target) -> str:
    """Return the condition of a staged row and a row of the table with the same key."""
    return " AND ".join(f"target.{quoted(name)} = staging.{quoted(name)}" for name in target.key)


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def _mysql_values(column: pa.Array, name: str, first_row: int) -> list[Any]:
    """Return values as the clients take them; a moment with a zone in UTC, which the session's zone is."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        try:
            column = column.cast(pa.timestamp("us", column.type.tz))
        except pa.ArrowInvalid as error:
            raise InputError(f"SqlTable: column {name!r}, rows {first_row} and on: {error}") from None
    return [_mysql_value(value, name, first_row + i) for i, value in enumerate(python_values(column, _KEPT))]


def _mysql_value(value: Any, name: str, row: int) -> Any:
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.astimezone(datetime.UTC).replace(tzinfo=None)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(
            f"SqlTable: column {name!r}, row {row} is {value}, which MySQL cannot hold. Leave the column out with "
            "columns=…."
        )
    return value


def _chunks(rows: Iterator[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """Yield rows in lists of which none is much longer in bytes than a statement may be; a row is never divided."""
    chunk: list[tuple[Any, ...]] = []
    n_bytes = 0
    for row in rows:
        chunk.append(row)
        n_bytes += sum(4 * len(value) if isinstance(value, str | bytes) else 30 for value in row)
        if n_bytes >= _STATEMENT_BYTES:
            yield chunk
            chunk, n_bytes = [], 0
    if chunk:
        yield chunk
