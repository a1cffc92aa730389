"""Cleaning files at OpenAI: those of jobs that were removed, and input files of ours that no job names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from airflow_openai_batch.engine.api.batch_json import ListedFile
from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.cleaning.report import AT_OPENAI, CleaningReport
from airflow_openai_batch.engine.cleaning.rules import UNUSED_AFTER_S
from airflow_openai_batch.engine.errors import ApiError, NotFound
from airflow_openai_batch.engine.identity import FILE_PREFIX, parse_upload_name
from airflow_openai_batch.engine.model import ENDED_STATUSES

_RUNS_AT_MOST_S = 31 * 24 * 3600.0
"""How long a batch may run: OpenAI's take 24 hours, compatible servers allow up to a month."""

_MAX_FAILURES = 3
"""Deletions in a row that fail, after which the others are left for the next time."""


@dataclass
class Needed:
    """What the jobs of a storage need of the files at OpenAI.

    Args:
        place: The hash of the deployment and its storage, which the names of its files begin with.
        ids: The ids that jobs name.
        running: The hashes of jobs that are not finished.
        removed: The ids of files of jobs that were removed.
        is_whole: Whether all jobs could be read; if not, only files of removed jobs may go.
    """

    place: str
    ids: set[str] = field(default_factory=set)
    running: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    is_whole: bool = True


def clean_at_openai(
    api_of: Callable[[str], Api], conn_ids: Iterable[str], needed: Needed, now: float, report: CleaningReport
) -> None:
    """Delete what no job needs, connection by connection. What fails is told, and left for the next time.

    Args:
        api_of: Returns the client of a connection.
        conn_ids: The connections.
        needed: What jobs need.
        now: Epoch seconds.
        report: Where it is told.
    """
    for conn_id in conn_ids:
        try:
            api = api_of(conn_id)
            files = _unneeded(api, needed, now, report)
        except Exception as error:  # a missing connection, a database, a network, a key without rights
            report.problems.append(
                f"Files at OpenAI of the connection {conn_id!r} are left: {str(error) or type(error).__name__}"
            )
            continue
        if not report.is_dry_run:
            files = _deleted(api, files, report)
        report.count(AT_OPENAI, len(files), sum(file.n_bytes for file in files))


def _unneeded(api: Api, needed: Needed, now: float, report: CleaningReport) -> list[ListedFile]:
    inputs = list(api.files("batch"))
    of_removed = [file for file in inputs if file.id in needed.removed]
    if needed.removed:
        of_removed += [file for file in api.files("batch_output") if file.id in needed.removed]
    ours = [file for file in inputs if file.id not in needed.removed and file.name.startswith(f"{FILE_PREFIX}-")]
    unnamed = [file for file in ours if parse_upload_name(file.name) is None and file.id not in needed.ids]
    if unnamed:
        report.keep(
            "their names, given by an older version, do not say whose they are; OpenAI deletes them after 30 days",
            f"{len(unnamed):,} files at OpenAI",
        )
    strays = [file for file in ours if _is_stray(file, needed, now)]
    if strays and not needed.is_whole:
        report.keep("some job may name them that cannot be read", f"{len(strays):,} files at OpenAI")
        strays = []
    if strays:
        # A worker that was killed may have made a batch that no job knows of yet.
        in_use = _in_use(api, now)
        strays = [file for file in strays if file.id not in in_use]
    return of_removed + strays


def _is_stray(file: ListedFile, needed: Needed, now: float) -> bool:
    """Return whether a file is of this deployment and storage, not new, and of no job that needs it.

    A worker that was frozen since it uploaded it finds that it is gone, and uploads it again for nothing.
    """
    name = parse_upload_name(file.name)
    if name is None or name.place != needed.place or file.id in needed.ids or name.job in needed.running:
        return False
    return file.created_at is not None and now - file.created_at >= UNUSED_AFTER_S


def _in_use(api: Api, now: float) -> Collection[str]:
    batches = api.batches(now - _RUNS_AT_MOST_S)
    return {b.input_file_id for b in batches if b.status not in ENDED_STATUSES and b.input_file_id is not None}


def _deleted(api: Api, files: Iterable[ListedFile], report: CleaningReport) -> list[ListedFile]:
    """Delete files. Returns those that are gone."""
    gone: list[ListedFile] = []
    n_failures = 0
    for file in files:
        try:
            _delete(api, file.id)
        except ApiError as error:
            report.problems.append(f"{file.id} ({file.name}) could not be deleted at OpenAI: {error}")
            n_failures += 1
            if n_failures == _MAX_FAILURES:
                break
        else:
            n_failures = 0
            gone.append(file)
    return gone


def _delete(api: Api, file_id: str) -> None:
    with contextlib.suppress(NotFound):
        api.delete_file(file_id)


def delete_all(api: Api, file_ids: Iterable[str]) -> Mapping[str, str]:
    """Delete files by their ids; one that is not there is as good as deleted. Returns why others could not be."""
    failures: dict[str, str] = {}
    for file_id in file_ids:
        try:
            _delete(api, file_id)
        except ApiError as error:
            failures[file_id] = str(error)
    return failures
