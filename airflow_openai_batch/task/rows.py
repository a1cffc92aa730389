"""The ``rows`` and the ``output`` of an operator: what Airflow may see, and what its templates make of them."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from airflow_openai_batch.engine.requests.chunks import Chunks
from airflow_openai_batch.engine.requests.files import is_path, lists_files
from airflow_openai_batch.exceptions import OpenAIBatchFailure
from airflow_openai_batch.options import CsvFile
from airflow_openai_batch.sql import SqlQuery, SqlTable


class Rows:
    """Rows that travel through an operator's attributes without showing in the UI or the serialized Dag.

    Not those written into ``.partial()`` or ``.expand()`` of a mapped task: Airflow keeps such literals in the Dag.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __str__(self) -> str:
        if isinstance(self.value, Chunks):
            rows = self.value.rows
            return f"chunks of {rows if is_shown(rows) else Rows(rows)}"
        if isinstance(self.value, SqlQuery):
            return str(self.value)
        size = f"{len(self.value):,} " if hasattr(self.value, "__len__") else ""
        return f"({size}rows, not shown)"


def is_shown(rows: Any) -> bool:
    """Return whether Airflow may see ``rows``: paths, which it renders, and XComArgs, which name the upstream task."""
    return isinstance(rows, str) or lists_files(rows) or (hasattr(rows, "resolve") and hasattr(rows, "iter_references"))


def upstream_of(rows: Any) -> list[Any]:
    """Return what in ``rows`` may be the output of another task, besides ``rows`` itself."""
    if isinstance(rows, Chunks):
        return [rows.rows] if is_shown(rows.rows) else upstream_of(rows.rows)
    if isinstance(rows, CsvFile):
        return [rows.path]
    return [rows.conn_id, rows.parameters] if isinstance(rows, SqlQuery) else []


def rendered_rows(operator: Any, rows: Any, context: Any) -> Any:
    """Return rows with the templates in them rendered.

    Args:
        operator: The running task.
        rows: A value that tells where rows are; anything else is returned as it is.
        context: The task's context.

    Raises:
        OpenAIBatchFailure: There is no such file of SQL.
    """
    if isinstance(rows, Chunks):
        documents = rows.rows
        render = operator.render_template if is_shown(documents) else functools.partial(rendered_rows, operator)
        return msgspec.structs.replace(rows, rows=render(documents, context))
    if isinstance(rows, CsvFile):
        return msgspec.structs.replace(rows, path=operator.render_template(rows.path, context))
    if not isinstance(rows, SqlQuery):
        return rows
    sql, conn_id, parameters = rows.sql, rows.conn_id, rows.parameters
    return SqlQuery(
        sql=_sql_of_file(operator, sql, context) if sql.endswith(".sql") else operator.render_template(sql, context),
        conn_id=operator.render_template(conn_id, context),
        parameters=operator.render_template(parameters, context),
    )


def output_text(output: Any) -> Any:
    """Return an output that is a path object as text, which Airflow can render and show; any other as it is."""
    return str(output) if is_path(output) else output


def rendered_output(operator: Any, output: Any, context: Any) -> Any:
    """Return an output with the templates in it rendered; Airflow itself has rendered a path.

    Args:
        operator: The running task.
        output: The output.
        context: The task's context.
    """
    if not isinstance(output, SqlTable):
        return output
    table, conn_id = (operator.render_template(text, context) for text in (output.table, output.conn_id))
    return msgspec.structs.replace(output, table=table, conn_id=conn_id)


def context_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the context among the arguments of ``_do_render_template_fields``."""
    return kwargs["context"] if "context" in kwargs else args[2]


def _sql_of_file(operator: Any, path: str, context: Any) -> str:
    """Return the SQL of a file in the Dag's folder or its ``template_searchpath``, as Airflow's SQL operators do."""
    from jinja2 import TemplateNotFound

    try:
        sql: str = operator.get_template_env().get_template(path).render(context)
    except TemplateNotFound:
        raise OpenAIBatchFailure(
            f"rows: there is no file {path!r} in the Dag's folder or its template_searchpath. Nothing was sent."
        ) from None
    return sql
