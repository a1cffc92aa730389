"""Connections of Airflow's SQL hooks, and what their errors may tell: never a value of a row."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from airflow_openai_batch.engine.errors import DatabaseError, EngineError, InputError
from airflow_openai_batch.engine.redaction import scrubbed, without_values


@contextlib.contextmanager
def connected(conn_id: str, purpose: str) -> Iterator[Any]:
    """Give a connection as the hook of an Airflow connection makes it, with all its options, and close it.

    Args:
        conn_id: The connection.
        purpose: What it is for, as errors tell it: ``rows`` or ``output``.

    Raises:
        InputError: It is no database's, or the provider or the driver of its database is not installed.
        DatabaseError: The database cannot be reached.
    """
    hook = hook_of(conn_id, purpose)
    with errors_told(conn_id, purpose):
        connection = hook.get_conn()
    with contextlib.closing(connection):
        yield connection


def hook_of(conn_id: str, purpose: str) -> Any:
    """Return the SQL hook of a connection.

    Args:
        conn_id: The connection.
        purpose: What it is for, as errors tell it.

    Raises:
        InputError: It is no database's, or its provider is not installed.
    """
    from airflow.providers.common.compat.sdk import BaseHook

    try:
        from airflow.providers.common.sql.hooks.sql import DbApiHook
    except ImportError:
        raise InputError(
            f"{purpose}: databases need the provider of yours, which is not installed: pip install "
            "'airflow-openai-batch[postgres]' (or [mysql], [sqlite], [duckdb])."
        ) from None
    connection = BaseHook.get_connection(conn_id)
    try:
        hook: Any = connection.get_hook()  # type: ignore[no-untyped-call]
    except Exception as error:  # of an unknown type, or with a driver that cannot be imported
        raise InputError(
            f"{purpose}: the connection {conn_id!r} of the type {connection.conn_type!r} cannot be used: "
            f"{str(error).rstrip('.')}. Install the provider of its database, for example pip install "
            "'airflow-openai-batch[postgres]' (or [mysql], [sqlite], [duckdb])."
        ) from None
    if not isinstance(hook, DbApiHook):
        raise InputError(
            f"{purpose}: the connection {conn_id!r} is of the type {connection.conn_type!r}, which is no database "
            "that Airflow's SQL hooks know."
        )
    return hook


@contextlib.contextmanager
def errors_told(conn_id: str, purpose: str) -> Iterator[None]:
    """Raise what a driver raises in the block as errors of ours. Messages are told without what they quote of rows.

    Args:
        conn_id: The connection.
        purpose: What it is for, as errors tell it.

    Raises:
        InputError: The query or the table is wrong: a retry would only repeat it.
        DatabaseError: Anything else that the database says.
    """
    try:
        yield
    except (EngineError, GeneratorExit):
        raise
    except Exception as error:
        bases = {base.__name__ for base in type(error).__mro__}
        if "Error" not in bases:  # PEP 249: every driver's errors have this base
            raise
        code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
        number = error.args[0] if error.args and type(error).__module__.partition(".")[0] in MYSQL_CLIENTS else None
        is_about_sql = (
            code.startswith("42")
            or bool(bases & _ABOUT_SQL)
            or _is_about_sql_in_sqlite(error)
            or number in _ABOUT_SQL_IN_MYSQL
        )
        text = f"{purpose}: the database of the connection {conn_id!r} says: {_message(error, is_about_sql)}"
        text += f" (SQLSTATE {code})" if code else ""
        if is_about_sql or bases & _WRONG or number in _WRONG_IN_MYSQL or _READ_ONLY.search(str(error)):
            raise InputError(text) from None
        raise DatabaseError(text) from None


@contextlib.contextmanager
def with_meaning(meaning: str) -> Iterator[None]:
    """Add to every error of the block what it means for the money, and what to do.

    Args:
        meaning: That, in whole sentences.

    Raises:
        InputError: As the block does.
        DatabaseError: Likewise.
    """
    try:
        yield
    except (InputError, DatabaseError) as error:
        raise type(error)(f"{str(error).rstrip('.')}. {meaning}") from None


_WRONG = frozenset({"ProgrammingError", "DataError", "IntegrityError", "NotSupportedError"})
"""PEP 249's names of errors that come again."""

_ABOUT_SQL = frozenset({"ParserException", "BinderException", "CatalogException"})
"""DuckDB's names of errors that quote the query, and no row."""

MYSQL_CLIENTS = ("MySQLdb", "pymysql", "mysql")
"""The modules of MySQL's clients, whose errors have a number and a text."""

_ABOUT_SQL_IN_MYSQL = frozenset({1044, 1049, 1054, 1142, 1143})
"""MySQL's numbers of unknown databases and columns and of missing rights, which its clients call operational errors."""

_WRONG_IN_MYSQL = frozenset({1265, 1292, 1366, 3140, 4025})
"""Those of values that do not fit, likewise."""

_READ_ONLY = re.compile(r"(?i)read[- ]?only (transaction|mode|database)")
"""What databases say of a write where rows are read."""


def _is_about_sql_in_sqlite(error: Exception) -> bool:
    """Return whether SQLite, which has one class for everything, means the SQL and not the disk."""
    words = ("syntax error", "no such", "incomplete input", "unrecognized token", "ON CONFLICT")
    return type(error).__module__ == "sqlite3" and any(word in str(error) for word in words)


def _message(error: Exception, is_about_sql: bool) -> str:
    """Return the first line of a driver's message: those after it quote rows, or repeat the query."""
    diagnosis = getattr(error, "diag", None)
    # MySQL's drivers have a number and a text; others have one text, which is also what `str` gives.
    is_numbered = len(error.args) == 2 and isinstance(error.args[1], str)
    text: str = getattr(diagnosis, "message_primary", None) or (error.args[1] if is_numbered else str(error))
    line = text.strip().partition("\n")[0]
    return scrubbed(line if is_about_sql else without_values(line)).rstrip(".")
