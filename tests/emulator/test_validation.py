from __future__ import annotations

import json

import pytest

from airflow_openai_batch.emulator import Limits

CHAT = "/v1/chat/completions"


def errors_of(kit, lines, endpoint=CHAT):
    batch = kit.ended(lines, endpoint)
    assert batch.status == "failed"
    assert batch.failed_at and batch.output_file_id is None and batch.error_file_id is None
    assert batch.request_counts.total == 0 and kit.emu.ledger.n_rows() == 0
    return [(e.code, e.param, e.line) for e in batch.errors.data], [e.message for e in batch.errors.data]


@pytest.mark.parametrize("name", ["custom_id", "method", "url", "body"])
def test_a_line_without_a_required_field_fails_the_batch(kit, name):
    errors, messages = errors_of(kit, [kit.line(), kit.line("row-1", **{name: ...})])

    assert errors == [("missing_required_parameter", name, 2)]
    assert messages == [f"Missing required parameter: '{name}'."]


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        (CHAT, "messages"),
        (CHAT, "model"),
        ("/v1/responses", "input"),
        ("/v1/responses", "model"),
        ("/v1/embeddings", "input"),
        ("/v1/embeddings", "model"),
        ("/v1/completions", "prompt"),
        ("/v1/completions", "model"),
        ("/v1/moderations", "input"),
        ("/v1/images/generations", "prompt"),
        ("/v1/images/edits", "prompt"),
        ("/v1/videos", "prompt"),
    ],
)
def test_a_body_without_what_its_endpoint_needs_fails_the_batch(kit, endpoint, name):
    body = {key: value for key, value in kit.body("x", endpoint).items() if key != name}
    errors, _ = errors_of(kit, [kit.line(endpoint=endpoint, body=body)], endpoint)

    assert errors == [("missing_required_parameter", f"body.{name}", 1)]


@pytest.mark.parametrize("endpoint", ["/v1/moderations", "/v1/images/generations", "/v1/images/edits", "/v1/videos"])
def test_endpoints_with_a_default_model_need_none(kit, endpoint):
    body = {key: value for key, value in kit.body("x", endpoint).items() if key != "model"}

    assert kit.ended([kit.line(endpoint=endpoint, body=body)], endpoint).status == "completed"


def test_a_responses_request_may_name_a_stored_prompt_instead_of_an_input(kit):
    line = kit.line(endpoint="/v1/responses", body={"model": "m", "prompt": {"id": "pmpt_1"}})

    assert kit.ended([line], "/v1/responses").status == "completed"


def test_a_line_that_is_no_json_fails_the_batch(kit):
    good = json.dumps(kit.line()).encode()
    errors, messages = errors_of(kit, good + b"\n{'a': 1}\n" + b'\n["list"]\n')

    assert errors == [("invalid_json_line", None, 2), ("invalid_json_line", None, 4)]
    assert messages[0] == "This line is not parseable as valid JSON."


def test_json_spread_over_lines_fails_the_batch_once_it_is_past_the_upload(kit):
    good = json.dumps(kit.line()).encode()
    errors, _ = errors_of(kit, good + b"\n" + json.dumps(kit.line("b"), indent=1).encode())

    assert {code for code, *_ in errors} == {"invalid_json_line"} and len(errors) > 3


def test_an_url_other_than_the_endpoint_fails_the_batch(kit):
    errors, messages = errors_of(kit, [kit.line(url="/v1/responses"), kit.line("b", url=CHAT + "/")])

    assert errors == [("invalid_url", "url", 1), ("invalid_url", "url", 2)]
    assert messages[0] == "The URL provided for this request does not match the batch endpoint."


def test_a_method_other_than_post_fails_the_batch(kit):
    assert errors_of(kit, [kit.line(method="GET")])[0] == [("invalid_method", "method", 1)]


def test_a_second_model_fails_the_batch(kit):
    errors, messages = errors_of(kit, [kit.line(), kit.line("b", body=kit.body(model="other"))])

    assert errors == [("mismatched_model", "body.model", 2)]
    assert "Each batch must contain requests for a single model." in messages[0]


def test_an_unknown_model_fails_the_batch(start):
    kit = start(limits=Limits(models=frozenset({"gpt-4o-mini"})))
    errors, messages = errors_of(kit, [kit.line()])

    assert errors == [("model_not_found", "body.model", 1)]
    assert messages == ["The provided model 'gpt-6-luna' is not supported by the Batch API."]


def test_a_repeated_custom_id_fails_the_batch(kit):
    errors, messages = errors_of(kit, [kit.line("same"), kit.line("x"), kit.line("same")])

    assert errors == [("duplicate_custom_id", "custom_id", 3)]
    assert "'same'" in messages[0]


def test_streaming_fails_the_batch(kit):
    errors, messages = errors_of(kit, [kit.line(body=kit.body(stream=True))])

    assert errors == [("streaming_unsupported", "body.stream", 1)]
    assert messages == ["Chat Completions: Streaming is not supported in the Batch API."]


@pytest.mark.parametrize(("change", "param"), [({"custom_id": 7}, "custom_id"), ({"body": "text"}, "body")])
def test_a_field_of_the_wrong_type_fails_the_batch(kit, change, param):
    assert errors_of(kit, [kit.line(**change)])[0] == [("invalid_type", param, 1)]


def test_each_bad_line_is_reported_once(kit):
    errors, _ = errors_of(kit, [{"custom_id": str(i)} for i in range(500)])

    assert len(errors) == 500 and errors[499] == ("missing_required_parameter", "method", 500)


def test_blank_lines_are_skipped(kit):
    lines = json.dumps(kit.line("a")).encode() + b"\n\n\r\n" + json.dumps(kit.line("b")).encode() + b"\n\n"

    assert set(kit.output(kit.ended(lines))) == {"a", "b"}


def test_more_requests_than_allowed_fail_the_batch(start):
    kit = start(limits=Limits(requests=3))

    assert kit.ended(3).status == "completed"
    assert errors_of(start(limits=Limits(requests=3)), kit.lines(4))[0] == [("too_many_tasks", None, None)]


def test_a_larger_file_than_allowed_fails_the_batch(start):
    kit = start(limits=Limits(file_bytes=100))

    assert errors_of(kit, kit.lines(2))[0] == [("file_too_large", "file_id", None)]


def test_embedding_inputs_are_counted_across_the_batch(start):
    kit = start(limits=Limits(embedding_inputs=5))
    lines = [kit.line(f"r{i}", "/v1/embeddings", body={"model": "m", "input": ["a", "b"]}) for i in range(3)]

    assert errors_of(kit, lines, "/v1/embeddings")[0] == [("too_many_embedding_inputs", None, None)]


def test_the_published_limits_are_the_default():
    assert (Limits().requests, Limits().file_bytes, Limits().embedding_inputs) == (50_000, 209_715_200, 50_000)


def test_a_full_token_queue_fails_the_batch_until_others_have_ended(start):
    kit = start(duration=100, queue_limit=30)
    lines = [kit.line(body=kit.body("x" * 80))]  # 20 tokens
    first, second = kit.submit(lines), kit.submit(lines)
    other_model = kit.submit([kit.line(body=kit.body("x" * 80, model="other"))])
    kit.emu.clock.advance(20)

    assert kit.get(first).status == kit.get(other_model).status == "in_progress"
    failed = kit.get(second)
    assert (failed.status, failed.errors.data[0].code) == ("failed", "token_limit_exceeded")
    assert "Enqueued token limit reached for gpt-6-luna in organization" in failed.errors.data[0].message
    kit.emu.complete_all()
    assert kit.ended(lines).status == "completed"
