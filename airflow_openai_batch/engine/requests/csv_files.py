"""CSV files: their dialect as a value, and a reader that refuses what could be read in two ways.

Without types all columns are texts: a postal code keeps its leading zero. A quote inside of a quoted field is doubled
(RFC 4180) unless the dialect names an escape, as Spark and MySQL write it; a file that is wrong in the one way and
right in the other is refused, and so is one that could be either.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

import msgspec

from airflow_openai_batch.engine.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


_MOST_BYTES = 2**31 - 1
"""The longest field. The standard library's limit is 128 KiB, which a prompt may exceed."""

_OTHER_DELIMITERS = (";", "\t", "|")

TYPES = ("text", "int", "float", "bool", "date", "datetime", "json")
"""What a column of a CSV file may be declared to hold."""


class CsvFile(msgspec.Struct, frozen=True):
    """CSV files that are not plain: another delimiter, escape or encoding, or columns with types.

    Args:
        path: The path or URI, a pattern, a directory, or a list of these; the files have the dialect whatever their
            names end in.
        delimiter: What separates fields: one character.
        quote: What fields with delimiters and line ends are quoted with: one character.
        escape: What stands before a quote inside of a quoted field, as a backslash in files of Spark and MySQL; before
            anything but a quote, a delimiter or itself it is a character like others. None if such quotes are doubled.
        encoding: The encoding, as Python names it.
        types: Types by column: ``int``, ``float``, ``bool``, ``date``, ``datetime`` (ISO 8601), ``json`` or ``text``.
            In columns with a type other than text, an empty value is null. All other columns are texts.

    Raises:
        ValueError: An argument cannot be used.
    """

    path: Any
    delimiter: str = ","
    quote: str = '"'
    escape: str | None = None
    encoding: str = "utf-8"
    types: Mapping[str, str] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("delimiter", "quote", "escape"):
            value = getattr(self, name)
            if not (isinstance(value, str) and len(value) == 1) and not (name == "escape" and value is None):
                raise ValueError(f"CsvFile: {name} must be one character, is {value!r}.")
        for column, type_name in self.types.items():
            if type_name not in TYPES:
                raise ValueError(
                    f"CsvFile: column {column!r} has the type {type_name!r}; there are {', '.join(TYPES)}."
                )

    @property
    def version(self) -> str:
        """A text that changes with whatever changes how a file is read; empty for a plain one."""
        dialect = (self.delimiter, self.quote, self.escape, self.encoding, sorted(self.types.items()))
        return "" if dialect == (",", '"', None, "utf-8", []) else f"|csv:{dialect!r}"


def read_csv(file: IO[bytes], dialect: CsvFile) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a CSV file.

    Args:
        file: The open file.
        dialect: How it is written.

    Raises:
        InputError: It cannot be read, or could be read in two ways; the message names the line.
    """
    import pyarrow as pa

    from airflow_openai_batch.engine.requests.arrow import in_batches  # a Dag file imports this module

    csv.field_size_limit(max(csv.field_size_limit(), _MOST_BYTES))
    encoding = "utf-8-sig" if dialect.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else dialect.encoding
    records = _records(io.TextIOWrapper(file, encoding=encoding, newline=""), dialect)
    names = next(records, None)
    if names is None:
        return
    names = [name or f"Unnamed: {i}" for i, name in enumerate(names)]  # as pandas calls the index that it writes
    _check_header(names, dialect)
    rows = _whole_rows(records, len(names))
    first_row = 0
    for chunk in in_batches(rows, lambda record: sum(map(len, record))):
        columns = zip(*chunk, strict=True)
        arrays = [
            _typed(name, list(texts), dialect.types.get(name, "text"), first_row)
            for name, texts in zip(names, columns, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(arrays, names=names)
        first_row += len(chunk)
    if not first_row:
        empty = [_typed(name, [], dialect.types.get(name, "text"), 0) for name in names]
        yield pa.RecordBatch.from_arrays(empty, names=names)


def _check_header(names: list[str], dialect: CsvFile) -> None:
    other = next((mark for mark in _OTHER_DELIMITERS if len(names) == 1 and mark in names[0]), None)
    if other is not None:
        raise InputError(
            f"its header is one column, {names[0]!r}. If {other!r} separates columns, say so: "
            f"rows=CsvFile(path, delimiter={other!r})."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"its header has several columns named {', '.join(map(repr, twice))}. Rename all but one.")
    unknown = [name for name in dialect.types if name not in names]
    if unknown:
        raise InputError(
            f"types names {', '.join(map(repr, unknown))}, which the header has not. Columns: {', '.join(names)}."
        )


class _Lines:
    """The lines of a file; keeps those of the record that is being read."""

    def __init__(self, file: io.TextIOWrapper, dialect: CsvFile) -> None:
        self._file, self._dialect = file, dialect
        self.of_record: list[str] = []
        self.n_lines = 0

    def __iter__(self) -> Iterator[str]:
        escape = self._dialect.escape
        try:
            for line in self._file:
                self.n_lines += 1
                self.of_record.append(line)
                yield line if escape is None or escape not in line else self._with_lone_escapes(line, escape)
        except UnicodeDecodeError as error:
            raise InputError(
                f"after line {self.n_lines}: the file is not {self._dialect.encoding} ({error.reason}). Name its "
                "encoding: rows=CsvFile(path, encoding='cp1252')."
            ) from None

    def _with_lone_escapes(self, line: str, escape: str) -> str:
        r"""Return a line in which an escape that escapes nothing, as in ``C:\dir``, will not be dropped."""
        keeping = (escape, self._dialect.quote, self._dialect.delimiter)
        return re.sub(
            re.escape(escape) + "(.?)",
            lambda match: match[0] if match[1] in keeping else escape + match[0],
            line,
            flags=re.DOTALL,
        )


def _records(file: io.TextIOWrapper, dialect: CsvFile) -> Iterator[list[str]]:
    r"""Yield the records of a file, with an empty list for an empty line.

    Raises:
        InputError: A record is wrong, or right in two ways: as ``"a\",b"`` is without an escape and with one.
    """
    lines = _Lines(file, dialect)
    reader = csv.reader(iter(lines), **_format(dialect, dialect.escape))
    while True:
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise _wrong(lines, dialect, str(error)) from None
        if record is None:
            return
        is_suspicious = dialect.escape is None and any(f"\\{dialect.quote}" in line for line in lines.of_record)
        if is_suspicious and _escaped(lines, dialect) is not None:
            raise _wrong(lines, dialect, "quotes follow backslashes, and may be escaped by them or not")
        yield record
        lines.of_record.clear()


def _format(dialect: CsvFile, escape: str | None) -> dict[str, Any]:
    return {
        "delimiter": dialect.delimiter,
        "quotechar": dialect.quote,
        "escapechar": escape,
        "doublequote": True,
        "strict": True,
    }


def _escaped(lines: _Lines, dialect: CsvFile) -> list[str] | None:
    """Return the record as it would be read with quotes escaped by a backslash; None if it would be wrong so."""
    try:
        records = list(csv.reader(lines.of_record, **_format(dialect, "\\")))
    except csv.Error:
        return None
    return records[0] if len(records) == 1 else None


def _wrong(lines: _Lines, dialect: CsvFile, what: str) -> InputError:
    number = lines.n_lines - len(lines.of_record) + 1
    if dialect.escape is None and _escaped(lines, dialect) is not None:
        return InputError(
            f"line {number}: {what}. If a backslash escapes quotes, as Spark and MySQL write them, say so: "
            r"rows=CsvFile(path, escape='\\'); if not, double the quotes inside of quoted fields."
        )
    return InputError(
        f"line {number}: {what}. Quotes inside of quoted fields must be doubled, and quoted fields must end; other "
        "ways to write them can be said with rows=CsvFile(path, quote=…, escape=…)."
    )


def _whole_rows(records: Iterator[list[str]], n_columns: int) -> Iterator[list[str]]:
    """Yield the records as rows: short ones end in empty texts.

    Raises:
        InputError: A record has more fields than the header.
    """
    for ordinal, record in enumerate(record for record in records if record or n_columns == 1):
        if len(record) > n_columns:
            raise InputError(
                f"row {ordinal}: its rows have more fields than its header: {len(record)} instead of {n_columns}. "
                "Quote fields that contain the delimiter, or name another one: rows=CsvFile(path, delimiter=…)."
            )
        yield record if len(record) == n_columns else record + [""] * (n_columns - len(record))


def _typed(name: str, texts: list[str], type_name: str, first_row: int) -> pa.Array:
    import pyarrow as pa

    if type_name == "text":
        return pa.array(texts, pa.large_string())
    convert = _CONVERT[type_name]
    values = [text or None for text in texts]
    try:
        return convert(values)
    except (pa.ArrowException, ValueError, msgspec.MsgspecError):
        pass
    for row, value in enumerate(values, first_row):  # slow, once: find the row to name
        try:
            convert([value])
        except (pa.ArrowException, ValueError, msgspec.MsgspecError):
            raise InputError(
                f"row {row}, column {name!r}: the value cannot be read as {type_name}, which types says that it is."
            ) from None
    raise AssertionError("a value failed once and not twice")


def _arrow(type_name: str) -> Callable[[list[str | None]], pa.Array]:
    def convert(values: list[str | None]) -> pa.Array:
        import pyarrow as pa

        arrow_type = pa.timestamp("us") if type_name == "timestamp" else pa.type_for_alias(type_name)
        return pa.array(values, pa.large_string()).cast(arrow_type)

    return convert


def _json(values: list[str | None]) -> pa.Array:
    from airflow_openai_batch.engine.requests.arrow import json_column

    for value in values:
        if value is not None:
            msgspec.json.decode(value)
    return json_column(values)


_CONVERT: dict[str, Callable[[list[str | None]], Any]] = {
    "int": _arrow("int64"),
    "float": _arrow("float64"),
    "bool": _arrow("bool"),
    "date": _arrow("date32"),
    "datetime": _arrow("timestamp"),
    "json": _json,
}
