"""Whether a connection can work: what is seen of its client before any call, and by two calls that cost nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.api.bounds import within
from airflow_openai_batch.engine.api.client import CALL_S, step_timeout
from airflow_openai_batch.engine.api.errors import BAD_KEY, translate, translated

if TYPE_CHECKING:
    from openai import OpenAI

T = TypeVar("T")

_ADDRESSES = {
    re.compile(r"(\w+\.)?api\.openai\.com"): ("/v1", "/v1"),
    re.compile(r"[\w-]+\.(openai|cognitiveservices|services\.ai)\.azure\.(com|us|cn)"): ("/openai", "/openai/v1"),
}
"""Hosts whose API has a path of its own: how it begins, and which one to write. OpenAI's and Azure's documentation."""


def connected(make_client: Callable[[], T]) -> T:
    """Return a client, unless it can be seen that no call of it can succeed.

    Args:
        make_client: Makes the client of a connection.

    Raises:
        InputError: The connection has a mistake, and the message says what to change. Nothing was sent.
    """
    try:
        client = make_client()
    except Exception as error:
        api_error = translate(error)
        if api_error is None or isinstance(api_error, errors.Unclear):
            raise
        raise errors.InputError(
            f"The connection lacks what a client needs: {api_error} Nothing was sent. Enter the API key as the "
            "connection's password."
        ) from None
    if problem := _problem_of(client):
        raise errors.InputError(f"{problem} Nothing was sent.")
    return client


def client_or_default(client: Any = None) -> OpenAI:
    """Return a client that can be used: the given one, or by default one from the environment.

    Args:
        client: An ``openai.OpenAI``; None for one with ``OPENAI_API_KEY`` and ``OPENAI_BASE_URL``.

    Raises:
        InputError: There is no key, the client is of another kind, or its address or key has a mistake.
    """
    from openai import OpenAI

    if client is None and not os.environ.get("OPENAI_API_KEY"):
        raise errors.InputError(
            "There is no API key: set the environment variable OPENAI_API_KEY, or give client=OpenAI(api_key=…). "
            "Nothing was sent."
        )
    if client is not None and not isinstance(client, OpenAI):
        raise errors.InputError(f"client must be an openai.OpenAI, not {type(client).__name__}. Nothing was sent.")
    return connected(lambda: OpenAI() if client is None else client)


def _problem_of(client: Any) -> str | None:
    """Return what is wrong with a client's address or key, and what to write instead."""
    url = client.base_url
    if url.scheme not in ("http", "https") or not url.host:
        # The user's own setting; but it may hold a password, so only its beginning without one.
        given = str(url).rpartition("@")[2].strip("/")[:100]
        return f"The connection's host is no address: write it whole, as https://{given or 'api.openai.com/v1'} ."
    for host, (beginning, path) in _ADDRESSES.items():
        if host.fullmatch(url.host) and not url.path.startswith(beginning):
            return (
                f"The connection's host lacks {path}: write https://{url.host}{path} (or, for OpenAI itself, leave it "
                "empty)."
            )
    key = client.api_key
    if isinstance(key, str) and re.search(r"[^\x21-\x7e]", key):
        return BAD_KEY.removesuffix(" Nothing was sent.")
    return None


def check_access(client: OpenAI) -> None:
    """Check that batches and files can be read, by asking for some that do not exist.

    That the server itself does not know them shows that it would answer. A listing, which would show it too, is missing
    on some servers and forbidden to some keys.

    Args:
        client: The client.

    Raises:
        ApiError: They cannot be read; its message says which.
    """
    from airflow_openai_batch.engine.api.transport import bounded

    once: OpenAI = bounded(client)
    for what, retrieve in (("batch", once.batches.with_raw_response), ("file", once.files.with_raw_response)):
        try:
            with translated():
                within(CALL_S, partial(_retrieve, retrieve, f"{what}_connection_test"))
        except errors.Refused:
            continue  # of all refusals, those for a lack of rights come first
        except errors.ApiError as error:
            raise type(error)(f"No {what} can be read: {error}", status=error.status, code=error.code) from error


def _retrieve(calls: Any, object_id: str) -> None:
    from airflow_openai_batch.engine.api.batch_json import json_object

    json_object(calls.retrieve(object_id, timeout=step_timeout(CALL_S)).content)
