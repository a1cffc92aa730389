"""A stand-in for the engine's `Api`: every batch is done at once, and its answers are files of this machine.

It lets the engine be measured without a network and without a server: what `download` does is copy a local file, and
a benchmark can leave the copying out. Also what several benchmarks need: jobs that are planned, answered, finished.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import workload
from sample import Case

if TYPE_CHECKING:
    from airflow_openai_batch.engine.api.batch_json import UploadedFile
    from airflow_openai_batch.engine.job.context import Engine
    from airflow_openai_batch.engine.model import Batch, Job, Shard
    from airflow_openai_batch.engine.store.job_store import JobStore

Answers = Callable[[int, int], tuple[Path, Path | None]]
"""Returns output file and error file of the batch with n rows from an ordinal on."""


class Unasked:
    """The API of a job that is only planned."""

    has_openais_prices, host = True, "localhost"


class LocalOpenAI(Unasked):
    """Uploads vanish, batches have ended when they are made, downloads are copies.

    Args:
        answers: The files of each batch.
        clock: Where to leave the copying out, or None to count it.
    """

    def __init__(self, answers: Answers, clock: Case | None = None) -> None:
        self._answers, self._clock = answers, clock
        self._first_row = 0
        self._made: dict[str, Batch] = {}

    def upload(self, name: str, file: IO[bytes], expires_after_s: int | None = None) -> UploadedFile:
        """Return an id that says which rows the file holds, from the first id in it and the number of lines."""
        ordinal = int(json.loads(file.readline())["custom_id"].rpartition("-")[2])
        n = 1 + sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 18), b""))
        from airflow_openai_batch.engine.api.batch_json import UploadedFile

        return UploadedFile(f"file-{ordinal}-{n}")

    def create(self, *, file_id: str, metadata: dict[str, str], **_: Any) -> Batch:
        """Make a batch that has ended."""
        from airflow_openai_batch.engine.identity import NONCE_KEY

        _, first, n = file_id.split("-")
        made = self.batch(int(first), int(n), nonce=metadata[NONCE_KEY], input_file_id=file_id)
        self._made[made.id] = made
        return made

    def batch(self, first: int, n: int, **more: Any) -> Batch:
        """Return a batch that has ended, with its files made."""
        from airflow_openai_batch.engine.model import Batch

        files = [str(path) if path is not None else None for path in self._answers(first, n)]
        now = time.time()
        return Batch(
            id=f"batch_{first}_{n}",
            status="completed",
            created_at=now,
            ended_at=now,
            output_file_id=files[0],
            error_file_id=files[1],
            n_total=n,
            **more,
        )

    def retrieve(self, batch_id: str) -> Batch:
        """Return a batch."""
        return self._made[batch_id]

    def batches(self, since: float) -> Iterator[Batch]:
        """Yield all batches."""
        return iter(self._made.values())

    def download(self, file_id: str, target: IO[bytes]) -> int:
        """Copy a local file. It is left out of the time where it is a mere copy that the method waits for."""
        is_copy = hasattr(target, "fileno") and threading.current_thread() is threading.main_thread()
        pause = self._clock.paused() if self._clock is not None and is_copy else contextlib.nullcontext()
        with pause, open(file_id, "rb") as source:
            shutil.copyfileobj(source, target, 1 << 18)
        return os.path.getsize(file_id)

    def file_bytes(self, file_id: str) -> int:
        """Return the size of a file."""
        return os.path.getsize(file_id)


def begin_task() -> None:
    """Load what a task loads, in its order: what Arrow gives memory back with is chosen before Arrow is there."""
    from airflow_openai_batch.engine.concurrency import use_releasing_allocator

    use_releasing_allocator()
    import openai  # noqa: F401 - the client is made before anything else
    import pandas as pd  # noqa: F401 - Arrow imports it when it makes its first array
    import pyarrow.parquet as pq  # noqa: F401


def store_in(folder: Path) -> JobStore:
    """Return the job store of the benchmarks in a folder."""
    from upath import UPath

    from airflow_openai_batch.engine.model import JobKey
    from airflow_openai_batch.engine.store.job_store import JobStore

    return JobStore(UPath(folder), JobKey(dag_id="benchmark", run_id="manual__2026-01-01", task_id="ask"))


def engine_in(folder: Path, api: Any = None) -> Engine:
    """Return an engine on the job store in a folder, with as many transfers at once as a task has by default."""
    from airflow_openai_batch.engine.job.context import Engine

    return Engine(store=store_in(folder), api=api or Unasked(), parallel=4)  # type: ignore[arg-type]


def plan(engine: Engine, rows: Path, body: Any = None, **request: Any) -> Job:
    """Plan a job that asks something of each row of a Parquet file: the user's way."""
    from airflow_openai_batch.engine.job.submit import Request, submit
    from airflow_openai_batch.engine.model import Policy

    asked = {"endpoint": workload.RESPONSES, "body": body or workload.BODY, "custom_id": "{id}", **request}
    return submit(engine, Request(rows, **asked), Policy(max_rounds=0, max_bad_ratio=1))


def answered(job: Job, api: LocalOpenAI) -> list[Shard]:
    """Return the shards of a job that was planned as they are when their batches have ended."""
    import msgspec

    from airflow_openai_batch.engine.model import State

    return [
        msgspec.structs.replace(shard, state=State.ENDED, batch=api.batch(shard.first_row, shard.n_requests))
        for shard in job.shards
    ]


def finish(engine: Engine) -> Job:
    """Take a job that was planned to its end."""
    from airflow_openai_batch.engine.job.advance import advance, load
    from airflow_openai_batch.engine.job.status import Done

    reached = advance(engine)
    if not isinstance(reached, Done):
        raise TypeError(f"The job does not end: {reached}")
    return load(engine)[1]


def linked(source: Path, target: Path) -> Path:
    """Copy a folder as hard links: a store whose write-once files are there, and whose new ones are one's own."""
    for path in source.rglob("*"):
        if path.is_file():
            beside = target / path.relative_to(source)
            beside.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, beside)
    return target
