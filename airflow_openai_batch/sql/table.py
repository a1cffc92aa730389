"""A table that results are written to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from airflow_openai_batch.engine.errors import InputError

# Compiled at first use, so that a Dag file that imports the operators does not pay for it.
_PART = r'"(?:[^"]|"")+"|[^".]+'

_MODES = ("append", "replace", "upsert")


class SqlTable(msgspec.Struct, frozen=True):
    """A table for the results, written in one transaction: it has all of them or is as it was.

    A retry or clear of the task writes the same again, and that changes nothing. PostgreSQL, MySQL,
    MariaDB, SQLite and DuckDB.

    Args:
        table: Its name, with its schema if it needs one: ``labels.tickets`` (templated). Parts that hold a point stand
            in double quotes.
        conn_id: A connection of the database (templated).
        mode: ``upsert`` updates rows that are there, by their key, where they differ, and adds the others; ``append``
            leaves rows that are there as they are; ``replace`` removes all rows first.
        key: The columns of the table that tell its rows apart, for ``upsert`` and ``append``: a unique index or primary
            key is on them.
        columns: Which columns of the results are written, and what they are called in the table: a dict of the two,
            or a list where the names are the same. By default all.
        only_good: Whether rows without a good answer are left out: what the table has of them stays as it is. By
            default so for ``upsert`` and ``append`` of embeddings, where a row would lose the vector that it has.
        delete_vanished: Whether ``upsert`` deletes what the results have no row for, good or bad. Never where the
            results have no rows at all.
        create: Whether to create the table, with a unique key, if there is none. Embeddings become a ``vector`` of
            pgvector in PostgreSQL. Not in MySQL.
    """

    table: str
    conn_id: str
    mode: Literal["append", "replace", "upsert"] = "upsert"
    key: tuple[str, ...] | list[str] | str = ()
    columns: Mapping[str, str] | tuple[str, ...] | list[str] | None = None
    only_good: bool | None = None
    delete_vanished: bool = False
    create: bool = False

    def __post_init__(self) -> None:
        # A Dag file is not checked by anybody.
        for name in ("table", "conn_id"):
            value: object = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"SqlTable: {name} must be a text that is not empty, not {value!r:.60}.")
        if self.mode not in _MODES:
            raise InputError(f"SqlTable: mode must be one of {', '.join(_MODES)}, not {self.mode!r}.")
        if not self.keys and self.mode != "replace":
            raise InputError(
                f"SqlTable: mode={self.mode!r} needs key=[…], the columns that tell rows apart, or a retry would write "
                "them twice. 'custom_id' is unique in a job."
            )
        if self.delete_vanished and self.mode != "upsert":
            raise InputError("SqlTable: delete_vanished is for mode='upsert'.")
        if self.is_constant:
            self.parts  # noqa: B018 - refuses what is no name
        names = list(self.names.values()) if self.names is not None else None
        if names is not None and (missing := [name for name in self.keys if name not in names]):
            raise InputError(f"SqlTable: the key {', '.join(missing)} is not among the columns that are written.")
        if names is not None and len(set(names)) < len(names):
            raise InputError("SqlTable: two columns of the results would be written to one column of the table.")

    def __str__(self) -> str:
        return f"{self.table} ({self.conn_id}, {self.mode})"

    @property
    def is_constant(self) -> bool:
        """Whether there is nothing to render in it."""
        return not any(mark in text for mark in ("{{", "{%", "{#") for text in (self.table, self.conn_id))

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns of the key."""
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)

    @property
    def names(self) -> dict[str, str] | None:
        """The columns that are written, by their names in the results; None for all."""
        if self.columns is None:
            return None
        return dict(self.columns) if isinstance(self.columns, Mapping) else {name: name for name in self.columns}

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the table's name, without quotes.

        Raises:
            InputError: It is no name.
        """
        parts = re.findall(_PART, self.table)
        if ".".join(parts) != self.table or not 1 <= len(parts) <= 3:
            raise InputError(f"SqlTable: table={self.table!r} is no name such as tickets or labels.tickets.")
        return tuple(part[1:-1].replace('""', '"') if part[0] == '"' else part for part in parts)
