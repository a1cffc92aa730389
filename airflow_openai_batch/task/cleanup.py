"""Cleaning in a task, and what it shares with the command line: from the deployment's settings to the engine."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_openai_batch import settings
from airflow_openai_batch.exceptions import airflow_errors
from airflow_openai_batch.hooks import OpenAIBatchHook, storage_root

if TYPE_CHECKING:
    from airflow_openai_batch.engine.api.client import Api
    from airflow_openai_batch.engine.cleaning.report import CleaningReport

LEAST = datetime.timedelta(days=1)
"""The youngest jobs that can be cleaned: those whose results may still have to be written must not be."""


def api_of(conn_id: str) -> Api:
    """Return the client of a connection.

    Raises:
        Exception: Whatever keeps us from it: a missing connection, a database.
    """
    from airflow_openai_batch.engine.api.client import Api

    return Api(OpenAIBatchHook(conn_id).get_conn())


def check_older_than(older_than: Any) -> None:
    """Refuse an age that is none, or so short that jobs would go whose results are not written yet.

    Raises:
        TypeError: It is no ``datetime.timedelta``.
        ValueError: It is less than a day.
    """
    if not isinstance(older_than, datetime.timedelta):
        raise TypeError(f"older_than must be a datetime.timedelta, not {type(older_than).__name__}.")
    if older_than < LEAST:
        raise ValueError("older_than must be at least a day: the results of younger jobs may not be written yet.")


def clean_storage(
    older_than: datetime.timedelta,
    *,
    is_dry_run: bool,
    storage: str | None = None,
    conn_ids: Sequence[str] = (),
    is_offline: bool = False,
) -> CleaningReport:
    """Clean the storage of jobs, and their files at OpenAI.

    Args:
        older_than: How long ago a finished job was last changed that is removed as a whole.
        is_dry_run: Whether only to tell what would be removed.
        storage: The storage; by default the option ``[openai_batch] storage``.
        conn_ids: Connections whose files are cleaned besides those of jobs in the storage.
        is_offline: Whether to leave the files at OpenAI.

    Raises:
        EngineError: The storage cannot be read.
    """
    from airflow_openai_batch.engine.cleaning.clean import clean

    return clean(
        storage_root(storage),
        settings.deployment(),
        time.time(),
        older_than_s=older_than.total_seconds(),
        api_of=None if is_offline else api_of,
        conn_ids=tuple(conn_ids),
        is_dry_run=is_dry_run,
    )


class OpenAIBatchCleanupOperator(BaseOperator):
    """Remove old jobs from the storage, and files that no job needs, there and at OpenAI.

    Jobs that run, are held, or whose answers are not fetched are left, and so is what belongs to another deployment.
    It is safe beside running jobs, and two at once. What a job leaves is a small file that tells that it was cleaned:
    a task that comes later says so, and asks nothing again before a person clears the submitting task.

    Args:
        older_than: How long ago a finished job was last changed that is removed; at least a day.
        dry_run: Whether only to tell what would be removed.
        conn_ids: Connections whose files at OpenAI are cleaned besides those of the jobs in the storage (templated).
        storage: The storage (templated); by default the option ``[openai_batch] storage``.

    Returns:
        What was removed, and what was left and why: ``jobs``, ``freed`` by what it is, ``bytes``, ``kept``,
        ``problems``.

    Raises:
        OpenAIBatchError: The storage cannot be read.
    """

    template_fields: Sequence[str] = ("conn_ids", "storage")
    ui_color = "#d7efe6"

    def __init__(
        self,
        *,
        older_than: datetime.timedelta = datetime.timedelta(days=90),
        dry_run: bool = False,
        conn_ids: Sequence[str] = (),
        storage: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_older_than(older_than)
        self.older_than = older_than
        self.is_dry_run = dry_run
        self.conn_ids = (conn_ids,) if isinstance(conn_ids, str) else tuple(conn_ids)
        self.storage = storage

    def execute(self, context: Any) -> Any:
        """Clean."""
        with airflow_errors():
            report = clean_storage(
                self.older_than, is_dry_run=self.is_dry_run, storage=self.storage, conn_ids=self.conn_ids
            )
        self.log.info("%s", report.text())
        for problem in report.problems:
            self.log.warning("%s", problem)
        return report.to_json(max_named=_MAX_IN_XCOM)


_MAX_IN_XCOM = 100
"""Jobs that are named in what the task returns, for each reason."""
