"""The one route with data: a sample of a job's requests and answers, for those who may read its Dag's task logs.

Whether they may, Airflow's auth manager says. The job is looked for in the storage of ``[openai_batch]`` alone: no
address that somebody sends, or that a Dag has written, is ever opened here.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any

import msgspec
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Query
from starlette.responses import Response

from airflow_openai_batch import settings
from airflow_openai_batch.engine.errors import ForeignJob, JobCleaned, StoreError
from airflow_openai_batch.engine.model import JobKey, Status
from airflow_openai_batch.hooks import storage_root

_log = logging.getLogger(__name__)

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

_ADVICE = (
    "Set [openai_batch] storage for the API server to the place that the workers use, and give it access. The storage "
    "of a single task (its parameter `storage`) is not read here."
)

_FOREIGN = (
    "The job there belongs to another deployment than the API server's. If it is the same one, give the API server the "
    "workers' [api] base_url, or [openai_batch] deployment."
)

app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)


@app.get("/{dag_id}", dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.TASK_LOGS))])
def sample(
    dag_id: str,
    run_id: Annotated[str, Query(min_length=1)],
    task_id: Annotated[str, Query(min_length=1)],
    map_index: Annotated[int, Query(ge=-1)] = -1,
    status: Status | None = None,
) -> Response:
    """Return a sample of a job's requests and answers as JSON; see ``engine.results.sample.Sample``.

    Args:
        dag_id: The job's Dag, on which the caller's right is checked.
        run_id: The job's Dag run.
        task_id: The task that the job belongs to.
        map_index: Its index, or -1.
        status: The outcome that the rows shall have; None for any.

    Raises:
        HTTPException: 404, there is no such job; 410, it was cleaned or forgotten; 503, the job store cannot be read,
            or is another deployment's.
    """
    key = JobKey(dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=map_index)
    try:
        found = _read(key, status)
    except ForeignJob:
        _log.exception("A sample of %s is not for this deployment.", key)
        raise HTTPException(503, _FOREIGN, _HEADERS) from None
    except JobCleaned as error:
        raise HTTPException(410, str(error), _HEADERS) from None
    except StoreError:
        # What a storage says can hold more than a viewer may know.
        _log.exception("A sample of %s could not be read.", key)
        raise HTTPException(503, f"The API server's log says why. {_ADVICE}", _HEADERS) from None
    if found is None:
        raise HTTPException(404, f"The API server's job store has no such job. {_ADVICE}", _HEADERS)
    return Response(msgspec.json.encode(found), media_type="application/json", headers=_HEADERS)


def _read(key: JobKey, status: Status | None) -> Any:
    from airflow_openai_batch.engine.results.sample import sample_of
    from airflow_openai_batch.engine.store.job_store import JobStore

    try:
        store = JobStore(storage_root(), key, owner=settings.deployment())
        snapshot = store.load()
    except StoreError:
        raise
    except Exception as error:  # a connection or library that the API server lacks
        raise StoreError(f"The job store cannot be opened: {error!r}") from error
    return sample_of(store, snapshot.job, status) if snapshot is not None else None
