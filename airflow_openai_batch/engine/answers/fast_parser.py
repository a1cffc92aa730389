"""The usual good line, read in one go: what nearly every line of an output file is.

A line of any other form is refused here (``None``, or an exception of msgspec), and read with more care elsewhere.
What is read here, the careful way would read alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import msgspec

from airflow_openai_batch.engine.answers.bodies import CALLS
from airflow_openai_batch.engine.endpoints import EMBEDDINGS
from airflow_openai_batch.engine.model import Outcome, Status, Usage

Line = bytes | memoryview

Fields = Callable[[str], tuple[Any, ...] | None]
"""Reads the fields of a good answer's text. Raises `ValueError` or an error of msgspec if it may not be good."""

Row = tuple[str, Any, str | None, str | None, int, int, int, int, str | None, tuple[Any, ...] | None]
"""A good outcome: the values of `COLUMNS`. A tuple, because it is made in a third of the time of an `Outcome`."""

COLUMNS = ("custom_id", "output", "finish_reason", "model", *Usage.__struct_fields__, "request_id", "fields")

UNREADABLE = (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError)
"""What reading a line raises if it is of another form, or no JSON at all."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class _Kept(msgspec.Struct, gc=False):
    """Base of what is decoded. Without cycles, so not the collector's business."""


class _Details(_Kept):
    cached_tokens: Count = 0
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
    """Base64 in the line, as this package asks for."""


class _Vectors(_Kept):
    data: list[_Vector]
    usage: _ChatUsage
    model: str | None = None


def _lines_with(body: Any) -> Callable[[Line], Any]:
    """Return the decoder of lines whose answer has this form."""
    response = msgspec.defstruct(
        "_Response", [("status_code", Literal[200]), ("body", body), ("request_id", str)], bases=(_Kept,), gc=False
    )
    line = msgspec.defstruct(
        "_Line", [("custom_id", str), ("response", response), ("error", None, None)], bases=(_Kept,), gc=False
    )
    return msgspec.json.Decoder(line).decode


_decode_answer, _decode_completion, _decode_vectors = map(_lines_with, (_Answer, _Completion, _Vectors))


def _read_answers(lines: Sequence[Line], fields: Fields | None) -> list[Row | None]:
    # All in one loop, and no truth of a struct asked: calls and such questions cost as much as reading a line.
    rows: list[Row | None] = []
    for line in lines:
        row = None
        try:
            found = _decode_answer(line)
            response = found.response
            body = response.body
            items = body.output
            content = items[0].content if len(items) == 1 and items[0].type == "message" else _content(items)
            if content is not None:
                text = content[0].text if len(content) == 1 else "".join([part.text for part in content])
                usage = body.usage
                before, after = usage.input_tokens_details, usage.output_tokens_details
                if text:
                    row = (
                        found.custom_id,
                        text,
                        "completed",
                        body.model,
                        usage.input_tokens,
                        before.cached_tokens if before is not None else 0,
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
    """Return the content of the one message, if there is nothing beside it that counts."""
    messages = [item for item in items if item.type == "message"]
    is_all = len(messages) == 1 and not any(item.type in CALLS for item in items)
    return messages[0].content if is_all else None


def _read_completions(lines: Sequence[Line], fields: Fields | None) -> list[Row | None]:
    rows: list[Row | None] = []
    for line in lines:
        row = None
        try:
            found = _decode_completion(line)
            (choice,) = found.response.body.choices
            text, reason = choice.message.content, choice.finish_reason
            if text and reason not in ("length", "content_filter"):
                row = _row(found, text, reason, fields(text) if fields is not None else None)
        except UNREADABLE:
            pass
        rows.append(row)
    return rows


def _read_vectors(lines: Sequence[Line], fields: Fields | None) -> list[Row | None]:
    import numpy as np

    rows: list[Row | None] = []
    for line in lines:
        row = None
        try:
            found = _decode_vectors(line)
            (vector,) = found.response.body.data
            if vector.embedding and len(vector.embedding) % 4 == 0:
                row = _row(found, [np.frombuffer(vector.embedding, dtype="<f4")], None, None)
        except UNREADABLE:
            pass
        rows.append(row)
    return rows


def _row(found: Any, output: Any, finish_reason: str | None, fields: tuple[Any, ...] | None) -> Row:
    """Return the outcome of a line whose usage is counted as Chat Completions counts it."""
    body = found.response.body
    usage = body.usage
    before, after = usage.prompt_tokens_details, usage.completion_tokens_details
    return (
        found.custom_id,
        output,
        finish_reason,
        body.model,
        usage.prompt_tokens,
        before.cached_tokens if before is not None else 0,
        usage.completion_tokens,
        after.reasoning_tokens if after is not None else 0,
        found.response.request_id,
        fields,
    )


def outcome_of(row: Row) -> Outcome:
    """Return a good outcome as an object."""
    values = dict(zip(COLUMNS, row, strict=True))
    usage = Usage(**{kind: values.pop(kind) for kind in Usage.__struct_fields__})
    return Outcome(status=Status.SUCCEEDED, usage=usage, **values)


def row_of(outcome: Outcome) -> Row:
    """Return what a good outcome and another have in common as a row, for columns of both."""
    usage = outcome.usage
    return (
        outcome.custom_id,
        outcome.output,
        outcome.finish_reason,
        outcome.model,
        usage.input_tokens,
        usage.cached_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        outcome.request_id,
        outcome.fields,
    )


ReadUsual = Callable[[Sequence[Line], Fields | None], list[Row | None]]

USUAL: dict[str, ReadUsual] = {
    "/v1/responses": _read_answers,
    "/v1/chat/completions": _read_completions,
    EMBEDDINGS: _read_vectors,
}
"""What reads the usual lines of an endpoint; None for a line that is not one."""
