"""An account full of batches, served by the smallest HTTP server that will do: `retrieve` and the listing.

    python benchmarks/waiting_stub.py 1000 --singles 500 --first 15 --last 40 --burst 45

The emulator checks files, answers rows and moves thousands of batches along; it takes longer to list them than what is
measured here may take. This one only says how batches stand. It prints its port. `POST /begin` starts the clock and
returns when each batch ends; `GET /calls` returns when which calls came.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time

DAY_S = 86_400
_FIELDS = (
    '{"id":"%s","object":"batch","endpoint":"/v1/responses","model":"gpt-6-luna","errors":null,"input_file_id":'
    '"file-AbCdEfGhIjKlMnOpQrStUv","completion_window":"24h","status":"%s","output_file_id":%s,"error_file_id":null,'
    '"created_at":%d,"in_progress_at":%d,"expires_at":%d,"finalizing_at":null,"completed_at":%s,"failed_at":null,'
    '"expired_at":null,"cancelling_at":null,"cancelled_at":null,"request_counts":{"total":50000,"completed":%d,'
    '"failed":0},"usage":null,"metadata":{"job":"label_tickets/scheduled__2026-11-22T00:00:00+00:00/submit/-1",'
    '"nonce":"0f1e2d3c4b5a69788796a5b4c3d2e1f0"}}'
)


def batch_id(number: int) -> str:
    """Return the id of a batch; the highest number is the newest."""
    return f"batch_{number:032x}"


def order_of_ends(n: int, seed: int) -> list[int]:
    """Return the numbers of the batches in the order in which they end."""
    numbers = list(range(n))
    random.Random(seed).shuffle(numbers)
    return numbers


class Account:
    """The batches: when each was made and when it ends.

    Args:
        n: How many; made one after another in the last hours.
        seed: Decides their order of ending.
        singles: How many end one after another.
        first: Seconds after the beginning at which the first ends.
        last: Seconds after the beginning at which the last of the singles ends.
        burst: Seconds after the beginning at which all others end at once.
    """

    def __init__(self, n: int, seed: int, singles: int, first: float, last: float, burst: float) -> None:
        self._n = n
        numbers = order_of_ends(n, seed)
        step = (last - first) / max(singles - 1, 1)
        self._offsets = [burst] * n
        for place, number in enumerate(numbers[:singles]):
            self._offsets[number] = first + place * step
        self._made_at = time.time() - 6 * 3600
        self._began_at = float("inf")
        self.calls: dict[str, list[float]] = {"list": [], "retrieve": []}

    def begin(self) -> bytes:
        """Start the clock."""
        self._began_at = time.time()
        ends = {batch_id(number): self._began_at + offset for number, offset in enumerate(self._offsets)}
        return json.dumps({"began_at": self._began_at, "ends_at": ends}).encode()

    def show(self, number: int, now: float) -> str:
        """Return a batch as it stands; its counts move all the time, as they do."""
        made_at = self._made_at + number * 3 * 3600 / self._n
        ends_at = self._began_at + self._offsets[number]
        is_done = now >= ends_at
        done = 50_000 if is_done else int(50_000 * (now - made_at) / DAY_S)
        ended = str(int(ends_at)) if is_done else "null"
        status, output = ("completed", '"file-out"') if is_done else ("in_progress", "null")
        return _FIELDS % (batch_id(number), status, output, made_at, made_at, made_at + DAY_S, ended, done)

    def answer(self, path: str) -> bytes:
        """Return the body for a path."""
        now = time.time()
        route, _, query = path.partition("?")
        if route == "/begin":
            return self.begin()
        if route == "/calls":
            return json.dumps(self.calls).encode()
        if route == "/v1/batches":
            self.calls["list"].append(now)
            return self._page(dict(pair.split("=") for pair in query.split("&") if pair), now)
        self.calls["retrieve"].append(now)
        return self.show(int(route.rpartition("_")[2], 16), now).encode()

    def _page(self, query: dict[str, str], now: float) -> bytes:
        newest = int(query["after"].rpartition("_")[2], 16) if "after" in query else self._n
        oldest = max(newest - int(query.get("limit", 20)), 0)
        data = ",".join(self.show(number, now) for number in range(newest - 1, oldest - 1, -1))
        return f'{{"object":"list","data":[{data}],"has_more":{"true" if oldest else "false"}}}'.encode()


class _Http(asyncio.Protocol):
    """Just enough of HTTP/1.1: requests without a body, one after another."""

    def __init__(self, account: Account, latency_s: float) -> None:
        self._account, self._latency_s, self._rest = account, latency_s, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each whole request."""
        self._rest += data
        while b"\r\n\r\n" in self._rest:
            head, _, self._rest = self._rest.partition(b"\r\n\r\n")
            asyncio.get_running_loop().call_later(self._latency_s, self._answer, head.split(b" ", 2)[1].decode())

    def _answer(self, path: str) -> None:
        body = self._account.answer(path)
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


async def serve(account: Account, latency_s: float) -> None:
    """Serve on a free port until killed."""
    server = await asyncio.get_running_loop().create_server(lambda: _Http(account, latency_s), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("n", type=int, help="batches")
    parser.add_argument("--seed", type=int, default=1, help="decides their order of ending, default 1")
    parser.add_argument("--first", type=float, default=15, help="seconds until the first ends, default 15")
    parser.add_argument("--singles", type=int, help="batches that end one after another, default half of them")
    parser.add_argument("--last", type=float, default=40, help="seconds until these have ended, default 40")
    parser.add_argument("--burst", type=float, default=45, help="seconds until all others end at once, default 45")
    parser.add_argument("--latency", type=float, default=0.1, help="seconds that each answer takes, default 0.1")
    options = parser.parse_args()
    n_singles = (options.n + 1) // 2 if options.singles is None else options.singles
    made = Account(options.n, options.seed, n_singles, options.first, options.last, options.burst)
    asyncio.run(serve(made, options.latency))
