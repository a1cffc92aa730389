"""One type for each column of rows that come in several files or chunks: one that holds every value exactly.

Types alone do not decide that: 7 is exact as a float, and the id 1152921504606846977 is not; a column without values
is of any type. So the extremes of whole numbers and times are remembered with the types. What no type holds without
loss is refused by row and column, before anything is paid for.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import is_json, normal_form
from airflow_openai_batch.engine.requests.exact_types import DAY, common_type, ticks_of, types_by_extremes

if TYPE_CHECKING:
    import pyarrow as pa


_EPOCH = datetime.date(1970, 1, 1)

# A day less at either end: in its own zone a moment may be on the day before or after.
_FIRST_TIME = (datetime.date.min - _EPOCH).days * DAY + DAY
_LAST_TIME = (datetime.date.max - _EPOCH).days * DAY

_LONGEST = datetime.timedelta.max // datetime.timedelta(days=1) * DAY


class Extreme(NamedTuple):
    """The least or largest value of a column, times in nanoseconds, and its row."""

    value: int
    row: int


@dataclasses.dataclass(frozen=True)
class _Numbers:
    """A column of whole numbers, each so many nanoseconds if they are times, with the least and the largest."""

    column: Any
    ticks: int
    low: Any
    high: Any

    def extremes(self, first_row: int) -> tuple[Extreme, Extreme]:
        import pyarrow.compute as pc

        low, high = (
            Extreme(number.as_py() * self.ticks, first_row + pc.index(self.column, number).as_py())
            for number in (self.low, self.high)
        )
        return low, high


@dataclasses.dataclass(frozen=True)
class _Column:
    """What is known of a column."""

    type: Any
    first_row: int
    """The first row with this type or one that became it."""
    is_empty: bool
    """Whether it has no value yet, so that its type is only a proposal."""
    low: Extreme | None = None
    high: Extreme | None = None

    def spans(self, numbers: _Numbers) -> bool:
        """Return whether the least and the largest of more numbers of this type are nothing new."""
        if self.low is None or self.high is None:
            return False
        low, high = (number.as_py() * numbers.ticks for number in (numbers.low, numbers.high))
        return bool(self.low.value <= low and high <= self.high.value)


class ColumnTypes:
    """The types of the columns of rows that are added one record batch after another.

    Args:
        or_text: Whether a column that no type holds exactly becomes text, rather than an error: for rows that were paid
            for by a version that took them.
    """

    def __init__(self, or_text: bool = False) -> None:
        self._or_text = or_text
        self._columns: dict[str, _Column] = {}
        self._checked: pa.Schema | None = None

    @property
    def schema(self) -> pa.Schema:
        """The columns in the order in which they came, with types that hold all their values."""
        import pyarrow as pa

        return pa.schema([pa.field(name, column.type) for name, column in self._columns.items()])

    def add(self, batch: pa.RecordBatch, first_row: int) -> bool:
        """Add rows, and return whether they have columns that those before have not.

        Args:
            batch: The rows.
            first_row: The ordinal of the first one.

        Raises:
            InputError: A column has values that fit into no type with those before, or that nobody can read.
        """
        n_before = len(self._columns)
        if not self._or_text and batch.schema != self._checked:
            check_names([*self._columns, *(name for name in batch.schema.names if name not in self._columns)])
            self._checked = batch.schema
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self._add(name, column, first_row)
        return len(self._columns) > n_before

    def _add(self, name: str, column: pa.Array, first_row: int) -> None:
        old = self._columns.get(name)
        is_empty = column.null_count == len(column)
        numbers = None if is_empty else _numbers(column)
        if old is not None and old.type == column.type and not old.is_empty and (numbers is None or old.spans(numbers)):
            return
        low, high = (None, None) if numbers is None else numbers.extremes(first_row)
        new = _Column(column.type, first_row, is_empty, low, high)
        for extreme in (low, high):
            if extreme is not None and not self._or_text:
                _check_readable(name, column.type, extreme)
        if old is None:
            self._columns[name] = new
        elif not is_empty or old.is_empty:
            self._columns[name] = self._merged(name, old, new)

    def _merged(self, name: str, old: _Column, new: _Column) -> _Column:
        import pyarrow as pa

        if old.type == new.type:
            merged = old.type
        elif old.is_empty or new.is_empty:
            merged = old.type if new.is_empty and not pa.types.is_null(old.type) else new.type
        else:
            extremes = [e.value for e in (old.low, old.high, new.low, new.high) if e is not None]
            merged = common_type(old.type, new.type, extremes)
        if merged is None:
            if not self._or_text:
                raise _no_type(name, old, new)
            merged = pa.large_string()
        return _Column(
            merged,
            old.first_row,
            old.is_empty and new.is_empty,
            min((e for e in (old.low, new.low) if e is not None), default=None),
            max((e for e in (old.high, new.high) if e is not None), key=lambda e: e.value, default=None),
        )


def check_names(names: list[str]) -> None:
    """Reject column names that a person could not tell apart.

    Raises:
        InputError: Two columns have the same name, or names that look the same.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(normal_form(name), name)
        if other != name:
            raise InputError(
                f"Two columns are both named {name!r}, with its accents in two Unicode forms. Write both in one form, "
                "for example unicodedata.normalize('NFC', name)."
            )
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"The rows have several columns named {', '.join(map(repr, twice))}. Rename all but one.")


def _numbers(column: pa.Array) -> _Numbers | None:
    """Return the values of a column of whole numbers or times; None of any other column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    ticks = ticks_of(column.type)
    if ticks is None:
        return None
    if not pa.types.is_integer(column.type):
        column = column.view(pa.int32() if column.type.bit_width == 32 else pa.int64())
    found = pc.min_max(column)
    return _Numbers(column, ticks, found[0], found[1])


def _check_readable(name: str, arrow_type: pa.DataType, extreme: Extreme) -> None:
    import pyarrow as pa

    if pa.types.is_timestamp(arrow_type) or pa.types.is_date(arrow_type):
        if not _FIRST_TIME <= extreme.value < _LAST_TIME:
            raise InputError(
                f"row {extreme.row}, column {name!r}: the time lies outside of the years 1 to 9999, which JSON and "
                "Python end with. Give such times as null or as text."
            )
    elif pa.types.is_duration(arrow_type) and abs(extreme.value) > _LONGEST:
        raise InputError(f"row {extreme.row}, column {name!r}: the duration is longer than a million years.")


def _no_type(name: str, old: _Column, new: _Column) -> InputError:
    extremes = [e for e in (old.low, old.high, new.low, new.high) if e] if types_by_extremes(old.type, new.type) else []
    widest = max(extremes, key=lambda e: abs(e.value), default=None)
    where = f" (the widest is in row {widest.row})" if widest is not None else ""
    return InputError(
        f"From row {new.first_row} on, column {name!r} changes its type from {_named(old.type)} to {_named(new.type)}, "
        f"and no column type holds all its values exactly{where}. Give every row the same type, for example as text."
    )


def _named(arrow_type: pa.DataType) -> str:
    return "JSON" if is_json(arrow_type) else str(arrow_type)
