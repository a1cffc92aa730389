"""The calls beside servers that misbehave. What the calls do otherwise is tested over HTTP, against the emulator."""

from __future__ import annotations

import asyncio
import functools
import gzip
import io
import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx2
import pytest
from hostile_server import HostileServer, reply
from openai import AsyncOpenAI, DefaultHttpxClient, OpenAI

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.api import bounds, client
from airflow_openai_batch.engine.api.bounds import Bounds, within
from airflow_openai_batch.engine.api.client import Api, list_async, retrieve_async
from airflow_openai_batch.engine.api.transport import bounded
from airflow_openai_batch.engine.identity import NONCE_KEY
from airflow_openai_batch.engine.model import Batch

NOW = 1_786_400_000.0
BATCH = {"id": "batch_1", "status": "in_progress", "created_at": NOW}


def api_of(handler: Callable[[httpx2.Request], httpx2.Response], key: str = "sk-test") -> Api:
    http = httpx2.Client(transport=httpx2.MockTransport(handler))
    return Api(OpenAI(base_url="http://openai.test/v1", api_key=key, http_client=http))


@pytest.fixture(scope="module")
def http() -> Iterator[DefaultHttpxClient]:
    with DefaultHttpxClient() as client:
        yield client


def create(api: Api, timeout_s: float = 30.0) -> Batch:
    return api.create(file_id="f", endpoint="/v1/responses", completion_window="24h", metadata={}, timeout_s=timeout_s)


CALLS: dict[str, Callable[[Api], Any]] = {
    "upload": lambda api: api.upload("a.jsonl", io.BytesIO(b"{}\n")),
    "create": create,
    "retrieve": lambda api: api.retrieve("batch_1"),
    "list": lambda api: list(api.batches(0.0)),
    "cancel": lambda api: api.cancel("batch_1"),
    "download": lambda api: api.download("file-1", io.BytesIO()),
    "delete_file": lambda api: api.delete_file("file-1"),
}


# -- the listing -------------------------------------------------------------------------------------------------------


class Listing:
    """Batches in the order of their listing, and how a server shows them.

    Attributes:
        entries: The batches.
        size: Longest page.
        n_read: Number of pages that were read.
        has_more: What the server tells: None for the truth.
        ignores_cursor: Whether every page is the first.
    """

    def __init__(self, entries: list[dict[str, Any]], size: int = 100) -> None:
        self.entries, self.size, self.n_read = entries, size, 0
        self.has_more: bool | None = None
        self.ignores_cursor = False
        self.after_the_end: httpx2.Response | None = None

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.n_read += 1
        ids = [entry["id"] for entry in self.entries]
        after = request.url.params.get("after")
        start = ids.index(after) + 1 if after is not None and not self.ignores_cursor else 0
        shown = self.entries[start : start + self.size]
        if not shown and self.after_the_end is not None:
            return self.after_the_end
        has_more = start + self.size < len(ids) if self.has_more is None else self.has_more
        return httpx2.Response(200, json={"object": "list", "data": shown, "has_more": has_more})

    def found(self, since: float) -> list[str]:
        batches = list(itertools.islice(api_of(self).batches(since), 20_000))
        assert len({batch.id for batch in batches}) == len(batches)
        return [batch.id for batch in batches]


def entries(n: int, every_s: float = 60.0, newest_at: float = NOW) -> list[dict[str, Any]]:
    """Return batches, the newest first."""
    return [{"id": f"batch_{i}", "status": "completed", "created_at": int(newest_at - i * every_s)} for i in range(n)]


@pytest.mark.parametrize("order", ["newest_first", "oldest_first", "unsorted"])
@pytest.mark.parametrize("size", [7, 20, 100])
@pytest.mark.parametrize("has_more", [None, False, True])
def test_every_batch_is_found_whatever_the_order_the_pages_and_has_more(
    order: str, size: int, has_more: bool | None
) -> None:
    listed = entries(250)
    if order == "oldest_first":
        listed.reverse()
    elif order == "unsorted":
        random.Random(1).shuffle(listed)
    listing = Listing(listed, size)
    listing.has_more = has_more
    assert len(listing.found(NOW - 3600)) == 250


@pytest.mark.parametrize("shift_s", [-400 * 86_400.0, -3600.0, 0.0, 3600.0, 400 * 86_400.0])
@pytest.mark.parametrize("form", ["seconds", "milliseconds", "iso", "iso_without_zone", "absent"])
def test_a_batch_that_was_just_created_is_found_whatever_the_servers_clock_says(shift_s: float, form: str) -> None:
    write: dict[str, Callable[[float], Any]] = {
        "seconds": int,
        "milliseconds": lambda at: int(at * 1000),
        "iso": lambda at: f"{_iso(at)}+05:30",
        "iso_without_zone": _iso,
        "absent": lambda _: None,
    }
    listed = entries(1000, newest_at=NOW + shift_s)
    for entry in listed:
        entry["created_at"] = write[form](entry["created_at"])
    assert "batch_420" in Listing(listed).found(NOW - 420 * 60 - 900)


def _iso(at: float) -> str:
    import datetime

    return datetime.datetime.fromtimestamp(at, datetime.UTC).replace(tzinfo=None).isoformat()


def test_old_pages_are_not_read_where_the_newest_plainly_come_first() -> None:
    listing = Listing(entries(20_000))
    assert "batch_60" in listing.found(NOW - 3600)
    assert listing.n_read < 20


def test_an_honest_short_listing_costs_one_request_more() -> None:
    listing = Listing(entries(3))
    assert len(listing.found(NOW)) == 3
    assert listing.n_read == 2


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_server_that_has_no_page_after_the_last_is_read_to_the_end(status: int) -> None:
    listing = Listing(entries(3))
    listing.after_the_end = httpx2.Response(status, json={"detail": "no such cursor"})
    assert len(listing.found(NOW)) == 3


def test_a_failure_in_the_middle_is_no_end() -> None:
    listing = Listing(entries(150))
    listing.entries[99]["id"], listing.has_more = "batch_x", True

    def handler(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(404, json={"detail": "x"}) if "after" in request.url.params else listing(request)

    with pytest.raises(errors.Unclear):
        list(api_of(handler).batches(0.0))


def test_a_server_that_ignores_the_cursor_is_not_asked_for_ever_and_not_taken_for_read() -> None:
    listing = Listing(entries(300, every_s=0.0))
    listing.ignores_cursor = listing.has_more = True
    with pytest.raises(errors.Unclear, match="100 were read"):
        listing.found(0.0)
    assert listing.n_read == 3


def test_the_first_page_is_enough_where_it_shows_that_older_ones_do_not_matter() -> None:
    listing = Listing(entries(300))
    listing.ignores_cursor = listing.has_more = True
    assert len(listing.found(NOW - 3600)) == 100


def test_a_listing_without_end_is_left_after_fifty_pages() -> None:
    listing = Listing(list(reversed(entries(6000))))
    batches = api_of(listing).batches(NOW)
    assert len(list(itertools.islice(batches, 5000))) == 5000
    with pytest.raises(errors.Unclear, match="could not be read to its end"):
        next(batches)
    assert listing.n_read == 50


@pytest.mark.parametrize(
    "body",
    [{}, {"object": "list"}, {"data": {}}, {"data": "x"}, "x", None, {"error": {"message": "no"}}, {"detail": "x"}],
)
def test_what_is_no_listing_does_not_show_that_nothing_exists(body: Any) -> None:
    with pytest.raises(errors.Unclear):
        list(api_of(lambda _: httpx2.Response(200, json=body)).batches(0.0))


def test_a_batch_of_ours_without_an_id_is_not_overlooked() -> None:
    body = {"data": [{"id": "batch_1"}, None, {"status": "x"}, {"metadata": {NONCE_KEY: "a/0/s/u"}}]}
    with pytest.raises(errors.Unclear, match="no id"):
        list(api_of(lambda _: httpx2.Response(200, json=body)).batches(0.0))


@pytest.mark.parametrize("body", [[BATCH], {"data": [BATCH]}, {"data": [{"job": BATCH}]}, {"data": [None, BATCH]}])
def test_listings_of_other_forms_are_read(body: Any) -> None:
    def handler(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json=[] if "after" in request.url.params else body)

    assert [batch.id for batch in api_of(handler).batches(0.0)] == ["batch_1"]
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(handler))
    page = asyncio.run(list_async(AsyncOpenAI(api_key="k", base_url="http://x/v1", http_client=http), None, 5.0))
    assert [batch.id for batch in page.batches] == ["batch_1"]


# -- keys and ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["sk-SECRET\n", "sk-SECRET ", " sk-SECRET", "sk-SEC RET", "sk-SECRET\x00", "sk-SECRET“"]
)
@pytest.mark.parametrize("name", CALLS)
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key: str, name: str, http: DefaultHttpxClient) -> None:
    with HostileServer(reply(200, b"{}")).running() as server:
        with pytest.raises(errors.Denied, match="line end") as caught:
            CALLS[name](Api(OpenAI(base_url=server.url, api_key=key, http_client=http)))
        assert server.paths == []
    assert "SECRET" not in str(caught.value) and "RET" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_key_that_comes_from_a_function_is_checked_as_well(http: DefaultHttpxClient) -> None:
    with pytest.raises(errors.Denied, match="line end"):
        Api(OpenAI(base_url="http://127.0.0.1:1/v1", api_key=lambda: "sk-SECRET\n", http_client=http)).retrieve("b")


def test_other_values_of_the_connection_that_cannot_be_sent_are_refused_too(http: DefaultHttpxClient) -> None:
    unsendable = OpenAI(base_url="http://127.0.0.1:1/v1", api_key="k", organization="org\n", http_client=http)
    with pytest.raises(errors.Denied, match="another of its values"):
        Api(unsendable).retrieve("b")


@pytest.mark.parametrize(
    "file_id", ["https://x.blob.core.windows.net/out.jsonl", "/mnt/out.jsonl", "../../etc", r"C:\o"]
)
def test_an_address_in_place_of_a_file_id_is_told_by_name(file_id: str) -> None:
    def handler(_: httpx2.Request) -> httpx2.Response:
        raise AssertionError

    api = api_of(handler)
    with pytest.raises(errors.Refused, match="address or a path") as caught:
        api.download(file_id, io.BytesIO())
    assert file_id.replace("\\", "\\\\") in str(caught.value)
    assert api.file_bytes(file_id) is None


# -- durations and sizes -----------------------------------------------------------------------------------------------


def drip(head: bytes, released: Callable[[], threading.Event]) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return an answer that sends a byte now and then, so that no read of it times out."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(head)
        while not released().wait(0.02):
            handler.wfile.write(b"a")

    return answer


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\nx-slow: ", b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{", b"HTTP/1.1 500 E\r\n\r\n"],
    ids=["headers", "body", "error"],
)
@pytest.mark.parametrize("name", [name for name in CALLS if name != "upload"])
def test_a_response_that_drips_ends_with_the_calls_own_time(
    head: bytes, name: str, http: DefaultHttpxClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for constant in ("CALL_S", "_FILE_S"):
        monkeypatch.setattr(client, constant, 1.0)
    monkeypatch.setattr(bounds, "_SLOW_START_S", 1.0)
    server = HostileServer(reply(200, b""))
    server.answer = drip(head, lambda: server.released)
    calls = CALLS | {"create": lambda api: create(api, 1.0)}
    with server.running(), pytest.raises(errors.Unclear, match="took"):
        calls[name](Api(OpenAI(base_url=server.url, api_key="k", http_client=http)))
    assert len(server.paths) <= 1


def test_an_abandoned_create_is_not_sent_later(http: DefaultHttpxClient) -> None:
    """A host of which the first addresses do not answer takes longer to connect than the call may."""
    connecting, may_connect = threading.Event(), threading.Event()

    def slow_transport(request: httpx2.Request) -> httpx2.Response:
        connecting.set()
        may_connect.wait()
        return http.send(request)

    with HostileServer(reply(200, json.dumps(BATCH).encode())).running() as server:
        slow = httpx2.Client(transport=httpx2.MockTransport(slow_transport))
        before = set(threading.enumerate())
        with pytest.raises(errors.Unclear):
            create(Api(OpenAI(base_url=server.url, api_key="k", http_client=slow)), 0.2)
        may_connect.set()
        for thread in set(threading.enumerate()) - before:
            if thread.name == "openai-batch-call":
                thread.join()
        assert server.paths == []


def test_what_an_abandoned_call_still_brings_is_undone() -> None:
    may_go, undone = threading.Event(), threading.Event()

    def call() -> str:
        may_go.wait()
        return "late"

    with pytest.raises(errors.Unclear):
        within(0.01, call, undo=lambda late: undone.set() if late == "late" else None)
    may_go.set()
    assert undone.wait(30)


@functools.cache
def packed(n: int) -> bytes:
    return gzip.compress(b'{"id": "batch_1", "x": "' + b"0" * n + b'"}')


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("name", ["upload", "create", "retrieve", "list", "cancel"])
def test_json_that_unpacks_to_many_times_its_size_is_stopped(name: str, status: int, http: DefaultHttpxClient) -> None:
    server = HostileServer(reply(status, packed(65 << 20), content_encoding="gzip"))
    with server.running(), pytest.raises(errors.Unclear, match="larger than"):
        CALLS[name](Api(OpenAI(base_url=server.url, api_key="k", http_client=http)))


@pytest.mark.parametrize("status", [200, 500])
def test_event_loops_are_guarded_from_large_responses_too(status: int) -> None:
    async def act(url: str) -> None:
        async with AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as plain:
            for call in (retrieve_async(bounded(plain), "b", 9.0), list_async(bounded(plain), None, 9.0)):
                with pytest.raises(errors.Unclear, match="larger than"):
                    await call

    with HostileServer(reply(status, packed(65 << 20), content_encoding="gzip")).running() as server:
        asyncio.run(act(server.url))


def test_packed_files_are_unpacked_and_of_any_size(http: DefaultHttpxClient) -> None:
    content = b'{"custom_id": "x"}\n' * 2_000_000
    target = io.BytesIO()
    with HostileServer(reply(200, gzip.compress(content), content_encoding="gzip")).running() as server:
        assert Api(OpenAI(base_url=server.url, api_key="k", http_client=http)).download("file-1", target) == len(
            content
        )
    assert target.getvalue() == content


def test_only_files_of_a_gigabyte_that_pack_like_nothing_real_are_stopped() -> None:
    file = Bounds(is_file=True, max_bytes=float("inf"))
    file.check(100 << 30, 1 << 30)
    file.check(1 << 30, 1)
    with pytest.raises(errors.Unclear, match="unpacks"):
        file.check((1 << 30) + 1, 5 << 20)


def test_retrieve_works_through_the_bounds_of_an_event_loop() -> None:
    async def act(url: str) -> Batch:
        async with AsyncOpenAI(base_url=url, api_key="k") as plain:
            return await retrieve_async(bounded(plain), "batch_1", 9.0)

    with HostileServer(
        reply(200, gzip.compress(json.dumps(BATCH).encode()), content_encoding="gzip")
    ).running() as server:
        assert asyncio.run(act(server.url)).id == "batch_1"


def test_nothing_is_lost_of_a_client_with_settings_of_its_own() -> None:
    seen: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json=BATCH)

    http = httpx2.Client(transport=httpx2.MockTransport(handler), headers={"x-own": "1"}, params={"api-version": "2"})
    Api(OpenAI(base_url="http://openai.test/v1", api_key="k", http_client=http)).retrieve("batch_1")
    assert seen[0].headers["x-own"] == "1" and seen[0].url.params["api-version"] == "2"


# -- how long files live -----------------------------------------------------------------------------------------------


def test_an_upload_and_a_batch_say_how_long_their_files_live_only_if_they_are_told() -> None:
    bodies: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(request.read())
        return httpx2.Response(200, json={**BATCH, "created_at": NOW, "expires_at": NOW + 7200})

    api = api_of(answer)
    assert api.upload("a.jsonl", io.BytesIO(b"{}\n"), 7200) == ("batch_1", 7200.0, False)
    assert b'name="expires_after[anchor]"\r\n\r\ncreated_at' in bodies[0]
    assert b'name="expires_after[seconds]"\r\n\r\n7200' in bodies[0]
    told = {"endpoint": "/v1/responses", "completion_window": "24h", "metadata": {}, "timeout_s": 30.0}
    api.create(file_id="f", output_expires_after_s=7200, **told)  # type: ignore[arg-type]
    assert json.loads(bodies[1])["output_expires_after"] == {"anchor": "created_at", "seconds": 7200}
    api.upload("a.jsonl", io.BytesIO(b"{}\n"))
    create(api)
    assert b"expires" not in bodies[2] + bodies[3]


@pytest.mark.parametrize("content", [b'{"id": "file-1", "object": "file", "deleted": true}', b"{}", b"", b" "])
def test_a_file_is_deleted_whatever_a_server_says_of_it(content: bytes) -> None:
    """Azure answers 204 without content."""
    api_of(lambda request: httpx2.Response(200 if content.strip() else 204, content=content)).delete_file("file-1")


def test_a_file_that_a_server_keeps_is_not_deleted() -> None:
    api = api_of(lambda request: httpx2.Response(200, json={"id": "file-1", "deleted": False}))
    with pytest.raises(errors.Refused, match="did not delete the file file-1"):
        api.delete_file("file-1")


@pytest.mark.parametrize("status", [404, 410])
def test_a_file_that_is_not_there_is_told_apart(status: int) -> None:
    api = api_of(lambda request: httpx2.Response(status, json={"error": {"message": "No such File object."}}))
    with pytest.raises(errors.NotFound):
        api.delete_file("file-1")


@pytest.mark.parametrize("file_id", ["https://blobs/out.jsonl", "../batches/batch_1", "/etc/passwd"])
def test_no_call_is_made_for_an_address_in_place_of_a_file(file_id: str) -> None:
    def unasked(request: httpx2.Request) -> httpx2.Response:
        raise AssertionError(request.url)

    with pytest.raises(errors.Unfetchable):
        api_of(unasked).delete_file(file_id)
