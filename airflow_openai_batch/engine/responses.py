"""The body of an answer of ``/v1/responses`` becomes an outcome."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from airflow_openai_batch.engine.model import Outcome
from airflow_openai_batch.engine.verdict import (
    Body,
    Error,
    Reader,
    calls_or_text,
    fail,
    fill,
    judge,
    refuse,
    truncate,
)

CALLS = frozenset({"function_call", "custom_tool_call"})
"""Items of a response that call a tool of the user's: with them the answer is the calls, whatever is said beside."""


class _Content(msgspec.Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None


class _Item(msgspec.Struct):
    type: str = ""
    content: list[_Content] | None = None


class _Reason(msgspec.Struct):
    reason: str | None = None


class _ResponsesBody(Body):
    status: str | None = None
    error: Error | None = None
    incomplete_details: _Reason | None = None
    output: list[msgspec.Raw] = msgspec.field(default_factory=list)


def read_responses(outcome: Outcome, data: bytes, read: Reader) -> None:
    """There can be several message items, and an earlier one can be a fragment: the last counts.

    Seen in 557 of 233,124 real lines: the first item held a cut-off answer, a later one the whole.
    """
    body = _decode_body(data)
    reason = body.incomplete_details.reason if body.incomplete_details is not None else None
    fill(outcome, body, reason or body.status)
    if body.status == "failed" or body.error is not None:
        return fail(outcome, body.error)
    found = _found_in(body.output)
    outcome.output = found.texts[-1] if found.texts else None
    if body.status == "incomplete" or body.incomplete_details is not None:
        if reason == "content_filter":
            return refuse(outcome, "content_filter", "The answer was withheld by the content filter.")
        return truncate(outcome, reason or "incomplete")
    if found.refusal is not None:
        return refuse(outcome, "refusal", found.refusal)
    last = found.texts[-1] if found.texts else ""
    text = next((text for text in reversed(found.texts) if read(text)[1] is None), last)
    if found.calls:
        return judge(outcome, calls_or_text(found.calls, text, read))
    if not found.has_message:
        raise ValueError("it has no message")
    return judge(outcome, (text, read))


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
    calls = [raw for raw, item in zip(raws, items, strict=True) if item.type in kinds]
    return _Found(texts, has_message, refusal, calls)


_decode_body = msgspec.json.Decoder(_ResponsesBody).decode
_decode_item = msgspec.json.Decoder(_Item).decode
