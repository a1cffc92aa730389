"""Who reads the answers of several batches at once: this process those of one, further processes those of others.

Reading is Python's work, so that two threads of one process take as long as one. A further process is started when it
is first needed. Whatever becomes of it, the answers are read: then this process does it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Self

from airflow_openai_batch.engine.answers import reader_process
from airflow_openai_batch.engine.answers.parser import LineParser
from airflow_openai_batch.engine.answers.reading import Reading, ReadPart, read_answers
from airflow_openai_batch.engine.answers.row_order import Unordered

_LEAST_BYTES = 16 * 1024 * 1024
"""Smaller files are read in the time that a process takes to start."""

_LEAVES_IN_S = 5.0

_MOST_S = 300.0
"""A process that has not read a batch by then hangs: a batch, of at most 200 MB of requests, takes seconds."""

log = logging.getLogger(__name__)


class _Lost(Exception):
    """A reading process has ended, or could not do it."""


class Readers:
    """Reads the answers of batches, from any thread.

    Its ``with`` ends the further processes; afterwards it can be used again.

    Args:
        most: The number of processes that may read at once, with this one.
    """

    def __init__(self, most: int = 1) -> None:
        self.most = max(1, most)
        self._here = threading.Lock()
        self._lock = threading.Lock()
        self._idle: list[_ReaderProcess] = []
        self._n_started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
            self._n_started -= len(idle)
        for process in idle:
            process.stop()

    def read(self, reading: Reading, parser: LineParser, files: Sequence[IO[bytes]], unmatched: IO[bytes]) -> ReadPart:
        """Write the outcome part of a shard.

        Args:
            reading: What is read.
            parser: Reads the lines, if that is done here.
            files: The output file and the error file, as far as they exist, and what was downloaded earlier.
            unmatched: The file to which lines of no row are added; what it holds is dropped.

        Raises:
            Unordered: The lines cannot be read once.
            OSError: The part cannot be written.
        """
        if self._here.acquire(blocking=False):
            try:
                return read_answers(reading, parser, files, unmatched)
            finally:
                self._here.release()
        # A check is a user's function, which only this process has.
        n_bytes = sum(os.fstat(file.fileno()).st_size for file in files)
        is_worth_it = n_bytes >= _LEAST_BYTES and len(files) < reader_process.MOST_FILES
        process = self._take() if is_worth_it and not parser.has_check else None
        if process is not None:
            try:
                return self._read_in(process, reading, files, unmatched)
            except _Lost as lost:
                log.info("A process that read answers is gone (%s): they are read here.", lost)
        return read_answers(reading, parser, files, unmatched)

    def _take(self) -> _ReaderProcess | None:
        """Return a process that does nothing, or a new one; None if there are as many as there may be."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._n_started >= self.most - 1:
                return None
            self._n_started += 1
        try:
            return _ReaderProcess()
        except Exception as error:  # whatever it is: the answers are read here
            log.info("No further process can be started to read answers: %r", error)
            return None  # and none is tried again

    def _read_in(
        self, process: _ReaderProcess, reading: Reading, files: Sequence[IO[bytes]], unmatched: IO[bytes]
    ) -> ReadPart:
        is_lost = True
        try:
            read = process.read(reading, files, unmatched)
            is_lost = False
        except Unordered:
            is_lost = False
            raise
        finally:
            if is_lost:
                process.stop()  # and none is started in its place: what ended it may end the next
            else:
                with self._lock:
                    self._idle.append(process)
        return read


class _ReaderProcess:
    """A process that reads answers."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        self._connection.settimeout(_MOST_S)
        # What this process can import, the other one can too. Python itself passes over what is no text.
        entries: list[object] = [*sys.path]
        folders = [entry for entry in entries if isinstance(entry, str) and entry]
        with theirs:
            # Not a fork: this process has threads.
            self._process = subprocess.Popen(  # noqa: S603 - our own program, and a number
                [sys.executable, "-P", "-m", reader_process.__name__, str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def read(self, reading: Reading, files: Sequence[IO[bytes]], unmatched: IO[bytes]) -> ReadPart:
        """Let it write an outcome part.

        Raises:
            Unordered: The lines cannot be read once.
            _Lost: It has ended, hangs, or failed.
        """
        for file in (*files, unmatched):
            file.flush()
        try:
            reader_process.send(self._connection, reading, (*files, unmatched))
            answer, _ = reader_process.receive(self._connection)
        except Exception as error:  # it has ended, or what is sent cannot be
            raise _Lost(f"exit code {self._process.poll()}, {type(error).__name__}") from error
        if isinstance(answer, Unordered):
            raise answer
        if not isinstance(answer, ReadPart):
            raise _Lost(str(answer))
        return answer

    def stop(self) -> None:
        """End it."""
        self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVES_IN_S)
            return
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVES_IN_S)
