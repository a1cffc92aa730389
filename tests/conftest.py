"""What all tests share: the tokenizer, which is the same for each, and an S3 server."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_vocabulary() -> Iterator[None]:
    """Load the tokenizer's vocabulary once, and not for each job, which would take some minutes."""
    from airflow_openai_batch.engine.money import tokens

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "load_encoder", functools.cache(tokens.load_encoder))
        yield


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of a real S3 server, which creates a file exclusively whoever else does so at the same time."""
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    put_object, one_at_a_time = S3Response.put_object, threading.Lock()

    def put_alone(self: Any) -> Any:
        with one_at_a_time:  # moto looks whether the file is there and writes it in two steps; S3 does so in one
            return put_object(self)

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Response, "put_object", put_alone)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()
