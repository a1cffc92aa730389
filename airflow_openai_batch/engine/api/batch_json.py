"""Decoding batch objects and pages of the listing from JSON, of OpenAI and of compatible servers.

Whatever a server sends, what is returned here can be stored as JSON and read back: ids are texts, numbers finite,
texts free of control characters and bounded.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.api.text import count_of, decoded, id_text_of, number_of, text_of
from airflow_openai_batch.engine.identity import NONCE_KEY
from airflow_openai_batch.engine.model import ENDED_STATUSES, Batch, LineError

_STATUS_NAMES = {"canceled": "cancelled", "success": "completed", "succeeded": "completed", "done": "completed"}
"""Names that compatible servers use for OpenAI's statuses."""

_KNOWN_STATUSES = frozenset(
    # OpenAI's API reference.
    {"validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"}
    # Compatible servers, all of a batch that still runs; `pre_schedule` was seen, the others are plain.
    | {"pre_schedule", "queued", "pending", "scheduled", "running", "processing"}
)

_MAX_STATUS, _MAX_ERROR_MESSAGE, _MAX_ERROR_GROUPS = 64, 1000, 50

_MAX_LINE = 2**53

_MILLISECONDS = 1e11
"""A time above this is not in seconds: they get there in the year 5138."""

_MAX_TIME = datetime.datetime(3000, 1, 1, tzinfo=datetime.UTC).timestamp()


class Page(NamedTuple):
    """One page of the account's batches."""

    batches: list[Batch]
    has_more: bool


class ListedFile(NamedTuple):
    """What the listing tells of a file."""

    id: str
    name: str
    n_bytes: int
    created_at: float | None
    """Epoch seconds; None if the server does not tell."""


class FilePage(NamedTuple):
    """One page of the account's files."""

    files: list[ListedFile]
    has_more: bool


def is_known_status(status: str) -> bool:
    """Return whether the meaning of a batch's status is known; any other counts as still running."""
    return status in _KNOWN_STATUSES


def json_object(content: bytes) -> dict[str, Any]:
    """Decode a response body that must be a JSON object.

    Raises:
        Unclear: It is another JSON value, or not JSON.
    """
    value = decoded(content)
    if not isinstance(value, dict):
        raise errors.Unclear("The answer of OpenAI was not a JSON object.")
    return value


class UploadedFile(NamedTuple):
    """A file at OpenAI, as the response to its upload tells of it."""

    id: str
    lifetime_s: float | None = None
    """Seconds from its creation until it is deleted, by the server's own clock; None if it does not say."""
    is_pending: bool = False
    """Whether it is still being processed, as on Azure: no batch can be created of it yet."""


def uploaded_file_of(content: bytes) -> UploadedFile:
    """Return the file in the response to an upload.

    OpenAI's API reference: `created_at` and `expires_at` are Unix seconds.

    Raises:
        Unclear: It has no id.
    """
    value = _unwrapped(json_object(content), ("file",), "file_id")
    if value is None:
        raise errors.Unclear("The answer of OpenAI carries no id.")
    created_at, expires_at = _epoch(value.get("created_at")), _epoch(value.get("expires_at"))
    has_both = created_at is not None and expires_at is not None and expires_at > created_at
    lifetime_s = expires_at - created_at if has_both else None  # type: ignore[operator]
    return UploadedFile(str(value["id"]), lifetime_s, _text(value.get("status"), _MAX_STATUS).lower() == "pending")


def batch_of(content: bytes) -> Batch:
    """Decode a batch object, in the forms of OpenAI and of compatible servers.

    Raises:
        Unclear: It is not a JSON object, or has no id.
    """
    return parse_batch(json_object(content))


def parse_batch(value: Mapping[str, Any]) -> Batch:
    """Return a decoded batch object as a ``Batch``; fields that are absent or of an undocumented type are left out.

    OpenAI's API reference names the fields. Seen: an absent file id is null or an empty string. Compatible servers
    write the status in other words or in upper case. Together documents a batch inside ``job``, DigitalOcean an id
    named ``batch_id``.

    Azure documents that a failed batch has its end in `completed_at`.

    Raises:
        Unclear: It has no id.
    """
    batch = _unwrapped(value, ("batch", "job"), "batch_id")
    if batch is None:
        raise errors.Unclear("The answer of OpenAI carries no id.")
    return _parse(batch)


def _parse(value: Mapping[str, Any]) -> Batch:
    status = _text(value.get("status"), _MAX_STATUS).lower() or "unknown"
    status = _STATUS_NAMES.get(status, status)
    counts = value.get("request_counts")
    counts = counts if isinstance(counts, Mapping) else {}
    return Batch(
        id=value["id"],
        status=status,
        created_at=_epoch(value.get("created_at")),
        expires_at=_epoch(value.get("expires_at")),
        in_progress_at=_epoch(value.get("in_progress_at")),
        finalizing_at=_epoch(value.get("finalizing_at")),
        ended_at=_ended_at(value, status),
        input_file_id=id_text_of(value.get("input_file_id")),
        output_file_id=id_text_of(value.get("output_file_id")),
        error_file_id=id_text_of(value.get("error_file_id")),
        n_total=count_of(counts.get("total")),
        n_completed=count_of(counts.get("completed")),
        n_failed=count_of(counts.get("failed")),
        nonce=_nonce(value.get("metadata")),
        errors=_errors(value.get("errors") or value.get("error")),
        is_local_time=_is_local(value.get("created_at")),
    )


def _ended_at(value: Mapping[str, Any], status: str) -> float | None:
    if status not in ENDED_STATUSES:
        return None
    return _epoch(value.get(f"{status}_at") or (value.get("completed_at") if status == "failed" else None))


def page_of(content: bytes) -> Page:
    """Decode a page of the listing. Entries without an id are skipped.

    Raises:
        Unclear: It cannot be read as a listing, or a batch of ours is in it without an id: what is not listed would
            be taken for absent.
    """
    value = decoded(content)
    has_more = bool(value.get("has_more")) if isinstance(value, dict) else False
    entries = value.get("data", ...) if isinstance(value, dict) else value
    if entries is None:  # an empty list of a server written in Go
        entries = []
    if not isinstance(entries, list):
        raise errors.Unclear("The answer of OpenAI was not a list of batches.")
    batches = []
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        batch = _unwrapped(entry, ("batch", "job"), "batch_id")
        if batch is not None:
            batches.append(_parse(batch))
        elif _nonce(entry.get("metadata")) is not None:
            raise errors.Unclear("A batch in the listing carries no id.")
    return Page(batches, has_more)


def file_page_of(content: bytes) -> FilePage:
    """Decode a page of the listing of files. Entries without an id are skipped.

    Raises:
        Unclear: It cannot be read as a listing.
    """
    value = json_object(content)
    entries = value.get("data") or []
    if not isinstance(entries, list):
        raise errors.Unclear("The answer of OpenAI was not a list of files.")
    files = [
        ListedFile(
            id=file_id,
            name=text_of(entry.get("filename")) or "",
            n_bytes=count_of(entry.get("bytes")),
            created_at=None if _is_local(entry.get("created_at")) else _epoch(entry.get("created_at")),
        )
        for entry in entries
        if isinstance(entry, dict) and (file_id := id_text_of(entry.get("id"))) is not None
    ]
    return FilePage(files, bool(value.get("has_more")))


def is_of_another(content: bytes) -> bool:
    """Return whether the answer to a create is plainly not about a batch: a web page, or a listing.

    So answers a proxy, or whatever a redirect led to, which has created nothing. An empty answer may be a server's own.
    """
    if content.strip() and not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return True
    try:
        return isinstance(json_object(content).get("data"), list)
    except errors.Unclear:
        return False


def _unwrapped(value: Mapping[str, Any], names: tuple[str, ...], id_name: str) -> dict[str, Any] | None:
    """Return the object with its id under ``id``: itself, or the only one of its members ``names`` that has one."""
    own_id = id_text_of(value.get("id")) or id_text_of(value.get(id_name))
    if own_id is not None:
        return {**value, "id": own_id}
    inner = [member for name in names if isinstance(member := value.get(name), Mapping)]
    return _unwrapped(inner[0], (), id_name) if len(inner) == 1 else None


def _text(value: Any, longest: int) -> str:
    return text_of(value, longest) or ""


def _nonce(metadata: Any) -> str | None:
    value = metadata.get(NONCE_KEY) if isinstance(metadata, Mapping) else None
    return id_text_of(value) if isinstance(value, str) else None


def _epoch(value: Any) -> float | None:
    """Return a time as epoch seconds, from 1970 to 3000; None for anything else.

    OpenAI's API reference: Unix seconds. Compatible servers: milliseconds (documented by Bella queue) or ISO 8601. Zero
    is how some servers write an absent time.
    """
    seconds = number_of(value)
    moment = _moment(value) if seconds is None else None
    if moment is not None:
        seconds = moment.timestamp()
    elif seconds is not None:
        for _ in range(3):  # milliseconds, microseconds, nanoseconds
            seconds /= 1000 if seconds > _MILLISECONDS else 1
    return seconds if seconds is not None and 0 < seconds < _MAX_TIME else None


def _moment(value: Any) -> datetime.datetime | None:
    """Return an ISO 8601 time, in UTC if it names no zone."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.datetime.fromisoformat(value.strip()[:64])
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or datetime.UTC)


def _is_local(value: Any) -> bool:
    """Return whether a time is written without its zone, and so may be many hours off."""
    if number_of(value) is not None or _moment(value) is None:
        return False
    return datetime.datetime.fromisoformat(value.strip()[:64]).tzinfo is None


def _errors(value: Any) -> tuple[LineError, ...]:
    """Return a batch's errors grouped by code and message: there can be one for each of 50,000 lines.

    OpenAI's API reference: an object with a list `data`. Compatible servers: a list, a single object or a string.
    """
    entries = value.get("data", value) if isinstance(value, Mapping) else value
    if not isinstance(entries, list):
        entries = [entries] if entries else []
    groups: dict[tuple[str, str], LineError] = {}
    for entry in entries:
        if not isinstance(entry, Mapping):
            entry = {"message": entry}
        code = text_of(entry.get("code")) or "error"
        message = _text(entry.get("message"), _MAX_ERROR_MESSAGE)
        group = groups.get((code, message))
        if group is not None:
            groups[code, message] = msgspec.structs.replace(group, n=group.n + 1)
        elif len(groups) < _MAX_ERROR_GROUPS:
            line = entry.get("line")
            is_number = isinstance(line, int) and not isinstance(line, bool) and 0 <= line <= _MAX_LINE
            groups[code, message] = LineError(
                code=code, message=message, line=line if is_number else None, param=text_of(entry.get("param"))
            )
    return tuple(groups.values())
