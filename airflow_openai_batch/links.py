"""Links from a task to OpenAI's dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey

BATCH_IDS_KEY = "openai_batch_ids"
"""XCom key under which a task keeps the ids of its batches, newest last."""

BATCH_LINK_KEY = "openai_batch_link"
"""XCom key under which a task keeps the address of its newest batch, or an empty text."""

_DASHBOARD = "https://platform.openai.com/batches"


class OpenAIBatchLink(BaseOperatorLink):
    """Opens the task's newest batch in OpenAI's dashboard."""

    name = "OpenAI batch"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the address, or an empty text while there is no batch."""
        return XCom.get_value(ti_key=ti_key, key=BATCH_LINK_KEY) or ""


def batch_link(batch_id: str, host: str) -> str:
    """Return the address of a batch in OpenAI's dashboard, or an empty text if it runs on another host."""
    return f"{_DASHBOARD}/{batch_id}" if host == "openai.com" or host.endswith(".openai.com") else ""
