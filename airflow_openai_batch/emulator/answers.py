"""What a request is answered: the reply types, the function that chooses one, and the default function."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol
from zlib import crc32

from airflow_openai_batch.emulator.model import JsonObject
from airflow_openai_batch.emulator.schema import make_instance
from airflow_openai_batch.emulator.tokens import prompt_texts


@dataclass(frozen=True, slots=True)
class Text:
    """A plain answer.

    For moderations the text `flagged` makes the input flagged; images put the text into `revised_prompt`; videos and
    embeddings ignore it.
    """

    text: str
    finish_reason: str = "stop"


@dataclass(frozen=True, slots=True)
class Fragmented:
    """A Responses answer in two message items, the first a cut-off copy; elsewhere the same as `Text`.

    Seen: 557 of 233,124 real output lines had a truncated first item (opentargets/mira #70).
    """

    text: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """The model refuses to answer."""

    text: str = "I'm sorry, but I can't help with that."


@dataclass(frozen=True, slots=True)
class Truncated:
    """The answer stops at the token limit."""

    text: str


@dataclass(frozen=True, slots=True)
class Filtered:
    """The answer was removed by the content filter.

    Of a prompt that the filter refuses there is no answer. Azure: it is an error 400 with the code `content_filter`.
    """

    of_prompt: bool = False


@dataclass(frozen=True, slots=True)
class Vectors:
    """Embeddings, one per input."""

    vectors: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Raw:
    """A response body as it is; a status other than 200 goes to the error file."""

    body: JsonObject
    status: int = 200


@dataclass(frozen=True, slots=True)
class HttpError:
    """A request that was answered with an error: `response.status_code` and `response.body.error`.

    `in_output` puts the line into the output file. Seen: lines with status 0 there, counted as completed (OpenAI's
    forum, 2025-11).
    """

    status: int = 500
    code: str | None = "server_error"
    message: str = "An error occurred while processing your request. You can retry your request."
    type: str = "server_error"
    in_output: bool = False


@dataclass(frozen=True, slots=True)
class LineError:
    """A request that was never answered: `response` is null and `error` is set.

    OpenAI: the codes are `batch_expired`, `batch_cancelled` and `request_timeout`.
    """

    code: str = "request_timeout"
    message: str = "The request timed out."


@dataclass(frozen=True, slots=True)
class Missing:
    """No line in either file."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """Arbitrary bytes in place of the line."""

    data: bytes = b'{"id": "batch_req_cut'


TextReply = Text | Fragmented | Refusal | Truncated
ContentReply = TextReply | Filtered | Vectors
LineReply = Raw | HttpError | LineError | Missing | Malformed
Reply = ContentReply | LineReply
Answered = Reply | str | dict[str, Any] | list[Any]


class Answer(Protocol):
    """A function that answers a request. It is called from worker threads."""

    def __call__(self, endpoint: str, body: JsonObject, /) -> Answered:
        """Return the answer to a request.

        Args:
            endpoint: The batch's endpoint, such as `/v1/responses`.
            body: The request's body.

        Returns:
            A text, an object (which becomes JSON text), a list of numbers (one embedding), a list of such lists (one
            embedding per input) or one of the reply types.
        """


def as_reply(answered: Answered) -> Reply:
    """Return the reply that the return value of an answer function stands for."""
    if isinstance(answered, str):
        return Text(answered)
    if isinstance(answered, dict):
        return Text(json.dumps(answered, ensure_ascii=False))
    if isinstance(answered, list):
        is_single = not answered or isinstance(answered[0], int | float)
        return Vectors([answered] if is_single else answered)
    return answered


def default_answer(endpoint: str, body: JsonObject) -> Answered:
    """Answer with a valid instance of the request's JSON schema, or echo the end of its input."""
    if body.get("text") or body.get("response_format"):
        format_type, schema = _response_format(endpoint, body)
        if format_type == "json_schema":
            return json.dumps(make_instance(schema, body_seed(body)), ensure_ascii=False)
        if format_type == "json_object":
            return json.dumps({"echo": _echo(body)}, ensure_ascii=False)
    return _echo(body)


def body_seed(body: JsonObject) -> int:
    """Return a number that depends on nothing but the request's texts."""
    return crc32("\n".join(prompt_texts(body)).encode("utf-8", "surrogatepass"))


def schema_of(endpoint: str, body: JsonObject) -> Any:
    """Return the JSON schema of the answer that a request asks for, None if it asks for none."""
    format_type, schema = _response_format(endpoint, body)
    return schema if format_type == "json_schema" else None


def with_text(reply: Reply, text: str) -> Reply:
    """Return the reply with another text, or unchanged if it has none."""
    return replace(reply, text=text) if isinstance(reply, TextReply) else reply


def _response_format(endpoint: str, body: JsonObject) -> tuple[str, Any]:
    """Return type and schema of the response format. OpenAI: flat in Responses, nested in Chat Completions."""
    is_flat = endpoint == "/v1/responses"
    container = body.get("text") if is_flat else body
    response_format = container.get("format" if is_flat else "response_format") if isinstance(container, dict) else None
    if not isinstance(response_format, dict):
        return "", None
    holder = response_format if is_flat else response_format.get("json_schema")
    return response_format.get("type", ""), holder.get("schema", True) if isinstance(holder, dict) else True


def _echo(body: JsonObject) -> str:
    texts = prompt_texts(body)
    return "Echo: " + (texts[-1][:80] if texts else "nothing")
