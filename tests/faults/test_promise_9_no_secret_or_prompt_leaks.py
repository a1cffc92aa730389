"""Promise 9: no key, no prompt and no answer in logs, messages, file names or metadata."""

from __future__ import annotations

import logging

import pytest

from airflow_openai_batch.engine.errors import EngineError

KEY = "sk-very-secret-key"
SECRET = "patient Jane Roe"


@pytest.fixture
def told(caplog):
    """Everything that was said."""
    caplog.set_level(logging.DEBUG, logger="airflow_openai_batch")

    def read(*more: object) -> str:
        logs = [record for record in caplog.records if record.name.startswith("airflow_openai_batch.engine")]
        assert logs or more
        return "\n".join([*(record.getMessage() for record in logs), *map(str, more)])

    return read


def _has_no_secret(text):
    assert KEY not in text
    assert "Jane" not in text


def test_a_whole_job_with_trouble_logs_neither_rows_nor_answers_nor_the_key(world, told):
    w = world()
    w.submit(w.rows(6, SECRET + " {}"), engine=w.engine(api_key=KEY))
    w.fault("row", "missing", match={"custom_id": "t-1$"}, times=1)
    w.fault("row", {"http_error": {"status": 400, "code": "invalid_value"}}, match={"custom_id": "t-2$"})
    w.blip("GET /v1/batches/*", {"status": 500}, "malformed_json", "reset")
    w.blip("POST /v1/batches", "malformed_json")
    w.fault("GET /v1/files/*/content", "drop_response", times=1)
    w.done(w.engine(api_key=KEY))
    _has_no_secret(told())


def test_held_messages_and_errors_carry_neither(world, told):
    w = world(api_keys=["other"])
    w.submit(w.rows(3, SECRET + " {}"))
    _has_no_secret(told(w.held(w.engine(api_key=KEY))))
    with pytest.raises(EngineError) as caught:
        w.submit(w.rows(3, SECRET), body={"model": "m", "input": "{nothing}"})
    _has_no_secret(str(caught.value))


def test_neither_file_names_nor_metadata_carry_content(world):
    w = world()
    w.submit(w.rows(3, SECRET + " {}"), engine=w.engine(api_key=KEY))
    w.done(w.engine(api_key=KEY))
    seen = [str(b.metadata) for b in w.batches] + [f.filename for f in w.emu.files.values()]
    _has_no_secret("\n".join(seen))


def test_the_key_is_nowhere_in_the_store(world):
    w = world()
    w.submit(3, engine=w.engine(api_key=KEY))
    w.done(w.engine(api_key=KEY))
    files = [path for path in w.root.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_snapshots_carry_no_rows(world):
    """A person can read the state, and send it to us."""
    w = world()
    w.submit(w.rows(3, SECRET + " {}"))
    w.done()
    for path in w.root.rglob("state/*.json"):
        _has_no_secret(path.read_text())


def test_a_server_that_tells_the_key_everywhere_is_not_repeated(world, told):
    """In messages, codes and statuses; with terminal codes, and over several lines."""
    w = world()
    w.submit(w.rows(6), engine=w.engine(api_key=KEY), per_shard=3)
    echo = f"\x1b[31mBearer {KEY}\x1b[0m\r\nis not good: b'{KEY}\\n', {KEY[:14]}..."
    w.fault("batch", {"fail": {"errors": [{"code": KEY, "message": echo, "line": 1}]}}, match={"batch": 1})
    w.fault("row", {"http_error": {"status": 400, "code": KEY, "message": echo}}, match={"custom_id": "t-4$"})
    w.blip(
        "GET /v1/batches/*",
        {"edit": {"set": {"status": f"in_progress {KEY}"}}},
        {"status": {"code": 418, "body": echo}},
    )
    w.blip("GET /v1/files/*/content", {"status": {"code": 500, "error": {"message": echo, "code": KEY}}})
    summary = w.done(w.engine(api_key=KEY))
    assert summary.rejections
    written = w.write()
    texts = told(summary, written, w.table(written), *(path.read_text() for path in w.root.rglob("state/*.json")))
    assert "is not good" in texts
    assert KEY not in texts and KEY[:14] not in texts and "\x1b" not in texts and "\\u001b" not in texts


def test_a_key_with_a_line_end_is_told_nowhere(world, told):
    """Case 01: the HTTP library quotes the header that it refuses to send."""
    w = world()
    for key in (f"{KEY}\n", f"{KEY}\u2026", f"{KEY} x", f"\t{KEY}"):
        w.submit(w.rows(3), engine=w.engine(api_key=key))
        reason = w.held(w.engine(api_key=key))
        assert "enter it again" in reason and w.hours == 0
        _has_no_secret(told(reason, *(path.read_text() for path in w.root.rglob("state/*.json"))))


def test_what_openai_quotes_of_rows_is_in_the_table_and_nowhere_else(world, told):
    """In errors of rows, of whole batches and of uploads; in quotes, without, and cut."""
    from airflow_openai_batch.engine.job.summary import summarize
    from airflow_openai_batch.engine.results.writer import manifest

    w = world()
    w.submit(w.rows(9, SECRET + " {}"), per_shard=3)
    quotes = {
        "t-0": f"Invalid value: '{SECRET} 0' for 'max_tokens'.",
        "t-1": f"Cannot read {SECRET} 1, please mend",
        "t-2": f'Unexpected "{SECRET[:9]}',
    }
    for i, (custom_id, message) in enumerate(quotes.items()):
        error = {"http_error": {"status": 400, "code": f"bad_{i}", "message": message}}
        w.fault("row", error, match={"custom_id": f"{custom_id}$"})
    lines = [{"code": "invalid_value", "message": f"Line 1 has '{SECRET}'.", "line": 1}]
    w.fault("batch", {"fail": {"errors": lines}}, match={"batch": 2})
    w.blip("POST /v1/files", {"status": {"code": 400, "error": {"message": f"Line 2 has '{SECRET}'."}}})
    w.advance()
    _has_no_secret(told(*(shard.problem for shard in w.job.shards)))
    summary = w.done()
    written = w.write()
    assert [row["error_message"] for row in w.table(written)[:3]] == list(quotes.values()), "whole, where rows are too"
    text = told(summary, summarize(w.job), manifest(written), written.errors, w.check_thresholds())
    _has_no_secret(text)
    assert "for 'max_tokens'." in text and "please mend" in text and "Line 1 has '…'" in text
