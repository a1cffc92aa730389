"""Synchronous validation: what the API rejects at once, with an HTTP error.

OpenAI: metadata of 16 pairs with keys of up to 64 and values of up to 512 characters; expiration of files after an hour
to 30 days; the endpoints, purposes and completion window. Seen: statuses, codes and messages (llama-stack's tests
against OpenAI, 2025; BerriAI/litellm #37527).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_openai_batch.emulator.api_error import ApiError
from airflow_openai_batch.emulator.model import ENDPOINTS, FILE_LIFETIME_S
from airflow_openai_batch.emulator.validate import Limits, parse_line

_PURPOSES = frozenset({"assistants", "batch", "fine-tune", "vision", "user_data", "evals"})
_MAX_PAIRS, _MAX_KEY, _MAX_VALUE = 16, 64, 512


def check_upload(path: Path, filename: str, purpose: str, size: int, limits: Limits, mark: bytes = b"") -> None:
    """Check an upload as the Files API does.

    Args:
        path: The content.
        filename: The file's name as uploaded.
        purpose: The file's purpose.
        size: The content's bytes.
        limits: The limits of a batch.
        mark: What may stand before the first line.

    Raises:
        ApiError: The Files API would reject it; status and message are OpenAI's.
    """
    if purpose not in _PURPOSES:
        raise ApiError(400, f"'{purpose}' is not one of {sorted(_PURPOSES)} - 'purpose'", param="purpose")
    if size > limits.upload_bytes:
        raise ApiError(413, f"The file is larger than the {limits.upload_bytes} bytes a file may have.")
    if purpose != "batch":
        return
    if not filename.endswith(".jsonl"):
        raise ApiError(400, "Invalid file format for Batch API. Must be .jsonl", param="file")
    if size == 0:
        raise ApiError(400, "The file is empty.", param="file")
    # Seen: only the first line is checked here, the others when a batch is created.
    with path.open("rb") as lines:
        first = lines.readline()
    if not isinstance(parse_line(first.removeprefix(mark)), dict):
        raise ApiError(400, "Invalid file format. Line 1 is not parseable as valid JSON.", param="file")


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A valid request for a batch; `output_lifetime_s` is how long its output files are kept."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None
    output_lifetime_s: float


def check_create(request: Any, limits: Limits, endpoint_of: Callable[[Any], Any]) -> CreateRequest:
    """Return the parameters of a request for a batch. Seen: whether the file exists is not checked here.

    Args:
        request: The body of the call.
        limits: The limits of a batch.
        endpoint_of: Returns the endpoint that a text means.

    Raises:
        ApiError: The API would reject it; status, code and param are OpenAI's.
    """
    if not isinstance(request, dict):
        raise ApiError(400, "We could not parse the JSON body of your request.")
    for name in ("input_file_id", "endpoint", "completion_window"):
        if request.get(name) is None:
            message = f"Missing required parameter: '{name}'."
            raise ApiError(400, message, code="missing_required_parameter", param=name)
        if not isinstance(request[name], str):
            raise _wrong_type(name, "a string")
    request = {**request, "endpoint": endpoint_of(request["endpoint"])}
    for name, allowed in (
        ("endpoint", (*ENDPOINTS, *limits.other_endpoints)),
        ("completion_window", ("24h",)),
    ):
        if request[name] not in allowed:
            raise _wrong_value(name, request[name], allowed)
    return CreateRequest(
        request["input_file_id"],
        request["endpoint"],
        request["completion_window"],
        _check_metadata(request.get("metadata")),
        parse_expiration(request.get("output_expires_after"), "output_expires_after", limits) or FILE_LIFETIME_S,
    )


def parse_expiration(policy: Any, param: str, limits: Limits) -> int | None:
    """Return the seconds of an expiration policy, None without a policy.

    Args:
        policy: An object with an anchor and seconds.
        param: The parameter's name.
        limits: The limits of a batch, with the shortest life of a file.

    Raises:
        ApiError: A part of it is missing, the anchor is not `created_at`, or the seconds are no integer or out of
            bounds.
    """
    if policy is None:
        return None
    if not isinstance(policy, dict):
        raise _wrong_type(param, "an object")
    for name in ("anchor", "seconds"):
        if policy.get(name) is None:
            message = f"Missing required parameter: '{param}.{name}'."
            raise ApiError(400, message, code="missing_required_parameter", param=f"{param}.{name}")
    if policy["anchor"] != "created_at":
        raise _wrong_value(f"{param}.anchor", str(policy["anchor"]), ("created_at",))
    seconds = policy["seconds"]
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise _wrong_type(f"{param}.seconds", "an integer")
    if not limits.file_lifetime_s <= seconds <= FILE_LIFETIME_S:
        message = (
            f"'{param}.seconds' must be between {limits.file_lifetime_s} and {int(FILE_LIFETIME_S)}, not {seconds}."
        )
        raise ApiError(400, message, code="invalid_value", param=f"{param}.seconds")
    return seconds


def check_limit(text: str | None, default: int, maximum: int) -> int:
    """Return the page size of a listing.

    Args:
        text: The query parameter, None if absent.
        default: The page size without it.
        maximum: The largest page size.

    Raises:
        ApiError: It is not an integer from 1 to `maximum`.
    """
    if text is None:
        return default
    if not text.isdecimal() or not 1 <= int(text) <= maximum:
        message = f"Invalid 'limit': expected an integer from 1 to {maximum}, got '{text}'."
        raise ApiError(400, message, code="invalid_value", param="limit")
    return int(text)


def _check_metadata(metadata: Any) -> dict[str, str] | None:
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        raise _wrong_type("metadata", "an object")
    if len(metadata) > _MAX_PAIRS:
        message = f"Invalid 'metadata': too many properties. Expected at most {_MAX_PAIRS}, got {len(metadata)}."
        raise ApiError(400, message, code="object_above_max_properties", param="metadata")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise _wrong_type(f"metadata.{key}", "a string")
        for name, text, maximum in ((f"metadata key '{key}'", key, _MAX_KEY), (f"metadata.{key}", value, _MAX_VALUE)):
            if len(text) > maximum:
                message = f"Invalid '{name}': string too long. Expected at most {maximum} characters."
                raise ApiError(400, message, code="string_above_max_length", param=f"metadata.{key}")
    return metadata


def _wrong_value(param: str, value: str, allowed: tuple[str, ...]) -> ApiError:
    supported = ", ".join(f"'{item}'" for item in allowed)
    message = f"Invalid value: '{value}'. Supported values are: {supported}."
    return ApiError(400, message, code="invalid_value", param=param)


def _wrong_type(param: str, expected: str) -> ApiError:
    return ApiError(400, f"Invalid type for '{param}': expected {expected}.", code="invalid_type", param=param)
