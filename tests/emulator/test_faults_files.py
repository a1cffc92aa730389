from __future__ import annotations

import gzip
import json

import httpx
import pytest
from openai import InternalServerError, NotFoundError

LINE_NAMES = ["row-0", "row-1", "row-2", "row-3"]


def spoiled(kit, form, **params):
    """A batch of four rows whose output file has such a form."""
    kit.emu.faults.add({"on": "batch", "times": 1, "do": {"spoil_file": {"form": form, **params}}})
    return kit.ended(4)


def right_content(kit, batch):
    return next(stored.read() for stored in kit.emu.files.values() if stored.id == batch.output_file_id)


def ids(content):
    return [json.loads(line)["custom_id"] for line in content.split(b"\n") if line]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("as_is", lambda right: right),
        ("empty", lambda right: b""),
        ("crlf", lambda right: right.replace(b"\n", b"\r\n")),
        ("cr", lambda right: right.replace(b"\n", b"\r")),
        ("utf16", lambda right: right.decode().encode("utf-16")),
        ("bom", lambda right: b"\xef\xbb\xbf" + right),
        ("no_last_newline", lambda right: right[:-1]),
        ("duplicated", lambda right: right + right),
        ("cut_at_line", lambda right: b"\n".join(right.split(b"\n")[:2]) + b"\n"),
    ],
)
def test_an_output_file_may_have_another_form(kit, form, expected):
    batch = spoiled(kit, form)

    assert kit.raw(batch.output_file_id) == expected(right_content(kit, batch))
    assert (batch.status, batch.request_counts.completed) == ("completed", 4)
    assert kit.emu.ledger.n_rows() == 4


def test_an_output_file_may_be_packed_or_a_page_or_an_array(kit):
    packed, page, array, pretty = (spoiled(kit, form) for form in ("gzip", "html", "json_array", "pretty"))

    assert gzip.decompress(kit.raw(packed.output_file_id)) == right_content(kit, packed)
    assert kit.raw(page.output_file_id).startswith(b"<html>")
    assert {line["custom_id"] for line in json.loads(kit.raw(array.output_file_id))} == set(LINE_NAMES)
    assert len(kit.raw(pretty.output_file_id).split(b"\n")) > 40


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("ids_upper", ["ROW-0", "ROW-1", "ROW-2", "ROW-3"]),
        ("ids_cut", ["ro", "ro", "ro", "ro"]),
        ("ids_spaced", [" row-0 ", " row-1 ", " row-2 ", " row-3 "]),
        ("ids_integer", [0, 1, 2, 3]),
        ("ids_null", [None, None, None, None]),
    ],
)
def test_the_custom_ids_of_an_output_file_may_be_others(kit, form, expected):
    batch = spoiled(kit, form)

    assert sorted(ids(kit.raw(batch.output_file_id)), key=str) == expected


def test_a_custom_id_of_digits_becomes_that_integer(kit):
    kit.emu.faults.add({"on": "batch", "do": {"spoil_file": "ids_integer"}})
    batch = kit.ended([kit.line("17"), kit.line("4")])

    assert sorted(ids(kit.raw(batch.output_file_id))) == [4, 17]


def test_lines_of_another_job_may_stand_between(kit):
    batch = spoiled(kit, "foreign")
    names = ids(kit.raw(batch.output_file_id))

    assert sorted(names[::2]) == LINE_NAMES and names[1] == f"of another job, {names[0]}" and len(names) == 8


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.99])
def test_a_file_that_is_cut_in_a_line_ends_in_no_line(kit, fraction):
    batch = spoiled(kit, "cut_in_line", fraction=fraction)
    content = kit.raw(batch.output_file_id)

    assert right_content(kit, batch).startswith(content)
    with pytest.raises(json.JSONDecodeError):
        json.loads(content.split(b"\n")[-1])


@pytest.mark.parametrize(("size", "expected"), [("actual", 0), ("whole", None), (17, 17)])
def test_the_size_of_a_file_may_be_that_of_another_content(kit, size, expected):
    batch = spoiled(kit, "empty", size=size)
    whole = len(right_content(kit, batch))

    assert kit.client.files.retrieve(batch.output_file_id).bytes == (whole if expected is None else expected)


def test_the_size_of_a_file_may_not_be_told(kit):
    batch = spoiled(kit, "as_is", size=None)
    answer = httpx.get(
        f"{kit.emu.base_url}/files/{batch.output_file_id}", headers={"authorization": "Bearer x"}, timeout=10
    )

    assert "bytes" not in answer.json()
    assert kit.raw(batch.output_file_id) == right_content(kit, batch)


def test_a_file_may_be_empty_for_a_while(kit):
    batch = spoiled(kit, "empty", seconds=60)
    early = kit.raw(batch.output_file_id), kit.client.files.retrieve(batch.output_file_id).bytes
    kit.emu.clock.advance(60)

    assert early == (b"", 0)
    assert kit.raw(batch.output_file_id) == right_content(kit, batch)
    assert kit.client.files.retrieve(batch.output_file_id).bytes == len(right_content(kit, batch))


def test_the_error_file_may_be_spoiled_alone(kit):
    kit.emu.faults.add(
        {"on": "row", "match": {"custom_id": "row-0"}, "do": "line_error"},
        {"on": "batch", "do": {"spoil_file": {"form": "empty", "file": "error"}}},
    )
    batch = kit.ended(2)

    assert kit.raw(batch.error_file_id) == b"" and list(kit.output(batch)) == ["row-1"]


def test_a_file_may_be_spoiled_in_two_ways(kit):
    kit.emu.faults.add(
        {"on": "batch", "do": {"spoil_file": "ids_upper"}}, {"on": "batch", "do": {"spoil_file": "gzip"}}
    )
    batch = kit.ended(1)

    assert ids(gzip.decompress(kit.raw(batch.output_file_id))) == ["ROW-0"]


def test_a_file_may_be_named_and_never_written(kit):
    kit.emu.faults.add({"on": "row", "do": "line_error"}, {"on": "batch", "do": {"unwritten_file": "output"}})
    batch = kit.ended(2)

    assert (batch.request_counts.failed, len(kit.errors(batch))) == (2, 2)
    assert batch.output_file_id
    with pytest.raises(NotFoundError):
        kit.raw(batch.output_file_id)


def test_the_error_file_too_may_be_named_and_never_written(kit):
    kit.emu.faults.add({"on": "batch", "do": "unwritten_file"})
    batch = kit.ended(2)

    assert len(kit.output(batch)) == 2
    with pytest.raises(NotFoundError):
        kit.raw(batch.error_file_id)


@pytest.mark.parametrize("status", [403, 405, 500])
def test_the_route_of_a_file_may_fail_while_its_content_comes(kit, status):
    kit.emu.faults.add(
        {"on": "GET /v1/files/*", "match": {"file": "_output"}, "do": {"status": {"code": status, "body": "no"}}}
    )
    batch = kit.ended(2)
    answer = httpx.get(
        f"{kit.emu.base_url}/files/{batch.output_file_id}", headers={"authorization": "Bearer x"}, timeout=10
    )

    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (status, "no", "text/plain")
    assert len(kit.output(batch)) == 2 and kit.client.files.retrieve(batch.input_file_id)


def test_a_content_may_be_elsewhere(kit):
    kit.emu.faults.add({"on": "GET /v1/files/*/content", "do": "redirect"})
    batch = kit.ended(2)

    assert len(kit.output(batch)) == 2
    assert [call.status for call in kit.emu.ledger.calls if call.path.endswith("content")] == [302, 200]


def test_a_redirection_may_lead_to_itself(kit):
    kit.emu.faults.add({"on": "GET /v1/files/*/content", "do": {"redirect": {"loop": True}}})
    batch = kit.ended(1)
    with (
        httpx.Client(follow_redirects=True, headers={"authorization": "Bearer x"}) as client,
        pytest.raises(httpx.TooManyRedirects),
    ):
        client.get(f"{kit.emu.base_url}/files/{batch.output_file_id}/content")


def test_a_content_may_be_compressed_on_its_way_and_unpack_to_far_more(kit):
    kit.emu.faults.add(
        {"on": "GET /v1/files/*/content", "times": 1, "do": "gzip"},
        {"on": "GET /v1/files/*/content", "do": {"gzip": {"padding": 5_000_000}}},
    )
    batch = kit.ended(2)
    right = right_content(kit, batch)
    packed = kit.client.files.with_raw_response.content(batch.output_file_id)
    bomb = kit.client.files.with_raw_response.content(batch.output_file_id)

    assert packed.headers["content-encoding"] == "gzip" and packed.content == right
    assert int(bomb.headers["content-length"]) < 10_000 and bomb.content == right + b"\n" * 5_000_000


def test_an_input_file_may_be_gone_when_its_batch_is_made(kit):
    kit.emu.faults.add({"on": "batch", "times": 1, "do": "input_file_gone"})
    file_id = kit.upload(kit.lines(1))
    kit.create(file_id)
    kit.emu.complete_all()
    (batch,) = kit.client.batches.list()

    assert batch.status == "failed" and "Cannot find file" in batch.errors.data[0].message
    with pytest.raises(NotFoundError):
        kit.client.files.retrieve(file_id)


def test_a_rule_may_last_for_a_while_from_its_first_call(kit):
    kit.emu.faults.add({"on": "GET /v1/batches/*", "lasts": 60, "do": {"status": 500}})
    batch = kit.submit()
    kit.emu.clock.advance(1000)
    for seconds in (0, 59):
        kit.emu.clock.advance(seconds)
        with pytest.raises(InternalServerError):
            kit.get(batch)
    kit.emu.clock.advance(1)

    assert kit.get(batch).status == "completed"


def test_an_unknown_form_is_an_error(kit):
    with pytest.raises(ValueError, match="No form 'torn'"):
        kit.emu.faults.add({"on": "batch", "do": {"spoil_file": "torn"}})
