"""Whatever a server says becomes a batch that can be stored and read back, or an error that can be."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import httpx2
import msgspec
import openai
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.api.batch_json import batch_of, page_of
from airflow_openai_batch.engine.api.brief_json import brief_batch_of, brief_page_of
from airflow_openai_batch.engine.api.errors import translate, translated
from airflow_openai_batch.engine.identity import NONCE_KEY
from airflow_openai_batch.engine.model import Batch

KEY = "sk-SECRET0123456789"

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.sampled_from(["", "completed", "9999-12-31T00:00:00", "0001-01-01T00:00:00+14:00", "1e999", "nan", KEY])
    | st.sampled_from([-1, 10**30, 2**53 + 1, 1e300, float("inf"), "\ud800", "a" * 5000, "../../etc"])
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner), max_leaves=8
)
FIELDS = ["id", "batch_id", "status", "created_at", "expires_at", "completed_at", "failed_at", "input_file_id"]
FIELDS += ["output_file_id", "error_file_id", "request_counts", "metadata", "errors", "error", "job", "batch", "object"]
counts = st.dictionaries(st.sampled_from(["total", "completed", "failed"]), anything)
lists_of_errors = st.lists(st.dictionaries(st.sampled_from(["code", "message", "line", "param"]), anything), max_size=3)
values = (
    anything
    | counts
    | st.fixed_dictionaries({"data": lists_of_errors | anything})
    | st.fixed_dictionaries({NONCE_KEY: anything})
)
objects = st.dictionaries(st.sampled_from(FIELDS), values, max_size=8)
batches = objects | st.builds(lambda inner, name: {name: inner}, objects, st.sampled_from(["job", "batch"])) | anything


def content_of(value: Any) -> bytes:
    return json.dumps(value).encode()


def assert_stored(batch: Batch) -> None:
    assert msgspec.json.decode(msgspec.json.encode(batch), type=Batch) == batch
    assert batch.id and len(batch.id) <= 1024 and 0 < len(batch.status) <= 64
    for n in (batch.n_total, batch.n_completed, batch.n_failed):
        assert 0 <= n <= 2**53
    for at in (batch.created_at, batch.expires_at, batch.ended_at):
        assert at is None or 0 < at < 33e9
    for error in batch.errors:
        assert len(error.message) <= 2000 and "\x1b" not in error.message


@given(batches)
@example({"id": 7, "status": ["completed"], "errors": {"data": "x"}, "metadata": [1], "request_counts": [1]})
@example({"id": "\ud800"})
@example({"id": float("nan")})
def test_any_json_is_a_batch_or_an_error(value: Any) -> None:
    for read in (batch_of, brief_batch_of):
        try:
            with translated():
                batch = read(content_of(value))
        except errors.Unclear as error:
            msgspec.json.encode(str(error))
        else:
            assert_stored(batch)


plain_ids = st.from_regex(r"[A-Za-z0-9_.:-]{1,40}", fullmatch=True) | st.sampled_from(["file-1", "", "é", "a b", KEY])
times = st.none() | st.integers(-2, 2**35) | st.sampled_from([0, 10**12, 1.5, "1790000000", "2026-11-01T00:00:00"])
own_form = st.fixed_dictionaries(
    {
        "id": plain_ids,
        "status": st.sampled_from(
            ["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
        )
        | st.sampled_from(["COMPLETED", "canceled", "queued", None]),
    },
    optional={
        **{f"{name}_at": times for name in ("created", "expires", "in_progress", "finalizing", "completed", "failed")},
        **{f"{name}_at": times for name in ("expired", "cancelling", "cancelled")},
        **{f"{name}_file_id": st.none() | plain_ids for name in ("input", "output", "error")},
        "request_counts": st.none()
        | st.dictionaries(st.sampled_from(["total", "completed", "failed"]), st.none() | st.integers(-1, 2**60)),
    },
)


@given(st.lists(own_form, max_size=3), st.booleans())
def test_a_listing_in_openais_own_form_is_read_alike_with_and_without_types(
    entries: list[dict[str, Any]], has_more: bool
) -> None:
    content = content_of({"object": "list", "data": entries, "has_more": has_more})
    assert brief_page_of(content) == page_of(content)
    for entry in entries:
        if entry["id"]:
            with contextlib.suppress(errors.Unclear):
                assert brief_batch_of(content_of(entry)) == batch_of(content_of(entry))


@given(st.lists(batches, max_size=3) | batches, anything)
def test_any_json_is_a_page_or_an_error(entries: Any, has_more: Any) -> None:
    for read in (page_of, brief_page_of):
        for value in (entries, {"data": entries, "has_more": has_more}):
            try:
                with translated():
                    page = read(content_of(value))
            except errors.Unclear as error:
                msgspec.json.encode(str(error))
            else:
                assert isinstance(page.has_more, bool)
                for batch in page.batches:
                    assert_stored(batch)


@given(st.binary())
def test_any_bytes_are_a_batch_or_an_error(content: bytes) -> None:
    for read in (batch_of, brief_batch_of, page_of, brief_page_of):
        try:
            with translated():
                read(content)
        except errors.Unclear as error:
            msgspec.json.encode(str(error))


header_texts = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"))
bodies = (
    anything.map(content_of)
    | st.fixed_dictionaries({"error": st.dictionaries(st.sampled_from(["message", "code"]), anything)}).map(content_of)
    | st.binary()
)


@given(st.integers(400, 599), bodies, header_texts | st.floats().map(str), header_texts)
def test_any_refusal_is_an_error_that_can_be_stored(
    status: int, body: bytes, retry_after: str, request_id: str
) -> None:
    request = httpx2.Request("POST", "http://x/v1/batches", headers={"authorization": f"Bearer {KEY}"})
    headers = [(b"retry-after", retry_after.encode("latin-1")), (b"x-request-id", request_id.encode("latin-1"))]
    response = httpx2.Response(status, request=request, content=body, headers=headers)
    error = translate(openai.APIStatusError("x", response=response, body=None))
    assert error is not None
    stored = [str(error), error.code, error.request_id, error.status, error.retry_after_s]
    assert msgspec.json.decode(msgspec.json.encode(stored)) == stored
    assert KEY not in str(stored) and len(str(error)) <= 2000
    assert error.retry_after_s is None or 0 <= error.retry_after_s <= 3600
