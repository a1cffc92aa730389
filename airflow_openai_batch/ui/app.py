"""The plugin's ASGI application: the page's files, and the route that serves a sample of a job."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Mount

from airflow_openai_batch.ui import files, sample

app = Starlette(routes=[Mount("/sample", sample.app), Mount("", files.app)])
