"""The storages that a job may live on: local disk, memory, and a real S3 server."""

from __future__ import annotations

import itertools
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from airflow_openai_batch.engine.model import FORMAT_VERSION, Job, JobKey, Policy, Spec
from airflow_openai_batch.engine.store.job_store import JobStore

KEY = JobKey(dag_id="labels", run_id="scheduled__2026-11-22T00:00:00+00:00", task_id="ask")
REGION = "us-east-1"


class Storage:
    """A place for job stores. Two clients take turns, so what one wrote is read by the other."""

    def __init__(self, name: str, uri: str, *clients: dict[str, Any]) -> None:
        self.name, self.uri = name, uri
        self._clients = itertools.cycle(clients or ({},))

    def root(self) -> UPath:
        """A path on the next client; clients share neither connections nor listings."""
        return UPath(self.uri, **next(self._clients))

    def store(self, key: JobKey = KEY) -> JobStore:
        return JobStore(self.root(), key)


@pytest.fixture(scope="session")
def s3_options(s3_endpoint: str) -> dict[str, Any]:
    """Options of a client of an S3 server with a bucket ``jobs``."""
    import boto3

    for name in ("werkzeug", "botocore", "aiobotocore", "s3fs"):
        logging.getLogger(name).setLevel(logging.ERROR)
    client = boto3.client(
        "s3", endpoint_url=s3_endpoint, aws_access_key_id="id", aws_secret_access_key="secret", region_name=REGION
    )
    client.create_bucket(Bucket="jobs")
    return {
        "key": "id",
        "secret": "secret",
        "client_kwargs": {"endpoint_url": s3_endpoint, "region_name": REGION},
    }


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    name = request.param
    if name == "local":
        yield Storage(name, str(tmp_path / "jobs"))
    elif name == "memory":
        folder = f"memory://jobs-{uuid.uuid4().hex}"
        yield Storage(name, folder)
        root = UPath(folder)
        if root.exists():
            root.fs.rm(root.path, recursive=True)
    else:
        options = {**request.getfixturevalue("s3_options"), "use_listings_cache": True}
        yield Storage(name, f"s3://jobs/{uuid.uuid4().hex}", options, {**options, "default_cache_type": "bytes"})


@pytest.fixture
def job() -> Callable[..., Job]:
    """Make the state of a job."""

    def make(n_rows: int = 0) -> Job:
        return Job(
            format_version=FORMAT_VERSION,
            key=KEY,
            spec=Spec(endpoint="/v1/responses", body="{}"),
            policy=Policy(),
            source_version=None,
            created_at=1.0,
            deadline_from=1.0,
            shards=(),
            n_rows=n_rows,
        )

    return make


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory that any user may enter, unlike pytest's own."""
    folder = Path("/tmp") / f"openai-batch-stores-{uuid.uuid4().hex}"
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)
