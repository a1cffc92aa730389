from __future__ import annotations

import json

from airflow_openai_batch.emulator import Rule


def with_row_fault(kit, do, **rule):
    kit.emu.faults.add({"on": "row", "match": {"custom_id": "^row-1$"}, "do": do, **rule})
    return kit.ended(3)


def test_a_row_may_get_an_http_error(kit):
    batch = with_row_fault(kit, {"http_error": {"status": 503, "code": "overloaded", "message": "Busy."}})

    assert set(kit.output(batch)) == {"row-0", "row-2"}
    response = kit.errors(batch)["row-1"]["response"]
    assert response["status_code"] == 503 and response["body"]["error"]["code"] == "overloaded"


def test_a_row_may_get_a_line_error(kit):
    assert kit.errors(with_row_fault(kit, "line_error"))["row-1"]["error"]["code"] == "request_timeout"


def test_a_row_may_be_refused_filtered_or_truncated(start):
    choices = {}
    for fault in ("refusal", "filtered", {"truncated": 0.5}):
        kit = start()
        batch = with_row_fault(kit, fault)
        choices[str(fault)] = kit.output(batch)["row-1"]["response"]["body"]["choices"][0]
        assert kit.texts(batch)["row-0"] == "Echo: text of row-0"

    refused, filtered, truncated = choices.values()
    assert refused["message"]["refusal"] and refused["message"]["content"] is None
    assert filtered["finish_reason"] == "content_filter"
    assert truncated["finish_reason"] == "length" and truncated["message"]["content"] == "Echo: tex"


def test_a_row_may_break_its_schema(kit):
    assert kit.texts(with_row_fault(kit, "invalid"))["row-1"] == "[]"
    kit.emu.reset()
    assert kit.texts(with_row_fault(kit, {"invalid": "not json"}))["row-1"] == "not json"


def test_a_row_may_be_missing(kit):
    batch = with_row_fault(kit, "missing")

    assert set(kit.output(batch)) == {"row-0", "row-2"} and batch.error_file_id is None
    assert (batch.request_counts.completed, batch.request_counts.total) == (2, 3)
    assert kit.emu.ledger.n_rows() == 2


def test_a_row_may_be_half_a_line(kit):
    batch = with_row_fault(kit, "malformed")
    lines = kit.raw(batch.output_file_id).splitlines()

    assert len(lines) == 3
    bad = [line for line in lines if not line.endswith(b"}")]
    assert len(bad) == 1 and b"row-1" in bad[0]
    kit.emu.reset()
    assert b"garbage\n" in kit.raw(with_row_fault(kit, {"malformed": "garbage"}).output_file_id)


def test_a_row_may_come_twice(kit):
    batch = with_row_fault(kit, "duplicate")

    assert kit.raw(batch.output_file_id).count(b'"row-1"') == 2
    assert kit.emu.ledger.n_rows() == 3


def test_a_row_may_be_in_both_files(kit):
    batch = with_row_fault(kit, "both_files")

    assert "row-1" in kit.output(batch) and set(kit.errors(batch)) == {"row-1"}


def test_a_row_may_contain_unicode_line_separators(kit):
    batch = with_row_fault(kit, "u2028")

    assert "\u2028".encode() in kit.raw(batch.output_file_id)
    assert {"\u2028", "\u2029", "\x85"} < set(kit.texts(batch)["row-1"])


def test_unicode_line_separators_leave_structured_answers_valid(kit):
    schema = {
        "type": "object",
        "properties": {"why": {"type": "string"}, "label": {"enum": ["a"]}},
        "required": ["why", "label"],
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    kit.emu.faults.add({"on": "row", "do": "u2028"})
    answer = json.loads(kit.texts(kit.ended(kit.lines(1, response_format=response_format)))["row-0"])

    assert "\u2028" in answer["why"] and answer["label"] == "a"


def test_a_row_may_be_fragmented(kit):
    kit.emu.faults.add({"on": "row", "do": "fragmented"})
    batch = kit.ended(1, "/v1/responses")

    assert len(kit.output(batch)["row-0"]["response"]["body"]["output"]) == 3


def test_a_row_rule_may_look_at_the_body_and_the_batch(kit):
    kit.emu.faults.add({"on": "row", "match": {"body": "text of row-2", "batch": 1}, "do": "line_error"})

    assert set(kit.errors(kit.ended(3))) == {"row-2"}
    assert kit.ended(3).error_file_id is None


def test_the_chance_of_a_row_is_repeatable_and_about_right(start):
    def failed(seed):
        kit = start(seed=seed, faults=[Rule("row", "line_error", probability=0.2)])
        return set(kit.errors(kit.ended(500)))

    failed_rows = failed(1)
    assert failed_rows == failed(1) != failed(2)
    assert 60 < len(failed_rows) < 140
