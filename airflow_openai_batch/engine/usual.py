"""The usual good line, read in one go: what nearly every line of an output file is.

A line of any other form is refused here (``None``, or an exception of msgspec), and read with more care elsewhere.
What is read here, the careful way would read alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from airflow_openai_batch.engine.answers import Reader
from airflow_openai_batch.engine.endpoints import EMBEDDINGS
from airflow_openai_batch.engine.model import Outcome, Status, Usage

Line = bytes | memoryview
Count = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class _Kept(msgspec.Struct, gc=False):
    """Base of what is decoded. Without cycles, so not the collector's business."""


class _Details(_Kept):
    cached_tokens: Count = 0
    reasoning_tokens: Count = 0


_NO_DETAILS = _Details()


class _Usage(_Kept):
    input_tokens: Count = 0
    output_tokens: Count = 0
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _ChatUsage(_Kept):
    prompt_tokens: Count = 0
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


def _read_answer(line: Line, read: Reader) -> Outcome | None:
    found = _decode_answer(line)
    body = found.response.body
    content: list[_Text] | None = None
    for item in body.output:
        if item.type == "message":
            if content is not None:
                return None
            content = item.content
        elif item.type == "function_call":
            return None
    if not content:
        return None
    usage = body.usage
    before, after = usage.input_tokens_details or _NO_DETAILS, usage.output_tokens_details or _NO_DETAILS
    return _good(
        found,
        content[0].text if len(content) == 1 else "".join([part.text for part in content]),
        "completed",
        Usage(
            input_tokens=usage.input_tokens,
            cached_tokens=before.cached_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=after.reasoning_tokens,
        ),
        read,
    )


def _read_completion(line: Line, read: Reader) -> Outcome | None:
    found = _decode_completion(line)
    body = found.response.body
    if len(body.choices) != 1 or body.choices[0].finish_reason in ("length", "content_filter"):
        return None
    choice = body.choices[0]
    return _good(found, choice.message.content, choice.finish_reason, _chat_usage(body.usage), read)


def _chat_usage(usage: _ChatUsage) -> Usage:
    before, after = usage.prompt_tokens_details or _NO_DETAILS, usage.completion_tokens_details or _NO_DETAILS
    return Usage(
        input_tokens=usage.prompt_tokens,
        cached_tokens=before.cached_tokens,
        output_tokens=usage.completion_tokens,
        reasoning_tokens=after.reasoning_tokens,
    )


def _good(found: Any, text: str, finish_reason: str | None, usage: Usage, read: Reader) -> Outcome | None:
    fields, problem = read(text)
    if not text or problem is not None:
        return None
    return Outcome(
        custom_id=found.custom_id,
        status=Status.SUCCEEDED,
        output=text,
        finish_reason=finish_reason,
        model=found.response.body.model,
        usage=usage,
        request_id=found.response.request_id,
        fields=fields,
    )


def _read_vector(line: Line, read: Reader) -> Outcome | None:
    import numpy as np

    found = _decode_vectors(line)
    body = found.response.body
    if len(body.data) != 1 or len(body.data[0].embedding) % 4:
        return None
    return Outcome(
        custom_id=found.custom_id,
        status=Status.SUCCEEDED,
        output=[np.frombuffer(body.data[0].embedding, dtype="<f4")],
        model=body.model,
        usage=_chat_usage(body.usage),
        request_id=found.response.request_id,
    )


USUAL: dict[str, Callable[[Line, Reader], Outcome | None]] = {
    "/v1/responses": _read_answer,
    "/v1/chat/completions": _read_completion,
    EMBEDDINGS: _read_vector,
}
"""What reads the usual line of an endpoint."""
