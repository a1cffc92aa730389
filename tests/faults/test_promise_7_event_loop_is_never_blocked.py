"""Promise 7: the event loop is never blocked. Here the engine's calls for event loops; the triggers have their own."""

from __future__ import annotations

import asyncio
import json
import time

import httpx2
import pytest
from openai import AsyncOpenAI

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.api.batch_json import batch_of
from airflow_openai_batch.engine.api.client import cancel_async, list_async, retrieve_async


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
    w.fault("GET /v1/batches", fault, times=1)
    with pytest.raises(kind):
        _with_client(w, lambda client: list_async(client, None, 5.0))


def test_the_listing_is_read_page_by_page_and_says_the_same_as_a_look_at_each_batch(running):
    w = running
    for _ in range(104):
        w.emu.backend.create(
            {"input_file_id": w.batches[0].input_file_id, "endpoint": "/v1/responses", "completion_window": "24h"}
        )
    w.clock.advance(400)

    async def act(client):
        first = await list_async(client, None, 5.0)
        second = await list_async(client, first.batches[-1].id, 5.0)
        looks = [await retrieve_async(client, batch.id, 5.0) for batch in second.batches]
        return first, second, looks

    first, second, looks = _with_client(w, act)
    assert (len(first.batches), first.has_more) == (100, True)
    assert (len(second.batches), second.has_more) == (5, False)
    assert looks == second.batches
    ids = [batch.id for batch in first.batches + second.batches]
    assert ids == [batch.id for batch in reversed(w.batches)]


def test_thousands_of_errors_and_long_metadata_are_not_read_on_the_loop():
    mistakes = [{"code": "invalid_json_line", "message": f"Line {n} is wrong.", "line": n} for n in range(50_000)]
    entry = {
        "id": "batch_1",
        "status": "failed",
        "created_at": 1_800_000_000,
        "failed_at": 1_800_000_060,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": {f"key{n}": "x" * 512 for n in range(16)},
        "errors": {"object": "list", "data": mistakes},
    }
    content = json.dumps(entry).encode()
    page = b'{"object":"list","data":[' + content + b'],"has_more":false}'

    def answer(request):
        return httpx2.Response(200, content=content if request.url.path.endswith("batch_1") else page)

    async def act():
        async with AsyncOpenAI(
            base_url="http://openai/v1",
            api_key="sk-test",
            http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(answer)),
        ) as client:
            await retrieve_async(client, "batch_1", 5.0)  # what the first call loads
            took_s = []
            for _ in range(3):
                at = time.perf_counter()
                looked, listed = await retrieve_async(client, "batch_1", 5.0), await list_async(client, None, 5.0)
                took_s.append(time.perf_counter() - at)
        return looked, listed.batches[0], min(took_s)

    looked, listed, took_s = asyncio.run(act())
    assert looked == listed
    assert (looked.status, looked.ended_at, looked.errors) == ("failed", 1_800_000_060, ())
    whole_s = []
    for _ in range(3):
        at = time.perf_counter()
        batch_of(content)
        whole_s.append(time.perf_counter() - at)
    assert took_s < min(whole_s) / 2, "both were read whole"


def test_cancelling_from_the_loop_is_no_error_for_a_batch_that_has_ended_or_is_unknown(running):
    w = running
    _with_client(w, lambda client: cancel_async(client, w.batches[0].id))
    assert w.batches[0].status == "cancelling"
    w.clock.advance(4000)
    _with_client(w, lambda client: cancel_async(client, w.batches[0].id))
    _with_client(w, lambda client: cancel_async(client, "batch_unknown"))
