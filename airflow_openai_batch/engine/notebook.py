"""All of the engine in one call, for whoever has no Airflow: a notebook, a script or a build.

A job has a name. Whoever asks for the same name again, after an interrupt, a restart or a power cut, goes on with the
job that is there: what was answered or is on its way is not paid for again, and if prompt or rows have changed, only
the requests that changed are sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.api.connection import client_or_default
from airflow_openai_batch.engine.batch_job import DEFAULT_STORAGE, BatchJob, Show, key_of, path_of
from airflow_openai_batch.engine.cleaning.forget import Forgotten, forget
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.job.status import Done, Wait
from airflow_openai_batch.engine.progress_line import ProgressLine

if TYPE_CHECKING:
    import pyarrow as pa


def run(
    rows: Any,
    *,
    name: str,
    endpoint: str,
    body: Any,
    progress: bool | Show = True,
    poll_interval_s: float = 30.0,
    **settings: Any,
) -> pa.Table:
    """Ask a model about every row and return the results, as an Arrow table (``.to_pandas()`` makes a DataFrame of it).

    Interrupted, and called again with the same name, it goes on and pays for nothing twice.

    Args:
        rows: See ``BatchJob``.
        name: The job's name in its storage.
        endpoint: One of the Batch API's endpoints.
        body: The request's body, with ``{column}`` in its texts.
        progress: Whether to print where the job stands; or a function that is told.
        poll_interval_s: Seconds between two looks at batches that run.
        settings: The other arguments of ``BatchJob``.

    Raises:
        BadRows: More rows have no good answer than ``max_bad_ratio`` allows.
        JobHeld: The job needs a person.
        InputError: Rows, request, a setting or the client cannot be used. Nothing was sent.
        StoreError: The storage cannot be used.
    """
    job = BatchJob(rows, name=name, endpoint=endpoint, body=body, **settings)
    wait_for([job], progress, poll_interval_s=poll_interval_s)
    return job.table()


def wait_for(jobs: Sequence[BatchJob], progress: bool | Show = True, *, poll_interval_s: float = 30.0) -> None:
    """Move several jobs until every row of each has its outcome. Their batches run at the same time.

    An interrupt (Ctrl-C, or stopping the cell) leaves the batches to run on at OpenAI.

    Args:
        jobs: The jobs.
        progress: Whether to print where they stand; or a function that is told.
        poll_interval_s: Seconds between two looks at batches that run; at first they are more frequent.

    Raises:
        JobHeld: One of them needs a person. The others run on.
        StoreError: The storage cannot be used.
    """
    line = ProgressLine(is_alone=len(jobs) == 1) if progress is True else None
    show = line if line is not None else progress if callable(progress) else None
    waiting, began_at = list(jobs), time.monotonic()
    try:
        while waiting:
            reached = {job: job.advance(show) for job in waiting}
            waiting = [job for job, rest in reached.items() if isinstance(rest, Wait)]
            _pause(reached.values(), min(poll_interval_s, max(1.0, (time.monotonic() - began_at) / 10)))
    except KeyboardInterrupt:
        if progress:
            names = ", ".join(repr(job.name) for job in waiting)
            print(f"\nWhat was sent runs on at OpenAI. Ask for {names} again to go on; nothing is paid twice.")
        raise
    finally:
        if line is not None:
            line.end()


def forget_job(name: str, *, storage: Any = DEFAULT_STORAGE, client: Any = None) -> Forgotten:
    """Remove a job that is over from its storage, from ledgers, and its files at OpenAI.

    Whoever asks for the name again asks, and pays for, everything again.

    Args:
        name: The job's name.
        storage: Where it is kept.
        client: See ``BatchJob``.

    Returns:
        What was removed, and what could not be: called again, it tries that once more.

    Raises:
        InputError: There is no such job, or it is not over. Nothing was removed.
        StoreError: The storage cannot be used.
    """
    api = Api(client_or_default(client))
    root = path_of(storage)
    forgotten = forget(root, key_of(name), "", time.time(), api_of=lambda _: api)
    if forgotten.refusal is not None:
        raise InputError(forgotten.refusal)
    return forgotten


def _pause(reached: Iterable[Wait | Done], most_s: float) -> None:
    wake_at = min((rest.wake_at for rest in reached if isinstance(rest, Wait)), default=None)
    if wake_at is not None:
        time.sleep(max(min(1.0, most_s), min(most_s, wake_at - time.time())))
