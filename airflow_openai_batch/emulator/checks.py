"""What the API refuses at once, with an HTTP error (API facts, sections 1.2, 2.4 and 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_openai_batch.emulator.api_error import ApiRefusal
from airflow_openai_batch.emulator.model import ENDPOINTS, FILE_LIFE_S
from airflow_openai_batch.emulator.validate import Limits, parsed_line

_PURPOSES = frozenset({"assistants", "batch", "fine-tune", "vision", "user_data", "evals"})
_MIN_LIFE_S = 3_600
_MAX_PAIRS, _MAX_KEY, _MAX_VALUE = 16, 64, 512


def check_upload(path: Path, filename: str, purpose: str, size: int, limits: Limits) -> None:
    """Refuse an upload that the Files API would refuse.

    Raises:
        ApiRefusal: With the status and words of the real one.
    """
    if purpose not in _PURPOSES:
        raise ApiRefusal(400, f"'{purpose}' is not one of {sorted(_PURPOSES)} - 'purpose'", param="purpose")
    if size > limits.upload_bytes:
        raise ApiRefusal(413, f"The file is larger than the {limits.upload_bytes} bytes a file may have.")
    if purpose != "batch":
        return
    if not filename.endswith(".jsonl"):
        raise ApiRefusal(400, "Invalid file format for Batch API. Must be .jsonl", param="file")
    if size == 0:
        raise ApiRefusal(400, "The file is empty.", param="file")
    # Only the first line is looked at here; the others wait for the batch (API facts, section 2.4).
    with path.open("rb") as lines:
        first = lines.readline()
    if not isinstance(parsed_line(first), dict):
        raise ApiRefusal(400, "Invalid file format. Line 1 is not parseable as valid JSON.", param="file")


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A well-formed request for a batch."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None
    output_life_s: float


def check_create(request: Any) -> CreateRequest:
    """Refuse a request for a batch that the API would refuse; whether the file exists is found out later.

    Raises:
        ApiRefusal: With the status, code and param of the real one.
    """
    if not isinstance(request, dict):
        raise ApiRefusal(400, "We could not parse the JSON body of your request.")
    for name in ("input_file_id", "endpoint", "completion_window"):
        if request.get(name) is None:
            message = f"Missing required parameter: '{name}'."
            raise ApiRefusal(400, message, code="missing_required_parameter", param=name)
        if not isinstance(request[name], str):
            raise _wrong_type(name, "a string")
    _check_value("endpoint", request["endpoint"], ENDPOINTS)
    _check_value("completion_window", request["completion_window"], ("24h",))
    return CreateRequest(
        request["input_file_id"],
        request["endpoint"],
        request["completion_window"],
        _checked_metadata(request.get("metadata")),
        life_s(request.get("output_expires_after"), "output_expires_after") or FILE_LIFE_S,
    )


def life_s(policy: Any, param: str) -> float | None:
    """Return the seconds of an expiration policy, None if there is no policy.

    Raises:
        ApiRefusal: The anchor is not `created_at` or the seconds are not between an hour and 30 days.
    """
    if policy is None:
        return None
    if not isinstance(policy, dict):
        raise _wrong_type(param, "an object")
    if policy.get("anchor") != "created_at":
        raise _wrong_value(f"{param}.anchor", str(policy.get("anchor")), ("created_at",))
    try:
        seconds = int(policy.get("seconds", ""))
    except (TypeError, ValueError):
        raise _wrong_type(f"{param}.seconds", "an integer") from None
    if not _MIN_LIFE_S <= seconds <= FILE_LIFE_S:
        message = f"'{param}.seconds' must be between {_MIN_LIFE_S} and {int(FILE_LIFE_S)}, not {seconds}."
        raise ApiRefusal(400, message, code="invalid_value", param=f"{param}.seconds")
    return seconds


def check_limit(text: str | None, default: int, most: int) -> int:
    """Return the page size a listing asks for.

    Raises:
        ApiRefusal: It is no number from 1 to `most`.
    """
    if text is None:
        return default
    if not text.isdecimal() or not 1 <= int(text) <= most:
        message = f"Invalid 'limit': expected an integer from 1 to {most}, got '{text}'."
        raise ApiRefusal(400, message, code="invalid_value", param="limit")
    return int(text)


def _checked_metadata(metadata: Any) -> dict[str, str] | None:
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        raise _wrong_type("metadata", "an object")
    if len(metadata) > _MAX_PAIRS:
        message = f"Invalid 'metadata': too many properties. Expected at most {_MAX_PAIRS}, got {len(metadata)}."
        raise ApiRefusal(400, message, code="object_above_max_properties", param="metadata")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise _wrong_type(f"metadata.{key}", "a string")
        for name, text, most in ((f"metadata key '{key}'", key, _MAX_KEY), (f"metadata.{key}", value, _MAX_VALUE)):
            if len(text) > most:
                message = f"Invalid '{name}': string too long. Expected at most {most} characters."
                raise ApiRefusal(400, message, code="string_above_max_length", param=f"metadata.{key}")
    return metadata


def _check_value(param: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise _wrong_value(param, value, allowed)


def _wrong_value(param: str, value: str, allowed: tuple[str, ...]) -> ApiRefusal:
    supported = ", ".join(f"'{one}'" for one in allowed)
    message = f"Invalid value: '{value}'. Supported values are: {supported}."
    return ApiRefusal(400, message, code="invalid_value", param=param)


def _wrong_type(param: str, wanted: str) -> ApiRefusal:
    return ApiRefusal(400, f"Invalid type for '{param}': expected {wanted}.", code="invalid_type", param=param)
