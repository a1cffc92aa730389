"""The parser of a line of an output or error file. Pure, and total: any bytes are accepted.

Only the fields that are kept are decoded. A 200 line is not necessarily a good answer: it may be refused, truncated,
filtered, or break the schema. A line that is not JSON or names no row has no outcome.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from airflow_openai_batch.engine.answers.bodies import READERS, read_as_is
from airflow_openai_batch.engine.answers.classify import Reader, no_fields
from airflow_openai_batch.engine.answers.fast_parser import FAST_READERS, UNREADABLE, FastRow, Fields, Line
from airflow_openai_batch.engine.answers.line_errors import RowError, error_in_body, error_of, fail, text_of_failure
from airflow_openai_batch.engine.api.text import MAX_MESSAGE, MAX_NAME, clean
from airflow_openai_batch.engine.model import Job, Outcome, Status
from airflow_openai_batch.engine.schema.validation import Check, Read, ResponseSchema

T = TypeVar("T")


class _Response(msgspec.Struct):
    """The response of a line. Compatible servers write status and id in several types; all are accepted."""

    status_code: int | float | str | None = None
    request_id: str | int | None = None
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Line(msgspec.Struct):
    custom_id: str | int | None = None
    response: _Response | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


_decode_line = msgspec.json.Decoder(_Line).decode


class LineParser:
    """Reads the lines of one job's output and error files.

    Args:
        endpoint: The job's endpoint.
        schema: The schema that answers must follow, if there is one.
        check: A check that is stricter than the schema, such as a Pydantic class's own validators.
    """

    def __init__(self, endpoint: str, schema: ResponseSchema | None = None, check: Check | None = None) -> None:
        self.has_check = check is not None
        self._read_fast = FAST_READERS.get(endpoint, _read_nothing)
        self._read_body = READERS.get(endpoint, read_as_is)
        self._read_text = _reader_of(schema, check)
        self._fields = _fields_of(schema, check)

    def read_fast(self, lines: Sequence[Line]) -> list[FastRow | None]:
        """Read a block of lines with the fast parser. None for a line that it does not accept: `parse` that one."""
        return self._read_fast(lines, self._fields)

    def parse(self, line: Line) -> Outcome | None:
        """Read one line carefully, whatever its form. None if it is not JSON or names no row.

        A line that `read_fast` accepts is read alike.
        """
        decoded = _read_line(line, _decode_line)
        if decoded is None or decoded.custom_id in (None, ""):
            return None
        outcome = Outcome(custom_id=str(decoded.custom_id), status=Status.FAILED)
        response = decoded.response
        if response is not None:
            outcome.request_id = str(response.request_id) if response.request_id is not None else None
        status = _status(response)
        error = error_of(decoded.error) or _error_in(response)
        # Without a status, the body shows whether there is an answer.
        if response is None or (status != 200 if status is not None else error is not None or _is_empty(response)):
            if error is None and response is not None:
                error = text_of_failure(bytes(response.body))
            fail(outcome, error, status, code="no_answer")
            return _with_clean_error(outcome)
        try:
            self._read_body(outcome, _unwrapped(response.body), self._read_text)
        except UNREADABLE as unreadable:
            if error is not None or status is None:
                fail(outcome, error, status, code="no_answer" if status is None else "failed")
            else:
                outcome.status, outcome.error_code = Status.INVALID, "unreadable_answer"
                outcome.error_message = f"The answer cannot be read: {unreadable}"
        return _with_clean_error(outcome)


def parser_of(job: Job, check: Check | None = None) -> LineParser:
    """Return the parser of a job's lines.

    Args:
        job: The job.
        check: A check that is stricter than its schema.
    """
    spec = job.spec
    schema = ResponseSchema(spec.schema, spec.schema_name or "") if spec.schema is not None else None
    return LineParser(spec.endpoint, schema, check)


def _with_clean_error(outcome: Outcome) -> Outcome:
    """Return an outcome whose error may be shown: servers quote keys and terminal codes here too."""
    if outcome.error_code is not None:
        outcome.error_code = _clean(outcome.error_code, MAX_NAME) or "failed"
    if outcome.error_message is not None and outcome.error_code != "refusal":  # that is the model's answer
        outcome.error_message = _clean(outcome.error_message, MAX_MESSAGE) or None
    return outcome


_clean = functools.lru_cache(maxsize=512)(clean)
"""Rows that fail by the thousand fail with the same few messages."""


def _read_nothing(lines: Sequence[Line], fields: Fields | None) -> list[FastRow | None]:
    return [None] * len(lines)


def _reader_of(schema: ResponseSchema | None, check: Check | None) -> Reader:
    if check is None:
        return schema.read if schema is not None else no_fields
    read, check_text = schema.read if schema is not None else no_fields, check

    def checked(text: str) -> Read:
        fields, problem = read(text)
        if problem is None:
            problem = check_text(text)
        return fields if problem is None else None, problem

    return checked


def _fields_of(schema: ResponseSchema | None, check: Check | None) -> Fields | None:
    fields = schema.fields if schema is not None else None
    if check is None:
        return fields
    check_text = check

    def checked(text: str) -> tuple[Any, ...] | None:
        values = fields(text) if fields is not None else None
        if check_text(text) is not None:
            raise ValueError("the check fails")
        return values

    return checked


def custom_id_of(line: bytes) -> str | None:
    """Return the custom_id of a line, or None if it has none or cannot be decoded. Cheaper than parsing the line."""
    decoded = _read_line(line, _decode_id)
    return str(decoded.custom_id) if decoded is not None and decoded.custom_id is not None else None


def is_json(line: bytes) -> bool:
    """Return whether a line is a JSON value other than null, also one as only some servers write it."""
    return _read_line(line, msgspec.json.decode) is not None


class _Id(msgspec.Struct):
    custom_id: str | int | None = None
    """Some compatible servers write an id of digits as a number."""


_decode_id = msgspec.json.Decoder(_Id).decode


def _read_line(line: Line, decode: Callable[[Line], T]) -> T | None:
    """Decode a line, also one with what is not valid JSON but written by some servers; None if that fails."""
    try:
        return decode(line)
    except UNREADABLE:
        pass
    try:
        # Half of a surrogate pair, as of an emoji that was cut; NaN and Infinity.
        value = json.loads(bytes(line), parse_constant=lambda _: None)
        return decode(_HALF_PAIR.sub("\ufffd", json.dumps(value, ensure_ascii=False)).encode())
    except UNREADABLE:
        return None


_HALF_PAIR = re.compile("[\ud800-\udfff]")


def _unwrapped(body: msgspec.Raw) -> bytes:
    """Return the body; some compatible servers put it into the line as a JSON string."""
    data = bytes(body)
    return msgspec.json.decode(data, type=str).encode() if data[:1] == b'"' else data


def _is_empty(response: _Response) -> bool:
    return bytes(response.body) in (b"null", b"{}", b'""')


def _status(response: _Response | None) -> int | None:
    try:
        return int(float(response.status_code)) if response is not None and response.status_code is not None else None
    except (ValueError, OverflowError):
        return None


def _error_in(response: _Response | None) -> RowError | None:
    if response is None:
        return None
    try:
        return error_in_body(_unwrapped(response.body))
    except UNREADABLE:
        return None
