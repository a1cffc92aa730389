"""The plugin's ASGI application: the page's files, and the route that serves a sample of a job."""

from __future__ import annotations

import logging

from starlette.applications import Starlette
from starlette.routing import Mount

from airflow_openai_batch.ui import files


def make_app() -> Starlette:
    """Return the application; without samples where this Airflow cannot be asked who may see them."""
    routes = [Mount("", files.app)]
    try:
        from airflow_openai_batch.ui import sample
    except ImportError:  # Airflow's modules for this are not public
        logging.getLogger(__name__).exception("The page has no samples of requests and answers on this Airflow.")
    else:
        routes.insert(0, Mount("/sample", sample.app))
    return Starlette(routes=routes)


app = make_app()
