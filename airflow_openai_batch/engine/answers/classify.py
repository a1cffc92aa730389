"""What all answers have in common: the counts of tokens, and the verdicts that end in an outcome.

A 200 answer is not yet a good one: it may be refused, cut off, filtered, or break the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from airflow_openai_batch.engine.api.errors import PASSING_CODES
from airflow_openai_batch.engine.model import Outcome, Status, Usage
from airflow_openai_batch.engine.schema.validation import Read

_MAX_COUNT = 2**40

Reader = Callable[[str], Read]
"""Reads an answer's text: the values of its fields, and what is wrong with it."""


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


class Body(msgspec.Struct):
    """The body of an answer of any endpoint."""

    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    """Not ``Raw | None``, which to msgspec is null and nothing else."""


def fill(outcome: Outcome, body: Body, finish_reason: str | None = None) -> None:
    """Take what all answers tell of themselves."""
    outcome.model = body.model
    try:
        usage = _decode_usage(body.usage)
    except msgspec.MsgspecError:  # an odd count makes an answer no worse
        usage = None
    outcome.usage = usage.usage() if usage is not None else Usage()
    outcome.finish_reason = finish_reason


def judge(outcome: Outcome, *answers: tuple[str, Reader]) -> None:
    """Take the texts as the answer, and check each with its reader. An empty text is no answer."""
    texts = [text for text, _ in answers]
    outcome.output = texts[0] if len(texts) == 1 else msgspec.json.encode(texts).decode()
    if not all(texts):
        outcome.status = Status.INVALID
        outcome.error_code, outcome.error_message = "empty_answer", "The answer is empty."
        return
    found = [read(text) for text, read in answers]
    wrong = next((problem for _, problem in found if problem is not None), None)
    if wrong is None:
        outcome.status = Status.SUCCEEDED
        # Of several answers, which stand in the output as an array, none is the row's own.
        outcome.fields = found[0][0] if len(found) == 1 else None
    else:
        outcome.status = Status.INVALID
        outcome.error_code, outcome.error_message = "schema_mismatch", wrong[:2000]


def refuse(outcome: Outcome, code: str, message: str | None) -> None:
    """Note that the model, or a filter, gives no answer."""
    outcome.status = Status.REFUSED
    outcome.error_code, outcome.error_message = code, message


def truncate(outcome: Outcome, reason: str) -> None:
    """Note that the answer is not whole."""
    outcome.status = Status.TRUNCATED
    outcome.error_code, outcome.error_message = reason, "The answer was cut off; allow more output tokens."


def fail(outcome: Outcome, error: Error | None) -> None:
    """Note that the answer says of itself that it failed, and whether the same request may fare better."""
    error = error or Error()
    outcome.status = Status.FAILED
    outcome.error_code, outcome.error_message = str(error.code or error.type or "failed"), error.message
    outcome.retryable = outcome.error_code in PASSING_CODES


def calls_or_text(calls: Sequence[msgspec.Raw | bytes], text: str, read: Reader) -> tuple[str, Reader]:
    """Return the answer of a model that calls tools, for ``judge``: the calls, or a text that the schema asks for."""
    if text and read(text)[0] is not None:
        return text, read
    return b"[%b]".__mod__(b",".join(map(bytes, calls))).decode(), no_fields


def no_fields(text: str) -> Read:
    """Read an answer of which nothing is known."""
    return None, None


_decode_usage = msgspec.json.Decoder(_Usage | None).decode
