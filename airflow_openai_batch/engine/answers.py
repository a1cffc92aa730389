"""The body of a good answer, by endpoint, becomes an outcome. Only the fields that are kept are decoded.

A 200 answer is not yet a good one: it may be refused, cut off, filtered, or break the schema.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from airflow_openai_batch.engine.endpoints import EMBEDDINGS
from airflow_openai_batch.engine.model import Outcome, Status, Usage
from airflow_openai_batch.engine.schema import Read

_MAX_COUNT = 2**40

Reader = Callable[[str], Read]
"""Reads an answer's text: the values of its fields, and what is wrong with it."""

PASSING_CODES = frozenset(
    {"batch_expired", "batch_cancelled", "request_timeout", "server_error", "rate_limit_exceeded", "no_answer"}
)
"""Error codes after which the same request may fare better."""


class Error(msgspec.Struct):
    """An error, in a line, in the body of an answer, or in place of one."""

    code: str | int | None = None
    message: str | None = None
    type: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    """Both namings: Chat, Completions and Embeddings count prompt and completion; Responses input and output."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None

    def usage(self) -> Usage:
        """Return the counts under their newer names."""
        before = self.input_tokens_details or self.prompt_tokens_details or _Details()
        after = self.output_tokens_details or self.completion_tokens_details or _Details()
        return Usage(
            input_tokens=_count(self.input_tokens or self.prompt_tokens),
            cached_tokens=_count(before.cached_tokens),
            output_tokens=_count(self.output_tokens or self.completion_tokens),
            reasoning_tokens=_count(after.reasoning_tokens),
        )


def _count(n: int | None) -> int:
    """Keep a count within what a column can hold: nonsense in one line must not stop a harvest."""
    return max(0, min(n or 0, _MAX_COUNT))


class _Body(msgspec.Struct):
    model: str | None = None
    usage: _Usage | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: msgspec.Raw = msgspec.Raw(b"null")
    """Not ``Raw | None``, which to msgspec is null and nothing else."""


class _Choice(msgspec.Struct):
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Choices(_Body):
    choices: list[_Choice] = []


class _Content(msgspec.Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None


class _Item(msgspec.Struct):
    type: str = ""
    content: list[_Content] | None = None


class _Reason(msgspec.Struct):
    reason: str | None = None


class _ResponsesBody(_Body):
    status: str | None = None
    error: Error | None = None
    incomplete_details: _Reason | None = None
    output: list[msgspec.Raw] = []


class _Vector(msgspec.Struct):
    embedding: str | list[float]
    index: int = 0


class _Embeddings(_Body):
    data: list[_Vector] = []


class _Job(_Body):
    status: str | None = None
    error: Error | None = None


class _Moderations(_Body):
    results: msgspec.Raw = msgspec.Raw(b"null")


class _Images(_Body):
    data: msgspec.Raw = msgspec.Raw(b"null")


def _fill(outcome: Outcome, body: _Body, finish_reason: str | None = None) -> None:
    outcome.model = body.model
    outcome.usage = body.usage.usage() if body.usage is not None else Usage()
    outcome.finish_reason = finish_reason


def _judge(outcome: Outcome, texts: Sequence[str], read: Reader) -> None:
    """Take the texts as the answer, and check each. An empty text is no answer."""
    outcome.output = texts[0] if len(texts) == 1 else msgspec.json.encode(texts).decode()
    if not all(texts):
        outcome.status = Status.INVALID
        outcome.error_code, outcome.error_message = "empty_answer", "The answer is empty."
        return
    found = [read(text) for text in texts]
    wrong = next((problem for _, problem in found if problem is not None), None)
    if wrong is None:
        outcome.status = Status.SUCCEEDED
        # Of several answers, which stand in the output as an array, none is the row's own.
        outcome.fields = found[0][0] if len(found) == 1 else None
    else:
        outcome.status = Status.INVALID
        outcome.error_code, outcome.error_message = "schema_mismatch", wrong[:2000]


def _refuse(outcome: Outcome, code: str, message: str | None) -> None:
    outcome.status = Status.REFUSED
    outcome.error_code, outcome.error_message = code, message


def _truncate(outcome: Outcome, reason: str) -> None:
    outcome.status = Status.TRUNCATED
    outcome.error_code, outcome.error_message = reason, "The answer was cut off; allow more output tokens."


def _read_choices(outcome: Outcome, data: bytes, read: Reader) -> None:
    """Chat Completions and Completions. With ``n`` > 1 the output is a JSON array of the texts."""
    body = _decode_choices(data)
    if not body.choices:
        raise ValueError("it has no choices")
    first = body.choices[0]
    _fill(outcome, body, first.finish_reason)
    texts = [_choice_text(choice) for choice in body.choices]
    refusal = next((c.message.refusal for c in body.choices if c.message is not None and c.message.refusal), None)
    if refusal:
        outcome.output = None
        return _refuse(outcome, "refusal", refusal)
    if any(choice.finish_reason == "content_filter" for choice in body.choices):
        outcome.output = texts[0]
        return _refuse(outcome, "content_filter", "The answer was withheld by the content filter.")
    if any(choice.finish_reason == "length" for choice in body.choices):
        outcome.output = texts[0]
        return _truncate(outcome, "length")
    return _judge(outcome, texts, read)


def _choice_text(choice: _Choice) -> str:
    message = choice.message
    if message is None:
        return choice.text or ""
    calls = bytes(message.tool_calls)
    if message.content is None and calls not in (b"null", b"[]"):
        return calls.decode()
    return message.content or ""


def _read_responses(outcome: Outcome, data: bytes, read: Reader) -> None:
    """Responses. There can be several message items, and an earlier one can be a fragment: the last counts.

    Seen in 557 of 233,124 real lines: the first item held a cut-off answer, a later one the whole.
    """
    body = _decode_responses(data)
    reason = body.incomplete_details.reason if body.incomplete_details is not None else None
    _fill(outcome, body, reason or body.status)
    if body.status == "failed":
        error = body.error or Error()
        outcome.error_code, outcome.error_message = str(error.code or "failed"), error.message
        outcome.retryable = outcome.error_code in PASSING_CODES
        return None
    texts, refusal, calls = _messages(body.output)
    outcome.output = texts[-1] if texts else None
    if body.status == "incomplete":
        if reason == "content_filter":
            return _refuse(outcome, "content_filter", "The answer was withheld by the content filter.")
        return _truncate(outcome, reason or "incomplete")
    if refusal is not None and not texts:
        return _refuse(outcome, "refusal", refusal)
    if not texts and calls:
        return _judge(outcome, [b"[%b]".__mod__(b",".join(calls)).decode()], lambda _: (None, None))
    if not texts:
        raise ValueError("it has no message")
    good = next((text for text in reversed(texts) if read(text)[1] is None), texts[-1])
    return _judge(outcome, [good], read)


def _messages(items: list[msgspec.Raw]) -> tuple[list[str], str | None, list[bytes]]:
    """Return the texts of the message items, the refusal if there is one, and the raw function calls."""
    texts: list[str] = []
    refusal: str | None = None
    calls: list[bytes] = []
    for raw in items:
        item = _decode_item(raw)
        if item.type == "function_call":
            calls.append(bytes(raw))
        if item.type != "message" or not item.content:
            continue
        parts = [part.text for part in item.content if part.text is not None and part.type != "refusal"]
        if parts:
            texts.append("".join(parts))
        refusal = next((part.refusal for part in item.content if part.refusal), refusal)
    return texts, refusal, calls


def _read_embeddings(outcome: Outcome, data: bytes, read: Reader) -> None:
    body = _decode_embeddings(data)
    _fill(outcome, body)
    if not body.data:
        raise ValueError("it has no embedding")
    outcome.output = [_vector(entry.embedding) for entry in sorted(body.data, key=lambda entry: entry.index)]
    outcome.status = Status.SUCCEEDED


def _vector(value: str | list[float]) -> Any:
    """Return float32 numbers; base64 text is little-endian float32."""
    import numpy as np

    if isinstance(value, str):
        try:
            return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4")
        except binascii.Error as error:
            raise ValueError(f"the embedding is no base64: {error}") from None
    return np.asarray(value, dtype=np.float32)


def _read_moderations(outcome: Outcome, data: bytes, read: Reader) -> None:
    body = _decode_moderations(data)
    _fill(outcome, body)
    _judge(outcome, [_present(body.results)], read)


def _read_images(outcome: Outcome, data: bytes, read: Reader) -> None:
    body = _decode_images(data)
    _fill(outcome, body)
    _judge(outcome, [_present(body.data)], read)


def _present(raw: msgspec.Raw) -> str:
    text = bytes(raw).decode()
    if text in ("null", "[]"):
        raise ValueError("it holds no result")
    return text


def read_other(outcome: Outcome, data: bytes, read: Reader) -> None:
    """Read a video, or whatever comes next: the body as it is, unless it says that it failed."""
    body = _decode_video(data)
    _fill(outcome, body, body.status)
    if body.status == "failed":
        error = body.error or Error()
        outcome.status = Status.FAILED
        outcome.error_code, outcome.error_message = str(error.code or "failed"), error.message
        outcome.retryable = outcome.error_code in PASSING_CODES
        return
    _judge(outcome, [data.decode()], read)


_decode_choices = msgspec.json.Decoder(_Choices).decode
_decode_responses = msgspec.json.Decoder(_ResponsesBody).decode
_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode
_decode_moderations = msgspec.json.Decoder(_Moderations).decode
_decode_item = msgspec.json.Decoder(_Item).decode
_decode_images = msgspec.json.Decoder(_Images).decode
_decode_video = msgspec.json.Decoder(_Job).decode

READERS: dict[str, Callable[[Outcome, bytes, Reader], None]] = {
    "/v1/chat/completions": _read_choices,
    "/v1/completions": _read_choices,
    "/v1/responses": _read_responses,
    EMBEDDINGS: _read_embeddings,
    "/v1/moderations": _read_moderations,
    "/v1/images/generations": _read_images,
    "/v1/images/edits": _read_images,
}
