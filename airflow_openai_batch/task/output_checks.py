"""What is wrong with an ``output``, found as early as it can be known: before anything is sent, or written."""

from __future__ import annotations

import json
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.errors import InputError, StoreError
from airflow_openai_batch.exceptions import OpenAIBatchFailure, airflow_errors
from airflow_openai_batch.hooks import as_path, without_connection
from airflow_openai_batch.sql import SqlTable
from airflow_openai_batch.task.parse_checks import check_absolute
from airflow_openai_batch.task.results_tasks import arguments_of

if TYPE_CHECKING:
    from airflow_openai_batch.engine.job.context import Engine
    from airflow_openai_batch.engine.model import Spec

_MAGIC = r"[*?\[]"

_DEAD_LETTER = ".dead_letter.jsonl"


def check_output(output: str | SqlTable | None) -> None:
    """Refuse an output that cannot be written, before the job is waited for.

    Raises:
        OpenAIBatchFailure: It is a relative path, its ending is unknown, or its name has a character that no name
            should have.
    """
    from airflow_openai_batch.engine.results.sinks import FileSink

    if output is None or isinstance(output, SqlTable):
        return
    # Line and paragraph separators too: they end a line in a log, and for most who read a list of names.
    odd = next((c for c in output if unicodedata.category(c) in ("Cc", "Zl", "Zp")), None)
    if odd is not None:
        raise OpenAIBatchFailure(
            f"output={output!r} has the control character {odd!r}, which most likely came with a rendered value. "
            "Remove it, in Jinja for example with `| trim`. Nothing was written."
        )
    try:
        check_absolute("output", output)
        FileSink(as_path(output))
    except (InputError, StoreError) as error:
        raise OpenAIBatchFailure(str(error)) from error


def check_results(engine: Engine, output: str | SqlTable | None, drop_columns: Sequence[str] = ()) -> None:
    """Refuse results that the job's plan shows to be wrong: an output among its rows, columns that do not exist.

    Args:
        engine: The engine of a job that has a plan.
        output: Where the results go; None for XCom.
        drop_columns: The columns that are left out of them.

    Raises:
        OpenAIBatchFailure: It says what to change. No answer is lost.
        OpenAIBatchError: The database of a table cannot be reached.
    """
    from airflow_openai_batch.engine.job.advance import load
    from airflow_openai_batch.engine.results.layout import layout_of

    with airflow_errors():
        job = load(engine).job
        if drop_columns or isinstance(output, SqlTable):
            schema = layout_of(engine.store, job).without(drop_columns).schema
        if isinstance(output, SqlTable):
            from airflow_openai_batch.sql.sink import SqlSink

            SqlSink(output, engine.log).check(schema, _dimensions(job.spec))
            return
    source = None if output is None else read_as_rows(str(as_path(output)), job.sources)
    if source is not None:
        raise OpenAIBatchFailure(
            f"output={output!r} lies in rows={source!r}: the results, or the raw lines beside them, would be read as "
            "rows by the next run, and paid for. Write them to another folder; a name below the rows that begins with "
            "`_` is not read either. Nothing was written, and no answer is lost."
        )


def _dimensions(spec: Spec) -> int | None:
    """Return how many numbers each embedding of a job will have, as far as its template tells."""
    from airflow_openai_batch.engine.endpoints import EMBEDDINGS, dimensions_of
    from airflow_openai_batch.engine.requests.bodies import CALLABLE

    if spec.endpoint != EMBEDDINGS or spec.body in ("", CALLABLE):
        return None
    return dimensions_of(json.loads(spec.body))


def check_dropped_columns(engine: Engine, tasks: Iterable[Any]) -> None:
    """Refuse a job whose results a task of the Dag could not write: columns that do not exist, or a table's.

    What of a table's name only rendering would tell is left to that task.

    Args:
        engine: The engine of a job whose plan is written.
        tasks: The results tasks downstream.

    Raises:
        OpenAIBatchFailure: With the task's name.
    """
    for task in tasks:
        try:
            arguments = arguments_of(task)
            table = (
                arguments.output if isinstance(arguments.output, SqlTable) and arguments.output.is_constant else None
            )
            check_results(engine, table, arguments.drop_columns)
        except OpenAIBatchFailure as failure:
            raise OpenAIBatchFailure(f"{task.task_id}: {failure} Nothing more was sent to OpenAI.") from None


def read_as_rows(output: str, sources: Iterable[str]) -> str | None:
    """Return the source of rows that would read a result file, or the dead letter beside it; None if there is none.

    Args:
        output: The path or URI of the result file.
        sources: Paths, URIs, patterns and directories that rows are read from.
    """
    files = [_plain(output), _plain(output) + _DEAD_LETTER]
    return next((source for source in sources if any(_reads(_plain(source), file) for file in files)), None)


def _reads(source: str, file: str) -> bool:
    if file == source:
        return True
    found = re.search(_MAGIC, source)
    base = source if found is None else source[: source.rfind("/", 0, found.start()) + 1]
    below = file.removeprefix(base.rstrip("/") + "/")
    # As in engine.requests.files: what begins with these is no row.
    if below == file or any(step.startswith(("_", ".")) for step in below.split("/")):
        return False
    if found is None:
        return True
    from fsspec.utils import glob_translate

    return re.match(glob_translate(source), file) is not None


def _plain(place: str) -> str:
    """Return a path or URI as one of several spellings of the same place: no connection, no detours."""
    scheme, mark, path = without_connection(place).partition("://")
    if not mark:
        scheme, path = "file", place
    scheme = {"local": "file", "s3a": "s3", "gcs": "gs"}.get(scheme, scheme)
    return f"{scheme}://{posixpath.normpath(path)}"
