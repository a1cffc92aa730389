"""A connection that cannot work ends the job at once and says what to change; what only stumbles does not."""

from __future__ import annotations

import pytest

from airflow_openai_batch.engine.job.status import Held, Wait

UPLOAD, ANY_GET = "POST /v1/files", "GET /v1/batches/*"
LOGIN = {"code": 200, "html": True, "body": "<!doctype html><title>Sign in</title><p>Your\x1b[31m company</p>"}


@pytest.mark.parametrize(
    "fault",
    [
        LOGIN,
        {"code": 404, "html": True},
        {"code": 404, "body": '{"detail": "Not Found"}'},
        {"code": 405, "body": '{"detail": "Method Not Allowed"}'},
        {"code": 403, "html": True},
        {"code": 401, "body": "Unauthorized"},
    ],
    ids=str,
)
def test_what_does_not_speak_the_api_ends_a_new_job_at_once(world, fault):
    w = world()
    w.submit(6)
    w.fault("*", {"status": fault})
    held = w.advance()
    assert isinstance(held, Held), held
    assert "does not speak OpenAI's API" in held.reason and "Nothing was sent" in held.reason
    assert w.emu.base_url in held.reason
    assert "\x1b" not in held.reason and "<" not in held.reason
    assert w.hours == 0 and w.batches == []
    w.emu.faults.clear()
    w.submit(6)
    assert w.done().n_succeeded == 6
    w.assert_paid_once(6)


@pytest.mark.parametrize("fault", [LOGIN, {"code": 404, "html": True}, {"code": 403, "html": True}], ids=str)
def test_one_call_that_a_proxy_answers_ends_no_new_job(world, fault):
    w = world()
    w.submit(6)
    w.fault(UPLOAD, {"status": fault}, times=3)
    assert isinstance(w.advance(), Wait)
    assert w.done().n_succeeded == 6
    w.assert_paid_once(6)


@pytest.mark.parametrize("fault", [LOGIN, {"code": 404, "html": True}], ids=str)
def test_a_job_that_runs_outlives_a_login_page(world, fault):
    w = world()
    w.submit(6)
    w.advance()
    w.fault("*", {"status": fault}, times=9)
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
    w.assert_paid_once(6)


@pytest.mark.parametrize("how", [{"html": True}, {"error": {"message": "Maximum size"}}, {"body": ""}])
def test_a_file_that_is_too_large_names_the_setting_and_a_clear_cuts_it_smaller(world, how):
    w = world()
    w.submit(6)
    w.fault(UPLOAD, {"status": {"code": 413, **how}}, times=2)
    held = w.advance()
    assert isinstance(held, Held), held
    assert "max_requests_per_batch=3 (or less)" in held.reason and "6 requests" in held.reason
    assert w.batches == []
    w.submit(6, per_shard=3)
    assert [shard.n_requests for shard in w.job.shards] == [3, 3]
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 2
    w.assert_paid_once(6)


def test_a_smaller_batch_size_alone_cuts_nothing_that_runs(world):
    w = world()
    w.submit(6)
    w.advance()
    w.submit(6, per_shard=3)
    assert w.job.epoch == 0 and w.done().n_succeeded == 6
    assert len(w.batches) == 1
