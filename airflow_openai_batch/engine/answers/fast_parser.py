"""The fast parser: reads the lines of good answers, nearly all lines of an output file, with one typed decoding each.

It returns None for a line of any other form, which ``parser`` then reads carefully. A line that it accepts, the careful
parser reads alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import msgspec

from airflow_openai_batch.engine.answers.bodies import CALLS
from airflow_openai_batch.engine.endpoints import EMBEDDINGS
from airflow_openai_batch.engine.model import Outcome, Usage

Line = bytes | memoryview

Fields = Callable[[str], tuple[Any, ...] | None]
"""Reads the fields of a good answer's text. Raises `ValueError` or an error of msgspec if it may be invalid."""

FastRow = tuple[str, Any, str | None, str | None, int, int, int, int, int, str | None, tuple[Any, ...] | None]
"""A good outcome: the values of `COLUMNS`. A tuple, which takes a third of the time of an `Outcome` to create."""

COLUMNS = ("custom_id", "output", "finish_reason", "model", *Usage.__struct_fields__, "request_id", "fields")

UNREADABLE = (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError)
"""The exceptions of reading a line that is of another form, or not JSON."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class _Kept(msgspec.Struct, gc=False):
    """Base class of decoded objects. They have no cycles, so the garbage collector need not track them."""


class _Details(_Kept):
    cached_tokens: Count = 0
    cache_write_tokens: Count = 0
    reasoning_tokens: Count = 0


class _Usage(_Kept):
    input_tokens: Count
    output_tokens: Count
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _ChatUsage(_Kept):
    prompt_tokens: Count
    completion_tokens: Count = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Text(_Kept):
    type: Literal["output_text"]
    text: str


class _Item(_Kept):
    type: str
    content: list[_Text] | None = None


class _Answer(_Kept):
    status: Literal["completed"]
    output: list[_Item]
    usage: _Usage
    model: str | None = None
    incomplete_details: None = None
    error: None = None


class _Message(_Kept):
    content: str
    refusal: None = None
    tool_calls: None = None


class _Choice(_Kept):
    message: _Message
    finish_reason: str | None = None


class _Completion(_Kept):
    choices: list[_Choice]
    usage: _ChatUsage
    model: str | None = None


class _Vector(_Kept):
    embedding: bytes
    """Base64 in the line, as the requests of this package ask for."""


class _Vectors(_Kept):
    data: list[_Vector]
    usage: _ChatUsage
    model: str | None = None


def _lines_with(body: Any) -> Callable[[Line], Any]:
    """Return the decoder of lines whose body has this type."""
    response = msgspec.defstruct(
        "_Response", [("status_code", Literal[200]), ("body", body), ("request_id", str)], bases=(_Kept,), gc=False
    )
    line = msgspec.defstruct(
        "_Line", [("custom_id", str), ("response", response), ("error", None, None)], bases=(_Kept,), gc=False
    )
    return msgspec.json.Decoder(line).decode


_decode_answer, _decode_completion, _decode_vectors = map(_lines_with, (_Answer, _Completion, _Vectors))


def _read_answers(lines: Sequence[Line], fields: Fields | None) -> list[FastRow | None]:
    # One loop without calls, and without the truth value of a struct: each costs as much as decoding a line.
    rows: list[FastRow | None] = []
    for line in lines:
        row = None
        try:
            decoded = _decode_answer(line)
            response = decoded.response
            body = response.body
            items = body.output
            content = items[0].content if len(items) == 1 and items[0].type == "message" else _content(items)
            if content is not None:
                text = content[0].text if len(content) == 1 else "".join([part.text for part in content])
                usage = body.usage
                before, after = usage.input_tokens_details, usage.output_tokens_details
                if text:
                    row = (
                        decoded.custom_id,
                        text,
                        "completed",
                        body.model,
                        usage.input_tokens,
                        before.cached_tokens if before is not None else 0,
                        before.cache_write_tokens if before is not None else 0,
                        usage.output_tokens,
                        after.reasoning_tokens if after is not None else 0,
                        response.request_id,
                        fields(text) if fields is not None else None,
                    )
        except UNREADABLE:
            pass
        rows.append(row)
    return rows


def _content(items: list[_Item]) -> list[_Text] | None:
    """Return the content of the only message, or None if there are several or calls of the user's tools."""
    messages = [item for item in items if item.type == "message"]
    is_all = len(messages) == 1 and not any(item.type in CALLS for item in items)
    return messages[0].content if is_all else None


def _read_completions(lines: Sequence[Line], fields: Fields | None) -> list[FastRow | None]:
    rows: list[FastRow | None] = []
    for line in lines:
        row = None
        try:
            decoded = _decode_completion(line)
            (choice,) = decoded.response.body.choices
            text, reason = choice.message.content, choice.finish_reason
            if text and reason not in ("length", "content_filter"):
                row = _row(decoded, text, reason, fields(text) if fields is not None else None)
        except UNREADABLE:
            pass
        rows.append(row)
    return rows


def _read_vectors(lines: Sequence[Line], fields: Fields | None) -> list[FastRow | None]:
    import numpy as np

    rows: list[FastRow | None] = []
    for line in lines:
        row = None
        try:
            decoded = _decode_vectors(line)
            (vector,) = decoded.response.body.data
            if vector.embedding and len(vector.embedding) % 4 == 0:
                row = _row(decoded, [np.frombuffer(vector.embedding, dtype="<f4")], None, None)
        except UNREADABLE:
            pass
        rows.append(row)
    return rows


def _row(decoded: Any, output: Any, finish_reason: str | None, fields: tuple[Any, ...] | None) -> FastRow:
    """Return the outcome of a line whose usage has the names of Chat Completions."""
    body = decoded.response.body
    usage = body.usage
    before, after = usage.prompt_tokens_details, usage.completion_tokens_details
    return (
        decoded.custom_id,
        output,
        finish_reason,
        body.model,
        usage.prompt_tokens,
        before.cached_tokens if before is not None else 0,
        before.cache_write_tokens if before is not None else 0,
        usage.completion_tokens,
        after.reasoning_tokens if after is not None else 0,
        decoded.response.request_id,
        fields,
    )


def row_of(outcome: Outcome) -> FastRow:
    """Return the values of `COLUMNS` of an outcome, good or not."""
    usage = outcome.usage
    return (
        outcome.custom_id,
        outcome.output,
        outcome.finish_reason,
        outcome.model,
        usage.input_tokens,
        usage.cached_tokens,
        usage.cache_write_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        outcome.request_id,
        outcome.fields,
    )


FastReader = Callable[[Sequence[Line], Fields | None], list[FastRow | None]]

FAST_READERS: dict[str, FastReader] = {
    "/v1/responses": _read_answers,
    "/v1/chat/completions": _read_completions,
    EMBEDDINGS: _read_vectors,
}
"""The fast parser of each endpoint that has one."""
