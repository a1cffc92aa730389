"""What writing to every database has in common; each has a loader of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.sql import statements
from airflow_openai_batch.sql.statements import STAGING, create_staging

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.sql.table import SqlTable


@dataclasses.dataclass(frozen=True)
class Target:
    """What of the results is written, and where.

    Args:
        table: The table, as the user gave it.
        columns: The columns that are written, by their names in the table.
        only_good: Whether rows without a good answer are left out.
    """

    table: SqlTable
    columns: tuple[str, ...]
    only_good: bool

    @property
    def name(self) -> str:
        """The table's name, quoted."""
        return statements.quoted(*self.table.parts)

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that tell rows apart; none where all rows are replaced."""
        return self.table.keys if self.table.mode != "replace" else ()

    @property
    def updated(self) -> tuple[str, ...]:
        """The columns that change in rows which are there."""
        is_upsert = self.table.mode == "upsert"
        return tuple(name for name in self.columns if name not in self.key) if is_upsert else ()

    @property
    def is_deleted_from(self) -> bool:
        """Whether rows of the table may be deleted."""
        return self.table.mode == "replace" or self.table.delete_vanished


class Loader:
    """What writing to every database has in common.

    Args:
        connection: The connection, as its hook makes it.
        hook: The hook.

    Attributes:
        staging: The staging tables.
        source: What the rows are selected from, once they are staged.
        n_not_finite: Number of vectors with NaN or an infinity, which count as no good answer.
    """

    boolean = "boolean"
    staging: Sequence[str] = (STAGING,)
    source = STAGING
    n_not_finite = 0

    def __init__(self, connection: Any, hook: Any) -> None:
        self.connection, self.hook = connection, hook

    def begin(self) -> None:
        """Begin the transaction."""

    def execute(self, sql: str) -> int:
        """Run a statement. Returns how many rows it changed."""
        cursor = self.connection.cursor()
        cursor.execute(sql)
        n: int = cursor.rowcount
        cursor.close()
        return n

    def count(self, sql: str) -> int:
        """Return the number that a query yields."""
        cursor = self.connection.cursor()
        cursor.execute(sql)
        n: int = cursor.fetchone()[0]
        return n

    def refuse(self, table: SqlTable) -> None:
        """Refuse what the database cannot do.

        Raises:
            InputError: It is asked for.
        """

    def look_at(self, target: str, columns: Sequence[str]) -> None:
        """Refuse a table without one of the columns.

        Raises:
            InputError: With the columns that there are.
        """
        cursor = self.connection.cursor()
        cursor.execute(f"SELECT * FROM {target} WHERE 1 = 0")  # noqa: S608 - quoted
        check_columns(target, columns, [column[0] for column in cursor.description])
        cursor.fetchall()  # some clients want every result read

    def check_rights(self, target: Target) -> None:
        """Refuse a table that could not be written, by statements that write nothing.

        Raises:
            Exception: The driver's, if there is no unique key or a right is missing.
        """
        self.execute(self._insert(target, source=target.name, condition="1 = 0"))
        if target.is_deleted_from:
            self.execute(f"DELETE FROM {target.name} WHERE 1 = 0")  # noqa: S608 - quoted

    def check_vectors(self, schema: pa.Schema, embeddings: str | None, n: int | None) -> None:
        """Refuse a table whose columns hold no such vectors, as far as it is known before there are any.

        Args:
            schema: The columns, by their names in the table.
            embeddings: The column that embeddings go to, if one does.
            n: How many numbers an embedding has; None if that is not known.

        Raises:
            InputError: It does.
        """

    def stage(self, target: str, schema: pa.Schema) -> None:
        """Create the staging table.

        Args:
            target: The target's name, quoted.
            schema: The columns, by their names in the table.
        """
        self.execute(create_staging(target, schema.names, self.boolean))

    def load(self, rows: pa.RecordBatch, first_row: int) -> int:
        """Append rows to the staging table. Returns how many texts had characters that were replaced.

        Args:
            rows: The rows, with the staging table's columns.
            first_row: The ordinal of the first one, for error messages.
        """
        raise NotImplementedError

    def empty(self, target: Target) -> int:
        """Remove all rows of the table. Returns how many there were."""
        return self.execute(f"DELETE FROM {target.name}")  # noqa: S608 - quoted

    def insert(self, target: Target) -> int:
        """Bring the staged rows into the table. Returns how many were added or changed."""
        return self.execute(self._insert(target, self.source))

    def _insert(self, target: Target, source: str, condition: str = "1 = 1") -> str:
        return statements.insert(
            target.name,
            target.columns,
            target.key,
            differs=self.differs if target.updated else None,
            only_good=target.only_good and source != target.name,
            source=source,
            condition=condition,
        )

    def differs(self, column: str) -> str:
        """Return the condition that a column of ``target`` is another than that of ``excluded``, to the last bit.

        Args:
            column: Its name. Its collation may take texts for equal that are not, such as ``Good`` and ``good``.
        """
        return f"target.{statements.quoted(column)} IS DISTINCT FROM excluded.{statements.quoted(column)}"

    def delete_vanished(self, target: Target) -> int:
        """Delete what no staged row has the key of. Returns how many rows."""
        return self.execute(statements.delete_vanished(target.name, target.key))

    def drop_staging(self) -> None:
        """Drop the staging tables."""
        for name in self.staging:
            self.execute(f"DROP TABLE {name}")

    def type_of(self, arrow_type: pa.DataType) -> str:
        """Return the type of a column that is created for values of a type in Arrow."""
        raise NotImplementedError

    def embedding_type(self, arrow_type: pa.DataType, target: str) -> str:
        """Return the type of a column that is created for embeddings, where the table is not there.

        Args:
            arrow_type: Their type in Arrow.
            target: The table's name, quoted.

        Raises:
            InputError: The database has none.
        """
        return self.type_of(arrow_type)

    def finish_table(self, target: str) -> None:
        """Give a table that was created, and is still empty, what only the rows tell.

        Args:
            target: Its name, quoted.
        """

    def uri(self, parts: tuple[str, ...]) -> str:
        """Return the table's address, for people, assets and lineage."""
        raise NotImplementedError


def check_columns(target: str, columns: Sequence[str], there: Sequence[str]) -> None:
    """Refuse a table that lacks columns.

    Args:
        target: The table's name, for the message.
        columns: The columns that it must have.
        there: Those that it has.

    Raises:
        InputError: It does.
    """
    if missing := [name for name in columns if name not in there]:
        raise InputError(
            f"SqlTable: {target} has no column {', '.join(missing)}; it has {', '.join(there)}. Name those that are to "
            "be written with columns={'name in the results': 'name in the table'}, or add them."
        )
