"""The body of a good answer, by endpoint, becomes an outcome. Only the fields that are kept are decoded.

A 200 answer is not yet a good one: it may be refused, cut off, filtered, or break the schema.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
CALLS = frozenset({"function_call", "custom_tool_call"})
"""Items of a response that call a tool of the user's: with them the answer is the calls, whatever is said beside."""


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
    usage: msgspec.Raw = msgspec.Raw(b"null")
    """Not ``Raw | None``, which to msgspec is null and nothing else."""


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


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
    try:
        usage = _decode_usage(body.usage)
    except msgspec.MsgspecError:  # an odd count makes an answer no worse
        usage = None
    outcome.usage = usage.usage() if usage is not None else Usage()
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
    texts = [_choice_text(choice, read) for choice in body.choices]
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


def _choice_text(choice: _Choice, read: Reader) -> str:
    message = choice.message
    if message is None:
        return choice.text or ""
    text = message.content or ""
    if not message.tool_calls or _is_structured(text, read):
        return text
    # What is said beside the calls goes before them, as a content part of Chat Completions.
    said = [msgspec.json.encode({"type": "text", "text": text})] if text else []
    return _array_of([*said, *message.tool_calls])


def _is_structured(text: str, read: Reader) -> bool:
    """Say whether a text beside calls is itself the answer that the schema asks for."""
    return bool(text) and read(text)[0] is not None


def _array_of(items: Sequence[Any]) -> str:
    return b"[%b]".__mod__(b",".join(map(bytes, items))).decode()


def _read_responses(outcome: Outcome, data: bytes, read: Reader) -> None:
    """Responses. There can be several message items, and an earlier one can be a fragment: the last counts.

    Seen in 557 of 233,124 real lines: the first item held a cut-off answer, a later one the whole.
    """
    body = _decode_responses(data)
    reason = body.incomplete_details.reason if body.incomplete_details is not None else None
    _fill(outcome, body, reason or body.status)
    if body.status == "failed" or body.error is not None:
        error = body.error or Error()
        outcome.error_code, outcome.error_message = str(error.code or error.type or "failed"), error.message
        outcome.retryable = outcome.error_code in PASSING_CODES
        return None
    found = _found_in(body.output)
    outcome.output = found.texts[-1] if found.texts else None
    if body.status == "incomplete" or body.incomplete_details is not None:
        if reason == "content_filter":
            return _refuse(outcome, "content_filter", "The answer was withheld by the content filter.")
        return _truncate(outcome, reason or "incomplete")
    if found.refusal is not None:
        return _refuse(outcome, "refusal", found.refusal)
    good = next((text for text in reversed(found.texts) if read(text)[1] is None), None)
    if found.calls and not (good and _is_structured(good, read)):
        return _judge(outcome, [_array_of(found.calls)], lambda _: (None, None))
    if not found.has_message:
        raise ValueError("it has no message")
    return _judge(outcome, [good or (found.texts or [""])[-1]], read)


class _Found(NamedTuple):
    """What counts of the items of a response.

    Attributes:
        texts: The texts of its messages, but for empty ones.
        has_message: Whether there is a message, if only an empty one.
        refusal: What the last message refuses with.
        calls: The calls as they came, and the messages beside them.
    """

    texts: list[str]
    has_message: bool
    refusal: str | None
    calls: list[msgspec.Raw]


def _found_in(raws: list[msgspec.Raw]) -> _Found:
    items = [_decode_item(raw) for raw in raws]
    texts: list[str] = []
    has_message, refusal = False, None
    for content in [item.content for item in items if item.type == "message" and item.content]:
        has_message = True
        text = "".join(part.text for part in content if part.text is not None and part.type != "refusal")
        refused = next((part.refusal for part in content if part.refusal), None)
        if text or refused:
            refusal = refused
        if text:
            texts.append(text)
    kinds: set[str] = set()
    if any(item.type in CALLS for item in items):
        kinds = {*CALLS, "message"}
    elif not has_message:  # then what OpenAI's own tools have done is all there is
        kinds = {item.type for item in items if item.type.endswith("_call")}
    return _Found(
        texts, has_message, refusal, [raw for raw, item in zip(raws, items, strict=True) if item.type in kinds]
    )


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

    if not value:
        raise ValueError("the embedding is empty")
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


_decode_usage = msgspec.json.Decoder(_Usage | None).decode
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
