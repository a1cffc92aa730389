from __future__ import annotations

import json

import httpx
import pytest
from openai import AuthenticationError, BadRequestError, NotFoundError, OpenAI

DAY_S = 86_400


def test_an_uploaded_file_can_be_read_listed_and_deleted(kit):
    uploaded = kit.client.files.create(file=("rows.jsonl", b'{"a": 1}\n'), purpose="batch")

    assert uploaded.id.startswith("file-") and len(uploaded.id) == 27
    assert (uploaded.filename, uploaded.bytes, uploaded.purpose, uploaded.status) == (
        "rows.jsonl",
        9,
        "batch",
        "processed",
    )
    assert kit.client.files.retrieve(uploaded.id) == uploaded
    assert kit.raw(uploaded.id) == b'{"a": 1}\n'
    assert [file.id for file in kit.client.files.list()] == [uploaded.id]
    assert kit.client.files.delete(uploaded.id).deleted
    with pytest.raises(NotFoundError):
        kit.client.files.retrieve(uploaded.id)
    with pytest.raises(NotFoundError):
        kit.client.files.content(uploaded.id)


def test_a_batch_file_expires_after_thirty_days_unless_told_otherwise(kit):
    default = kit.client.files.create(file=("a.jsonl", b"{}"), purpose="batch")
    short = kit.client.files.create(
        file=("a.jsonl", b"{}"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )

    assert default.expires_at == default.created_at + 30 * DAY_S
    assert short.expires_at == short.created_at + 3600
    kit.emu.clock.advance(3600)
    assert [file.id for file in kit.client.files.list()] == [default.id]
    kit.emu.clock.advance(30 * DAY_S)
    with pytest.raises(NotFoundError):
        kit.client.files.retrieve(default.id)


def test_a_file_of_another_purpose_is_not_checked_and_does_not_expire(kit):
    uploaded = kit.client.files.create(file=("notes.txt", b"anything"), purpose="user_data")

    assert uploaded.expires_at is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", b"{}\n", "Must be .jsonl"),
        ("upload", b"{}\n", "Must be .jsonl"),
        ("rows.jsonl", b"", "empty"),
        ("rows.jsonl", b"not json\n{}\n", "not parseable"),
        ("rows.jsonl", b"\n{}\n", "not parseable"),
        ("rows.jsonl", b"\xef\xbb\xbf{}\n", "not parseable"),
        ("rows.jsonl", b'{"a": NaN}\n', "not parseable"),
    ],
)
def test_an_upload_that_cannot_be_a_batch_file_is_refused(kit, name, content, message):
    with pytest.raises(BadRequestError, match=message):
        kit.client.files.create(file=(name, content), purpose="batch")
    assert kit.emu.files == {}


def test_bytes_without_a_name_are_refused_because_the_sdk_names_them_upload(kit):
    with pytest.raises(BadRequestError, match=r"Must be \.jsonl"):
        kit.client.files.create(file=b"{}\n", purpose="batch")


def test_only_the_first_line_is_looked_at_on_upload(kit):
    assert kit.upload(b'{"no": "method"}\nnot json\n').startswith("file-")


def test_an_unknown_purpose_is_refused(kit):
    with pytest.raises(BadRequestError) as refused:
        kit.client.files.create(file=("a.jsonl", b"{}"), purpose="batches")  # type: ignore[arg-type]
    assert refused.value.param == "purpose"


@pytest.mark.parametrize(
    ("policy", "param"),
    [
        ({"anchor": "created_at", "seconds": 60}, "expires_after.seconds"),
        ({"anchor": "created_at", "seconds": 31 * DAY_S}, "expires_after.seconds"),
        ({"anchor": "now", "seconds": 3600}, "expires_after.anchor"),
        ({"seconds": 3600}, "expires_after.anchor"),
        ({"anchor": "created_at"}, "expires_after.seconds"),
        ({"anchor": "created_at", "seconds": "soon"}, "expires_after.seconds"),
        ({"anchor": "created_at", "seconds": 3600.5}, "expires_after.seconds"),
    ],
)
def test_a_life_outside_the_limits_is_refused(kit, policy, param):
    with pytest.raises(BadRequestError) as refused:
        kit.client.files.create(file=("a.jsonl", b"{}"), purpose="batch", expires_after=policy)
    assert refused.value.param == param


def test_files_are_listed_newest_first_by_purpose_and_page_by_page(kit):
    batch = [kit.upload([{"n": n}], f"{n}.jsonl") for n in range(5)]
    other_id = kit.client.files.create(file=("a.txt", b"a"), purpose="user_data").id
    files = kit.client.files

    assert [f.id for f in files.list(limit=2)] == [other_id, *reversed(batch)]
    assert [f.id for f in files.list(order="asc", limit=4)] == [*batch, other_id]
    assert [f.id for f in files.list(purpose="user_data")] == [other_id]
    assert [f.id for f in files.list(purpose="batch", after=batch[3]).data] == [batch[2], batch[1], batch[0]]


def test_a_call_without_a_key_gets_the_error_envelope(kit):
    answer = httpx.get(f"{kit.emu.base_url}/files", timeout=10)

    assert answer.status_code == 401
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"].startswith("req_")


def test_only_the_named_keys_are_accepted(start):
    kit = start(api_keys={"sk-test"})
    stranger = OpenAI(base_url=kit.emu.base_url, api_key="sk-other", max_retries=0)

    assert list(kit.client.files.list()) == []
    with pytest.raises(AuthenticationError) as refused:
        stranger.files.list()
    assert refused.value.code == "invalid_api_key"
    stranger.close()


def test_an_unknown_url_gets_the_error_envelope(kit):
    answer = httpx.post(f"{kit.emu.base_url}/images/generations", timeout=10, headers={"authorization": "Bearer x"})

    assert answer.status_code == 404
    assert "Invalid URL (POST /v1/images/generations)" in answer.json()["error"]["message"]


def test_models_are_listed_so_that_a_connection_can_be_tested(kit):
    assert "gpt-6-luna" in [model.id for model in kit.client.models.list()]


def test_a_large_file_survives_the_round_trip_byte_for_byte(kit, tmp_path):
    path = tmp_path / "large.jsonl"
    row = json.dumps({"pad": "ü" * 1000}, ensure_ascii=False).encode() + b"\n"
    path.write_bytes(row * 5_000)

    with path.open("rb") as handle:
        uploaded = kit.client.files.create(file=handle, purpose="batch")

    assert uploaded.bytes == path.stat().st_size
    assert kit.raw(uploaded.id) == path.read_bytes()
