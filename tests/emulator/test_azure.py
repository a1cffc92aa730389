"""The dialect of Azure OpenAI v1: what Microsoft's documentation says that differs from OpenAI's."""

from __future__ import annotations

import json

import httpx2
import pytest
from openai import BadRequestError, OpenAI

from airflow_openai_batch.emulator import Filtered, Limits, ManualClock
from airflow_openai_batch.emulator.__main__ import _emulator, _parser

CHAT, SHORT = "/v1/chat/completions", "/chat/completions"
DAY_S = 86_400


@pytest.fixture
def azure(start):
    return start(dialect="azure", duration=100, pending=0)


def test_it_is_spoken_under_openai_v1_only(azure):
    assert azure.emu.base_url.endswith("/openai/v1")
    assert azure.ended().request_counts.completed == 3
    outside = azure.emu.base_url.removesuffix("/openai/v1") + "/v1/batches"
    answer = httpx2.get(outside, headers={"api-key": "k"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, "Resource not found")


@pytest.mark.parametrize("headers", [{"api-key": "right"}, {"authorization": "Bearer right"}])
def test_a_key_is_in_either_header(start, headers):
    kit = start(dialect="azure", api_keys=["right"])
    url = kit.emu.base_url + "/batches"
    assert httpx2.get(url, headers=headers).status_code == 200
    wrong = {name: value.replace("right", "wrong") for name, value in headers.items()}
    assert httpx2.get(url, headers=wrong).status_code == 401


def test_a_file_is_pending_before_it_is_processed_and_no_batch_is_made_of_it_until_then(start):
    kit = start(dialect="azure", duration=100)
    file_id = kit.upload(kit.lines(2))
    assert kit.client.files.retrieve(file_id).status == "pending"
    with pytest.raises(BadRequestError, match="'pending' state"):
        kit.create(file_id)
    assert kit.emu.batches == {}
    kit.emu.clock.advance(10)
    assert kit.client.files.retrieve(file_id).status == "processed"
    assert kit.create(file_id).id


@pytest.mark.parametrize("url", [CHAT, SHORT])
@pytest.mark.parametrize("endpoint", [CHAT, SHORT, "/v1/responses"])
def test_the_file_tells_what_it_is_for_in_either_form(azure, url, endpoint):
    lines = [azure.line(f"row-{i}", url=url) for i in range(2)]
    batch = azure.ended(lines, endpoint)
    assert set(azure.texts(batch).values()) == {"Echo: row-0", "Echo: row-1"}


def test_an_unknown_endpoint_is_refused(azure):
    with pytest.raises(BadRequestError, match="Supported values"):
        azure.create(azure.upload(azure.lines(1)), "/rerank")
    batch = azure.ended([azure.line(url="/rerank")])
    assert [error.code for error in batch.errors.data] == ["url_mismatch"]


def test_errors_have_azures_names(azure):
    other = azure.line("b", url=SHORT), azure.line("c", body=azure.body(model="other"))
    batch = azure.ended([azure.line("a"), *other])
    assert [(error.code, error.line) for error in batch.errors.data] == [("url_mismatch", 2), ("model_mismatch", 3)]
    assert (batch.status, batch.failed_at, batch.error_file_id) == ("Failed", None, "")
    assert batch.completed_at is not None


def test_a_byte_order_mark_fails_the_batch_with_words_about_a_deployment(start):
    kit = start(dialect="azure", pending=0)
    content = b"\xef\xbb\xbf" + json.dumps(kit.line()).encode() + b"\n"
    batch = kit.ended(content)
    assert "deployment" in batch.errors.data[0].message
    with pytest.raises(BadRequestError):
        start().upload(content)


def test_lines_have_no_id_and_an_error_file_is_there_without_a_line(azure):
    batch = azure.ended()
    lines = azure.output(batch).values()
    assert all(set(line) == {"custom_id", "response", "error"} for line in lines)
    assert azure.raw(batch.error_file_id) == b""
    body = next(iter(lines))["response"]["body"]
    assert body["prompt_filter_results"][0]["content_filter_results"]["hate"] == {"filtered": False, "severity": "safe"}
    assert "content_filter_results" in body["choices"][0]


def test_the_content_filter_refuses_prompts_and_answers(start):
    def answer(endpoint, body):
        text = body["messages"][0]["content"]
        return {"text of row-0": Filtered(of_prompt=True), "text of row-1": Filtered()}.get(text, "good")

    kit = start(dialect="azure", pending=0, answer=answer)
    batch = kit.ended()
    refused = kit.errors(batch)["row-0"]["response"]
    assert (refused["status_code"], refused["body"]["error"]["code"]) == (400, "content_filter")
    choice = kit.output(batch)["row-1"]["response"]["body"]["choices"][0]
    assert choice["finish_reason"] == "content_filter"
    assert choice["content_filter_results"]["violence"]["filtered"] is True
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 1)
    assert {row.custom_id for row in kit.emu.ledger.rows()} == {"row-0", "row-1", "row-2"}, (
        "a refused prompt is charged"
    )


def test_a_batch_does_not_expire_and_costs_until_it_is_cancelled(start):
    kit = start(dialect="azure", duration=3 * DAY_S, pending=0)
    batch = kit.submit()
    kit.emu.clock.advance(2 * DAY_S)
    shown = kit.get(batch)
    assert shown.status == "In_progress"
    expires_at = json.loads(kit.client.batches.with_raw_response.retrieve(batch.id).content)["expires_at"]
    assert isinstance(expires_at, str) and "T" in expires_at
    assert kit.emu.ledger.live_batches()
    kit.client.batches.cancel(batch.id)
    kit.emu.complete_all()
    assert kit.get(batch).status == "Cancelled"


def test_objects_are_as_in_the_samples(azure):
    batch = azure.submit()
    shown = json.loads(azure.client.batches.with_raw_response.retrieve(batch.id).content)
    assert (shown["status"], shown["endpoint"], shown["output_file_id"], shown["error_file_id"]) == (
        "Validating",
        None,
        "",
        "",
    )
    assert set(shown["request_counts"].values()) == {None}


def test_a_model_is_a_deployment_and_the_answer_tells_what_it_is(start):
    kit = start(dialect="azure", pending=0, deployments={"labels": "gpt-6-luna"})
    batch = kit.ended([kit.line(body=kit.body(model="labels"))])
    assert kit.output(batch)["row-0"]["response"]["body"]["model"] == "gpt-6-luna"
    assert kit.client.chat.completions.create(**kit.body(model="labels")).model == "gpt-6-luna"
    batch = kit.ended([kit.line(body=kit.body(model="gpt-6-luna"))])
    assert [error.code for error in batch.errors.data] == ["model_not_found"]


def test_a_full_queue_fails_the_batch_or_in_some_regions_the_call(start):
    kit = start(dialect="azure", pending=0, queue_limit=1)
    batch = kit.ended()
    assert [error.code for error in batch.errors.data] == ["token_limit_exceeded"]
    kit.emu.faults.add({"on": "batch", "do": {"queue_limit": {"tokens": 1, "http": 400}}})
    with pytest.raises(BadRequestError) as refused:
        kit.submit()
    assert refused.value.code == "token_limit_exceeded"


def test_files_expire_after_fourteen_days_at_the_earliest_and_only_if_told(azure):
    file_id = azure.upload(azure.lines(1))
    assert azure.client.files.retrieve(file_id).expires_at is None
    with pytest.raises(BadRequestError, match="1209600"):
        azure.upload(azure.lines(1), expires_after={"anchor": "created_at", "seconds": 7 * DAY_S})
    assert azure.upload(azure.lines(1), expires_after={"anchor": "created_at", "seconds": 14 * DAY_S})
    assert azure.client.files.with_raw_response.delete(file_id).status_code == 204


def test_there_are_five_hundred_input_files_that_do_not_expire(azure):
    content = json.dumps(azure.line()).encode()
    with OpenAI(base_url=azure.emu.base_url, api_key="k", max_retries=0) as client:
        for _ in range(500):
            client.files.create(file=("in.jsonl", content), purpose="batch")
        with pytest.raises(BadRequestError, match="500 batch input files that do not expire"):
            client.files.create(file=("in.jsonl", content), purpose="batch")
        lifetime = {"anchor": "created_at", "seconds": 14 * DAY_S}
        assert client.files.create(file=("in.jsonl", content), purpose="batch", expires_after=lifetime).id


def test_the_command_line_and_the_marker_speak_it(start):
    options = _parser().parse_args(["--dialect", "azure", "--deployment", "labels=gpt-6-luna", "--pending", "3"])
    emulator = _emulator(options)
    try:
        settings = emulator.settings
        assert (settings.dialect.name, settings.pending_s) == ("azure", 3)
        assert (settings.limits.requests, settings.limits.models) == (100_000, {"labels"})
    finally:
        emulator.stop()
    with pytest.raises(ValueError, match="no dialect 'aws'"):
        start(dialect="aws")
    with pytest.raises(ValueError, match="dialect='azure'"):
        start(deployments={})


@pytest.mark.openai_batch_emulator(dialect="azure", limits=Limits(requests=2), clock=ManualClock())
def test_the_fixture_speaks_it(openai_batch_emulator, monkeypatch):
    import os

    connection = json.loads(os.environ["AIRFLOW_CONN_OPENAI_DEFAULT"])
    assert connection["host"].endswith("/openai/v1")
    assert openai_batch_emulator.settings.limits.requests == 2
