"""Storages that cannot be used: one error that names the setting, before anything is sent."""

from __future__ import annotations

import contextlib
import os
import time

import pytest
from upath import UPath

from airflow_openai_batch.emulator import Emulator
from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.errors import StoreError
from airflow_openai_batch.engine.job.advance import advance
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.submit import Request, submit
from airflow_openai_batch.engine.model import JobKey, Policy
from airflow_openai_batch.engine.results.sinks import FileSink
from airflow_openai_batch.engine.results.writer import write_results
from airflow_openai_batch.engine.store.job_store import JobStore

KEY = JobKey(dag_id="d", run_id="r", task_id="t")
SETTING = r"\[openai_batch\] storage"


@pytest.fixture
def emulator():
    with Emulator() as emu:
        yield emu


def _submit(root, emulator):
    from openai import OpenAI

    engine = Engine(JobStore(root, KEY), Api(OpenAI(base_url=emulator.base_url, api_key="x")))
    request = Request([{"id": 1}], endpoint="/v1/responses", body={"model": "m", "input": "{id}"})
    return submit(engine, request, Policy()), engine


@contextlib.contextmanager
def _as_nobody():
    """Root may write anywhere; nobody may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_directory_is_refused_with_the_setting(scratch):
    jobs = scratch / "jobs"
    jobs.mkdir(mode=0o555)
    store = JobStore(UPath(jobs), KEY)
    with _as_nobody(), pytest.raises(StoreError, match=rf"Cannot write to .*jobs.*Permission.*{SETTING}"):
        store.check()
    with _as_nobody():
        assert store.load() is None


def test_a_directory_that_may_not_be_read_is_no_job_that_does_not_exist(scratch):
    """ "Cannot read" must never look like "nothing there": a second plan would be paid for."""
    jobs = scratch / "jobs"
    jobs.mkdir()
    JobStore(UPath(jobs), KEY).create("state/000000.json", b"{}")
    jobs.chmod(0o000)
    try:
        with _as_nobody(), pytest.raises(StoreError, match=SETTING):
            JobStore(UPath(jobs), KEY).load()
    finally:
        jobs.chmod(0o755)


def test_a_missing_bucket_is_named_with_the_setting_and_nothing_is_sent(s3_options, emulator):
    with pytest.raises(StoreError, match=rf"no-such-bucket.*bucket does not exist.*{SETTING}"):
        _submit(UPath("s3://no-such-bucket/jobs", **s3_options), emulator)
    assert emulator.ledger.calls == []


def test_a_bucket_that_vanished_says_that_the_store_is_not_there(s3_options, emulator):
    from openai import OpenAI

    store = JobStore(UPath("s3://no-such-bucket/jobs", **s3_options), KEY)
    with pytest.raises(StoreError, match=SETTING):
        advance(Engine(store, Api(OpenAI(base_url=emulator.base_url, api_key="x"))))
    assert emulator.ledger.calls == []


def test_an_endpoint_that_cannot_be_reached_is_named_with_the_setting(s3_options, emulator):
    client = {"endpoint_url": "http://127.0.0.1:9", "region_name": "us-east-1"}
    quick = {"retries": {"max_attempts": 1}, "connect_timeout": 0.2}
    root = UPath("s3://jobs/x", **{**s3_options, "client_kwargs": client}, config_kwargs=quick)
    root.fs.retries = 1
    began_at = time.monotonic()
    with pytest.raises(StoreError, match=rf"127\.0\.0\.1:9.*{SETTING}"):
        _submit(root, emulator)
    assert time.monotonic() - began_at < 10
    assert emulator.ledger.calls == []


def test_wrong_credentials_of_a_storage_never_look_like_an_empty_one(s3_options, monkeypatch):
    root = UPath("s3://jobs/x", **s3_options)
    store = JobStore(root, KEY)

    def denied(*args, **kwargs):
        raise PermissionError("Forbidden")

    monkeypatch.setattr(root.fs, "ls", denied)
    with pytest.raises(StoreError, match=rf"Forbidden.*{SETTING}"):
        store.load()


def test_results_that_cannot_be_written_say_that_nothing_is_lost(s3_options, emulator, tmp_path):
    _, engine = _submit(UPath(tmp_path / "jobs"), emulator)
    advance(engine)
    with pytest.raises(StoreError, match=r"cannot be written to s3://no-such-bucket/out\.jsonl.*No answer is lost"):
        write_results(
            engine.store, engine.store.load()[1], FileSink(UPath("s3://no-such-bucket/out.jsonl", **s3_options))
        )


def test_a_job_whose_files_vanished_is_no_short_result(emulator, tmp_path):
    _, engine = _submit(UPath(tmp_path / "jobs"), emulator)
    advance(engine)
    job = engine.store.load()[1]
    (tmp_path / "jobs" / "d" / "r" / "t" / job.shards[0].outcomes.name).unlink()
    target = UPath(tmp_path / "out.jsonl")
    with pytest.raises(StoreError, match=SETTING):
        write_results(engine.store, job, FileSink(target))
    assert not target.exists()
