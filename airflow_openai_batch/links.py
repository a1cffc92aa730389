"""Operator extra links: from a task to its batch and files in OpenAI's dashboard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey

    from airflow_openai_batch.engine.model import Batch

BATCH_IDS_KEY = "openai_batch_ids"
"""XCom key of the ids of a task's batches, newest last."""

BATCH_LINK_KEY = "openai_batch_link"
"""XCom key of the URL of a task's newest batch, or an empty text."""

FILE_LINKS_KEY = "openai_file_links"
"""XCom key of the URLs of a task's files at OpenAI, by the name of the link."""

_DASHBOARD = "https://platform.openai.com"


class OpenAIBatchLink(BaseOperatorLink):
    """Opens the task's newest batch in OpenAI's dashboard."""

    name = "OpenAI batch"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL, or an empty text while there is no batch."""
        return XCom.get_value(ti_key=ti_key, key=BATCH_LINK_KEY) or ""


class _FileLink(BaseOperatorLink):
    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL, or an empty text while there is no such file."""
        links = XCom.get_value(ti_key=ti_key, key=FILE_LINKS_KEY) or {}
        return links.get(self.name, "")


class OpenAIInputFileLink(_FileLink):
    """Opens the input file of the task's newest batch."""

    name = "OpenAI input file"


class OpenAIOutputFileLink(_FileLink):
    """Opens the newest file of answers."""

    name = "OpenAI output file"


class OpenAIErrorFileLink(_FileLink):
    """Opens the newest file of requests that failed."""

    name = "OpenAI error file"


LINKS = (OpenAIBatchLink(), OpenAIInputFileLink(), OpenAIOutputFileLink(), OpenAIErrorFileLink())
"""The links of every task of a job."""


def batch_link(batch_id: str, host: str) -> str:
    """Return the URL of a batch in OpenAI's dashboard, or an empty text if it runs on another host."""
    return f"{_DASHBOARD}/batches/{batch_id}" if _is_openai(host) else ""


def file_link(file_id: str, host: str) -> str:
    """Return the URL of a file in OpenAI's dashboard, or an empty text if it is on another host."""
    return f"{_DASHBOARD}/storage/files/{file_id}" if _is_openai(host) else ""


def addresses(batches: Sequence[Batch], host: str) -> dict[str, str]:
    """Return the URLs of a job's newest batch and files in OpenAI's dashboard, by the name of the link.

    Args:
        batches: The job's batches, newest last.
        host: The host they run on; there are no URLs if it is not OpenAI's.
    """
    if not batches or not _is_openai(host):
        return {}
    urls = {OpenAIBatchLink.name: batch_link(batches[-1].id, host)}
    for batch in batches:
        for name, file_id in (
            (OpenAIInputFileLink.name, batch.input_file_id),
            (OpenAIOutputFileLink.name, batch.output_file_id),
            (OpenAIErrorFileLink.name, batch.error_file_id),
        ):
            if file_id is not None:
                urls[name] = file_link(file_id, host)
    return urls


def _is_openai(host: str) -> bool:
    return host == "openai.com" or host.endswith(".openai.com")
