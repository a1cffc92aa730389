"""Promise 7: the event loop is never blocked. Here the engine's two calls for event loops; the trigger has its own."""

from __future__ import annotations

import asyncio

import pytest
from openai import AsyncOpenAI

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.api import cancel_async, retrieve_async


@pytest.fixture
def running(world):
    w = world()
    w.submit(3)
    w.advance()
    return w


def _with_client(w, act):
    async def run():
        async with AsyncOpenAI(base_url=w.emu.base_url, api_key="sk-test", max_retries=0) as client:
            return await act(client)

    return asyncio.run(run())


def test_many_slow_polls_wait_at_the_same_time_while_the_loop_goes_on(running):
    w = running
    w.fault("GET /v1/batches/*", {"delay": 0.3})
    n_ticks = 0

    async def act(client):
        nonlocal n_ticks
        polls = [asyncio.create_task(retrieve_async(client, w.batches[0].id, 5.0)) for _ in range(20)]
        while not all(poll.done() for poll in polls):
            await asyncio.sleep(0.02)
            n_ticks += 1
        return [poll.result() for poll in polls]

    found = _with_client(w, act)
    assert {batch.id for batch in found} == {w.batches[0].id}
    assert n_ticks >= 5
    assert n_ticks * 0.02 < 20 * 0.3 / 2


def test_a_poll_that_hangs_is_bounded(running):
    w = running
    w.fault("GET /v1/batches/*", {"delay": 2.0})
    with pytest.raises(errors.Unclear):
        _with_client(w, lambda client: retrieve_async(client, w.batches[0].id, 0.2))


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"status": 500}, errors.Unclear),
        ({"status": {"code": 502, "html": True}}, errors.Unclear),
        ("malformed_json", errors.Unclear),
        ("reset", errors.Unclear),
        ({"status": 429}, errors.Unavailable),
        ({"status": 401}, errors.Denied),
        ({"status": 404}, errors.NotFound),
    ],
    ids=["500", "html", "malformed", "reset", "429", "401", "404"],
)
def test_what_goes_wrong_has_the_same_words_as_in_a_worker(running, fault, kind):
    w = running
    w.fault("GET /v1/batches/*", fault, times=1)
    with pytest.raises(kind):
        _with_client(w, lambda client: retrieve_async(client, w.batches[0].id, 5.0))


def test_cancelling_from_the_loop_is_no_error_for_a_batch_that_has_ended_or_is_unknown(running):
    w = running
    _with_client(w, lambda client: cancel_async(client, w.batches[0].id))
    assert w.batches[0].status == "cancelling"
    w.clock.advance(4000)
    _with_client(w, lambda client: cancel_async(client, w.batches[0].id))
    _with_client(w, lambda client: cancel_async(client, "batch_unknown"))
