"""Writing the results into a table: through a staging table, in one transaction, whole or not at all."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import Status
from airflow_openai_batch.sql import statements
from airflow_openai_batch.sql.connecting import connected, errors_told, hook_of, with_meaning
from airflow_openai_batch.sql.loader import Loader, Target
from airflow_openai_batch.sql.loading import loader_of

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.sql.table import SqlTable

_PURPOSE = "output"

_OUTPUT = "output"
"""The results' column with the answers."""

_MEANING = (
    "The table is as it was, and no answer is lost: they are in the job store. Mend it and clear this task; nothing "
    "is paid again."
)


class SqlSink:
    """A table as the destination of results.

    Args:
        table: The table.
        log: Where to tell what became of it: counts only.

    Attributes:
        n_nuls: Number of texts with a character that the database cannot hold.
    """

    def __init__(self, table: SqlTable, log: Any) -> None:
        self._table, self._log = table, log
        self._stack = contextlib.ExitStack()
        self._names: dict[str, str] = {}
        self._n_rows = 0
        self.uri: str | None = None
        self.dead_letter_uri: str | None = None
        self.n_dead_letter = 0
        self.n_nuls = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(with_meaning(_MEANING))
            stack.enter_context(errors_told(self._table.conn_id, _PURPOSE))
            hook = hook_of(self._table.conn_id, _PURPOSE)
            self._connection = stack.enter_context(connected(self._table.conn_id, _PURPOSE))
            self._loader: Loader = loader_of(self._connection, hook)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(error_type, error, trace)

    def check(self, schema: pa.Schema, n_dimensions: int | None = None) -> None:
        """Refuse a table that the results could not be written to, by a statement that writes nothing.

        Args:
            schema: The columns of the results.
            n_dimensions: How many numbers an embedding will have; None if that is not known.

        Raises:
            InputError: There is no such table, column, unique key or right, or its vectors are of another dimension.
        """
        with self:
            self._begin(schema)
            self._loader.check_vectors(self._of_table(schema), self._names.get(_OUTPUT), n_dimensions)
            self._loader.check_rights(self._target)
            self._connection.rollback()

    def begin(self, schema: pa.Schema) -> None:
        """Begin the transaction, and make the staging table."""
        self._begin(schema)
        self._loader.stage(self._target.name, self._of_table(schema))

    def _of_table(self, schema: pa.Schema) -> pa.Schema:
        """Return the columns that are written, by their names in the table."""
        import pyarrow as pa

        return pa.schema([(to, schema.field(name).type) for name, to in self._names.items()])

    def _begin(self, schema: pa.Schema) -> None:
        self._names = self._table.names or {name: name for name in schema.names}
        if missing := [name for name in self._names if name not in schema.names]:
            raise InputError(
                f"SqlTable: the results have no column {', '.join(missing)}. They have {', '.join(schema.names)}."
            )
        if missing := [name for name in self._table.keys if name not in self._names.values()]:
            raise InputError(f"SqlTable: the results have no column {', '.join(missing)}, which is in the key.")
        only_good = self._table.only_good
        if only_good is None and self._table.mode != "replace" and _OUTPUT in self._names:
            only_good = _is_embedding(_OUTPUT, schema.field(_OUTPUT).type)
        self._target = Target(self._table, tuple(self._names.values()), bool(only_good))
        self._loader.refuse(self._table)
        self._loader.begin()
        if self._table.create:
            types = {to: self._type_of(name, schema.field(name).type) for name, to in self._names.items()}
            self._loader.execute(statements.create_table(self._target.name, types, self._table.keys))
        self._loader.look_at(self._target.name, self._target.columns)
        self.uri = self._loader.uri(self._table.parts)

    def _type_of(self, name: str, arrow_type: pa.DataType) -> str:
        if _is_embedding(name, arrow_type):
            return self._loader.embedding_type(arrow_type, self._target.name)
        return self._loader.type_of(arrow_type)

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows to the staging table."""
        import pyarrow as pa

        status = batch.column("status").to_numpy(zero_copy_only=False)
        is_good = pa.array(status == Status.SUCCEEDED.value)
        arrays = [batch.column(name) for name in self._names]
        rows = pa.RecordBatch.from_arrays([*arrays, is_good], names=[*self._names.values(), statements.IS_GOOD])
        self.n_nuls += self._loader.load(rows, self._n_rows)
        self._n_rows += rows.num_rows

    def dead_letter(self, line: bytes) -> None:
        """Count a raw line: the lines stay in the job store."""
        self.n_dead_letter += 1

    def finish(self) -> None:
        """Bring the rows into the table, and commit.

        Raises:
            InputError: Rows have the same key, or a value does not fit. The table is as it was.
        """
        table, loader = self._table, self._loader
        self._check_keys()
        if table.create:
            loader.finish_table(self._target.name)
        n_removed = loader.empty(self._target) if table.mode == "replace" else 0
        n_changed = loader.insert(self._target)
        if table.delete_vanished:
            n_removed = loader.delete_vanished(self._target)
        loader.drop_staging()
        self._connection.commit()
        self._log.info(
            "%s: %d rows of results; %d added or changed, %d removed.", table, self._n_rows, n_changed, n_removed
        )
        if self.n_nuls:
            self._log.warning(
                "%d texts have NUL characters or lone surrogates, which %s cannot hold; they were written as U+FFFD.",
                self.n_nuls,
                table.conn_id,
            )
        if n := loader.n_not_finite:
            self._log.warning(
                "%d vectors have NaN, an infinity or numbers too large for their column, which pgvector refuses: %s.",
                n,
                "their rows were left out" if self._target.only_good else "they were written as null",
            )

    def _check_keys(self) -> None:
        table = self._table
        if table.delete_vanished and not self._n_rows:
            raise InputError("SqlTable: there are no rows, so delete_vanished would delete all that the table has.")
        if table.mode == "replace":
            return
        is_left_out = self._target.only_good and not table.delete_vanished
        if n := self._loader.count(statements.null_keys(table.keys, only_good=is_left_out)):
            raise InputError(
                f"SqlTable: {n:,} rows have null in the key ({', '.join(table.keys)}), so which rows of the table are "
                "theirs cannot be told, and a retry would write them twice. Let the key be columns that rows without "
                "an answer have too."
            )
        if table.mode == "append":
            return
        if n := self._loader.count(statements.repeated_keys(table.keys)):
            raise InputError(
                f"SqlTable: {n:,} keys ({', '.join(table.keys)}) are those of several rows each, so which one is meant "
                "is not known. Let the key have more columns, or let the rows differ."
            )


def _is_embedding(name: str, arrow_type: pa.DataType) -> bool:
    """Return whether a column of the results is that of the vectors of an embeddings job."""
    import pyarrow as pa

    return name == _OUTPUT and pa.types.is_list(arrow_type) and bool(pa.types.is_float32(arrow_type.value_type))
