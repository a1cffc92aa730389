"""Mistakes in a task's arguments that are plain to see in the Dag file, told when it is parsed.

Only constants are judged: not what Jinja or another task will give, and nothing of a mapped task, which Airflow makes
at run time. Nothing heavy is imported, as a Dag file is parsed again and again. What needs the rows, a
Pydantic class's schema or the storage is checked when the task runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.chunks import Chunks
from airflow_openai_batch.engine.requests.files import is_path, lists_files
from airflow_openai_batch.exceptions import OpenAIBatchFailure
from airflow_openai_batch.hooks import is_relative
from airflow_openai_batch.options import CsvFile
from airflow_openai_batch.sql import SqlQuery, SqlTable

if TYPE_CHECKING:
    from airflow_openai_batch.options import FinishBy

_ROWS_ENDINGS = ("parquet", "csv", "jsonl", "ndjson")

_OUTPUT_ENDINGS = ("parquet", "jsonl", "csv")

_OTHER_FORMATS = frozenset(
    {
        *("arrow", "avro", "bz2", "db", "doc", "docx", "feather", "gz", "html", "ipc", "json", "log", "lz4", "md"),
        *("orc", "pdf", "pickle", "pkl", "pq", "snappy", "sqlite", "tar", "tsv", "txt", "xls", "xlsx", "xml", "xz"),
        *("yaml", "yml", "zip", "zst"),
    }
)
"""Endings that name a format. Any other may be part of a directory's name."""


_JINJA = r"\{[{%#]"


def is_constant(value: Any) -> bool:
    """Return whether a value is known in the Dag file: neither Jinja nor an output of a task is in it."""
    if isinstance(value, str):
        return re.search(_JINJA, value) is None
    if isinstance(value, dict):
        return all(is_constant(entry) for entry in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return all(is_constant(entry) for entry in value)
    return not _is_reference(value)


def _is_reference(value: Any) -> bool:
    return hasattr(value, "iter_references") or (hasattr(value, "resolve") and not hasattr(value, "open"))


@contextmanager
def told_by(task_id: str) -> Iterator[None]:
    """Say in a failure's message which task of the Dag file is meant: many may be made in one loop.

    Args:
        task_id: The task.
    """
    try:
        yield
    except OpenAIBatchFailure as failure:
        raise OpenAIBatchFailure(f"Task {task_id!r}: {failure}") from None


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise OpenAIBatchFailure(str(error)) from None


def check_request(*, rows: Any, endpoint: Any, body: Any, response_model: Any, custom_id: Any) -> None:
    """Check what a task asks, as far as it is constant.

    Args:
        rows: The operator's arguments as the Dag file gives them, as are the others.
        endpoint: One of the Batch API's endpoints.
        body: A template, a callable or None.
        response_model: A Pydantic class, a JSON Schema or None.
        custom_id: A template or None.

    Raises:
        OpenAIBatchFailure: A value can never work; the message says what to write.
    """
    with _failures():
        _check_rows(rows.rows if isinstance(rows, Chunks) else rows)
        if body is None and isinstance(rows, SqlQuery | Chunks):
            raise InputError("rows are a query or chunks, and body=None is for ready-made request lines: give a body.")
        if is_constant(endpoint):
            _check_endpoint(endpoint, body, response_model)
        _check_custom_id(custom_id)


def _check_rows(rows: Any) -> None:
    if rows is None:
        raise InputError("rows is None. Give a list of dicts, a path, a callable, or another task's output.")
    if _is_operator(rows):
        raise InputError(f"rows is a task, not what it returns: write rows={rows.task_id}.output.")
    for path in map(str, _paths_of(rows)):
        check_absolute("rows", path)
        if is_constant(path):
            _check_rows_ending(path)


def _paths_of(rows: Any) -> Sequence[Any]:
    """Return the paths among rows. A list of other texts holds rows of a wrong type, which no message may quote."""
    if isinstance(rows, CsvFile):
        return _paths_of(rows.path)
    if is_path(rows):
        return [rows]
    return rows if lists_files(rows) else ()


def _check_rows_ending(path: str) -> None:
    name = path.rpartition("/")[2]
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    if not ending or ending in _ROWS_ENDINGS or any(mark in name for mark in "*?[") or os.path.isdir(path):
        return
    if ending in _OTHER_FORMATS or _nearest(ending, _ROWS_ENDINGS):
        raise InputError(
            f"rows={path!r}: the name must end in {_list(_ROWS_ENDINGS)}, or name a directory (end it with a /)."
        )


def _check_endpoint(endpoint: Any, body: Any, response_model: Any) -> None:
    from airflow_openai_batch.engine.endpoints import REQUIRED, check_body, check_endpoint, required

    if not isinstance(endpoint, str):
        raise InputError(f"endpoint must be a text such as '/v1/responses', not {type(endpoint).__name__}.")
    try:
        check_endpoint(endpoint)
    except InputError as error:
        path = "/v1/" + endpoint.strip("/").removeprefix("v1/").replace(".", "/")
        guess = _nearest(path, tuple(REQUIRED), _SLIP if endpoint.startswith("/") else _LIKENESS)
        if guess or not endpoint.startswith("/"):
            raise InputError(f"{error} Write endpoint={guess!r}." if guess else str(error)) from None
        # What else a server has, its connection says, which is not read before the task runs.
    if isinstance(body, dict):
        is_streamed = body.get("stream")
        check_body({**body, "stream": is_constant(is_streamed) and is_streamed}, endpoint, "body")
    elif not (
        body is None or callable(body) or _is_reference(body) or (isinstance(body, str) and not is_constant(body))
    ):
        raise InputError(
            "body must be a dict, a callable row -> dict, or None for ready-made request lines, not "
            f"{type(body).__name__}. Write body={{'model': …, {(required(endpoint) or ('input',))[-1]!r}: …}}."
        )
    if response_model is not None and not _is_reference(response_model):
        _check_response_model(response_model, endpoint, body)


def _check_response_model(response_model: Any, endpoint: str, body: Any) -> None:
    from airflow_openai_batch.engine.schema.response_format import check_place, check_response_model

    check_response_model(response_model)
    if body is None or (callable(body) and not _is_reference(body)):
        raise InputError("response_model needs body to be a template (a dict); a callable can set the format itself.")
    check_place(body if isinstance(body, dict) else {}, endpoint)


def _check_custom_id(custom_id: Any) -> None:
    if custom_id is None or not is_constant(custom_id):
        return
    from airflow_openai_batch.engine.requests.template import TextTemplate

    if not isinstance(custom_id, str):
        raise InputError(f"custom_id must be a text such as '{{ticket_id}}', not {type(custom_id).__name__}.")
    try:
        TextTemplate(custom_id)
    except InputError as error:
        raise InputError(f"custom_id={custom_id!r}: {error}") from None


def check_settings(make_policy: Callable[[], Any], values: list[Any], max_requests_per_batch: Any) -> None:
    """Check the settings of a job, as far as they are constant.

    Args:
        make_policy: Makes the job's policy of the settings.
        values: The settings that the policy is made of.
        max_requests_per_batch: The largest number of requests of a batch; None for OpenAI's limit.

    Raises:
        OpenAIBatchFailure: A value is out of its range or has a wrong type; the message names the setting.
    """
    with _failures():
        check_max_requests(max_requests_per_batch)
        if all(map(is_constant, values)):
            from airflow_openai_batch.engine.job.policy import check_policy

            check_policy(make_policy())


def check_finish_by(finish_by: FinishBy | None, endpoint: Any) -> None:
    """Check the parameter ``finish_by``, as far as it is constant.

    Raises:
        OpenAIBatchFailure: The text stands for no moment, or the endpoint's requests cannot be asked synchronously.
    """
    if finish_by is None:
        return
    from airflow_openai_batch.engine.endpoints import check_direct
    from airflow_openai_batch.options import parsed_moment

    with _failures():
        if isinstance(finish_by.at, str) and is_constant(finish_by.at):
            parsed_moment(finish_by.at)
        if isinstance(endpoint, str) and is_constant(endpoint):
            check_direct(endpoint, finish_by.tier)


def check_max_requests(n: Any) -> None:
    """Check the parameter ``max_requests_per_batch``.

    Raises:
        InputError: It is no whole number between 1 and OpenAI's limit.
    """
    from airflow_openai_batch.engine.endpoints import Limits

    if n is None or _is_reference(n):
        return
    most = Limits().max_requests
    if not isinstance(n, int) or isinstance(n, bool) or not 0 < n <= most:
        shown = f"{n:,}" if isinstance(n, int) else repr(n)
        raise InputError(f"max_requests_per_batch must be between 1 and {most:,}, is {shown}.")


def check_constant_output(output: Any) -> None:
    """Check the parameter ``output``, as far as it is constant.

    Raises:
        OpenAIBatchFailure: It is no path, a relative one, or its ending is unknown.
    """
    if output is None or isinstance(output, SqlTable) or _is_reference(output):
        return
    with _failures():
        if isinstance(output, str):
            check_absolute("output", output)
        if not is_constant(output):
            return
        if not isinstance(output, str):
            raise InputError(
                f"output must be a path or URI that ends in {_list(_OUTPUT_ENDINGS)}, or a SqlTable, not "
                f"{type(output).__name__}."
            )
        if output.rpartition("/")[2].rpartition(".")[2].lower() not in _OUTPUT_ENDINGS:
            raise InputError(f"output={output!r}: the name must end in {_list(_OUTPUT_ENDINGS)}.")


_HARMLESS = {"rows": "Nothing was sent.", "output": "Nothing was written, and no answer is lost."}


def check_absolute(name: str, place: str) -> None:
    """Check that a path means the same file on each worker.

    Args:
        name: The parameter, ``rows`` or ``output``.
        place: A URI, or a local path; or a template, which is relative for sure if it begins with a folder that is.

    Raises:
        InputError: It is a relative path.
    """
    known = re.split(_JINJA, place, maxsplit=1)[0]
    if is_relative(place) and (known == place or "/" in known):
        raise InputError(
            f"{name}={place!r} is a relative path: which file that is depends on the folder in which a worker was "
            f"started. {_HARMLESS[name]} Give an absolute path, or a URI such as s3://conn@bucket/key."
        )


def check_job(job: Any) -> None:
    """Check the parameter ``job`` of a waiting or results task, as far as it is constant.

    Raises:
        OpenAIBatchFailure: It can be no handle of a job.
    """
    if _is_operator(job):
        raise OpenAIBatchFailure(f"job is a task, not what it returns: write job={job.task_id}.output.")
    if is_constant(job) and not isinstance(job, dict):
        raise OpenAIBatchFailure(
            f"job must be the output of OpenAIBatchSubmitOperator (job=submit.output), not {type(job).__name__}."
        )


def check_poll_interval(seconds: Any) -> None:
    """Check the parameter ``poll_interval``, as far as it is constant.

    Raises:
        OpenAIBatchFailure: It is no positive number.
    """
    if seconds is None or not is_constant(seconds):
        return
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds > 0:
        raise OpenAIBatchFailure(f"poll_interval must be a number of seconds above 0, is {seconds!r}.")


def _is_operator(value: Any) -> bool:
    # By its class: a data frame has its columns as attributes.
    return hasattr(type(value), "output") and hasattr(value, "task_id") and not _is_reference(value)


_LIKENESS, _SLIP = 0.7, 0.9
"""How much a text resembles what was most likely meant, and what cannot but have been; 1 is the same."""


def _nearest(text: str, choices: tuple[str, ...], likeness: float = _LIKENESS) -> str | None:
    import difflib

    return next(iter(difflib.get_close_matches(text, choices, n=1, cutoff=likeness)), None)


def _list(endings: tuple[str, ...]) -> str:
    return ", ".join("." + ending for ending in endings)
