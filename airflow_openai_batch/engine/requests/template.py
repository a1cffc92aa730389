"""Templates: compiled once into constant bytes and slots for column values; rendering fills the slots."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_openai_batch.engine.encoding import Pieces, canonical, json_insides, rows_of, text_column, utf8
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import column_index, normal_form
from airflow_openai_batch.engine.requests.values import (
    has_typed_fields,
    json_of,
    python_values,
    text_of,
    without_nulls,
)

if TYPE_CHECKING:
    import pyarrow as pa


_BRACES = re.compile(r"\{([^{}\n]+)\}")

_FIELD = re.compile(r"\{((?:[^\W\d]|[^\x00-\x7f])(?:\w|[^\x00-\x7f])*)(!json)?\}")
"""A column, in any alphabet: also what stands for a letter's accent or vowel, which ``\\w`` leaves out."""


class Slot(NamedTuple):
    """A place for the value of a column, and the function that encodes the value there."""

    column: str
    encode: Callable[[Any], bytes]


Part = bytes | Slot


class TextTemplate:
    """A plain text with ``{column}`` in it, such as the custom_id.

    Args:
        text: The template.

    Raises:
        InputError: It contains ``{column!json}``.
    """

    def __init__(self, text: str) -> None:
        self._parts = _compile_text(text, _text_bytes)

    def check(self, name: str, columns: Sequence[str]) -> None:
        """Check that the rows have the template's columns.

        Args:
            name: The template's name in the error message.
            columns: The columns of the rows.

        Raises:
            InputError: A column is missing.
        """
        check_columns(name, (part.column for part in self._parts if isinstance(part, Slot)), columns)

    @property
    def constant(self) -> str | None:
        """The text if it is the same for every row, else None."""
        if any(isinstance(part, Slot) for part in self._parts):
            return None
        return b"".join(part for part in self._parts if isinstance(part, bytes)).decode()

    def render(self, batch: pa.RecordBatch, first_row: int) -> Iterator[str]:
        """Yield one text for each row.

        Args:
            batch: The rows.
            first_row: The ordinal of the first row, for error messages.

        Raises:
            InputError: A value cannot be encoded.
        """
        return (data.decode() for data in rows_of(fill(self._parts, batch, first_row), batch.num_rows))


def compile_json(value: Any) -> list[Part]:
    """Compile a JSON value into constant bytes and slots, with sorted keys: what is rendered is canonical JSON.

    Raises:
        InputError: ``{column!json}`` does not stand alone in its string.
    """
    if isinstance(value, str):
        if is_json_slot(value):
            return [Slot(value[1:-6], json_of)]
        return [b'"', *_compile_text(value, _json_text), b'"']
    if isinstance(value, dict):
        entries = sorted((str(key), entry) for key, entry in value.items())
        return _sequence(b"{", [[msgspec.json.encode(key), b":", *compile_json(entry)] for key, entry in entries], b"}")
    if isinstance(value, list | tuple):
        return _sequence(b"[", [compile_json(entry) for entry in value], b"]")
    return [canonical(value)]


def _sequence(start: bytes, entries: list[list[Part]], end: bytes) -> list[Part]:
    parts: list[Part] = [start]
    for i, entry in enumerate(entries):
        parts += [b",", *entry] if i else entry
    return [*parts, end]


def _compile_text(text: str, encode: Callable[[Any], bytes]) -> list[Part]:
    parts: list[Part] = []
    end = 0
    for match in _FIELD.finditer(text):
        if match[2]:
            raise InputError(f"{match[0]} must stand alone in its string: it inserts a JSON value, not a text.")
        parts += [encode(text[end : match.start()]), Slot(match[1], encode)]
        end = match.end()
    return [*parts, encode(text[end:])]


def is_json_slot(text: str) -> bool:
    """Return whether a text is ``{column!json}`` and nothing else."""
    match = _FIELD.fullmatch(text)
    return match is not None and bool(match[2])


def _json_text(value: Any) -> bytes:
    return msgspec.json.encode(text_of(value))[1:-1]


def _text_bytes(value: Any) -> bytes:
    return text_of(value).encode()


def fill(parts: Sequence[Part], batch: pa.RecordBatch, first_row: int) -> Pieces:
    """Return the pieces of the rows: constant bytes, and for each slot a list with the encoded value of each row.

    Args:
        parts: A compiled template.
        batch: The rows.
        first_row: The ordinal of the first row, for error messages.

    Raises:
        InputError: A value cannot be encoded; the message names row and column.
    """
    pieces: Pieces = []
    for is_constant, group in itertools.groupby(parts, key=lambda part: isinstance(part, bytes)):
        if is_constant:
            pieces.append(b"".join(group))  # type: ignore[arg-type] # the group holds bytes only
        else:
            pieces += [_encoded(batch, slot, first_row) for slot in group if isinstance(slot, Slot)]
    return pieces


_ERRORS = (TypeError, ValueError, OverflowError, msgspec.MsgspecError)


def _encoded(batch: pa.RecordBatch, slot: Slot, first_row: int) -> list[bytes]:
    index = column_index(batch.schema, slot.column)
    if index < 0:  # of dicts that leave out an optional key
        return [slot.encode(None)] * batch.num_rows
    column = batch.column(index)
    if slot.encode in _COLUMN_ENCODERS:
        texts = text_column(column)
        if texts is not None:
            return _COLUMN_ENCODERS[slot.encode](texts)
    try:
        return _encoded_values(column, slot)
    except _ERRORS:
        pass
    for i in range(len(column)):  # slow, once: find the row to name
        try:
            _encoded_values(column.slice(i, 1), slot)
        except _ERRORS as error:
            raise _unwritable(first_row + i, slot, error) from None
    raise AssertionError("a value failed once and not twice")


def _encoded_values(column: pa.Array, slot: Slot) -> list[bytes]:
    """Encode values one by one. As JSON, Arrow's structs lose keys that are null: they have no absent keys."""
    values = python_values(column)
    if slot.encode is json_of and has_typed_fields(column.type):
        values = list(map(without_nulls, values))
    return list(map(slot.encode, values))


def _unwritable(ordinal: int, slot: Slot, error: Exception) -> InputError:
    return InputError(f"row {ordinal}, column {slot.column!r}: cannot be written as JSON: {error}")


_COLUMN_ENCODERS: dict[Any, Callable[[Any], list[bytes]]] = {_json_text: json_insides, _text_bytes: utf8}
"""For an encoder of values, the equal encoder of a whole string column."""


def check_columns(name: str, wanted: Iterable[str], columns: Sequence[str]) -> None:
    """Check that the rows have the columns of a template.

    Args:
        name: The template's name in the error message.
        wanted: The columns that the template names.
        columns: The columns of the rows.

    Raises:
        InputError: A column is missing; the message lists those of the rows.
    """
    forms = set(map(normal_form, columns))
    missing = sorted({column for column in wanted if normal_form(column) not in forms})
    if missing:
        raise InputError(
            f"{name} uses {', '.join('{' + column + '}' for column in missing)}, but the rows have no such column. "
            f"Columns: {', '.join(columns) or '(none)'}. Nothing was uploaded."
        )


def check_odd_fields(name: str, texts: Iterable[str], columns: Sequence[str]) -> None:
    """Reject text that a person would take for a column but the template does not, as ``{user id}`` or ``{text!r}``.

    Args:
        name: The template's name in the error message.
        texts: The strings of the template.
        columns: The columns of the rows.

    Raises:
        InputError: There is such a text; the message says what to write instead.
    """
    for text in texts:
        for match in _BRACES.finditer(text):
            inner = match[1].strip()
            column = next((c for c in (inner, re.split(r"[!:]", inner)[0].strip()) if c in columns), None)
            if column is not None and not _FIELD.fullmatch(match[0]):
                raise InputError(
                    f"{name}: {match[0]} would be sent as it stands. A column is written {{name}}, without spaces or "
                    f"formats, and its name must be an identifier: rename the column {column!r} if it is none."
                )


def texts_in(value: Any) -> Iterator[str]:
    """Yield every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from texts_in(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from texts_in(entry)
