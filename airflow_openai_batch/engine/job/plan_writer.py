"""The plan of a job in its store, with its first requests in a file: they hold what rows hold, and no log may."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec

from airflow_openai_batch.engine.job.measure import measured
from airflow_openai_batch.engine.job.plan import Plan, plan_of
from airflow_openai_batch.engine.model import UNSENT, Job
from airflow_openai_batch.engine.store.job_store import JobStore

_FIRST_REQUESTS = 20
_FIRST_BYTES = 4 * 1024 * 1024
"""Size of the first requests after which no other one is added."""


def write_plan(store: JobStore, job: Job) -> Plan:
    """Return the plan of a job, and write its first requests into the store.

    Args:
        store: The job's store.
        job: The newest snapshot's job.

    Raises:
        StoreError: The store cannot be read or written.
    """
    if job.measure is None:
        job = msgspec.structs.replace(job, measure=measured(store, job.shards, job.spec.endpoint))
    requests = first_requests(store, job)
    if not requests:
        return plan_of(job)
    text = msgspec.json.format(msgspec.json.encode(requests), indent=2)
    name = store.plan_name(job.epoch, hashlib.sha256(text).hexdigest()[:12])
    store.create(name, text)
    return plan_of(job, f"{store}/{name}")


def first_requests(store: JobStore, job: Job) -> list[dict[str, Any]]:
    """Return the first requests that are not sent yet, at most 20, as OpenAI would get them.

    Args:
        store: The job's store.
        job: The newest snapshot's job.
    """
    requests: list[dict[str, Any]] = []
    n_bytes = 0
    for line in _unsent_lines(store, job):
        n_bytes += len(line)
        if len(requests) == _FIRST_REQUESTS or (requests and n_bytes > _FIRST_BYTES):
            break
        requests.append(msgspec.json.decode(line))
    return requests


def _unsent_lines(store: JobStore, job: Job) -> Iterator[bytes]:
    unsent = [shard for shard in job.shards if shard.state in UNSENT and shard.n_requests]
    for shard in sorted(unsent, key=lambda shard: (not shard.is_pilot, shard.first_row)):
        with store.open(shard.requests) as file:
            yield from file
