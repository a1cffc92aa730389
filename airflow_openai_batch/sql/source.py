"""The rows of a query as a source of the engine. Imported where it is used: a Dag file is parsed again and again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_openai_batch.engine.concurrency import prefetch
from airflow_openai_batch.sql.query import SqlQuery
from airflow_openai_batch.sql.reading import read_query

if TYPE_CHECKING:
    import pyarrow as pa


class SqlSource:
    """The rows of a query.

    Args:
        query: The query.
    """

    is_repeatable = False

    def __init__(self, query: SqlQuery) -> None:
        self._query = query

    @property
    def version(self) -> str:
        """A hash of the query: what is in the tables is not known without reading them."""
        query = self._query
        text = "\n".join([query.conn_id, query.sql, repr(query.parameters or None)])
        return f"sql:{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Run the query and yield its rows.

        Raises:
            InputError: The query is wrong, or a column has values that no prompt can show.
            DatabaseError: The database failed. A retry may mend it.
        """
        yield from prefetch(read_query(self._query))
