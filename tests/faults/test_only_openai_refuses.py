"""A refusal is OpenAI's own, in its own form. Anything else that answers a call knows nothing of what it did."""

from __future__ import annotations

import pytest

CREATE, POLL = "POST /v1/batches", "GET /v1/batches/*"
ODD = [200, 400, 401, 402, 403, 404, 405, 413, 418, 422, 425, 429, 451, 499]


@pytest.mark.parametrize("status", ODD)
def test_a_create_that_a_proxy_answers_after_it_was_made_is_found_and_not_repeated(world, status):
    w = world()
    w.submit(6)
    w.fault(CREATE, {"status": {"code": status, "html": True, "after": True}}, times=1)
    assert w.done().n_succeeded == 6
    assert w.n_calls("POST", "/v1/batches") == len(w.batches) == 1
    w.assert_paid_once(6)


@pytest.mark.parametrize("status", ODD)
def test_a_create_that_a_proxy_stopped_is_looked_for_and_then_repeated(world, status):
    w = world()
    w.submit(6)
    w.fault(CREATE, {"status": {"code": status, "html": True}}, times=1)
    w.advance()
    looked_at = w.n_calls("GET", "/v1/batches")
    assert w.done().n_succeeded == 6
    assert w.n_calls("GET", "/v1/batches") > looked_at
    assert len(w.batches) == 1
    w.assert_paid_once(6)


@pytest.mark.parametrize("on", ["POST /v1/files", POLL, "GET /v1/files/*/content"])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422])
def test_no_other_call_that_a_proxy_answers_ends_anything(world, on, status):
    w = world()
    w.submit(6)
    w.fault(on, {"status": {"code": status, "html": True}}, times=4)
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
    w.assert_paid_once(6)
    w.assert_accounted(6)


@pytest.mark.parametrize(
    "error",
    [
        {
            "code": "invalidPayload",
            "message": "The input file is in 'pending' state. Only files with status 'Processed'",
        },
        {"message": "The file is not ready"},
    ],
)
def test_a_file_that_is_still_being_processed_is_waited_for(world, error):
    w = world()
    w.submit(6)
    w.fault(CREATE, {"status": {"code": 400, "error": error}}, times=3)
    assert w.done().n_succeeded == 6
    assert w.n_calls("POST", "/v1/files") == 1
    assert len(w.batches) == 1
    w.assert_paid_once(6)


@pytest.mark.parametrize("status", [400, 429])
def test_a_full_queue_of_requests_is_waited_for(world, status):
    w = world()
    w.submit(6)
    message = "Enqueued request limit reached for text-embedding-3-small. Limit: 1,000,000 enqueued requests."
    w.fault(CREATE, {"status": {"code": status, "error": {"message": message}}}, times=3)
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
    w.assert_paid_once(6)
