"""The SQL that results are written with, as PostgreSQL, SQLite and DuckDB have it; MySQL has some of its own. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

STAGING = "openai_batch_staging"
"""A temporary table of the transaction, which no other session sees."""

IS_GOOD = "openai_batch_is_good"
"""The column of it that tells rows with a good answer."""

ROW = "openai_batch_row"
"""The column of it that numbers the rows, where some of their columns are staged elsewhere."""


def quoted(*parts: str) -> str:
    """Return a name in SQL."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def listed(columns: Sequence[str], table: str = "") -> str:
    """Return columns as a list in SQL."""
    return ", ".join(table + quoted(column) for column in columns)


def create_staging(target: str, columns: Sequence[str], is_good_type: str, *, is_numbered: bool = False) -> str:
    """Return the statement that creates the staging table, with columns of the target's types.

    Args:
        target: The target's name, quoted.
        columns: The columns.
        is_good_type: The database's type of a truth value.
        is_numbered: Whether it has the rows' numbers.
    """
    own = [quoted(column) for column in columns]
    own += [f"CAST(NULL AS bigint) AS {ROW}"] if is_numbered else []
    own.append(f"CAST(NULL AS {is_good_type}) AS {IS_GOOD}")
    return f"CREATE TEMPORARY TABLE {STAGING} AS SELECT {', '.join(own)} FROM {target} WHERE 1 = 0"  # noqa: S608


def insert(
    target: str,
    columns: Sequence[str],
    key: Sequence[str],
    *,
    differs: Callable[[str], str] | None,
    only_good: bool = False,
    source: str = STAGING,
    condition: str = "1 = 1",
) -> str:
    """Return the statement that brings rows into a table.

    Args:
        target: The table, quoted.
        columns: The columns.
        key: Those that tell rows apart; none to insert all.
        differs: Returns the condition that a column of a row that is there (``target``) is another than the one that
            comes (``excluded``): it is updated then. None to leave rows alone that are there.
        only_good: Whether only rows with a good answer are taken.
        source: Where the rows are.
        condition: Which of them are taken.
    """
    good = f" AND {IS_GOOD}" if only_good else ""
    statement = (
        f"INSERT INTO {target} AS target ({listed(columns)}) SELECT {listed(columns)} "  # noqa: S608 - quoted
        f"FROM {source} WHERE {condition}{good}"
    )
    if not key:
        return statement
    rest = [column for column in columns if column not in key]
    if differs is None or not rest:
        return f"{statement} ON CONFLICT ({listed(key)}) DO NOTHING"
    values = ", ".join(f"{quoted(column)} = excluded.{quoted(column)}" for column in rest)
    condition = " OR ".join(differs(column) for column in rest)
    return f"{statement} ON CONFLICT ({listed(key)}) DO UPDATE SET {values} WHERE {condition}"


def delete_vanished(target: str, key: Sequence[str]) -> str:
    """Return the statement that deletes what the staging table has no row for."""
    same = " AND ".join(f"staging.{quoted(column)} = target.{quoted(column)}" for column in key)
    return (
        f"DELETE FROM {target} AS target WHERE NOT EXISTS "  # noqa: S608 - quoted
        f"(SELECT 1 FROM {STAGING} AS staging WHERE {same})"
    )


def repeated_keys(key: Sequence[str]) -> str:
    """Return the query that counts keys which several rows of the staging table have."""
    return f"SELECT count(*) FROM (SELECT 1 FROM {STAGING} GROUP BY {listed(key)} HAVING count(*) > 1) AS repeated"  # noqa: S608


def null_keys(key: Sequence[str], *, only_good: bool) -> str:
    """Return the query that counts rows of the staging table without a whole key.

    Args:
        key: The columns of the key.
        only_good: Whether only rows with a good answer count.
    """
    is_null = " OR ".join(f"{quoted(column)} IS NULL" for column in key)
    good = f" AND {IS_GOOD}" if only_good else ""
    return f"SELECT count(*) FROM {STAGING} WHERE ({is_null}){good}"  # noqa: S608 - quoted


def create_table(target: str, types: dict[str, str], key: Sequence[str]) -> str:
    """Return the statement that creates a table.

    Args:
        target: Its name, quoted.
        types: The types of its columns in SQL.
        key: The columns that tell its rows apart.
    """
    entries = [f"{quoted(name)} {sql_type}" for name, sql_type in types.items()]
    entries += [f"UNIQUE ({listed(key)})"] if key else []
    return f"CREATE TABLE IF NOT EXISTS {target} ({', '.join(entries)})"
