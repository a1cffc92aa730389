"""Promise 3: every row is accounted for, by custom_id, never by position and never by the API's counts."""

from __future__ import annotations

import pytest

from airflow_openai_batch.engine.model import Policy

N = 12
EXPIRE = {"expire_at": {"fraction": 0.5}}
TROUBLE = {
    "nothing": [],
    "expired": [("batch", EXPIRE, {})],
    "expired_and_dropped": [("batch", EXPIRE, {}), ("batch", "drop_unfinished", {})],
    "no_output_file": [("batch", "no_output_file", {})],
    "late_output_file_id": [("batch", {"late_output_file_id": 300}, {})],
    "empty_ids": [("batch", "empty_string_ids", {})],
    "zero_byte_error_file": [("batch", "zero_byte_error_file", {})],
    "missing": [("row", "missing", {"probability": 0.4})],
    "duplicate": [("row", "duplicate", {"probability": 0.5})],
    "both_files": [("row", "both_files", {"probability": 0.5})],
    "malformed": [("row", "malformed", {"probability": 0.4})],
    "u2028": [("row", "u2028", {})],
    "refused": [("row", "refusal", {"probability": 0.4})],
    "errors_400": [("row", {"http_error": {"status": 400, "code": "invalid_value"}}, {"probability": 0.4})],
    "errors_500": [("row", {"http_error": {"status": 500}}, {"probability": 0.4})],
    "errors_in_output": [("row", {"http_error": {"status": 500, "in_output": True}}, {"probability": 0.4})],
    "line_errors": [("row", {"line_error": "request_timeout"}, {"probability": 0.4})],
    "counts_too_low": [("batch", {"counts_lie": {"completed": 0, "failed": 0}}, {})],
    "counts_too_high": [("batch", {"counts_lie": {"total": 99, "completed": 99, "failed": 7}}, {})],
    "counts_null": [("batch", {"counts_lie": {"total": None, "completed": None, "failed": None}}, {})],
    "broken_downloads": [("GET /v1/files/*/content", {"cut_body": 0.3}, {"times": 2})],
    "rejected": [("batch", {"fail": {"code": "invalid_url", "message": "no", "line": 3}}, {})],
    "all_at_once": [
        ("row", "missing", {"probability": 0.1}),
        ("row", "malformed", {"probability": 0.1}),
        ("row", "duplicate", {"probability": 0.1}),
        ("row", {"http_error": {"status": 503}}, {"probability": 0.1}),
        ("row", "truncated", {"probability": 0.1}),
        ("batch", {"counts_lie": {"completed": 1, "failed": 1}}, {}),
    ],
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_rows_in_are_the_sum_of_outcomes_under(world, trouble):
    w = world()
    for on, do, args in TROUBLE[trouble]:
        w.fault(on, do, **args)
    w.submit(N, per_shard=5, policy=Policy(max_rounds=1))
    summary = w.done_accepting(step_s=3600)
    assert sum(summary.by_status.values()) == N
    w.assert_accounted(N)


def test_answers_are_matched_by_custom_id_whatever_their_order(world):
    w = world(answer=lambda endpoint, body: body["input"].rpartition(" ")[2])
    w.submit(40)
    w.done()
    first = w.emu.files[w.batches[0].result.output_file_id].read().split(b"\n")[0]
    assert b'"t-0"' not in first, "the emulator shuffles"
    assert [row["output"] for row in w.table()] == [str(i) for i in range(40)]


def test_lines_of_requests_that_were_never_made_change_no_count(world):
    w = world()
    w.submit(3)
    stray = b'{"custom_id":"stranger","response":{"status_code":200,"body":{}},"error":null}'
    w.fault("row", {"malformed": stray.decode()}, match={"custom_id": "t-1$"}, times=1)
    assert w.done_accepting().by_status == {"missing": 1, "succeeded": 2} and len(w.batches) == 1
    assert stray in w.dead_letter(w.write())


def test_a_success_in_an_earlier_round_is_never_replaced_by_a_later_failure(world):
    w = world()
    w.submit(4, policy=Policy(max_rounds=1))
    w.fault("row", "missing", match={"custom_id": "t-1$"}, times=1)
    w.fault("row", {"http_error": {"status": 500}}, match={"custom_id": "t-1$"})
    assert w.done().by_status == {"failed": 1, "succeeded": 3}
    assert w.statuses() == {"t-0": "succeeded", "t-1": "failed", "t-2": "succeeded", "t-3": "succeeded"}


def test_usage_of_all_rounds_is_counted(world):
    w = world()
    w.submit(6)
    w.fault("row", "missing", match={"custom_id": "t-1$"}, times=1)
    summary = w.done()
    billed = list(w.emu.ledger.rows())
    assert summary.usage.input_tokens == sum(row.input_tokens for row in billed)
    assert summary.usage.output_tokens == sum(row.output_tokens for row in billed)
