from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
    OpenAIError,
    RateLimitError,
)

from airflow_openai_batch.emulator import ManualClock, chaos
from airflow_openai_batch.emulator.faults import _BATCH_FAULTS, _CALL_FAULTS, _ROW_FAULTS
from airflow_openai_batch.emulator.file_faults import FORMS

CHAT = "/v1/chat/completions"


def calls(kit):
    return [(call.method, call.status, call.fault) for call in kit.emu.ledger.calls]


def test_a_dropped_response_leaves_a_batch_that_the_caller_does_not_know(kit):
    kit.emu.faults.add({"on": "POST /v1/batches", "times": 1, "do": "drop_response"})
    file_id = kit.upload(kit.lines(1))

    with pytest.raises(APIConnectionError):
        kit.create(file_id, metadata={"nonce": "n1"})

    assert [batch.metadata for batch in kit.client.batches.list()] == [{"nonce": "n1"}]
    assert calls(kit)[1] == ("POST", None, "drop_response")


def test_a_client_that_repeats_a_dropped_create_pays_twice(kit):
    kit.emu.faults.add({"on": "POST /v1/batches", "times": 1, "do": "drop_response"})
    file_id = kit.upload(kit.lines(2))
    kit.client.with_options(max_retries=2).batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h")
    kit.emu.complete_all()

    assert len(kit.emu.ledger.batches) == 2
    assert {billing.custom_id for billing in kit.emu.ledger.rows_billed_twice()} == {"row-0", "row-1"}


def test_a_reset_connection_leaves_nothing(kit):
    kit.emu.faults.add({"on": "POST /v1/batches", "times": 1, "do": "reset"})
    file_id = kit.upload(kit.lines(1))

    with pytest.raises(APIConnectionError):
        kit.create(file_id)

    assert kit.emu.ledger.batches == []
    assert kit.create(file_id).status == "validating"


def test_a_large_upload_can_be_reset_dropped_or_refused(kit):
    kit.emu.faults.add(
        {"on": "POST /v1/files", "times": 1, "do": "reset"},
        {"on": "POST /v1/files", "times": 1, "do": "drop_response"},
        {"on": "POST /v1/files", "times": 1, "do": {"status": 500}},
    )
    content = b'{"a": 1}\n' * 300_000
    for error in (APIConnectionError, APIConnectionError, InternalServerError):
        with pytest.raises(error):
            kit.upload(content)

    assert [file.size for file in kit.emu.files.values()] == [len(content)]
    assert kit.upload(content)


def test_a_status_before_acting_leaves_nothing(kit):
    kit.emu.faults.add({"on": "POST /v1/batches", "times": 1, "do": {"status": 503}})

    with pytest.raises(InternalServerError) as failed:
        kit.submit(1)

    assert failed.value.status_code == 503 and kit.emu.ledger.batches == []


def test_a_status_after_acting_leaves_a_batch(kit):
    kit.emu.faults.add({"on": "POST /v1/batches", "times": 1, "do": {"status": {"code": 502, "after": True}}})

    with pytest.raises(InternalServerError):
        kit.submit(1)

    assert len(kit.emu.ledger.batches) == 1


def test_a_status_may_carry_a_body_of_html_and_headers(kit):
    kit.emu.faults.add(
        {"on": "GET /v1/batches", "do": {"status": {"code": 502, "html": True, "headers": {"x-should-retry": "false"}}}}
    )
    answer = httpx.get(f"{kit.emu.base_url}/batches", timeout=10)

    assert answer.headers["content-type"] == "text/html" and "<h1>502" in answer.text
    assert answer.headers["x-should-retry"] == "false" and answer.headers["x-request-id"]


def test_a_status_may_carry_an_error_and_a_time_to_wait(kit):
    error = {"code": "insufficient_quota", "message": "You exceeded your current quota.", "type": "insufficient_quota"}
    kit.emu.faults.add({"on": "POST /v1/batches", "do": {"status": {"code": 429, "error": error, "retry_after": 7}}})

    with pytest.raises(RateLimitError, match="current quota") as failed:
        kit.submit(1)

    assert failed.value.code == "insufficient_quota"
    assert failed.value.response.headers["retry-after"] == "7"


def test_a_delay_outlasts_the_patience_of_a_client(kit):
    kit.emu.faults.add({"on": "POST /v1/batches", "times": 1, "do": {"delay": {"seconds": 10, "after": True}}})
    file_id = kit.upload(kit.lines(1))

    with pytest.raises(APITimeoutError):
        kit.client.with_options(timeout=0.5).batches.create(
            input_file_id=file_id, endpoint=CHAT, completion_window="24h"
        )

    assert len(kit.emu.ledger.batches) == 1


def test_a_delay_goes_with_another_fault(kit, monkeypatch):
    delays, sleep = [], asyncio.sleep

    async def recording_sleep(seconds):
        delays.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", recording_sleep)
    kit.emu.faults.add({"on": "*", "do": {"delay": 0.05}}, {"on": "*", "do": {"status": 500}})

    with pytest.raises(InternalServerError):
        kit.client.batches.list()

    assert 0.05 in delays
    assert calls(kit) == [("GET", 500, "delay+status")]


def test_an_answer_may_be_half_a_json(kit):
    batch = kit.submit(1)
    kit.emu.faults.add({"on": "GET /v1/batches/*", "times": 1, "do": "malformed_json"})
    answer = httpx.get(f"{kit.emu.base_url}/batches/{batch.id}", headers={"authorization": "Bearer x"}, timeout=10)

    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        answer.json()
    assert kit.get(batch).id == batch.id


def test_a_download_may_break_off_in_the_middle(kit):
    file_id = kit.upload(b'{"a": 1}\n' * 100_000)
    kit.emu.faults.add({"on": "GET /v1/files/*/content", "times": 1, "do": {"cut_body": 0.25}})
    chunks = []
    url, headers = f"{kit.emu.base_url}/files/{file_id}/content", {"authorization": "Bearer x"}
    with httpx.stream("GET", url, headers=headers) as answer, pytest.raises(httpx.RemoteProtocolError):
        chunks.extend(answer.iter_raw())  # a list keeps what came before the end

    assert answer.headers["content-length"] == "900000"
    assert sum(map(len, chunks)) == 225_000
    assert len(kit.raw(file_id)) == 900_000


def test_the_sdk_notices_a_download_that_broke_off(kit):
    file_id = kit.upload(b'{"a": 1}\n')
    kit.emu.faults.add({"on": "GET /v1/files/*/content", "times": 1, "do": {"cut_body": 0.5}})

    with pytest.raises(APIConnectionError):
        kit.client.files.content(file_id)


@pytest.mark.parametrize(
    ("args", "body"),
    [({"body": ""}, ""), ({"body": "I'm a teapot"}, "I'm a teapot"), ({"html": True}, "<h1>418")],
)
@pytest.mark.parametrize("after", [False, True])
def test_a_status_may_come_without_openais_envelope(kit, args, body, after):
    kit.emu.faults.add({"on": "POST /v1/batches", "do": {"status": {"code": 418, "after": after, **args}}})
    with pytest.raises(APIStatusError) as failed:
        kit.submit(1)

    assert failed.value.status_code == 418 and body in failed.value.response.text
    assert "error" not in failed.value.response.text and len(kit.emu.ledger.batches) == after


@pytest.mark.parametrize(
    "retry_after", ["inf", "nan", "-5", "1e999", "99999999999", "Wed, 21 Oct 2026 07:28:00 GMT", "soon"]
)
def test_a_time_to_wait_may_be_any_text(kit, retry_after):
    kit.emu.faults.add({"on": "*", "do": {"status": {"code": 429, "retry_after": retry_after}}})
    with pytest.raises(RateLimitError) as failed:
        kit.client.batches.list()

    assert failed.value.response.headers["retry-after"] == retry_after


def test_a_file_may_be_pending_for_a_while(kit):
    message = "The input file is in 'pending' state. Only files with status 'Processed' are accepted."
    error = {"code": "invalidPayload", "message": message}
    kit.emu.faults.add({"on": "POST /v1/batches", "lasts": 90, "do": {"status": {"code": 400, "error": error}}})
    file_id = kit.upload(kit.lines(1))
    with pytest.raises(BadRequestError, match="pending"):
        kit.create(file_id)
    kit.emu.clock.advance(90)

    assert kit.create(file_id).status == "validating"


def raw(kit, batch):
    return kit.client.batches.with_raw_response.retrieve(batch.id).http_response.json()


def test_fields_of_an_answer_may_be_others(kit):
    batch = kit.submit(1)
    kit.emu.faults.add(
        {"on": "GET /v1/batches/*", "do": {"edit": {"set": {"status": ["completed"], "expires_at": 1e300, "id": 7}}}},
        {"on": "GET /v1/batches/*", "do": {"edit": {"drop": ["metadata"], "set": {"endpoint": "\ud83d"}}}},
    )
    shown = raw(kit, batch)

    assert (shown["status"], shown["expires_at"], shown["id"]) == (["completed"], 1e300, 7)
    assert "metadata" not in shown and shown["endpoint"] == "\ud83d"


def test_a_new_batch_may_have_no_id_or_be_wrapped(kit):
    kit.emu.faults.add(
        {"on": "POST /v1/batches", "times": 1, "do": {"edit": {"drop": ["id", "metadata"]}}},
        {"on": "POST /v1/batches", "match": {"nth": 2}, "do": {"edit": {"wrap": "job"}}},
    )
    first, second = (
        kit.client.batches.with_raw_response.create(
            input_file_id=kit.upload(kit.lines(1)), endpoint=CHAT, completion_window="24h"
        ).http_response.json()
        for _ in range(2)
    )

    assert first.keys().isdisjoint({"id", "metadata"}) and first["object"] == "batch"
    assert list(second) == ["job"] and second["job"]["id"] == kit.emu.ledger.batches[1].id


def test_an_edit_changes_each_object_of_a_page_and_no_error(kit):
    kit.submit(1)
    kit.submit(1)
    kit.emu.faults.add({"on": "*", "do": {"edit": {"set": {"object": "thing"}}}})

    assert [batch.object for batch in kit.client.batches.list()] == ["thing", "thing"]
    with pytest.raises(NotFoundError, match="No batch found"):
        kit.client.batches.retrieve("batch_unknown")


def test_a_response_may_come_byte_by_byte(kit, monkeypatch):
    batch, pauses, sleep = kit.submit(1), [], asyncio.sleep

    async def recording_sleep(seconds):
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", recording_sleep)
    kit.emu.faults.add({"on": "GET /v1/batches/*", "do": {"drip": {"seconds": 0.5, "bytes": 10}}})
    shown = kit.client.batches.with_raw_response.retrieve(batch.id)

    assert shown.http_response.json()["id"] == batch.id
    assert pauses.count(0.5) == -(-len(shown.content) // 10) > 50


def test_a_star_in_a_path_is_one_segment(kit):
    kit.emu.faults.add({"on": "GET /v1/files/*", "do": {"status": 500}})
    file_id = kit.upload(kit.lines(1))

    assert kit.raw(file_id)
    with pytest.raises(InternalServerError):
        kit.client.files.retrieve(file_id)


def test_a_rule_may_wait_for_the_nth_call_and_fire_so_many_times(kit):
    kit.emu.faults.add({"on": "GET /v1/batches", "match": {"nth": [2, 4, 5]}, "times": 2, "do": {"status": 500}})
    statuses = []
    for _ in range(6):
        answer = httpx.get(f"{kit.emu.base_url}/batches", headers={"authorization": "Bearer x"}, timeout=10)
        statuses.append(answer.status_code)

    assert statuses == [200, 500, 200, 500, 200, 200]


def test_a_rule_may_look_at_metadata_body_and_file_name(kit):
    kit.emu.faults.add(
        {"on": "POST /v1/batches", "match": {"metadata": {"job": "b"}}, "do": {"status": 500}},
        {"on": "POST /v1/batches", "match": {"body": '"job": ?"c"'}, "do": {"status": 503}},
        {"on": "GET /v1/files/*/content", "match": {"file": "_output.jsonl$"}, "do": {"status": 504}},
    )
    batch = kit.submit(1, metadata={"job": "a"})
    for job, status in (("b", 500), ("c", 503)):
        with pytest.raises(InternalServerError) as failed:
            kit.submit(1, metadata={"job": job})
        assert failed.value.status_code == status
    kit.emu.complete_all()

    assert kit.raw(batch.input_file_id)
    with pytest.raises(InternalServerError):
        kit.raw(kit.get(batch).output_file_id)


def test_a_rule_on_a_batch_url_may_look_at_its_metadata(kit):
    kit.emu.faults.add({"on": "GET /v1/batches/*", "match": {"metadata": {"job": "b"}}, "do": {"status": 500}})
    unaffected, affected = kit.submit(1, metadata={"job": "a"}), kit.submit(1, metadata={"job": "b"})

    assert kit.get(unaffected)
    with pytest.raises(InternalServerError):
        kit.get(affected)


def test_rules_can_be_cleared(kit):
    kit.emu.faults.add({"on": "*", "do": "reset"})
    kit.emu.faults.clear()

    assert list(kit.client.batches.list()) == []


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"on": "row", "do": "explode"}, "No fault 'explode'"),
        ({"on": "row", "do": "drop_response"}, "No fault 'drop_response' on 'row'"),
        ({"on": "batch", "do": {"stuck": {"hours": 3}}}, "takes"),
        ({"on": "everywhere", "do": "reset"}, "'on' is"),
        ({"on": "*", "do": {"reset": True, "delay": 1}}, "one fault"),
        ({"on": "*", "do": "reset", "match": {"weather": "bad"}}, "'match' takes"),
        ({"on": "*", "do": "reset", "how": "often"}, "Not a fault rule"),
        ({"do": "reset"}, "Not a fault rule"),
    ],
)
def test_an_invalid_rule_is_an_error(kit, rule, message):
    with pytest.raises(ValueError, match=message):
        kit.emu.faults.add(rule)


def test_chaos_repeats_itself(start):
    def history(seed):
        rates = {
            "drop_response": 0.2,
            "reset": 0.1,
            "status": 0.2,
            "malformed_json": 0.1,
            "line_error": 0.3,
            "fail": 0.1,
        }
        kit = start(seed=0, faults=chaos(seed, rates), clock=ManualClock(5e8))
        client = OpenAI(base_url=kit.emu.base_url, api_key="x", max_retries=0, http_client=kit.client._client)
        for _ in range(60):
            with suppress(OpenAIError, json.JSONDecodeError):
                list(client.batches.list())
        return calls(kit)

    first = history(1)
    assert first == history(1) != history(2)
    assert {fault for *_, fault in first} >= {"", "drop_response", "reset", "status", "malformed_json"}


def test_chaos_knows_which_faults_need_more_than_a_chance():
    with pytest.raises(ValueError, match="needs parameters"):
        chaos(1, {"stuck": 0.1})
    assert [rule.on for rule in chaos(1, {"reset": 0.1, "missing": 0.1, "expire_at": 0.1})] == ["*", "row", "batch"]


def test_the_documents_name_every_fault():
    text = Path(__file__).parents[2].joinpath("docs", "emulator.md").read_text()
    named = set(re.findall(r"`(\w+)`", text))

    assert {name for group in (_CALL_FAULTS, _BATCH_FAULTS, _ROW_FAULTS) for name in group} <= named
    assert set(FORMS) <= named
