"""Result files that are not JSON lines, made into JSON lines where that is certain.

Seen of compatible servers and proxies: gzip bytes without a header that says so, UTF-16, a byte order mark, one JSON
array, objects spread over several lines, other line ends. What cannot be converted stays as it is: its lines match no
row, which proves nothing of the rows.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

import msgspec

_HEAD_BYTES = 64 * 1024
_MAX_CONVERTED_BYTES = 1024 * 1024 * 1024
"""A file that unpacks to more than this is left as it is: OpenAI's result files are smaller (512 MB a file)."""
_MAX_IN_MEMORY = 256 * 1024 * 1024
_COPY_BYTES = 1024 * 1024
_LINE_ENDS = re.compile(rb"[\r\n]+")


def as_json_lines(stack: contextlib.ExitStack, file: IO[bytes]) -> IO[bytes]:
    """Return a result file as JSON lines.

    Args:
        stack: Closes the converted file.
        file: The downloaded file.

    Returns:
        The file itself if its first line is a JSON object, or if it cannot be converted; else a converted copy.
    """
    for _ in range(_MAX_STEPS):
        file.flush()
        convert = _conversion(os.pread(file.fileno(), _HEAD_BYTES, 0))
        if convert is None:
            break
        converted = tempfile.TemporaryFile(prefix="openai-batch-")  # noqa: SIM115 - closed by the stack
        stack.callback(converted.close)
        try:
            convert(file, converted)
        except (OSError, EOFError, zlib.error, UnicodeError, ValueError, msgspec.MsgspecError, RecursionError):
            break
        file = converted
    return file


_MAX_STEPS = 4
"""Gzip, then an encoding, then a byte order mark, then the form of the JSON."""


def _conversion(head: bytes) -> Callable[[IO[bytes], IO[bytes]], None] | None:
    """Return what makes JSON lines of a file that begins like this, or None if nothing has to or can be done."""
    if head.startswith(b"\x1f\x8b"):
        return _unpack
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _from_utf16
    if head.startswith(b"\xef\xbb\xbf"):
        return _without_mark
    begin = head.lstrip()
    if begin.startswith(b"["):
        return _from_array
    line, end, _ = begin.partition(b"\n")
    is_unknown = not end and len(head) == _HEAD_BYTES  # a first line this long is not looked at
    return _from_objects if begin.startswith(b"{") and not is_unknown and not _is_object(line) else None


def _unpack(file: IO[bytes], target: IO[bytes]) -> None:
    file.seek(0)
    _copy(gzip.GzipFile(fileobj=file, mode="rb").read, target)


def _from_utf16(file: IO[bytes], target: IO[bytes]) -> None:
    target.write(_whole(file).decode("utf-16").encode())


def _without_mark(file: IO[bytes], target: IO[bytes]) -> None:
    file.seek(3)
    _copy(file.read, target)


def _from_array(file: IO[bytes], target: IO[bytes]) -> None:
    _write_lines(_array(file), target)


def _from_objects(file: IO[bytes], target: IO[bytes]) -> None:
    _write_lines(_objects(file), target)


def _write_lines(objects: Iterator[bytes], target: IO[bytes]) -> None:
    for data in objects:
        target.write(_LINE_ENDS.sub(b" ", data) + b"\n")  # a JSON string holds no raw line end


def _array(file: IO[bytes]) -> Iterator[bytes]:
    for item in msgspec.json.decode(_whole(file), type=list[msgspec.Raw]):
        yield bytes(item)


def _objects(file: IO[bytes]) -> Iterator[bytes]:
    text = _whole(file).decode()
    decoder, at = json.JSONDecoder(), 0
    while (at := _skip_space(text, at)) < len(text):
        _, end = decoder.raw_decode(text, at)
        yield text[at:end].encode()
        at = end


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(line), dict)
    except (msgspec.MsgspecError, UnicodeError):
        return False


def _whole(file: IO[bytes]) -> bytes:
    if os.fstat(file.fileno()).st_size > _MAX_IN_MEMORY:
        raise ValueError("too large to be converted")
    file.seek(0)
    return file.read()


def _copy(read: Callable[[int], bytes], target: IO[bytes]) -> None:
    n_bytes = 0
    while block := read(_COPY_BYTES):
        n_bytes += target.write(block)
        if n_bytes > _MAX_CONVERTED_BYTES:
            raise ValueError("it unpacks to more than any result file has")
