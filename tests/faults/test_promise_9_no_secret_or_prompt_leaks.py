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
