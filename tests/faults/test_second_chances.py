"""What is tried again and what is not: odd lines, refused uploads and batches, missing files, a full queue."""

from __future__ import annotations

import json
import logging

import pytest

from airflow_openai_batch.emulator import Truncated
from airflow_openai_batch.emulator.tokens import prompt_tokens
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.job.status import Wait
from airflow_openai_batch.engine.model import State

TEXT = "ticket {} " + "word " * 40
OTHER = {"model": "gpt-6-luna", "input": "Classify: {text}"}
FULL = {"fail": "token_limit_exceeded"}
NOT_FOUND = {"fail": "cannot_find_file"}
BAD_LINES = {"fail": {"errors": [{"code": "invalid_url", "message": "Wrong URL.", "line": 2}]}}


def _body(text, status="completed", **more):
    content = [{"type": "output_text", "text": text}]
    return {"model": "m", "status": status, "output": [{"type": "message", "content": content}], **more}


def _line(custom_id="t-1", error=None, **response):
    return json.dumps({"id": "x", "custom_id": custom_id, "response": response or None, "error": error})


# -- odd lines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "envelope",
    [
        {"status_code": "200"},
        {"request_id": 12345},
        {"status_code": "200", "request_id": 12345},
        {"status_code": 200.0, "request_id": None},
    ],
    ids=["text_status", "number_for_an_id", "both", "fraction_for_a_status"],
)
def test_an_answer_in_an_odd_envelope_is_read(world, envelope):
    w = world()
    line = _line(**{"status_code": 200, "request_id": "req", "body": _body("odd but good"), **envelope})
    w.fault("row", {"malformed": {"data": line}}, match={"custom_id": "t-1$"})
    w.submit(3)
    assert w.done().by_status == {"succeeded": 3}
    assert w.table()[1]["output"] == "odd but good"
    assert len(w.batches) == 1
    w.assert_paid_once(3)


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "x", "custom_id": "t-1", "response": "oops", "error": null}',
        '{"id": "x", "custom_id": "t-1", "response": [1, 2], "error": null}',
        '{"custom_id": "t-1", "response": 17}',
    ],
)
def test_a_line_that_names_its_row_and_cannot_be_read_is_kept_and_not_paid_for_again(world, line):
    w = world()
    w.fault("row", {"malformed": {"data": line}}, match={"custom_id": "t-1$"})
    w.submit(3)
    assert w.done().by_status == {"missing": 1, "succeeded": 2}
    assert len(w.batches) == 1, "it may have been an answer, and was billed"
    assert w.dead_letter(w.write()) == [line.encode()]
    assert w.statuses()["t-1"] == "missing"
    w.assert_accounted(3)
    w.assert_paid_once(3)


def test_a_cut_off_answer_beats_an_error_line_in_the_other_file(world):
    w = world(answer=lambda endpoint, body: Truncated("half") if body["input"].endswith(" 1") else "good")
    w.fault("row", "both_files", match={"custom_id": "t-1$"})
    w.submit(3)
    assert w.done().by_status == {"succeeded": 2, "truncated": 1}
    assert w.statuses()["t-1"] == "truncated"
    assert len(w.batches) == 1, "an answer was paid for"
    w.assert_paid_once(3)


@pytest.mark.parametrize("order", [1, -1])
def test_a_cut_off_answer_beats_an_error_line_in_any_order(world, order):
    w = world()
    body = _body("half", "incomplete", incomplete_details={"reason": "max_output_tokens"})
    lines = [_line(status_code=200, request_id="r", body=body), _line(error={"code": "server_error", "message": "x"})]
    w.fault("row", {"malformed": {"data": "\n".join(lines[::order])}}, match={"custom_id": "t-1$"})
    w.submit(3)
    assert w.done().by_status == {"succeeded": 2, "truncated": 1}
    assert w.table()[1]["output"] == "half"
    assert len(w.batches) == 1


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_upload_that_is_refused_once_is_tried_again(world, status):
    w = world()
    w.blip("POST /v1/files", {"status": {"code": status, "error": {"message": "Some proxy was in a mood."}}})
    w.submit(3)
    assert w.done().n_succeeded == 3
    assert w.n_calls("POST", "/v1/files") == 2
    w.assert_paid_once(3)


def test_an_upload_that_is_refused_once_after_other_trouble_is_tried_again(world):
    w = world()
    w.blip("POST /v1/files", *[{"status": 503}] * 3, {"status": {"code": 400, "error": {"message": "A mood."}}})
    w.submit(3)
    assert w.done().n_succeeded == 3
    w.assert_paid_once(3)


def test_submitting_again_tries_a_refused_shard_again_and_pays_no_good_row_twice(world):
    w = world()
    w.fault("batch", BAD_LINES, match={"batch": [1]})
    w.submit(6, per_shard=3)
    assert w.done().by_status == {"failed": 3, "succeeded": 3}
    w.done()
    assert len(w.batches) == 2, "only a submission tries again"
    w.submit(6, per_shard=3)
    assert w.done().by_status == {"succeeded": 6}
    assert len(w.batches) == 3
    w.assert_paid_once(6)
    w.assert_accounted(6)


def test_a_shard_that_is_refused_again_ends_again(world):
    w = world()
    w.fault("batch", BAD_LINES)
    w.submit(3)
    for n in (1, 2, 3):
        assert w.done().by_status == {"failed": 3}
        assert len(w.batches) == n
        assert "Wrong URL." in w.check_thresholds()
        w.submit(3)
    assert w.billed() == {}


def test_submitting_again_after_a_refused_create_tries_it_again(world):
    w = world()
    w.submit(3)
    w.fault("POST /v1/batches", {"status": {"code": 400, "error": {"code": "invalid_value", "message": "No."}}})
    assert w.done().by_status == {"failed": 3}
    w.emu.faults.clear()
    w.submit(3)
    assert w.done().n_succeeded == 3
    w.assert_paid_once(3)


# -- files and queue -------------------------------------------------------------------------------------------------


def test_a_file_gets_its_own_retries_after_a_full_queue(world):
    w = world()
    w.fault("batch", FULL, match={"batch": list(range(1, 7))})
    w.fault("batch", NOT_FOUND, match={"batch": [7, 8]})
    w.submit(6)
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 9
    assert w.n_calls("POST", "/v1/files") == 1, "the file was found at the third try"
    w.assert_paid_once(6)


def test_a_file_that_stays_lost_after_a_full_queue_is_uploaded_once_more(world):
    w = world()
    w.fault("batch", FULL, match={"batch": list(range(1, 7))})
    w.fault("batch", NOT_FOUND, match={"batch": [7, 8, 9]})
    w.submit(6)
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 10
    assert w.n_calls("POST", "/v1/files") == 2
    w.assert_paid_once(6)


def test_a_file_that_is_never_found_after_a_full_queue_is_given_up_after_all_its_tries(world):
    w = world()
    w.fault("batch", FULL, match={"batch": list(range(1, 7))})
    w.fault("batch", NOT_FOUND, match={"batch": list(range(7, 99))})
    w.submit(6)
    assert w.done().by_status == {"failed": 6}
    assert len(w.batches) == 6 + 6
    assert w.n_calls("POST", "/v1/files") == 2
    assert w.billed() == {}


def test_after_a_full_queue_concurrency_recovers_long_before_the_first_batches_end(world):
    w = world(duration=6 * 3600, validating=45)
    per_row = prompt_tokens({"input": "Label: " + TEXT.format(0)})
    w.emu.settings.queue_limit = int(5 * per_row)
    w.submit(w.rows(20, TEXT), per_shard=2)
    n_validating = 0
    while w.hours < 2.5:
        found = w.advance()
        assert isinstance(found, Wait)
        if found.is_queued and any(b.status == "validating" for b in w.batches):
            n_validating += 1
            assert found.wake_at <= w.clock.now() + 60
        if w.hours >= 1.0:
            w.emu.settings.queue_limit = None
        else:
            assert sum(b.status == "in_progress" for b in w.batches) <= 2, "no more fit into the queue"
        w.clock.advance(max(1.0, min(found.wake_at - w.clock.now(), 1800)))
    assert n_validating
    assert [s.state for s in w.job.shards] == [State.RUNNING] * 10
    assert sum(b.status == "in_progress" for b in w.batches) == 10
    assert w.done().n_succeeded == 20
    w.assert_paid_once(20)


# -- the input file --------------------------------------------------------------------------------------------------


@pytest.fixture
def from_file(world, tmp_path):
    """A job that was submitted from a file, which was deleted since."""

    def start(**args):
        w = world()
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in w.rows(4)))
        w.submit(str(path), **args)
        w.advance()
        path.unlink()
        return w, str(path)

    return start


def test_a_job_whose_input_file_was_deleted_is_taken_up_again(from_file, caplog):
    w, path = from_file()
    with caplog.at_level(logging.WARNING, logger="airflow_openai_batch"):
        w.submit(path)
    assert any(r.levelno == logging.WARNING and path in r.getMessage() for r in caplog.records)
    assert w.job.epoch == 0
    assert w.done().n_succeeded == 4
    assert len(w.batches) == 1
    w.assert_paid_once(4)
    w.submit(path)
    assert w.done().n_succeeded == 4
    w.assert_accounted(4)


def test_a_changed_request_needs_the_deleted_file_and_says_so(from_file):
    w, path = from_file()
    with pytest.raises(InputError, match="there is no such file"):
        w.submit(path, body=OTHER)
    assert w.job.epoch == 0
    assert w.done().n_succeeded == 4
    w.assert_paid_once(4)
