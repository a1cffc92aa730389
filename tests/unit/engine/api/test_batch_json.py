"""What OpenAI, or a server that speaks its language, says of a batch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.api.batch_json import (
    ListedFile,
    batch_of,
    file_page_of,
    is_known_status,
    uploaded_file_of,
)
from airflow_openai_batch.engine.api.brief_json import brief_batch_of
from airflow_openai_batch.engine.identity import NONCE_KEY
from airflow_openai_batch.engine.model import LineError


def batch(**values: Any) -> Any:
    return batch_of(json.dumps({"id": "batch_1", "status": "in_progress", **values}).encode())


def test_a_batch_is_read_whole() -> None:
    found = batch(
        created_at=1_786_400_000,
        expires_at=1_786_486_400,
        input_file_id="file-1",
        output_file_id="file-2",
        request_counts={"total": 3, "completed": 2, "failed": 1},
        metadata={NONCE_KEY: "a/0/s/u", "other": "x"},
    )
    assert (found.id, found.status, found.created_at, found.expires_at) == (
        "batch_1",
        "in_progress",
        1786400000.0,
        1786486400.0,
    )
    assert (found.input_file_id, found.output_file_id, found.error_file_id) == ("file-1", "file-2", None)
    assert (found.n_total, found.n_completed, found.n_failed, found.nonce) == (3, 2, 1, "a/0/s/u")


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("completed", "completed"),
        ("Completed", "completed"),
        ("canceled", "cancelled"),
        ("succeeded", "completed"),
        (None, "unknown"),
        ("queued", "queued"),
    ],
)
def test_statuses_of_compatible_servers_are_understood(said: Any, status: str) -> None:
    assert batch(status=said).status == status


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (1_786_400_000, 1_786_400_000.0),
        (1_786_400_000_000, 1_786_400_000.0),
        ("2026-08-10T00:00:00Z", 1_786_320_000.0),
        ("2026-08-10T00:00:00", 1_786_320_000.0),
        ("yesterday", None),
        (None, None),
        (True, None),
        (1_786_400_000_000_000, 1_786_400_000.0),
        ("1786400000", 1_786_400_000.0),
        ("2026-08-10T05:30:00+05:30", 1_786_320_000.0),
        (0, None),
        (-1, None),
        (1e300, None),
        (10**400, None),
        ("9999-12-31T00:00:00", None),
        ("0001-01-01", None),
        ([1], None),
    ],
)
def test_times_are_read_as_seconds(said: Any, seconds: float | None) -> None:
    assert batch(created_at=said).created_at == seconds


@pytest.mark.parametrize("absent", [None, ""])
def test_an_absent_file_may_be_null_or_empty(absent: Any) -> None:
    found = batch(output_file_id=absent, error_file_id=absent, request_counts=None, metadata=None, errors=None)
    assert (found.output_file_id, found.error_file_id, found.n_total, found.nonce, found.errors) == (
        None,
        None,
        0,
        None,
        (),
    )


def test_the_time_of_the_end_is_that_of_the_status() -> None:
    found = batch(status="expired", expired_at=9, completed_at=5)
    assert found.ended_at == 9.0


def test_errors_are_grouped_by_code_and_message() -> None:
    data = [{"code": "invalid_url", "message": "no match", "line": n, "param": "url"} for n in range(2, 5002)]
    data.append({"code": "other", "message": "x", "line": None})
    assert batch(errors={"object": "list", "data": data}).errors == (
        LineError(code="invalid_url", message="no match", n=5000, line=2, param="url"),
        LineError(code="other", message="x"),
    )


@pytest.mark.parametrize(
    ("said", "message"), [("it broke", "it broke"), (["it broke"], "it broke"), ([{"message": "it broke"}], "it broke")]
)
def test_errors_of_compatible_servers_are_understood(said: Any, message: str) -> None:
    assert [error.message for error in batch(errors=said).errors] == [message]


def test_many_kinds_of_errors_are_capped() -> None:
    data = [{"code": f"c{n}", "message": "x" * 5000} for n in range(1000)]
    found = batch(errors={"data": data}).errors
    assert len(found) == 50 and len(found[0].message) == 1000


@pytest.mark.parametrize(
    ("created_at", "is_local"),
    [
        ("2026-08-10T00:00:00", True),
        ("2026-08-10T00:00:00Z", False),
        ("2026-08-10T00:00:00+02:00", False),
        (1_786_400_000, False),
        ("1786400000", False),
        ("yesterday", False),
        (None, False),
    ],
)
def test_a_time_without_its_zone_is_marked(created_at: Any, is_local: bool) -> None:
    assert batch(created_at=created_at).is_local_time is is_local


@pytest.mark.parametrize("read", [batch_of, brief_batch_of])
@pytest.mark.parametrize(
    ("said", "found"),
    [
        (7, "7"),
        ("a/b+c==", "a/b+c=="),
        ("x" * 1024, "x" * 1024),
        ("x" * 1025, None),
        ("", None),
        ("a\nb", None),
        (" a", None),
        ("\ud800", None),
        (["x"], None),
        ({"id": "x"}, None),
        (True, None),
        (1.5, None),
        (None, None),
    ],
)
def test_ids_are_texts_and_never_changed(read: Any, said: Any, found: str | None) -> None:
    content = json.dumps({"id": "batch_1", "output_file_id": said}).encode()
    assert read(content).output_file_id == found
    if found is None:
        with pytest.raises(errors.Unclear):
            read(json.dumps({"id": said}).encode())
    else:
        assert read(json.dumps({"id": said}).encode()).id == found


@pytest.mark.parametrize(
    ("said", "found"),
    [(3, 3), (3.0, 3), ("3", 3), (-1, 0), (10**30, 2**53), (1e30, 2**53), (None, 0), ("x", 0), (True, 0), ([3], 0)],
)
def test_counts_are_bounded_numbers(said: Any, found: int) -> None:
    assert batch(request_counts={"total": said}).n_total == found
    assert batch(request_counts=said).n_total == 0


def test_numbers_that_are_no_json_are_read_all_the_same() -> None:
    found = batch_of(b'{"id": "batch_1", "created_at": NaN, "expires_at": 1e999, "usage": Infinity, "x": "\\ud800"}')
    assert (found.id, found.created_at, found.expires_at) == ("batch_1", None, None)


@pytest.mark.parametrize("said", [["completed"], {"x": 1}, None, True, 1.5, "\x00"])
def test_a_status_of_another_type_is_unknown(said: Any) -> None:
    assert batch(status=said).status == "unknown"
    assert len(batch(status="a" * 10**6).status) == 64


@pytest.mark.parametrize("read", [batch_of, brief_batch_of])
@pytest.mark.parametrize(
    "value",
    [
        {"job": {"id": "batch_1", "status": "IN_PROGRESS"}, "warning": ""},
        {"batch": {"id": "batch_1", "status": "in_progress"}},
        {"batch_id": "batch_1", "status": "in_progress"},
        {"job": {"batch_id": "batch_1", "status": "in_progress"}, "batch": None},
    ],
)
def test_batches_in_the_forms_of_other_servers_are_read(read: Any, value: Any) -> None:
    found = read(json.dumps(value).encode())
    assert (found.id, found.status) == ("batch_1", "in_progress")


@pytest.mark.parametrize(
    "value",
    [{"job": {"id": "a"}, "batch": {"id": "b"}}, {"data": {"id": "a"}}, {"job": {"job": {"id": "a"}}}, {"job": []}],
)
def test_what_could_mean_several_batches_is_unclear(value: Any) -> None:
    with pytest.raises(errors.Unclear):
        batch_of(json.dumps(value).encode())


def test_the_id_of_an_upload_is_read() -> None:
    assert uploaded_file_of(b'{"id": "file-1"}') == ("file-1", None, False)
    assert uploaded_file_of(b'{"file": {"id": "file-1", "status": "Pending"}}') == ("file-1", None, True)
    with pytest.raises(errors.Unclear):
        uploaded_file_of(b'{"object": "file"}')


def test_a_failed_batch_may_have_its_end_in_completed_at() -> None:
    """As on Azure."""
    batch = batch_of(b'{"id": "b", "status": "Failed", "failed_at": null, "completed_at": "2026-11-22T10:00:00Z"}')
    assert batch.ended_at == 1795341600.0


@pytest.mark.parametrize(
    ("times", "lifetime_s"),
    [
        ({"created_at": 1_786_400_000, "expires_at": 1_786_407_200}, 7200.0),
        ({"created_at": "2026-08-10T00:00:00Z", "expires_at": "2026-08-10T02:00:00Z"}, 7200.0),
        ({"created_at": 1_786_400_000_000, "expires_at": 1_786_407_200_000}, 7200.0),
        ({"created_at": 1_786_400_000, "expires_at": None}, None),
        ({"created_at": 1_786_400_000, "expires_at": 0}, None),
        ({"created_at": 1_786_400_000, "expires_at": 1_786_400_000}, None),
        ({"created_at": 1_786_400_000, "expires_at": 5}, None),
        ({"expires_at": 1_786_407_200}, None),
        ({"created_at": [], "expires_at": "never"}, None),
    ],
)
def test_how_long_an_upload_lives_is_read_by_the_servers_own_clock(times: Any, lifetime_s: float | None) -> None:
    assert uploaded_file_of(json.dumps({"id": "file-1", **times}).encode()).lifetime_s == lifetime_s


def test_statuses_that_nobody_knows_are_told_apart() -> None:
    assert all(is_known_status(status) for status in ("validating", "cancelling", "completed", "pre_schedule"))
    assert not any(is_known_status(status) for status in ("finished", "ended", "unknown", ""))


def test_a_listing_of_files_is_read_in_whatever_form_it_comes() -> None:
    entries = [
        {"id": "file-1", "filename": "a.jsonl", "bytes": 5, "created_at": 1_800_000_000},
        {"id": "file-2", "created_at": "2026-11-01T00:00:00", "bytes": None},
        {"id": None, "filename": "nameless"},
        "nonsense",
    ]
    page = file_page_of(json.dumps({"data": entries, "has_more": True}).encode())
    assert page.files == [
        ListedFile("file-1", "a.jsonl", 5, 1_800_000_000.0),
        ListedFile("file-2", "", 0, None),  # a time without a zone may be many hours off
    ]
    assert page.has_more
    assert file_page_of(b'{"data": null}').files == []
    for other in (b"[]", b'{"data": 5}', b"<html>"):
        with pytest.raises(errors.Unclear):
            file_page_of(other)
