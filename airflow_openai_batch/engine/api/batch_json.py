"""Decoding batch objects and pages of the listing from JSON, of OpenAI and of compatible servers."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import msgspec

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.identity import NONCE_KEY
from airflow_openai_batch.engine.model import Batch, LineError

_STATUS_NAMES = {"canceled": "cancelled", "success": "completed", "succeeded": "completed", "done": "completed"}
"""Names that compatible servers use for OpenAI's statuses."""

_MAX_ERROR_GROUPS = 50


def json_object(content: bytes) -> dict[str, Any]:
    """Decode a response body that must be a JSON object.

    Raises:
        Unclear: It is another JSON value.
        msgspec.DecodeError: It is not JSON.
    """
    value = msgspec.json.decode(content)
    if not isinstance(value, dict):
        raise errors.Unclear("The answer of OpenAI was not a JSON object.")
    return value


def id_of(value: Mapping[str, Any]) -> str:
    """Return the id of an API object.

    Raises:
        Unclear: It has none.
    """
    object_id = value.get("id")
    if not isinstance(object_id, str) or not object_id:
        raise errors.Unclear("The answer of OpenAI carries no id.")
    return object_id


def batch_of(content: bytes) -> Batch:
    """Decode a batch object, in the forms of OpenAI and of compatible servers.

    Raises:
        Unclear: It is not a JSON object, or has no id.
        msgspec.DecodeError: It is not JSON.
    """
    return parse_batch(json_object(content))


def parse_batch(value: Mapping[str, Any]) -> Batch:
    """Return a decoded batch object as a ``Batch``; fields that are absent or of an undocumented type are left out.

    OpenAI's API reference names the fields. Seen: an absent file id is null or an empty string. Compatible servers
    write the status in other words or in upper case.

    Raises:
        Unclear: It has no id.
    """
    status = str(value.get("status") or "unknown").lower()
    status = _STATUS_NAMES.get(status, status)
    counts = value.get("request_counts")
    counts = counts if isinstance(counts, Mapping) else {}
    metadata = value.get("metadata")
    nonce = metadata.get(NONCE_KEY) if isinstance(metadata, Mapping) else None
    return Batch(
        id=id_of(value),
        status=status,
        created_at=_epoch(value.get("created_at")),
        expires_at=_epoch(value.get("expires_at")),
        ended_at=_epoch(value.get(f"{status}_at")),
        input_file_id=value.get("input_file_id") or None,
        output_file_id=value.get("output_file_id") or None,
        error_file_id=value.get("error_file_id") or None,
        n_total=int(counts.get("total") or 0),
        n_completed=int(counts.get("completed") or 0),
        n_failed=int(counts.get("failed") or 0),
        nonce=nonce if isinstance(nonce, str) else None,
        errors=_errors(value.get("errors")),
    )


class _Brief(msgspec.Struct, gc=False):
    """The fields of a batch object that polling needs. All others are skipped, which is ten times faster."""

    id: Any = None
    status: Any = None
    created_at: Any = None
    expires_at: Any = None
    completed_at: Any = None
    failed_at: Any = None
    expired_at: Any = None
    cancelled_at: Any = None
    input_file_id: Any = None
    output_file_id: Any = None
    error_file_id: Any = None
    request_counts: Any = None


class _BriefPage(msgspec.Struct, gc=False):
    data: list[_Brief] | None = None
    has_more: Any = None


BRIEF = msgspec.json.Decoder(_Brief)

BRIEF_PAGE = msgspec.json.Decoder(_BriefPage)


def _epoch(value: Any) -> float | None:
    """Return a time as epoch seconds.

    OpenAI's API reference: Unix seconds. Compatible servers: milliseconds (documented by Bella queue) or ISO 8601.
    """
    if isinstance(value, str):
        try:
            moment = datetime.datetime.fromisoformat(value)
        except ValueError:
            return None
        return moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value / 1000 if value > 1e11 else float(value)
    return None


def _errors(value: Any) -> tuple[LineError, ...]:
    """Return a batch's errors grouped by code and message: there can be one for each of 50,000 lines.

    OpenAI's API reference: an object with a list `data`. Compatible servers: a list or a string.
    """
    entries = value.get("data") if isinstance(value, Mapping) else value
    if isinstance(entries, str):
        entries = [{"code": "error", "message": entries}]
    groups: dict[tuple[str, str], LineError] = {}
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, Mapping):
            entry = {"message": str(entry)}
        code, message = str(entry.get("code") or "error"), str(entry.get("message") or "")[:1000]
        group = groups.get((code, message))
        if group is not None:
            groups[code, message] = msgspec.structs.replace(group, n=group.n + 1)
        elif len(groups) < _MAX_ERROR_GROUPS:
            line = entry.get("line")
            groups[code, message] = LineError(
                code=code,
                message=message,
                line=line if isinstance(line, int) else None,
                param=str(entry["param"]) if entry.get("param") else None,
            )
    return tuple(groups.values())
