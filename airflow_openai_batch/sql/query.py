"""A query whose rows are asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from airflow_openai_batch.engine.errors import InputError


class SqlQuery(msgspec.Struct, frozen=True):
    """Rows of a query, read as a stream through a connection of Airflow, and frozen when the job is planned.

    A retry reads nothing again. When a person clears the task, another SQL text or other parameters are read anew and
    only what differs is asked; the same text stands for the rows as they were, until the job starts over.

    PostgreSQL, SQLite, DuckDB, and MariaDB through MySQL's hook are tested. Any other hook
    that is a ``DbApiHook`` is read by ``fetchmany``.

    Args:
        sql: One query, or the path of a ``.sql`` file, as in Airflow's SQL operators (templated). Where order matters,
            the query has an ``ORDER BY``: results come in the order of the rows.
        conn_id: A connection of a database (templated).
        parameters: Values for the query's placeholders, as the database's driver wants them (templated).
    """

    sql: str
    conn_id: str
    parameters: Mapping[str, Any] | Sequence[Any] | None = None

    def __post_init__(self) -> None:
        # A Dag file is not checked by anybody.
        for name in ("sql", "conn_id"):
            value: object = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"SqlQuery: {name} must be a text that is not empty, not {value!r:.60}.")

    def __str__(self) -> str:
        return f"{self.sql} ({self.conn_id})"
