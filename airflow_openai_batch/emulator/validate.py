"""The asynchronous validation: the errors of an input file that the API reports after the batch was created.

Seen: the codes and messages in `errors.data` of failed batches (llama-stack's tests against OpenAI, 2025;
openai-python #2084; Alibaba's compatible API for `mismatched_model` and `duplicate_custom_id`). Where none was seen, a
comment says what is assumed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_openai_batch.emulator.model import BatchError, JsonObject, Verdict
from airflow_openai_batch.emulator.tokens import input_items, prompt_tokens

_STREAM_NAMES = {
    "/v1/chat/completions": "Chat Completions",
    "/v1/responses": "Responses",
    "/v1/completions": "Completions",
}
_CONTENT_FIELDS = {
    "/v1/responses": "input",
    "/v1/chat/completions": "messages",
    "/v1/embeddings": "input",
    "/v1/completions": "prompt",
    "/v1/moderations": "input",
    "/v1/images/generations": "prompt",
    "/v1/images/edits": "prompt",
    "/v1/videos": "prompt",
}
# OpenAI: moderations and images have a default model. Assumed: videos too.
_MODEL_OPTIONAL = frozenset({"/v1/moderations", "/v1/images/generations", "/v1/images/edits", "/v1/videos"})


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a batch; raise one to emulate a more generous server. OpenAI: the defaults.

    Attributes:
        requests: Requests per batch.
        file_bytes: Bytes per input file. OpenAI: 200 MB; seen: 209,715,200 in the error's message.
        upload_bytes: Bytes per uploaded file of any purpose.
        embedding_inputs: Embedding inputs per batch, arrays counted by item.
        batches_per_hour: Batches created per hour of the emulator's clock.
        models: The models that exist; None accepts any name.
        file_lifetime_s: The shortest life that an upload or a batch may give to files, in seconds. Azure's
            documentation: 1,209,600.
        other_endpoints: Endpoints besides OpenAI's, as compatible servers have them. Their answers are
            `{"model": …, "output": …, "usage": …}`, unless the answer function returns a `Raw`.
    """

    requests: int = 50_000
    file_bytes: int = 200 * 1024 * 1024
    upload_bytes: int = 512 * 1024 * 1024
    embedding_inputs: int = 50_000
    batches_per_hour: int = 2_000
    models: frozenset[str] | None = None
    file_lifetime_s: int = 3_600
    other_endpoints: frozenset[str] = frozenset()


def strict_json(raw: bytes) -> Any:
    """Return the value of a JSON text, decoded strictly: UTF-8, no byte order mark, no NaN.

    Raises:
        ValueError: It is not such a text.
    """
    return _DECODER.decode(raw.decode("utf-8"))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def check_input(path: Path, endpoint: str, limits: Limits, url: str | None = None) -> Verdict:
    """Read a whole input file and return what the asynchronous validation says about it.

    Args:
        path: The input file.
        endpoint: The batch's endpoint.
        limits: The limits of a batch.
        url: What each line has to name; None is the endpoint.
    """
    size = path.stat().st_size
    verdict = Verdict(errors=[])
    checker = _LineChecker(endpoint, limits, url)
    for number, start, line in _lines(path):
        verdict.offsets.append(start)
        if error := checker.check(line, number):
            verdict.errors.append(error)
    verdict.total = len(verdict.offsets)
    verdict.offsets.append(size)
    verdict.model = checker.model
    verdict.tokens = checker.tokens
    verdict.errors.extend(_file_errors(verdict, checker.embedding_inputs, size, limits))
    return verdict


def _file_errors(verdict: Verdict, embedding_inputs: int, size: int, limits: Limits) -> Iterator[BatchError]:
    """Yield the errors of the file as a whole. Assumed: the codes of the last two."""
    if verdict.total == 0:
        yield BatchError(
            "empty_file", "The input file is empty. Please ensure that the batch contains at least one request."
        )
    if verdict.total > limits.requests:
        # Azure's documentation names the code; OpenAI's own was not seen.
        yield BatchError("too_many_tasks", f"The batch has {verdict.total} requests; the maximum is {limits.requests}.")
    if size > limits.file_bytes:
        message = f"The input file is larger than the {limits.file_bytes} maximum for the {verdict.model} model."
        yield BatchError("file_too_large", message, "file_id")
    if embedding_inputs > limits.embedding_inputs:
        message = f"The batch has {embedding_inputs} embedding inputs; the maximum is {limits.embedding_inputs}."
        yield BatchError("too_many_embedding_inputs", message)


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield number (from 1), offset and bytes of each line that is not blank."""
    start = 0
    with path.open("rb", buffering=1 << 20) as lines:
        for number, line in enumerate(lines, 1):
            if not line.isspace():
                yield number, start, line
            start += len(line)


def parse_line(line: bytes) -> Any:
    """Return the value of a line, None if it is not JSON."""
    try:
        return strict_json(line)
    except (ValueError, RecursionError):
        return None


def check_body(body: Any, endpoint: str, limits: Limits) -> BatchError | None:
    """Return the error of a single request's body, None if it has none.

    Args:
        body: The body.
        endpoint: The endpoint it is for.
        limits: Whose models exist.
    """
    return _LineChecker(endpoint, limits).check_body(body, 0)


class _LineChecker:
    """Checks request lines in order, and what must agree across lines."""

    def __init__(self, endpoint: str, limits: Limits, url: str | None = None) -> None:
        self.model: str | None = None
        self.tokens = 0
        self.embedding_inputs = 0
        self._endpoint = endpoint
        self._url = url or endpoint
        self._limits = limits
        self._custom_ids: set[str] = set()

    def check(self, raw: bytes, number: int) -> BatchError | None:
        """Return the first error of a line, None if it has none."""
        line = parse_line(raw)
        if not isinstance(line, dict):
            return BatchError("invalid_json_line", "This line is not parseable as valid JSON.", None, number)
        return self._check_envelope(line, number) or self.check_body(line["body"], number)

    def _check_envelope(self, line: JsonObject, number: int) -> BatchError | None:
        for name in ("custom_id", "method", "url", "body"):
            if line.get(name) is None:
                return _missing(name, name, number)
        custom_id = line["custom_id"]
        if not isinstance(custom_id, str):
            # Assumed: the code of the synchronous type errors.
            return BatchError("invalid_type", "Invalid type for 'custom_id': expected a string.", "custom_id", number)
        if line["method"] != "POST":
            # OpenAI: POST is the only method. Assumed: the code.
            message = f"The HTTP method '{line['method']}' is not supported. Only 'POST' is."
            return BatchError("invalid_method", message, "method", number)
        if line["url"] != self._url:
            message = "The URL provided for this request does not match the batch endpoint."
            return BatchError("invalid_url", message, "url", number)
        if custom_id in self._custom_ids:
            message = (
                f"The custom_id '{custom_id}' for this request is a duplicate of another request. "
                "The custom_id parameter must be unique for each request in a batch."
            )
            return BatchError("duplicate_custom_id", message, "custom_id", number)
        self._custom_ids.add(custom_id)
        return None

    def check_body(self, body: Any, number: int) -> BatchError | None:
        """Return the first error of a body, None if it has none.

        Args:
            body: The body.
            number: The line's number, for the error.
        """
        if not isinstance(body, dict):
            return BatchError("invalid_type", "Invalid type for 'body': expected an object.", "body", number)
        if error := self._check_model(body.get("model"), number):
            return error
        if body.get("stream") is True:
            name = _STREAM_NAMES.get(self._endpoint, "Requests")
            message = f"{name}: Streaming is not supported in the Batch API."
            return BatchError("streaming_unsupported", message, "body.stream", number)
        content_field = _CONTENT_FIELDS.get(self._endpoint)
        # OpenAI: a Responses request may name a stored prompt instead of an input.
        is_stored = self._endpoint == "/v1/responses" and body.get("prompt") is not None
        if content_field is not None and body.get(content_field) is None and not is_stored:
            return _missing(content_field, f"body.{content_field}", number)
        self.tokens += prompt_tokens(body)
        if self._endpoint == "/v1/embeddings":
            self.embedding_inputs += len(input_items(body["input"])) or 1
        return None

    def _check_model(self, model: object, number: int) -> BatchError | None:
        """Check the model. Seen: its absence is `missing_required_parameter` (2026; `invalid_request` in 2025)."""
        if not model:
            is_optional = self._endpoint in _MODEL_OPTIONAL | self._limits.other_endpoints
            return None if is_optional else _missing("model", "body.model", number)
        if not isinstance(model, str) or (self._limits.models is not None and model not in self._limits.models):
            message = f"The provided model '{model}' is not supported by the Batch API."
            return BatchError("model_not_found", message, "body.model", number)
        if self.model is None:
            self.model = model
        if model != self.model:
            message = (
                f"The model '{model}' for this request does not match the rest of the batch. "
                "Each batch must contain requests for a single model."
            )
            return BatchError("mismatched_model", message, "body.model", number)
        return None


def _missing(name: str, param: str, number: int) -> BatchError:
    return BatchError("missing_required_parameter", f"Missing required parameter: '{name}'.", param, number)
