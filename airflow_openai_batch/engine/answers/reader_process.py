"""A process that reads answers for another one, of the same code on the same machine: ``Readers`` starts it.

Both are joined by a socket, on which files go as descriptors. The process ends when it next looks for work and the
other end is closed, however the other process ended. It has no use for the store, OpenAI or Airflow: where a task's
connections are, only the task knows.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from typing import IO, Any

from airflow_openai_batch.engine.answers.parser import parser_of
from airflow_openai_batch.engine.answers.reading import read_answers
from airflow_openai_batch.engine.answers.row_order import Unordered
from airflow_openai_batch.engine.concurrency import use_releasing_allocator

_LENGTH_BYTES = 8

MOST_FILES = 64
"""Linux passes up to 253 descriptors at once; a shard's are two, its unmatched lines, and what was kept of it."""


def send(connection: socket.socket, message: Any, files: Sequence[IO[bytes]] = ()) -> None:
    """Send a message, with open files.

    Args:
        connection: The socket.
        message: What can be pickled.
        files: Files, which the receiver gets with the position that they have.

    Raises:
        OSError: The other process has ended.
    """
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    length = len(data).to_bytes(_LENGTH_BYTES, "big")
    if files:
        socket.send_fds(connection, [length], [file.fileno() for file in files])
    else:
        connection.sendall(length)
    connection.sendall(data)


def receive(connection: socket.socket) -> tuple[Any, list[int]]:
    """Return the next message, and the descriptors that came with it.

    Raises:
        EOFError: The other process has ended.
        OSError: It has ended while it was sending, or has sent nothing for as long as the socket waits; or some
            descriptors did not arrive, as this process has too many open.
    """
    length, files, flags, _ = socket.recv_fds(connection, _LENGTH_BYTES, MOST_FILES)
    if flags & socket.MSG_CTRUNC:
        raise OSError("not all descriptors arrived")
    if len(length) < _LENGTH_BYTES:
        raise EOFError
    data = bytearray(int.from_bytes(length, "big"))
    rest = memoryview(data)
    while rest:
        n = connection.recv_into(rest)
        if not n:
            raise EOFError
        rest = rest[n:]
    return pickle.loads(data), files  # noqa: S301 - from the process that started this one, or that it started


def serve(connection: socket.socket) -> None:
    """Read answers until nobody asks any more. The answer is what was read, or the exception that was raised."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            reading, descriptors = receive(connection)
            with contextlib.ExitStack() as stack:
                *files, unmatched = [stack.enter_context(os.fdopen(number, "r+b")) for number in descriptors]
                answer: Any
                try:
                    answer = read_answers(reading, parser_of(reading.job), files, unmatched)
                except Unordered:
                    answer = Unordered()
                except Exception as error:  # the process that asked reads them itself, and sees what is wrong
                    answer = RuntimeError(type(error).__name__)
            send(connection, answer)


class _WithoutPandas(MetaPathFinder):
    """Arrow imports pandas, if it is there, only to tell whether values are of it: half a second, and 50 MB."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """Say that there is no pandas, and nothing of other modules."""
        if name == "pandas":
            raise ModuleNotFoundError(name=name)


if __name__ == "__main__":
    sys.meta_path.insert(0, _WithoutPandas())
    use_releasing_allocator()
    serve(socket.socket(fileno=int(sys.argv[1])))
