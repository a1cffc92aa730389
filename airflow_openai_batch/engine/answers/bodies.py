"""Reading the body of a 200 response into an outcome, by endpoint. Only the fields that are kept are decoded."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from airflow_openai_batch.engine.answers.classify import (
    Body,
    Reader,
    calls_or_text,
    classify,
    fill,
    refuse,
    truncate,
)
from airflow_openai_batch.engine.answers.line_errors import error_of, fail
from airflow_openai_batch.engine.endpoints import EMBEDDINGS
from airflow_openai_batch.engine.model import Outcome, Status


class _Content(msgspec.Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None


class _Message(msgspec.Struct):
    content: str | list[_Content] | None = None
    """A text; compatible servers also send a list of parts, as requests may have it."""
    refusal: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Choices(Body):
    choices: list[_Choice] = msgspec.field(default_factory=list)


class _Vector(msgspec.Struct):
    embedding: str | list[float]
    index: int = 0


class _Embeddings(Body):
    data: list[_Vector] = msgspec.field(default_factory=list)


class _Job(Body):
    status: str | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


class _Moderations(Body):
    results: msgspec.Raw = msgspec.Raw(b"null")


class _Images(Body):
    data: msgspec.Raw = msgspec.Raw(b"null")


_TEXT_PARTS = ("text", "output_text")


def _read_choices(outcome: Outcome, data: bytes, read: Reader) -> None:
    """Read Chat Completions and Completions. With ``n`` > 1 the output is a JSON array of the texts.

    OpenAI's API reference: the finish reasons `length` and `content_filter`, and `refusal` in place of `content`.
    """
    body = _decode_choices(data)
    if not body.choices:
        raise ValueError("it has no choices")
    first = body.choices[0]
    fill(outcome, body, first.finish_reason)
    answers = [_answer_of(choice, read) for choice in body.choices]
    refusal = next((refused for choice in body.choices if (refused := _refusal_of(choice.message))), None)
    if refusal:
        outcome.output = None
        return refuse(outcome, "refusal", refusal)
    if any(choice.finish_reason == "content_filter" for choice in body.choices):
        outcome.output, _ = answers[0]
        return refuse(outcome, "content_filter", "The answer was withheld by the content filter.")
    if any(choice.finish_reason == "length" for choice in body.choices):
        outcome.output, _ = answers[0]
        return truncate(outcome, "length")
    return classify(outcome, *answers)


def _answer_of(choice: _Choice, read: Reader) -> tuple[str, Reader]:
    message = choice.message
    if message is None:
        return choice.text or "", read
    text = _text_of(message)
    if not message.tool_calls:
        return text, read
    # Text beside the calls goes before them, as a content part of Chat Completions.
    text_parts = [msgspec.json.encode({"type": "text", "text": text})] if text else []
    return calls_or_text([*text_parts, *message.tool_calls], text, read)


def _text_of(message: _Message) -> str:
    """Return the text of a message: of a list of parts those of text, without reasoning and other kinds."""
    if not isinstance(message.content, list):
        return message.content or ""
    return "".join(part.text for part in message.content if part.text is not None and part.type in _TEXT_PARTS)


def _refusal_of(message: _Message | None) -> str | None:
    if message is None or message.refusal or not isinstance(message.content, list):
        return message.refusal if message is not None else None
    return next((part.refusal for part in message.content if part.refusal), None)


def _read_embeddings(outcome: Outcome, data: bytes, read: Reader) -> None:
    body = _decode_embeddings(data)
    fill(outcome, body)
    if not body.data:
        raise ValueError("it has no embedding")
    outcome.output = [_vector(entry.embedding) for entry in sorted(body.data, key=lambda entry: entry.index)]
    outcome.status = Status.SUCCEEDED


def _vector(value: str | list[float]) -> Any:
    """Return an embedding as an array of float32. OpenAI's SDK: base64 holds little-endian float32."""
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
    fill(outcome, body)
    classify(outcome, (_present(body.results), read))


def _read_images(outcome: Outcome, data: bytes, read: Reader) -> None:
    body = _decode_images(data)
    fill(outcome, body)
    classify(outcome, (_present(body.data), read))


def _present(raw: msgspec.Raw) -> str:
    text = bytes(raw).decode()
    if text in ("null", "[]"):
        raise ValueError("it holds no result")
    return text


def read_as_is(outcome: Outcome, data: bytes, read: Reader) -> None:
    """Read the answer of an endpoint that OpenAI does not have: the output is the body as it is.

    Args:
        outcome: The outcome to fill in.
        data: The body as JSON.
        read: Reads and validates the output.

    Raises:
        UnicodeError: The body is not UTF-8.
    """
    with contextlib.suppress(msgspec.MsgspecError):  # model and usage, if they are where they are elsewhere
        fill(outcome, _decode_plain(data))
    classify(outcome, (data.decode(), read))


def _read_video(outcome: Outcome, data: bytes, read: Reader) -> None:
    """Read a video. OpenAI's guide: in a batch, its body is that of the finished video, which may have failed."""
    body = _decode_video(data)
    fill(outcome, body, body.status)
    if body.status == "failed":
        return fail(outcome, error_of(body.error))
    return classify(outcome, (data.decode(), read))


_decode_choices = msgspec.json.Decoder(_Choices).decode

_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode

_decode_moderations = msgspec.json.Decoder(_Moderations).decode

_decode_images = msgspec.json.Decoder(_Images).decode

_decode_video = msgspec.json.Decoder(_Job).decode

_decode_plain = msgspec.json.Decoder(Body).decode


CALLS = frozenset({"function_call", "custom_tool_call"})
"""Types of response items that call a tool of the user: if there are any, the answer is the calls."""


class _Item(msgspec.Struct):
    type: str = ""
    content: list[_Content] | None = None


class _Reason(msgspec.Struct):
    reason: str | None = None


class _ResponsesBody(Body):
    status: str | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")
    incomplete_details: _Reason | None = None
    output: list[msgspec.Raw] = msgspec.field(default_factory=list)


def read_responses(outcome: Outcome, data: bytes, read: Reader) -> None:
    """Read a body of the Responses API. Of several message items the last one counts.

    Seen: in 557 of 233,124 real lines the first item held a truncated answer, and a later one the whole answer.

    Args:
        outcome: The outcome to fill in.
        data: The body as JSON.
        read: Reads and validates an answer's text.

    Raises:
        msgspec.MsgspecError: The body is not an object of the expected form.
        ValueError: It has neither a message nor a tool call.
    """
    body = _decode_body(data)
    reason = body.incomplete_details.reason if body.incomplete_details is not None else None
    fill(outcome, body, reason or body.status)
    error = error_of(body.error)
    if body.status == "failed" or error is not None:
        return fail(outcome, error)
    content = _content_of(body.output)
    outcome.output = content.texts[-1] if content.texts else None
    if body.status == "incomplete" or body.incomplete_details is not None:
        if reason == "content_filter":
            return refuse(outcome, "content_filter", "The answer was withheld by the content filter.")
        return truncate(outcome, reason or "incomplete")
    if content.refusal is not None:
        return refuse(outcome, "refusal", content.refusal)
    last = content.texts[-1] if content.texts else ""
    text = next((text for text in reversed(content.texts) if read(text)[1] is None), last)
    if content.calls:
        return classify(outcome, calls_or_text(content.calls, text, read))
    if not content.has_message:
        raise ValueError("it has no message")
    return classify(outcome, (text, read))


class _ResponseContent(NamedTuple):
    """The content of a response.

    Attributes:
        texts: The texts of its messages that are not empty.
        has_message: Whether there is a message, even an empty one.
        refusal: The refusal of the last message, if there is one.
        calls: The tool calls as JSON, with the messages between them.
    """

    texts: list[str]
    has_message: bool
    refusal: str | None
    calls: list[msgspec.Raw]


def _content_of(raws: list[msgspec.Raw]) -> _ResponseContent:
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
    call_types: set[str] = set()
    if any(item.type in CALLS for item in items):
        call_types = {*CALLS, "message"}
    elif not has_message:  # the answer consists of calls of OpenAI's own tools
        call_types = {item.type for item in items if item.type.endswith("_call")}
    calls = [raw for raw, item in zip(raws, items, strict=True) if item.type in call_types]
    return _ResponseContent(texts, has_message, refusal, calls)


_decode_body = msgspec.json.Decoder(_ResponsesBody).decode

_decode_item = msgspec.json.Decoder(_Item).decode

READERS: dict[str, Callable[[Outcome, bytes, Reader], None]] = {
    "/v1/chat/completions": _read_choices,
    "/v1/completions": _read_choices,
    "/v1/responses": read_responses,
    EMBEDDINGS: _read_embeddings,
    "/v1/moderations": _read_moderations,
    "/v1/images/generations": _read_images,
    "/v1/images/edits": _read_images,
    "/v1/videos": _read_video,
}
