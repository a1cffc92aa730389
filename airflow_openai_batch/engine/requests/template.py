"""Templates compiled into constant bytes and slots; rendering rows is then filling the slots, column by column."""

from __future__ import annotations

import datetime
import decimal
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_openai_batch.engine.encoding import Pieces, canonical, json_insides, rows_of, text_column, utf8
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import values_of, without_nulls

if TYPE_CHECKING:
    import pyarrow as pa


_ODD = re.compile(r"\{([^{}\n]+)\}")

_FIELD = re.compile(r"\{([^\W\d]\w*)(!json)?\}")


class Slot(NamedTuple):
    """Where a column's value goes, and how it is written there."""

    column: str
    encode: Callable[[Any], bytes]


Part = bytes | Slot


class TextTemplate:
    """A plain text with ``{column}`` in it, such as the custom_id.

    Args:
        text: The template.
    """

    def __init__(self, text: str) -> None:
        self._parts = _compile_text(text, _text_bytes)

    def check(self, name: str, columns: Sequence[str]) -> None:
        """Refuse a template that names a column which the rows do not have."""
        check_columns(name, (part.column for part in self._parts if isinstance(part, Slot)), columns)

    @property
    def constant(self) -> str | None:
        """The text, where it is the same for every row."""
        if any(isinstance(part, Slot) for part in self._parts):
            return None
        return b"".join(part for part in self._parts if isinstance(part, bytes)).decode()

    def render(self, batch: pa.RecordBatch, first_row: int) -> Iterator[str]:
        """Yield one text a row."""
        return (data.decode() for data in rows_of(fill(self._parts, batch, first_row), batch.num_rows))


def compile_json(value: Any) -> list[Part]:
    """Compile a JSON value with sorted keys, so that what is rendered is canonical and its digest needs no parsing."""
    if isinstance(value, str):
        if is_json_slot(value):
            return [Slot(value[1:-6], _json)]
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
    for found in _FIELD.finditer(text):
        if found[2]:
            raise InputError(f"{found[0]} must stand alone in its string: it inserts a JSON value, not a text.")
        parts += [encode(text[end : found.start()]), Slot(found[1], encode)]
        end = found.end()
    return [*parts, encode(text[end:])]


def is_json_slot(text: str) -> bool:
    """Say whether a text is ``{column!json}`` and nothing else."""
    found = _FIELD.fullmatch(text)
    return found is not None and bool(found[2])


def _text(value: Any) -> str:
    """Write a column's value as text: nothing for null, JSON for numbers, booleans, lists and objects."""
    if isinstance(value, str):
        return value
    if value is None or value != value:  # null, and NaN
        return ""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    data = msgspec.json.encode(value, order="sorted")
    # Bytes and durations are texts in JSON; their quotes are no part of the text.
    return msgspec.json.decode(data, type=str) if data[:1] == b'"' else data.decode()


def _json(value: Any) -> bytes:
    """Write a value as JSON. Inside a nested value Arrow cannot tell an absent key from null: both are left out."""
    return canonical(without_nulls(value) if isinstance(value, list | dict) else value)


def _json_text(value: Any) -> bytes:
    return msgspec.json.encode(_text(value))[1:-1]


def _text_bytes(value: Any) -> bytes:
    return _text(value).encode()


def fill(parts: Sequence[Part], batch: pa.RecordBatch, first_row: int) -> Pieces:
    """Return what makes up the rows: constant bytes, and for each slot a list of one value a row."""
    pieces: Pieces = []
    for is_constant, group in itertools.groupby(parts, key=lambda part: isinstance(part, bytes)):
        if is_constant:
            pieces.append(b"".join(group))  # type: ignore[arg-type] # the group holds bytes only
        else:
            pieces += [_encoded(batch, slot, first_row) for slot in group if isinstance(slot, Slot)]
    return pieces


def _encoded(batch: pa.RecordBatch, slot: Slot, first_row: int) -> list[bytes]:
    at = batch.schema.get_field_index(slot.column)
    if at >= 0 and slot.encode in _OF_TEXTS:
        texts = _texts(batch.column(at), slot, first_row)
        if texts is not None:
            return _OF_TEXTS[slot.encode](texts)
    values = values_of(batch, slot.column)
    try:
        return list(map(slot.encode, values))
    except (TypeError, UnicodeError, msgspec.MsgspecError):
        pass
    for ordinal, value in enumerate(values, first_row):  # slow, once: find the row to name
        try:
            slot.encode(value)
        except (TypeError, UnicodeError, msgspec.MsgspecError) as error:
            raise _unwritable(ordinal, slot, error) from None
    raise AssertionError("a value failed once and not twice")


def _texts(column: pa.Array, slot: Slot, first_row: int) -> pa.Array | None:
    import pyarrow as pa

    try:
        return text_column(column)
    except pa.ArrowInvalid:
        pass
    for i in range(len(column)):
        try:
            column[i].as_py()
        except UnicodeDecodeError as error:
            raise _unwritable(first_row + i, slot, error) from None
    raise AssertionError("a value failed once and not twice")


def _unwritable(ordinal: int, slot: Slot, error: Exception) -> InputError:
    return InputError(f"row {ordinal}, column {slot.column!r}: cannot be written as JSON: {error}")


_OF_TEXTS: dict[Any, Callable[[Any], list[bytes]]] = {_json_text: json_insides, _text_bytes: utf8}
"""How a slot is filled from a column of texts, whole."""


def check_columns(name: str, wanted: Iterable[str], columns: Sequence[str]) -> None:
    """Refuse a template that names a column which the rows do not have.

    Raises:
        InputError: With the columns there are.
    """
    missing = sorted(set(wanted) - set(columns))
    if missing:
        raise InputError(
            f"{name} uses {', '.join('{' + column + '}' for column in missing)}, but the rows have no such column. "
            f"Columns: {', '.join(columns) or '(none)'}. Nothing was uploaded."
        )


def check_odd_fields(name: str, texts: Iterable[str], columns: Sequence[str]) -> None:
    """Refuse what looks like a column to a person and is plain text to us, such as ``{user id}`` or ``{text!r}``.

    Raises:
        InputError: With what to write instead.
    """
    for text in texts:
        for found in _ODD.finditer(text):
            inner = found[1].strip()
            column = next((c for c in (inner, re.split(r"[!:]", inner)[0].strip()) if c in columns), None)
            if column is not None and not _FIELD.fullmatch(found[0]):
                raise InputError(
                    f"{name}: {found[0]} would be sent as it stands. A column is written {{name}}, without spaces or "
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
