"""The other end of an HTTP connection, in a process of its own: takes uploads, gives one file, does nothing else.

    python benchmarks/http_end.py FILE ROOM        # prints its port

Plain sockets, so that it is not what is measured: a body is received into memory that was touched before, a file is
sent by the kernel. `GET /uploaded` returns a hash of the last file that came as multipart form.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_FILE = re.compile(rb'name="file"; filename=[^\r]*\r\n(?:[^\r]+\r\n)*\r\n')


class _End:
    def __init__(self, path: Path, room: int) -> None:
        self._path = path
        self._body = bytearray(b"\x01") * room  # touched: fresh pages would be slow
        self._n = 0

    def serve(self, connection: socket.socket) -> None:
        """Answer the requests of one connection."""
        with connection, contextlib.suppress(ConnectionError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while head := self._head(connection):
                self._answer(connection, *head)

    def _head(self, connection: socket.socket) -> tuple[bytes, bytes] | None:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := connection.recv(1 << 16)):
                return None
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        return head, rest

    def _answer(self, connection: socket.socket, head: bytes, rest: bytes) -> None:
        if head.startswith(b"POST"):
            if b"100-continue" in head.lower():
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._receive(connection, head, rest)
            _send_json(connection, {"id": "file-1", "object": "file", "bytes": self._n, "purpose": "batch"})
        elif head.startswith(b"GET /uploaded"):
            body = bytes(self._body[: self._n])
            start = _FILE.search(body)
            content = body[start.end() : body.rindex(b"\r\n--", 0, -4)] if start else b""
            _send_json(connection, {"hash": _hash(content)})
        elif b"/content " in head.partition(b"\r\n")[0]:
            size = self._path.stat().st_size
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            with self._path.open("rb") as file:
                connection.sendfile(file)
        else:
            _send_json(connection, {"id": "file-1", "object": "file", "bytes": self._path.stat().st_size})

    def _receive(self, connection: socket.socket, head: bytes, rest: bytes) -> None:
        found = _LENGTH.search(head)
        if found is None:
            raise SystemExit("An upload without content-length: it does not say where it ends.")
        self._n = int(found[1])
        self._body[: len(rest)] = rest
        at, view = len(rest), memoryview(self._body)
        while at < self._n:
            at += connection.recv_into(view[at : self._n])


def _send_json(connection: socket.socket, value: object) -> None:
    body = json.dumps(value).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    connection.sendall(head + body)


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def hash_of(path: Path) -> str:
    """Return the hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=12)).hexdigest()


@contextlib.contextmanager
def running(path: Path, room: int) -> Iterator[str]:
    """Start an end in a process of its own and yield its base URL."""
    command = [sys.executable, __file__, str(path), str(room)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


def main() -> None:
    """Serve until terminated."""
    end = _End(Path(sys.argv[1]), int(sys.argv[2]))
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            threading.Thread(target=end.serve, args=server.accept()[:1], daemon=True).start()


if __name__ == "__main__":
    main()
