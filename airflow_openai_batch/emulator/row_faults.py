"""Faults of rows: what they do to a reply and to the lines made of it."""

from __future__ import annotations

import json
from typing import Any

from airflow_openai_batch.emulator.answers import (
    Answer,
    Answered,
    Filtered,
    Fragmented,
    HttpError,
    LineError,
    Malformed,
    Missing,
    Refusal,
    Reply,
    Text,
    TextReply,
    Truncated,
    as_reply,
    schema_of,
    with_text,
)
from airflow_openai_batch.emulator.bodies import BatchRequest, reply_text
from airflow_openai_batch.emulator.faults import Rule

_SEPARATORS = "one\u2028two\u2029three\u0085four"

# Row faults with which the answer remains useful.
_HARMLESS = frozenset({"u2028", "duplicate", "both_files", "fragmented"})


def answer_with_fault(request: BatchRequest, rule: Rule | None, answer: Answer) -> Answered:
    """Return the answer to a row, with the fault of the rule that applies to it.

    Args:
        request: The row's request.
        rule: The rule that applies, None if none does.
        answer: The answer function.
    """
    if rule is None:
        return answer(request.endpoint, request.body)
    replies: dict[str, type[Any]] = {
        "http_error": HttpError,
        "line_error": LineError,
        "missing": Missing,
        "refusal": Refusal,
        "filtered": Filtered,
    }
    if rule.name in replies:
        reply: Reply = replies[rule.name](**rule.args)
        return reply
    if rule.name == "malformed" and "data" in rule.args:
        return Malformed(rule.args["data"].encode())
    return _apply_reply_fault(
        as_reply(answer(request.endpoint, request.body)), rule, schema_of(request.endpoint, request.body)
    )


def delivery_status(answered: Answered, rule: Rule | None) -> str:
    """Return `ok` for a useful answer, else the name of the fault or reply type that made it useless."""
    if rule is not None and rule.name not in _HARMLESS:
        return rule.name
    reply = as_reply(answered)
    if isinstance(reply, Refusal | Truncated | Filtered | Malformed):
        return type(reply).__name__.lower()
    return "ok"


def apply_line_fault(
    rule: Rule, hex_id: str, custom_id: str, output: list[bytes], error: list[bytes]
) -> tuple[list[bytes], list[bytes]]:
    """Return a row's lines of both files, changed if the rule's fault concerns lines rather than replies.

    Args:
        rule: The rule that applies.
        hex_id: The request's 32 hex digits.
        custom_id: The row's custom_id.
        output: Its lines in the output file.
        error: Its lines in the error file.
    """
    if rule.name == "malformed" and "data" not in rule.args:
        return [line[: len(line) // 2] + b"\n" for line in output], error
    if rule.name == "duplicate":
        return output * 2, error * 2
    if rule.name == "both_files":
        failure = {"code": "server_error", "message": "The request failed, says this line."}
        line = {"id": "batch_req_" + hex_id[::-1], "custom_id": custom_id, "response": None, "error": failure}
        return output, [*error, json.dumps(line).encode() + b"\n"]
    return output, error


def _apply_reply_fault(reply: Reply, rule: Rule, schema: Any) -> Reply:
    if not isinstance(reply, TextReply):
        return reply
    text = reply_text(reply)
    match rule.name:
        case "truncated":
            return Truncated(text[: int(len(text) * rule.args.get("fraction", 0.5))])
        case "fragmented":
            return Fragmented(text)
        case "invalid":
            return Text(rule.args.get("text", _wrong_text(schema)))
        case "u2028":
            return with_text(reply, _with_separators(text))
    return reply


def _wrong_text(schema: Any) -> str:
    """Return JSON of another type than the schema requires."""
    return "{}" if isinstance(schema, dict) and schema.get("type") == "array" else "[]"


def _with_separators(text: str) -> str:
    """Return a text with line separators; JSON gets them in its free strings, which are those with a space."""
    try:
        value = json.loads(text)
    except ValueError:
        return f"{text} {_SEPARATORS}"
    return json.dumps(_separate_words(value), ensure_ascii=False)


def _separate_words(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(" ", "\u2028") if " " in value else value
    if isinstance(value, list):
        return [_separate_words(item) for item in value]
    return {name: _separate_words(item) for name, item in value.items()} if isinstance(value, dict) else value
