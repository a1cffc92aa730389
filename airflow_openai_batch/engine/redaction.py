"""What must never be told: secrets of connections, and what OpenAI's messages quote of rows.

Secrets are remembered by the process as requests are signed with them (``remember_headers``), and are taken out of
every text of the SDK or a server by ``scrubbed``, which ``api.text.clean`` calls. What quotes rows may stand in the
result table, where the rows are too; ``without_values`` makes of it what may stand in XCom and logs.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import quote, quote_plus

MASK = "***"

_MIN_SECRET = 4
"""Characters of the shortest text that counts as a secret."""

_PIECE = 10
"""Characters in a row of a secret that are not told: a message may quote a part of it, or break it over lines."""

_LONG = 16
"""Characters of a secret that no id holds by accident."""

_MAX_SECRETS = 200
"""Tokens of workload identity change hourly, and a triggerer lives for months: the oldest are forgotten."""

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])|\x9b[0-?]*[ -/]*[@-~]")

_KEY_LIKE = re.compile(
    r"\bsk-[\w-]{16,}"  # OpenAI's keys
    r"|(?<=\bBearer )[^\s'\"]{8,}|(?<=\bBasic )[^\s'\"]{8,}"
    r"|(?<=://)[^/\s@'\"]+(?=@)"  # user and password in an address, as of a proxy
    r"|(?<=[?&])((?:[\w-]*(?:key|token|sig|secret|password))=)[^&\s'\"]+",
    re.IGNORECASE,
)

_SECRET_NAME = re.compile(r"auth|key|token|secret|passw|cookie|signature|credential|session|jwt", re.IGNORECASE)

_HARMLESS_NAME = re.compile(r"x-stainless-|openai-|accept|content-|user-agent|host$|idempotency-key", re.IGNORECASE)

_LOOKS_RANDOM = re.compile(r"(?=\S*[A-Za-z])(?=\S*\d)\S{20,}")


class _Forms(NamedTuple):
    """The secrets in every form in which they are looked for."""

    long: tuple[str, ...]
    """Those that are no word of a message."""
    short: re.Pattern[str] | None
    """The others, which count where they stand alone: a local server's key may be ``none``."""
    pieces: frozenset[str]


_secrets: dict[str, None] = {}
_forms = _Forms((), None, frozenset())
_lock = threading.Lock()


def remember_secrets(texts: Iterable[str]) -> None:
    """Remember secrets, which are from now on taken out of every text.

    Args:
        texts: The secrets. One with characters that no header can carry, as a line end, counts part by part: so it is
            found however these were escaped.
    """
    global _forms
    parts = {part for text in texts for part in re.split(r"[^\x21-\x7e]+", text) if len(part) >= _MIN_SECRET}
    new = [part for part in parts if part not in _secrets and part.lower() not in ("bearer", "basic")]
    if not new:
        return
    with _lock:
        _secrets.update(dict.fromkeys(new))
        while len(_secrets) > _MAX_SECRETS:
            del _secrets[next(iter(_secrets))]
        forms = {form for secret in _secrets for form in _forms_of(secret)}
        pieces = frozenset(form[i : i + _PIECE] for form in forms for i in range(len(form) - _PIECE + 1))
        short = sorted((re.escape(form) for form in forms if len(form) < _PIECE), key=len, reverse=True)
        pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(short)})(?![\w-])") if short else None
        _forms = _Forms(tuple(form for form in forms if len(form) >= _LONG), pattern, pieces)


def _forms_of(secret: str) -> set[str]:
    """Return a secret as it is, as addresses and JSON have it, and as base64 has it behind anything."""
    forms = {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    for before in (b"", b"x", b"xx"):
        # Its first and last characters depend on what stands beside the secret.
        encoded = base64.b64encode(before + secret.encode()).decode().rstrip("=")[4 if before else 0 : -2]
        if len(encoded) >= _PIECE:
            forms |= {encoded, encoded.replace("+", "-").replace("/", "_")}
    return forms


def remember_headers(headers: Mapping[str, str], *, by_look: bool = False) -> None:
    """Remember what of headers is secret: by a header's name, and perhaps as its value looks like a token.

    Args:
        headers: The headers.
        by_look: Whether values count that look random. Not of a request, in which tracing has ids that never repeat.
    """
    values = []
    for name, value in headers.items():
        if _HARMLESS_NAME.match(name):
            continue
        if _SECRET_NAME.search(name) or (by_look and _LOOKS_RANDOM.fullmatch(value)):
            values.append(value)
            if value[:6].lower() == "basic ":
                values.append(_password_in(value[6:]))
    remember_secrets(values)


def _password_in(basic: str) -> str:
    try:
        return base64.b64decode(basic, validate=False).decode("utf-8", "replace").partition(":")[2]
    except ValueError:
        return ""


def has_secret(text: str) -> bool:
    """Return whether an id holds a whole secret. Cheaper than ``scrubbed``."""
    for form in _forms.long:  # noqa: SIM110 - thousands of ids are looked at on an event loop: twice as fast as any()
        if form in text:
            return True
    return False


def scrubbed(text: str) -> str:
    """Return a text without terminal codes, and with ``***`` in place of secrets and of pieces of them."""
    text = _KEY_LIKE.sub(lambda match: f"{match[1] or ''}{MASK}", _ANSI.sub("", text))
    forms = _forms
    if forms.short is not None:
        text = forms.short.sub(MASK, text)
    if not forms.pieces:
        return text
    kept: list[str] = []
    done = i = 0
    while i <= len(text) - _PIECE:
        if text[i : i + _PIECE] not in forms.pieces:
            i += 1
            continue
        kept += [text[done:i], MASK]
        i += 1
        while text[i : i + _PIECE] in forms.pieces:
            i += 1
        done = i = i + _PIECE - 1
    return "".join([*kept, text[done:]])


# An apostrophe inside a word is no quote; one without its end, as in a message that was cut, quotes the rest.
_QUOTED = re.compile(
    r"(?<!\w)(?:'(?P<a>.*?)(?:'(?!\w)|\Z)|\"(?P<b>.*?)(?:\"(?!\w)|\Z)|`(?P<c>.*?)(?:`(?!\w)|\Z)|“(?P<d>.*?)(?:”|\Z))",
    re.DOTALL,
)

_NAME = re.compile(
    r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?:[.\[][\w.\[\]]*)?|[a-z]\w*(?:\.[a-z_]\w*|\[\d*\])+|\$\.[\w.\[\]]{1,60}"
)
"""A parameter's name, as ``max_output_tokens`` or ``messages[0].content``: what a message is useless without."""

_TYPES = frozenset({"str", "int", "float", "bool", "null", "array", "object", "number", "string", "integer", "boolean"})

_MIN_SHARED = 12
"""Characters in a row that a message and a row share, if they are no accident."""

LEFT_OUT = "…"

_CLOSING = ("'", '"', "`", "”")


def without_values(message: str, values: Iterable[str] = (), names: Collection[str] = ()) -> str:
    """Return an error message without what it quotes of a row: only that may stand in XCom and logs.

    Quoted texts are left out, but for names of parameters; and so is whatever stands in the row too.

    Args:
        message: OpenAI's message.
        values: The texts of the row that it is about, as far as they are known.
        names: What may be quoted besides: parameters of the request, which are no values of a row.
    """
    values = [value for value in values if value]

    def shown(match: re.Match[str]) -> str:
        inner = next(group for group in match.groups() if group is not None)
        if inner in _TYPES or inner in names:
            return match[0]
        is_name = len(inner) <= 80 and _NAME.fullmatch(inner) is not None
        if is_name and not any(inner in value for value in values):
            return match[0]
        return f"{match[0][0]}{LEFT_OUT}{match[0][-1] if match[0][1:].endswith(_CLOSING) else ''}"

    message = _QUOTED.sub(shown, message)
    for value in values:
        message = _without(message, value)
    return message


def _without(message: str, value: str) -> str:
    """Leave out of a message what it shares with a value: the whole value, or many characters in a row."""
    if len(value) < _MIN_SHARED:
        pattern = rf"(?<!\w){re.escape(value)}(?!\w)"
        return re.sub(pattern, LEFT_OUT, message) if len(value) >= _MIN_SECRET else message
    kept: list[str] = []
    done = i = 0
    while i <= len(message) - _MIN_SHARED:
        if message[i : i + _MIN_SHARED] not in value:
            i += 1
            continue
        end = i + _MIN_SHARED
        while end < len(message) and message[i : end + 1] in value:
            end += 1
        kept += [message[done:i], LEFT_OUT]
        done = i = end
    return "".join([*kept, message[done:]])
