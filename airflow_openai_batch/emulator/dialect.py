"""Dialects of the API: what differs at OpenAI's and at Azure's servers, all in one place.

"Azure:" means Microsoft's documentation of Azure OpenAI v1 (how-to-batch-content, batch-rest, global-batch-limits;
2025-11 to 2026-08; manage-costs and content-filter for what is charged), "seen:" a response of the real service that
was reported in public, and "assumed:" that neither says it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from airflow_openai_batch.emulator.api_error import ApiError, error_json
from airflow_openai_batch.emulator.model import (
    ENDPOINTS,
    FILE_LIFETIME_S,
    TERMINAL,
    Batch,
    BatchError,
    JsonObject,
    Quirks,
    Status,
    StoredFile,
    Verdict,
)
from airflow_openai_batch.emulator.tokens import prompt_tokens
from airflow_openai_batch.emulator.validate import Limits, check_input, parse_line
from airflow_openai_batch.emulator.view import batch_json

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

PREFIX = "emulator.prefix"
"""Key of the ASGI scope: what stood before `/v1` in the path of a call."""

_BOM = b"\xef\xbb\xbf"
_FILTER_CATEGORIES = ("hate", "self_harm", "sexual", "violence")


class Dialect:
    """OpenAI's own dialect, and what a server may say in another way."""

    name = "openai"
    prefix = ""
    """What stands before `/v1` in the paths."""
    limits = Limits()
    quirks = Quirks()
    """What is so of every batch, besides its faults."""
    file_lifetime_s: float | None = FILE_LIFETIME_S
    """How long an input file is kept that was uploaded without an expiration; None is for ever."""
    mark = b""
    """What an upload may have before its first line."""

    def pending_s(self, duration_s: float) -> float:
        """Return for how long an uploaded file is pending if batches take so long."""
        return 0.0

    def app(self, app: App) -> App:
        """Return the ASGI application as it is spoken to in this dialect."""
        return app

    def check_file_count(self, stored: list[StoredFile], lifetime_s: float | None) -> None:
        """Check whether the account may have one more input file.

        Args:
            stored: The files there are.
            lifetime_s: The expiration of the new one; None without one.

        Raises:
            ApiError: It may not.
        """

    def check_file(self, stored: StoredFile | None, now: float) -> None:
        """Check whether a batch may be created of a file, None if it does not exist.

        Raises:
            ApiError: 400, it is not processed yet.
        """

    def endpoint_of(self, text: Any) -> Any:
        """Return the endpoint that a request for a batch means."""
        return text

    def check_input(self, path: Path, batch: Batch, limits: Limits) -> Verdict:
        """Return what the asynchronous validation says about a batch's input file.

        Args:
            path: The input file.
            batch: The batch.
            limits: The limits of a batch.
        """
        return check_input(path, batch.endpoint, limits)

    def batch_json(self, batch: Batch, status: Status | None = None) -> JsonObject:
        """Return the batch object."""
        return batch_json(batch, status)

    def line(self, line: JsonObject) -> JsonObject:
        """Return a line of a result file."""
        return line

    def body(self, body: JsonObject) -> JsonObject:
        """Return the body of an answer."""
        return body

    def billed_of_filtered(self, body: JsonObject) -> JsonObject | None:
        """Return what is billed of a request whose prompt the content filter refused; None if nothing is."""
        return None

    def deletion(self, file_id: str) -> JsonObject | None:
        """Return the body of the response to the deletion of a file; None is 204 without one."""
        return {"object": "file", "id": file_id, "deleted": True}


class Azure(Dialect):
    """The dialect of Azure OpenAI v1.

    Args:
        deployments: Model by deployment: what requests name, and what answers. Without it any name is a deployment's,
            and answers name the deployment.
    """

    name = "azure"
    prefix = "/openai"  # Azure: the base URL ends in /openai/v1/
    # Azure: 100,000 requests a file; files expire after 14 to 30 days.
    limits = Limits(requests=100_000, file_lifetime_s=1_209_600)
    # Azure: a batch is not expired after 24 h and runs until it is cancelled, although `expires_at` is set; one without
    # an error has an error file of no bytes; times in ISO 8601 and absent ids as empty strings in the samples.
    quirks = Quirks(never_expires=True, zero_byte_error_file=True, empty_string_ids=True, time_form="iso")
    file_lifetime_s = None  # Azure: input files that were given no expiration have a limit of their own, so they stay
    mark = _BOM  # it is found later

    # Azure: the most input files without and with an expiration.
    _max_lasting, _max_expiring = 500, 10_000
    # Azure: its names of OpenAI's errors; those that are not listed are the same.
    _codes: Mapping[str, str] = {"invalid_url": "url_mismatch", "mismatched_model": "model_mismatch"}

    def __init__(self, deployments: Mapping[str, str] | None = None) -> None:
        self._deployments = dict(deployments or {})
        if deployments is not None:
            self.limits = replace(self.limits, models=frozenset(deployments))

    def pending_s(self, duration_s: float) -> float:
        """Return a tenth of the duration, but at most a minute."""
        return min(duration_s / 10, 60.0)

    def app(self, app: App) -> App:
        """Return the application under `/openai`, with keys in the header `api-key` too."""

        async def spoken(scope: Scope, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and not scope["path"].startswith("/_emulator"):
                if not scope["path"].startswith(self.prefix + "/v1/"):
                    return await _send_404(scope, send)
                # Azure: a key is in `api-key` or, as a token of Entra is, in `authorization`.
                headers = [
                    (b"authorization", b"Bearer " + value) if name == b"api-key" else (name, value)
                    for name, value in scope["headers"]
                ]
                path = scope["path"].removeprefix(self.prefix)
                scope = {**scope, PREFIX: self.prefix, "path": path, "raw_path": path.encode(), "headers": headers}
            return await app(scope, receive, send)

        return spoken

    def check_file_count(self, stored: list[StoredFile], lifetime_s: float | None) -> None:
        """Check the number of input files. Assumed: status and text of the error."""
        is_lasting = lifetime_s is None
        n = sum(file.purpose == "batch" and (file.expires_at is None) == is_lasting for file in stored)
        most = self._max_lasting if is_lasting else self._max_expiring
        if n >= most:
            message = f"The resource has {n} batch input files{' that do not expire' * is_lasting}; the most is {most}."
            raise ApiError(400, message)

    def check_file(self, stored: StoredFile | None, now: float) -> None:
        """Refuse a file that is still being processed. Seen: the text."""
        if stored is not None and now < stored.processed_at:
            message = (
                "The input file is in 'pending' state. Only files with status 'Processed' are accepted for batch "
                "inferencing."
            )
            raise ApiError(400, message, param="input_file_id")

    def endpoint_of(self, text: Any) -> Any:
        """Return OpenAI's form of an endpoint. Azure: lines and batches also name `/chat/completions`."""
        return f"/v1{text}" if f"/v1{text}" in ENDPOINTS else text

    def check_input(self, path: Path, batch: Batch, limits: Limits) -> Verdict:
        """Validate a file. Azure: it decides of itself which endpoint its batch is for.

        Args:
            path: The input file.
            batch: The batch, which gets that endpoint.
            limits: The limits of a batch.
        """
        with path.open("rb") as lines:
            first = lines.readline()
        if first.startswith(self.mark):
            # Azure: a byte order mark is refused, with words about a deployment that is not named. Assumed: the code.
            message = "No deployment name was found in the request: each line must name a deployment in body.model."
            return Verdict([BatchError("model_not_found", message, "body.model", 1)])
        line = parse_line(first)
        url = line.get("url") if isinstance(line, dict) else None
        if self.endpoint_of(url) in ENDPOINTS:
            batch.endpoint = self.endpoint_of(url)
        else:
            url = None
        verdict = check_input(path, batch.endpoint, limits, url)
        verdict.errors = [replace(error, code=self._codes.get(error.code, error.code)) for error in verdict.errors]
        return verdict

    def batch_json(self, batch: Batch, status: Status | None = None) -> JsonObject:
        """Return the batch object as Azure's samples show it."""
        shown = batch_json(batch, status)
        is_failed = shown["status"] == Status.FAILED
        is_over = shown["status"] in TERMINAL and not is_failed
        counts = shown["request_counts"] if is_over else dict.fromkeys(shown["request_counts"])
        return {
            **shown,
            "endpoint": None,
            "status": shown["status"].capitalize(),
            "request_counts": counts,
            # Azure: a failed batch has its end in `completed_at`.
            "completed_at": shown["failed_at"] if is_failed else shown["completed_at"],
            "failed_at": None,
        }

    def line(self, line: JsonObject) -> JsonObject:
        """Return a line. Azure: it has no `id`."""
        return {name: value for name, value in line.items() if name != "id"}

    def body(self, body: JsonObject) -> JsonObject:
        """Return an answer. Azure: it tells what the content filter found. Assumed: it names the deployment's model."""
        body = {**body, "model": self._deployments.get(str(body.get("model")), body.get("model"))}
        if body.get("object") == "response":
            return {**body, "content_filters": [{"blocked": False, "content_filter_results": _filter_results(False)}]}
        if "choices" not in body:
            return body
        choices = [
            {**choice, "content_filter_results": _filter_results(choice.get("finish_reason") == "content_filter")}
            for choice in body["choices"]
        ]
        prompt = {"prompt_index": 0, "content_filter_results": _filter_results(False)}
        return {**body, "choices": choices, "prompt_filter_results": [prompt]}

    def billed_of_filtered(self, body: JsonObject) -> JsonObject:
        """Return the prompt. Azure: it was evaluated and is charged, though no answer tells its tokens."""
        return self.body({"model": body.get("model"), "usage": {"prompt_tokens": prompt_tokens(body)}})

    def deletion(self, file_id: str) -> None:
        """Return nothing. Azure: the deletion of a file is answered with 204."""


def dialect_of(name: str, deployments: Mapping[str, str] | None = None) -> Dialect:
    """Return a dialect by its name.

    Args:
        name: `openai` or `azure`.
        deployments: Model by deployment, for `azure`.

    Raises:
        ValueError: There is no such dialect, or it knows no deployments.
    """
    if name == "azure":
        return Azure(deployments)
    if name != "openai":
        raise ValueError(f"There is no dialect {name!r}: it is 'openai' or 'azure'.")
    if deployments is not None:
        raise ValueError("deployments are of dialect='azure'.")
    return Dialect()


def _filter_results(is_filtered: bool) -> JsonObject:
    results: JsonObject = {name: {"filtered": False, "severity": "safe"} for name in _FILTER_CATEGORIES}
    if is_filtered:
        results["violence"] = {"filtered": True, "severity": "medium"}
    return results


async def _send_404(scope: Scope, send: Any) -> None:
    """Send what a path outside `/openai/v1` gets. Assumed: the text."""
    body = json.dumps(error_json(404, "Resource not found", code="404")).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": body})
