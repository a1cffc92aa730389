"""Promise 5: a blip is not a failure."""

from __future__ import annotations

import pytest

from airflow_openai_batch.engine.job.status import Wait
from airflow_openai_batch.engine.model import Policy

POLL = "GET /v1/batches/*"
HOUR = 3600.0


def test_polls_that_go_wrong_in_every_way_for_hours_do_not_end_the_job(world):
    w = world()
    w.submit(6)
    w.advance()
    every_way = [
        {"status": 500},
        {"status": {"code": 502, "html": True}},
        {"status": {"code": 429, "retry_after": 700}},
        "reset",
        "drop_response",
        "malformed_json",
        {"cut_body": 0.5},
        {"status": {"code": 529, "html": True}},
    ]
    w.blip(POLL, *every_way, *every_way)
    assert w.done().n_succeeded == 6
    assert w.hours > 4
    assert len(w.batches) == 1
    w.assert_paid_once(6)


@pytest.mark.parametrize("status", [400, 402, 408, 409, 418, 422, 451])
def test_no_other_status_of_a_poll_ends_the_job(world, status):
    """The design: poll, anything else: back off; only credentials and a confirmed 404 end the wait."""
    w = world()
    w.submit(3)
    w.advance()
    w.fault(POLL, {"status": {"code": status, "html": True}}, times=3)
    assert w.done().n_succeeded == 3
    w.assert_paid_once(3)


@pytest.mark.parametrize("on", ["POST /v1/files", "GET /v1/files/*", "GET /v1/files/*/content"])
@pytest.mark.parametrize("fault", [{"status": 500}, {"status": {"code": 429, "retry_after": 5}}, "reset"], ids=str)
def test_every_other_free_call_is_repeated_as_well(world, on, fault):
    w = world()
    w.submit(3)
    w.fault(on, fault, times=7)
    assert w.done().n_succeeded == 3
    w.assert_paid_once(3)


@pytest.mark.parametrize(("asked", "given"), [(3000, 3000), (86_400, 3600), ("1e18", 3600), ("inf", 30), ("nan", 30)])
def test_retry_after_is_respected_up_to_an_hour(world, asked, given):
    w = world()
    w.submit(3)
    w.advance()
    w.clock.advance(400)
    w.fault(POLL, {"status": {"code": 429, "retry_after": asked}}, times=1)
    at = w.clock.now()
    waited = w.advance()
    n_polls = w.n_calls("GET", "/v1/batches/")
    assert waited.wake_at == at + given
    w.clock.advance(given - 1)
    w.advance()
    assert w.n_calls("GET", "/v1/batches/") == n_polls
    assert w.done().n_succeeded == 3
    w.assert_paid_once(3)


def test_a_rate_limited_create_makes_no_batch_and_is_repeated_later(world):
    w = world()
    w.submit(3)
    limited = {"code": 429, "retry_after": 900, "error": {"code": "rate_limit_exceeded"}}
    w.fault("POST /v1/batches", {"status": limited}, times=2)
    assert w.done().n_succeeded == 3
    assert w.n_calls("POST", "/v1/batches") == 3
    assert w.hours > 0.5
    assert len(w.batches) == 1


def test_pauses_between_failed_polls_grow_and_stay_bounded(world):
    w = world()
    w.submit(3)
    w.advance()
    w.fault(POLL, {"status": 500}, times=12)
    times = []
    for _ in range(12):
        waited = w.advance()
        times.append(waited.wake_at - w.clock.now())
        w.clock.advance(times[-1])
    assert times[:4] == [30, 60, 120, 240]
    assert max(times) == times[-1] == w.timing.backoff_max_s


def test_a_wrong_key_holds_the_job_and_a_right_one_goes_on(world):
    w = world(api_keys=["sk-test"])
    w.submit(6)
    w.advance()
    reason = w.held(w.engine(api_key="sk-revoked"))
    assert "Incorrect API key" in reason
    assert "Nothing is lost" in reason and "without paying twice" in reason
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
    w.assert_paid_once(6)


@pytest.mark.parametrize(
    ("on", "status"),
    [("POST /v1/files", 401), ("POST /v1/batches", 401), (POLL, 403), ("GET /v1/files/*/content", 401)],
)
def test_denied_credentials_hold_at_every_call_and_cost_nothing(world, on, status):
    w = world()
    w.submit(6)
    w.fault(on, {"status": status})
    reason = w.held(step_s=60)
    assert "credentials" in reason and "Nothing is lost" in reason
    w.emu.faults.clear()
    w.submit(6)
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
    w.assert_paid_once(6)


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("on", ["POST /v1/batches", POLL, "GET /v1/files/*/content"])
def test_a_refusal_of_some_minutes_is_no_failure(world, on, status):
    """As of a gateway that restarts, or a key that is being rotated."""
    if (on, status) == ("POST /v1/batches", 404):
        pytest.skip("of a create, it says that the input file is not found")
    w = world()
    w.submit(6, per_shard=3)
    w.fault(on, {"status": status}, times=4)
    assert w.done(step_s=60).n_succeeded == 6
    assert len(w.batches) == 2
    w.assert_paid_once(6)


def test_denied_credentials_during_the_look_hold_and_the_batch_is_still_adopted(world):
    w = world()
    w.submit(6)
    w.fault("POST /v1/batches", "drop_response", times=1)
    w.fault("GET /v1/batches", {"status": 401})
    assert "credentials" in w.held(step_s=60)
    w.emu.faults.clear()
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
    w.assert_paid_once(6)


@pytest.mark.parametrize("code", ["insufficient_quota", "billing_hard_limit_reached"])
def test_an_empty_account_holds_at_once_and_goes_on_after_it_is_filled(world, code):
    w = world()
    w.submit(6)
    w.fault("POST /v1/batches", {"status": {"code": 429, "error": {"code": code, "message": "No money."}}}, times=1)
    assert "No money." in w.held()
    assert w.n_calls("POST", "/v1/batches") == 1
    assert w.done().n_succeeded == 6
    w.assert_paid_once(6)


def test_the_wrong_region_is_named(world):
    w = world()
    w.submit(6)
    w.fault("*", {"status": {"code": 401, "error": {"code": "incorrect_hostname", "message": "Wrong host."}}})
    reason = w.held()
    assert "another region" in reason and "host" in reason


def test_one_404_of_a_poll_is_looked_at_twice(world):
    w = world()
    w.submit(3)
    w.advance()
    w.fault(POLL, {"status": 404}, times=1)
    assert w.done().n_succeeded == 3
    w.assert_paid_once(3)


def test_a_confirmed_404_holds_the_job_and_sends_nothing_again(world):
    w = world()
    w.submit(3)
    w.advance()
    w.fault(POLL, {"status": 404})
    reason = w.held(step_s=60)
    assert w.batches[0].id in reason and "Nothing was sent again" in reason
    w.emu.faults.clear()
    assert w.done().n_succeeded == 3
    assert len(w.batches) == 1


def test_a_404_followed_by_a_blip_is_no_confirmation(world):
    w = world()
    w.submit(3)
    w.advance()
    w.blip(POLL, {"status": 404}, {"status": 500})
    assert w.done().n_succeeded == 3


def test_the_deadline_waits_for_a_running_batchs_own_expiry_and_margin(world):
    w = world()
    w.submit(3, policy=Policy(deadline_s=HOUR))
    w.fault("batch", {"expire_at": {"fraction": 0.0, "lag": 30 * 86_400}})
    w.advance()
    w.clock.advance(26 * HOUR - 1)
    assert isinstance(w.advance(), Wait)
    w.clock.advance(1)
    reason = w.held()
    assert "deadline" in reason and w.batches[0].id in reason and "Nothing is lost" in reason


def test_the_deadline_is_absolute_and_survives_restarts(world):
    w = world()
    w.submit(3, policy=Policy(deadline_s=40 * HOUR))
    w.fault("batch", {"expire_at": {"fraction": 0.0, "lag": 30 * 86_400}})
    w.advance()
    deadlines = set()
    for _ in range(13):
        w.clock.advance(3 * HOUR)
        w.submit(3, policy=Policy(deadline_s=40 * HOUR))
        deadlines.add(w.advance(w.engine()).wake_at)
    assert deadlines == {w.began_at + 40 * HOUR}
    w.clock.advance(HOUR)
    assert "deadline" in w.held()


def test_clearing_a_task_whose_deadline_has_passed_waits_on_and_pays_nothing_again(world):
    w = world()
    w.submit(4)
    w.fault("batch", {"expire_at": {"fraction": 0.5, "lag": 4 * 86_400}}, times=1)
    assert "deadline" in w.held(step_s=6 * HOUR)
    assert w.hours == 72
    w.submit(4)
    assert w.done(step_s=6 * HOUR).n_succeeded == 4
    w.assert_paid_once(4)


def test_polls_that_fail_to_the_end_leave_a_job_that_can_be_taken_up(world):
    w = world()
    w.submit(4)
    w.advance()
    w.fault(POLL, {"status": 503})
    reason = w.held(step_s=2 * HOUR)
    assert "deadline" in reason and w.batches[0].id in reason
    w.emu.faults.clear()
    w.submit(4)
    assert w.done().n_succeeded == 4
    w.assert_paid_once(4)


def test_a_status_nobody_knows_counts_as_running(world):
    w = world()
    w.submit(3)
    w.advance()
    w.clock.advance(4000)
    import msgspec

    from airflow_openai_batch.engine.api.client import Api

    class Odd(Api):
        def retrieve(self, batch_id):
            return msgspec.structs.replace(super().retrieve(batch_id), status="pre_schedule")

    assert isinstance(w.advance(w.engine(api=Odd(w.client()))), Wait)
    assert w.done().n_succeeded == 3
    w.assert_paid_once(3)
