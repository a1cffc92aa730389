"""The plugin of the entry point ``airflow.plugins``: a page in the navigation, a tab on Dags, their runs and tasks.

Every Airflow process imports this module, so what serves files is imported only at the first request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from airflow.plugins_manager import AirflowPlugin
from airflow.providers.common.compat.sdk import conf

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

URL_PREFIX = "/openai-batch"
"""Where the API server serves the page, below the path of ``[api] base_url``."""

NAME = "OpenAI Batches"


class LazyApp:
    """An ASGI application that is imported at the first request."""

    def __init__(self) -> None:
        self._app: Callable[[Scope, Receive, Send], Awaitable[None]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for a file of the page, or for a sample of a job.

        Args:
            scope: The ASGI scope; a WebSocket is closed.
            receive: Receives the request's messages.
            send: Sends the response's messages.
        """
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        if self._app is None:
            from airflow_openai_batch.ui.app import app

            self._app = app
        await self._app(scope, receive, send)


def page_url(query: str = "") -> str:
    """Return the page's address for a browser, which includes the path of ``[api] base_url``."""
    base = urlsplit(conf.get("api", "base_url", fallback="/") or "/").path.rstrip("/")
    return f"{base}{URL_PREFIX}/{query}"


def views() -> list[dict[str, Any]]:
    """Return the navigation entry and the tabs; Airflow replaces the placeholders in braces."""
    common = {"name": NAME, "icon": page_url("icon.svg"), "icon_dark_mode": page_url("icon-dark.svg")}
    dag = "?dag_id={DAG_ID}"
    run = dag + "&run_id={RUN_ID}"
    # Airflow does not replace {MAP_INDEX} for a task that is not mapped.
    task = run + "&task_id={TASK_ID}&map_index={MAP_INDEX}"
    # Airflow identifies a view by its route alone, so each needs its own.
    return [
        {**common, "destination": "nav", "category": "browse", "url_route": "openai-batches", "href": page_url()},
        {**common, "destination": "dag", "url_route": "openai-batches-of-dag", "href": page_url(dag)},
        {**common, "destination": "dag_run", "url_route": "openai-batches-of-run", "href": page_url(run)},
        {**common, "destination": "task_instance", "url_route": "openai-batches-of-task", "href": page_url(task)},
    ]


class OpenAIBatchPlugin(AirflowPlugin):
    """The page and its tabs."""

    name = "openai_batch"
    # AirflowPlugin declares these lists as instance attributes.
    fastapi_apps: list[Any] = [{"app": LazyApp(), "url_prefix": URL_PREFIX, "name": NAME}]  # noqa: RUF012
    external_views: list[Any] = views()
