"""Sinks for the result table: a Parquet, JSONL or CSV file that is published in one step, or a list for XCom."""

from __future__ import annotations

import base64
import contextlib
import csv
import datetime
import decimal
import io
import os
import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol, Self

import msgspec

from airflow_openai_batch.engine.concurrency import SerialExecutor
from airflow_openai_batch.engine.errors import InputError, StoreError
from airflow_openai_batch.engine.requests.arrow import is_json, n_bytes_of
from airflow_openai_batch.engine.requests.values import decimal_text, json_rows, result_json, result_values
from airflow_openai_batch.engine.store.temporary import DEAD_LETTER, TABLE, remove_leftovers, work_folder

if TYPE_CHECKING:
    import pyarrow as pa


DEFAULT_XCOM_BYTES = 1_000_000
"""The default limit of results that go through XCom, as JSON."""

_GROUP_ROWS, _GROUP_BYTES = 65_536, 8 * 1024 * 1024


class Sink(Protocol):
    """A destination of the result table.

    Attributes:
        uri: Where the table is after `finish`; None for XCom.
        dead_letter_uri: Where the dead letter is after `finish`; None if there is none.
        n_dead_letter: Number of lines in it.
    """

    uri: str | None
    dead_letter_uri: str | None
    n_dead_letter: int

    def __enter__(self) -> Self: ...
    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def begin(self, schema: pa.Schema) -> None:
        """Begin the table, before the first batch."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""

    def dead_letter(self, line: bytes) -> None:
        """Add a raw line, of a row that was given up or of no row, to the dead letter."""

    def finish(self) -> None:
        """Publish the table. Without this call nothing appears."""


class FileSink:
    """A Parquet, JSONL or CSV file, by the ending ``.parquet``, ``.jsonl`` or ``.csv``.

    Rows are written to a local file first and published in one step, the dead letter before the table, so that readers
    see a complete table or none. The dead letter is beside the table as ``<name>.dead_letter.jsonl``; without lines for
    it, none is written and an older one is removed.

    A CSV file has every text as it is, also one that a spreadsheet would run as a formula, unless `quote_formulas`
    marks such texts with an apostrophe before them.

    Args:
        path: The path object.
        quote_formulas: Whether to mark them. Who reads the file gets the text back by removing one apostrophe where
            apostrophes and then ``=``, ``+``, ``-``, ``@``, a tab or a carriage return begin it, and it is no number.

    Attributes:
        n_formulas: Number of such texts in a CSV file, marked or not.

    Raises:
        InputError: The ending is unknown.
    """

    def __init__(self, path: Any, *, quote_formulas: bool = False) -> None:
        self._path = path
        self.quotes_formulas = quote_formulas
        suffix = path.name.rpartition(".")[2].lower()
        if suffix not in _WRITERS:
            raise InputError(
                f"output={str(path)!r}: the name must end in {', '.join('.' + name for name in _WRITERS)}."
            )
        self._make = _WRITERS[suffix]
        self._writer: Any = None
        self.uri: str | None = str(path)
        self.dead_letter_uri: str | None = None
        self.n_dead_letter = 0
        self.n_formulas = 0

    def __enter__(self) -> Self:
        self._folder = _folder_for(self._path)
        self._table = os.path.join(self._folder.name, TABLE)
        self._dead = os.path.join(self._folder.name, DEAD_LETTER)
        self._dead_file: IO[bytes] = open(self._dead, "wb")
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dead_file.close()
        if self._writer is not None:
            with contextlib.suppress(Exception):  # closed already, or unusable after the error
                self._writer.close()
        self._folder.cleanup()

    def begin(self, schema: pa.Schema) -> None:
        """Begin the table."""
        self._writer = self._make(self._table, schema)

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        if isinstance(self._writer, _Csv):
            batch, n_formulas = with_formulas(batch, quote=self.quotes_formulas)
            self.n_formulas += n_formulas
        self._writer.write(batch)

    def dead_letter(self, line: bytes) -> None:
        """Add a raw line to the dead letter."""
        self._dead_file.write(line + b"\n")
        self.n_dead_letter += 1

    def finish(self) -> None:
        """Publish the dead letter, then the table.

        Raises:
            StoreError: They cannot be written.
        """
        self._writer.close()
        self._writer = None
        self._dead_file.close()
        dead = self._path.with_name(f"{self._path.name}.dead_letter.jsonl")
        if self.n_dead_letter:
            _publish(self._dead, dead)
            self.dead_letter_uri = str(dead)
        _publish(self._table, self._path)
        if not self.n_dead_letter and dead.exists():
            dead.unlink()


def _is_local(path: Any) -> bool:
    protocol = path.fs.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def _folder_for(path: Any) -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder: beside the target if that is local, so that publishing is a rename.

    What killed processes have left where it is made is removed.
    """
    parent = (os.path.dirname(str(path.path)) or ".") if _is_local(path) else None
    try:
        if parent is not None:
            os.makedirs(parent, exist_ok=True)
        remove_leftovers(parent)
        return work_folder(parent)
    except OSError as error:
        raise _unwritable(path, error) from error


def _publish(source: str, target: Any) -> None:
    """Move or upload a file from ``_folder_for`` to its target in one step, replacing an older one."""
    try:
        if _is_local(target):
            os.replace(source, str(target.path))
        else:
            target.fs.put_file(source, str(target.path))
    except Exception as error:  # every storage library has its own errors
        raise _unwritable(target, error) from error


def _unwritable(target: Any, error: Exception) -> StoreError:
    return StoreError(
        f"The results cannot be written to {target}: {error!r}. No answer is lost, they are in the job store: mend "
        "`output` or its connection and clear this task; nothing is paid again."
    )


class ListSink:
    """Rows as a list of dicts, for XCom.

    Args:
        max_bytes: The largest size of all rows as JSON.
    """

    def __init__(self, max_bytes: int = DEFAULT_XCOM_BYTES) -> None:
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self.rows: list[dict[str, Any]] = []
        self.uri: str | None = None
        self.dead_letter_uri: str | None = None
        self.n_dead_letter = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def begin(self, schema: pa.Schema) -> None:
        """Do nothing: dicts need no schema."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows.

        Raises:
            InputError: All rows together are larger than the limit.
        """
        data = b"[" + b",".join(json_rows(batch)) + b"]"
        self._n_bytes += len(data)
        if self._n_bytes > self._max_bytes:
            raise InputError(
                f"The results are larger than {self._max_bytes:,} bytes, too much for XCom, which lives in Airflow's "
                "database. No answer is lost. Give output='s3://…/labels.parquet' (or .jsonl, .csv) and clear this "
                "task: nothing is paid again."
            )
        self.rows += msgspec.json.decode(data)

    def dead_letter(self, line: bytes) -> None:
        """Count a raw line: the lines stay in the job store."""
        self.n_dead_letter += 1

    def finish(self) -> None:
        """Do nothing: `rows` is complete."""


class _Parquet:
    """Writes Parquet in row groups of moderate size, in a thread."""

    def __init__(self, path: str, schema: pa.Schema) -> None:
        import pyarrow.parquet as pq

        # JSON columns become texts: not every reader of Parquet knows Arrow's type for them.
        self._schema = _plain_schema(schema)
        self._writer = pq.ParquetWriter(path, self._schema)
        self._writing = SerialExecutor(1)
        self._group: list[pa.RecordBatch] = []
        self._n_rows = self._n_bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [column.storage if is_json(column.type) else column for column in batch.columns]
        self._group.append(type(batch).from_arrays(columns, schema=self._schema))
        self._n_rows += batch.num_rows
        self._n_bytes += n_bytes_of(batch)
        if self._n_rows >= _GROUP_ROWS or self._n_bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self._writing(self._writer.write_table, pa.Table.from_batches(self._group, self._schema))
        self._group, self._n_rows, self._n_bytes = [], 0, 0

    def close(self) -> None:
        try:
            if self._group:
                self._flush()
            self._writing(self._writer.close)
            self._writing.wait()
        finally:
            self._writing.stop()


class _Jsonl:
    def __init__(self, path: str, schema: pa.Schema) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - closed in close

    def write(self, batch: pa.RecordBatch) -> None:
        self._file.writelines(row + b"\n" for row in json_rows(batch))

    def close(self) -> None:
        self._file.close()


class _Csv:
    def __init__(self, path: str, schema: pa.Schema) -> None:
        self._file = io.TextIOWrapper(open(path, "wb"), encoding="utf-8", newline="")  # noqa: SIM115 - closed in close
        self._writer = csv.writer(self._file)
        self._writer.writerow(schema.names)

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [_cells(column) for column in batch.columns]
        self._writer.writerows(zip(*columns, strict=True))

    def close(self) -> None:
        self._file.close()


_FORMULA = r"^'*[=+\-@\t\r]"
"""What spreadsheets run, or what `with_formulas` would make of it: without those, a marked text could not be told."""

_NUMBER = r"^[+-][0-9]+([.,][0-9]+)*([eE][+-]?[0-9]+)?$"


def with_formulas(batch: pa.RecordBatch, *, quote: bool) -> tuple[pa.RecordBatch, int]:
    """Find the texts that a spreadsheet would run as formulas.

    Args:
        batch: The rows of a CSV file.
        quote: Whether to put an apostrophe before them.

    Returns:
        The rows, and how many such texts they have.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    n_formulas = 0
    for place, column in enumerate(batch.columns):
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            continue
        is_number = pc.match_substring_regex(column, _NUMBER)
        is_formula = pc.and_not(pc.match_substring_regex(column, _FORMULA), is_number).fill_null(False)
        n = pc.sum(is_formula).as_py() or 0
        n_formulas += n
        if n and quote:
            marked = pc.binary_join_element_wise(pa.scalar("'", column.type), column, pa.scalar("", column.type))
            batch = batch.set_column(place, batch.schema.field(place), pc.if_else(is_formula, marked, column))
    return batch, n_formulas


_WRITERS: dict[str, Callable[[str, Any], Any]] = {"parquet": _Parquet, "jsonl": _Jsonl, "csv": _Csv}


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([field.with_type(pa.large_string()) if is_json(field.type) else field for field in schema])


def _cells(column: pa.Array) -> list[Any]:
    if is_json(column.type):
        texts: list[Any] = column.storage.to_pylist()
        return texts
    return list(map(_cell, result_values(column)))


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return decimal_text(value)
    data = result_json(value)
    # A duration is a string in JSON; the quotes are not part of the cell.
    return msgspec.json.decode(data, type=str) if data[:1] == b'"' else data.decode()
