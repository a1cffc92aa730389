"""Faults of result files: content that is not what a batch wrote, and sizes that are not the content's.

Contents are changed when they are read, in memory: for files of some megabytes.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any, Literal

JsonObject = dict[str, Any]
Size = int | Literal["actual", "whole"] | None


@dataclass(frozen=True, slots=True)
class FileFault:
    """What is wrong with a result file.

    Attributes:
        form: The form of its content, a key of `FORMS`.
        file: `output`, `error` or `both`.
        seconds: How long after the end of its batch the file is like that; then it is right.
        fraction: How much of the content is kept, 0 to 1, by the forms `cut_at_line` and `cut_in_line`.
        size: The `bytes` of the file object: those of the `actual` content, of the `whole` one, a number, or None for
            no such field.
    """

    form: str = "as_is"
    file: str = "output"
    seconds: float = inf
    fraction: float = 0.5
    size: Size = "actual"

    def concerns(self, suffix: str) -> bool:
        """Return whether it is a fault of the `output` or the `error` file."""
        return self.file in (suffix, "both")

    def apply(self, content: bytes) -> bytes:
        """Return the content in the fault's form."""
        return FORMS[self.form](content, self.fraction)


def _lines(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


def _objects(content: bytes) -> list[JsonObject]:
    """Return the lines that are JSON objects."""
    objects = []
    for line in content.split(b"\n"):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            objects.append(value)
    return objects


def _dump(objects: list[JsonObject]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in objects)


def _with_ids(change: Callable[[str, int], Any]) -> Callable[[bytes, float], bytes]:
    """Return a form that changes each custom_id, given the id and the number of its line."""

    def form(content: bytes, _: float) -> bytes:
        numbers = count()
        objects = _objects(content)
        return _dump([{**x, "custom_id": change(str(x.get("custom_id")), next(numbers))} for x in objects])

    return form


def _cut_at_line(content: bytes, fraction: float) -> bytes:
    lines = _lines(content)
    return b"".join(lines[: int(len(lines) * fraction)])


def _cut_in_line(content: bytes, fraction: float) -> bytes:
    cut = content[: int(len(content) * fraction)]
    return cut.rstrip(b"\n")[:-1] if cut.endswith((b"\n", b"}")) else cut


def _foreign(content: bytes, _: float) -> bytes:
    """Return the content and, between its lines, those of another job."""
    foreign = _with_ids(lambda name, _: f"of another job, {name}")(content, 0.0)
    return b"".join(line for pair in zip(_lines(content), _lines(foreign), strict=False) for line in pair)


def _pretty(content: bytes, _: float) -> bytes:
    return b"".join(json.dumps(value, indent=2).encode() + b"\n" for value in _objects(content))


FORMS: dict[str, Callable[[bytes, float], bytes]] = {
    "as_is": lambda content, _: content,
    "empty": lambda content, _: b"",
    "gzip": lambda content, _: gzip.compress(content, mtime=0),
    "html": lambda content, _: b"<html><head><title>Maintenance</title></head><body>Back soon</body></html>\n",
    "json_array": lambda content, _: json.dumps(_objects(content)).encode(),
    "pretty": _pretty,
    "crlf": lambda content, _: content.replace(b"\n", b"\r\n"),
    "cr": lambda content, _: content.replace(b"\n", b"\r"),
    "utf16": lambda content, _: content.decode(errors="replace").encode("utf-16"),
    "bom": lambda content, _: b"\xef\xbb\xbf" + content,
    "no_last_newline": lambda content, _: content.removesuffix(b"\n"),
    "ids_upper": _with_ids(lambda name, _: name.upper()),
    "ids_cut": _with_ids(lambda name, _: name[: max(1, len(name) // 2)]),
    "ids_spaced": _with_ids(lambda name, _: f" {name} "),
    "ids_integer": _with_ids(lambda name, number: int(name) if name.isdecimal() else number),
    "ids_null": _with_ids(lambda name, _: None),
    "cut_at_line": _cut_at_line,
    "cut_in_line": _cut_in_line,
    "duplicated": lambda content, _: content * 2,
    "foreign": _foreign,
}
"""Name of a form → what it makes of a content."""
