"""Classification of answers, shared by all endpoints: token usage, and the status of an outcome.

A 200 response is not necessarily a good answer: it may be refused, truncated, filtered, or break the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from airflow_openai_batch.engine.model import Outcome, Status, Usage
from airflow_openai_batch.engine.schema.validation import Read

_MAX_COUNT = 2**40

Reader = Callable[[str], Read]
"""Reads an answer's text: returns the values of its fields, and what is wrong with it."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    """Written by models that bill what they put into the cache (the SDK's types since 3.57)."""
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    """Token usage under both namings.

    OpenAI's API reference: Chat, Completions and Embeddings count prompt and completion, Responses input and output.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None

    def usage(self) -> Usage:
        """Return the counts under the names of the Responses API."""
        before = self.input_tokens_details or self.prompt_tokens_details or _Details()
        after = self.output_tokens_details or self.completion_tokens_details or _Details()
        return Usage(
            input_tokens=_count(self.input_tokens or self.prompt_tokens),
            cached_tokens=_count(before.cached_tokens),
            cache_write_tokens=_count(before.cache_write_tokens),
            output_tokens=_count(self.output_tokens or self.completion_tokens),
            reasoning_tokens=_count(after.reasoning_tokens),
        )


def _count(n: int | None) -> int:
    """Limit a count to what a column can hold: a nonsensical count in one line must not stop a harvest."""
    return max(0, min(n or 0, _MAX_COUNT))


class Body(msgspec.Struct):
    """The fields that the bodies of all endpoints have."""

    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    """Not ``Raw | None``, of which msgspec decodes null only."""


def fill(outcome: Outcome, body: Body, finish_reason: str | None = None) -> None:
    """Copy model, usage and finish reason of an answer to its outcome.

    Args:
        outcome: The outcome to fill in.
        body: The body of the response.
        finish_reason: Why the model stopped, if the body says so.
    """
    outcome.model = body.model
    try:
        usage = _decode_usage(body.usage)
    except msgspec.MsgspecError:  # invalid usage does not make the answer worse
        usage = None
    outcome.usage = usage.usage() if usage is not None else Usage()
    outcome.finish_reason = finish_reason


def classify(outcome: Outcome, *answers: tuple[str, Reader]) -> None:
    """Set output, status and fields of an outcome: succeeded, or invalid if a text is empty or its reader rejects it.

    Args:
        outcome: The outcome to fill in.
        *answers: Each text of the answer, with its reader. Several texts become a JSON array.
    """
    texts = [text for text, _ in answers]
    outcome.output = texts[0] if len(texts) == 1 else msgspec.json.encode(texts).decode()
    if not all(texts):
        outcome.status = Status.INVALID
        outcome.error_code, outcome.error_message = "empty_answer", "The answer is empty."
        return
    results = [read(text) for text, read in answers]
    problem = next((problem for _, problem in results if problem is not None), None)
    if problem is None:
        outcome.status = Status.SUCCEEDED
        # Of several answers, which are an array in the output, none is the row's own.
        outcome.fields = results[0][0] if len(results) == 1 else None
    else:
        outcome.status = Status.INVALID
        outcome.error_code, outcome.error_message = "schema_mismatch", problem[:2000]


def refuse(outcome: Outcome, code: str, message: str | None) -> None:
    """Set the status of an outcome to refused, by the model or by a filter.

    Args:
        outcome: The outcome to fill in.
        code: The error code.
        message: The refusal.
    """
    outcome.status = Status.REFUSED
    outcome.error_code, outcome.error_message = code, message


def truncate(outcome: Outcome, reason: str) -> None:
    """Set the status of an outcome to truncated."""
    outcome.status = Status.TRUNCATED
    outcome.error_code, outcome.error_message = reason, "The answer was cut off; allow more output tokens."


def calls_or_text(calls: Sequence[msgspec.Raw | bytes], text: str, read: Reader) -> tuple[str, Reader]:
    """Return the answer of a model that calls tools, for ``classify``: the calls, or a text that follows the schema.

    Args:
        calls: The calls, each as JSON.
        text: The text beside them.
        read: Reads and validates the text.
    """
    if text and read(text)[0] is not None:
        return text, read
    return b"[%b]".__mod__(b",".join(map(bytes, calls))).decode(), no_fields


def no_fields(text: str) -> Read:
    """Read an answer that has no schema: it has no fields, and nothing is wrong with it."""
    return None, None


_decode_usage = msgspec.json.Decoder(_Usage | None).decode
