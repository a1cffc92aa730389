from __future__ import annotations

from airflow_openai_batch.emulator import (
    Filtered,
    Fragmented,
    HttpError,
    LineError,
    Malformed,
    Missing,
    Raw,
    Refusal,
    Text,
    Truncated,
)

CHAT = "/v1/chat/completions"


def replying(start, reply, endpoint=CHAT):
    kit = start(answer=lambda *_: reply)
    return kit, kit.ended([kit.line("a", endpoint)], endpoint)


def test_a_refusal_says_so_in_each_endpoint(start):
    kit, batch = replying(start, Refusal("No."))
    message = kit.output(batch)["a"]["response"]["body"]["choices"][0]["message"]
    assert (message["content"], message["refusal"]) == (None, "No.")

    kit, batch = replying(start, Refusal("No."), "/v1/responses")
    items = kit.output(batch)["a"]["response"]["body"]["output"]
    assert items[-1]["content"] == [{"type": "refusal", "refusal": "No."}]


def test_a_truncated_answer_says_so_in_each_endpoint(start):
    kit, batch = replying(start, Truncated("Half"))
    choice = kit.output(batch)["a"]["response"]["body"]["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("length", "Half")

    kit, batch = replying(start, Truncated("Half"), "/v1/responses")
    body = kit.output(batch)["a"]["response"]["body"]
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def test_a_filtered_answer_says_so_in_each_endpoint(start):
    kit, batch = replying(start, Filtered())
    assert kit.output(batch)["a"]["response"]["body"]["choices"][0]["finish_reason"] == "content_filter"

    kit, batch = replying(start, Filtered(), "/v1/responses")
    assert kit.output(batch)["a"]["response"]["body"]["incomplete_details"] == {"reason": "content_filter"}


def test_a_fragmented_answer_has_a_cut_off_copy_before_the_whole(start):
    kit, batch = replying(start, Fragmented("the whole text"), "/v1/responses")
    items = kit.output(batch)["a"]["response"]["body"]["output"]

    assert [item["content"][0]["text"] for item in items if item["type"] == "message"] == ["the who", "the whole text"]


def test_an_http_error_goes_to_the_error_file(start):
    kit, batch = replying(start, HttpError(429, "rate_limit_exceeded", "Slow down.", "rate_limit_error"))
    line = kit.errors(batch)["a"]

    assert batch.output_file_id is None and batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (0, 1)
    assert batch.usage.total_tokens == 0
    assert line["error"] is None and line["response"]["status_code"] == 429
    assert line["response"]["body"]["error"]["code"] == "rate_limit_exceeded"
    assert kit.emu.ledger.n_rows() == 0


def test_an_http_error_may_hide_in_the_output_file(start):
    kit, batch = replying(start, HttpError(status=0, in_output=True))

    assert kit.output(batch)["a"]["response"]["status_code"] == 0
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 0)


def test_a_line_error_has_no_response(start):
    kit, batch = replying(start, LineError("request_timeout", "Too slow."))

    line = kit.errors(batch)["a"]
    assert (line["response"], line["error"]) == (None, {"code": "request_timeout", "message": "Too slow."})


def test_a_missing_row_is_in_neither_file(start):
    _, batch = replying(start, Missing())

    assert batch.status == "completed"
    assert batch.output_file_id is None and batch.error_file_id is None


def test_malformed_bytes_stand_in_the_output_as_they_are(start):
    kit, batch = replying(start, Malformed(b"\xff\xfe{"))

    assert kit.raw(batch.output_file_id) == b"\xff\xfe{\n"


def test_a_raw_body_is_passed_on(start):
    kit, batch = replying(start, Raw({"my": "body"}))
    assert kit.output(batch)["a"]["response"]["body"] == {"my": "body"}
    kit, batch = replying(start, Raw({"my": "body"}, 418))
    assert kit.errors(batch)["a"]["response"]["status_code"] == 418


def test_a_text_may_end_for_any_reason(start):
    kit, batch = replying(start, Text("x", finish_reason="tool_calls"))

    assert kit.output(batch)["a"]["response"]["body"]["choices"][0]["finish_reason"] == "tool_calls"


def test_half_a_surrogate_pair_survives(kit):
    line = b'{"custom_id":"a","method":"POST","url":"/v1/responses","body":{"model":"m","input":"\\ud83d"}}'
    batch = kit.ended(line, "/v1/responses")

    assert "\ud83d" in kit.output(batch)["a"]["response"]["body"]["output"][1]["content"][0]["text"]
