"""Decoding what polling reads of batches: without their errors and metadata, of which there may be tens of thousands.

Thousands of triggers share one event loop, which decoding holds up. So batches in OpenAI's own form are decoded with
types; those in any other form as ``batch_json`` decodes them, with the same result.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.api.batch_json import Page, batch_of, page_of, parse_batch
from airflow_openai_batch.engine.model import ENDED_STATUSES, Batch
from airflow_openai_batch.engine.redaction import has_secret

_Time = Annotated[int, msgspec.Meta(gt=0, lt=10**10)]
"""OpenAI's API reference: Unix seconds. This bound is the year 2286; milliseconds are above it."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]

_is_plain = re.compile(r"[\w.:/-]{1,200}", re.ASCII).fullmatch


class _Counts(msgspec.Struct, gc=False):
    total: _Count = 0
    completed: _Count = 0
    failed: _Count = 0


class _Plain(msgspec.Struct, gc=False):
    """A batch object in OpenAI's own form."""

    id: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    created_at: _Time | None = None
    expires_at: _Time | None = None
    in_progress_at: _Time | None = None
    finalizing_at: _Time | None = None
    completed_at: _Time | None = None
    failed_at: _Time | None = None
    expired_at: _Time | None = None
    cancelled_at: _Time | None = None
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    request_counts: _Counts | None = None


class _PlainPage(msgspec.Struct, gc=False):
    data: list[_Plain]
    has_more: bool = False


class _Brief(msgspec.Struct, gc=False):
    """The same fields of any other form. All others are skipped, which is ten times faster."""

    id: Any = None
    status: Any = None
    created_at: Any = None
    expires_at: Any = None
    in_progress_at: Any = None
    finalizing_at: Any = None
    completed_at: Any = None
    failed_at: Any = None
    expired_at: Any = None
    cancelled_at: Any = None
    input_file_id: Any = None
    output_file_id: Any = None
    error_file_id: Any = None
    request_counts: Any = None


class _BriefPage(msgspec.Struct, gc=False):
    data: list[_Brief]
    has_more: Any = None


_decode_plain = msgspec.json.Decoder(_Plain).decode
_decode_plain_page = msgspec.json.Decoder(_PlainPage).decode
_decode_brief = msgspec.json.Decoder(_Brief).decode
_decode_brief_page = msgspec.json.Decoder(_BriefPage).decode

_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError, errors.Unclear)


def brief_batch_of(content: bytes) -> Batch:
    """Decode a batch object without its errors and metadata.

    Raises:
        Unclear: It is not a JSON object, or has no id.
    """
    try:
        return _batch(_decode_plain(content))
    except _UNREADABLE:
        pass
    try:
        return parse_batch(msgspec.structs.asdict(_decode_brief(content)))
    except _UNREADABLE:
        return batch_of(content)


def brief_page_of(content: bytes) -> Page:
    """Decode a page of the listing without the errors and metadata of its batches.

    Raises:
        Unclear: It cannot be read as a listing.
    """
    try:
        plain = _decode_plain_page(content)
        return Page(list(map(_batch, plain.data)), plain.has_more)
    except _UNREADABLE:
        pass
    try:
        page = _decode_brief_page(content)
        return Page([parse_batch(msgspec.structs.asdict(brief)) for brief in page.data], bool(page.has_more))
    except _UNREADABLE:
        return page_of(content)


def _batch(plain: _Plain) -> Batch:
    """Return a batch of OpenAI's own form.

    Raises:
        Unclear: One of its ids is not plain text, or holds a secret.
    """
    for text in (plain.id, plain.input_file_id, plain.output_file_id, plain.error_file_id):
        if text and (not _is_plain(text) or has_secret(text)):
            raise errors.Unclear("An id is not plain.")
    if not plain.id:
        raise errors.Unclear("The answer of OpenAI carries no id.")
    ended_at = getattr(plain, f"{plain.status}_at") if plain.status in ENDED_STATUSES else None
    if ended_at is None and plain.status == "failed":
        ended_at = plain.completed_at
    counts = plain.request_counts or _NO_COUNTS
    return Batch(
        id=plain.id,
        status=plain.status,
        created_at=_seconds(plain.created_at),
        expires_at=_seconds(plain.expires_at),
        in_progress_at=_seconds(plain.in_progress_at),
        finalizing_at=_seconds(plain.finalizing_at),
        ended_at=_seconds(ended_at),
        input_file_id=plain.input_file_id or None,
        output_file_id=plain.output_file_id or None,
        error_file_id=plain.error_file_id or None,
        n_total=counts.total,
        n_completed=counts.completed,
        n_failed=counts.failed,
    )


_NO_COUNTS = _Counts()


def _seconds(at: int | None) -> float | None:
    return None if at is None else float(at)
