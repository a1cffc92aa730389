"""Texts, numbers and JSON of a server, made fit to be stored, logged and shown."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec

from airflow_openai_batch.engine import errors
from airflow_openai_batch.engine.redaction import has_secret, scrubbed

MAX_ID = 1024
"""Characters of an id. Seen: ids of more than 300 from proxies."""

MAX_MESSAGE = 2000

MAX_NAME = 128
"""Characters of an error code, or of another short name."""

_SURROGATE = re.compile(r"[\ud800-\udfff]")

# Control characters, those that end or turn a line in a terminal or a browser, and those that nobody sees.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")

_MAX_COUNT = 2**53


def clean(value: str, longest: int) -> str:
    """Return a text of the SDK or a server as it may be told: without secrets, printable, in one line, and bounded.

    Args:
        value: The text.
        longest: Characters that are kept.
    """
    return _printable(scrubbed(value[: 4 * longest]), longest)


def _printable(value: str, longest: int) -> str:
    return _SURROGATE.sub("\ufffd", _CONTROL.sub(" ", value)).strip()[:longest]


def text_of(value: Any, longest: int = MAX_NAME) -> str | None:
    """Return a text or an integer as a clean text; None for any other type and for an empty text."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    try:
        return clean(str(value), longest) or None
    except ValueError:  # an integer of thousands of digits
        return None


def id_text_of(value: Any) -> str | None:
    """Return an id as text, unchanged; None if it is of another type, empty, too long, secret, or not printable."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    try:
        text = str(value)
    except ValueError:  # an integer of thousands of digits
        return None
    is_good = 0 < len(text) <= MAX_ID and text == _printable(text, MAX_ID) and "\ufffd" not in text
    return text if is_good and not has_secret(text) else None


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


_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<[!A-Za-z?]")

_TAGS = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>?", re.IGNORECASE | re.DOTALL)

_MAX_PAGE = 200


def page_text(content: bytes) -> str:
    """Return the beginning of what a page or another text says to its reader."""
    text = _TAGS.sub(" ", content[: 100 * _MAX_PAGE].decode("utf-8", "replace"))
    return clean(" ".join(text.split()), _MAX_PAGE) or "it says nothing"


def decoded(content: bytes) -> Any:
    """Decode JSON, also with what msgspec refuses and other decoders write: NaN, half surrogate pairs, a BOM.

    Raises:
        Stranger: It is a page.
        Unclear: It is not JSON.
    """
    try:
        return msgspec.json.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    try:
        return json.loads(content.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as error:
        if _PAGE.match(content):
            raise errors.Stranger(f"The answer was a page and not OpenAI's: {page_text(content)}") from None
        raise errors.Unclear(f"The answer of OpenAI was not the expected JSON: {clean(str(error), 200)}") from None
