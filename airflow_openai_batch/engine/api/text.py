"""Texts, numbers and JSON of a server, made fit to be stored, logged and shown."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec

from airflow_openai_batch.engine import errors

MAX_ID = 1024
"""Characters of an id. Seen: ids of more than 300 from proxies."""

MAX_MESSAGE = 2000

MAX_NAME = 128
"""Characters of an error code, or of another short name."""

_SURROGATE = re.compile(r"[\ud800-\udfff]")

# Control characters, and those that end or turn a line in a terminal or a browser.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")

_MAX_COUNT = 2**53


def clean(value: str, longest: int) -> str:
    """Return a text without control characters and half surrogate pairs, not longer than ``longest`` characters."""
    cut = value[: 4 * longest]
    return _SURROGATE.sub("\ufffd", _CONTROL.sub(" ", cut)).strip()[:longest]


def text_of(value: Any, longest: int = MAX_NAME) -> str | None:
    """Return a text or an integer as a clean text; None for any other type and for an empty text."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    try:
        return clean(str(value), longest) or None
    except ValueError:  # an integer of thousands of digits
        return None


def id_text_of(value: Any) -> str | None:
    """Return an id as text, unchanged: None if it is neither text nor integer, empty, too long, or not printable."""
    text = text_of(value, MAX_ID + 1)
    return text if text is not None and len(text) <= MAX_ID and text == str(value) and "\ufffd" not in text else None


def count_of(value: Any) -> int:
    """Return a number of requests, 0 to 2^53; 0 for what is not a number."""
    if isinstance(value, str) and value.isascii() and value.isdecimal():  # JSON of protocol buffers: 64 bits as text
        value = int(value[:17])
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return 0
    return int(min(max(value, 0), _MAX_COUNT))


def number_of(value: Any) -> float | None:
    """Return a finite number, or a text that holds one, as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def decoded(content: bytes) -> Any:
    """Decode JSON, also with what msgspec refuses and other decoders write: NaN, half surrogate pairs, a BOM.

    Raises:
        Unclear: It is not JSON.
    """
    try:
        return msgspec.json.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    try:
        return json.loads(content.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as error:
        raise errors.Unclear(f"The answer of OpenAI was not the expected JSON: {clean(str(error), 200)}") from None
