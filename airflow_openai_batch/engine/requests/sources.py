"""Sources of rows: rows as Arrow record batches, and a version that changes when they change.

A source is a list of dicts, a DataFrame or other Arrow table, a callable, or a Parquet, CSV or JSONL file behind any
path object, or several such files (``files``). With ready-made request lines (``body=None``) a row is one line of a
batch input file.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.concurrency import prefetch
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import BATCH_ROWS, empty_batch, with_columns
from airflow_openai_batch.engine.requests.chunk_source import ChunkSource
from airflow_openai_batch.engine.requests.chunks import Chunks
from airflow_openai_batch.engine.requests.csv_files import CsvFile, read_csv
from airflow_openai_batch.engine.requests.files import (
    FilesSource,
    SourceFile,
    find_files,
    names_files,
    partition_columns,
)
from airflow_openai_batch.engine.requests.python_rows import json_row, python_batch
from airflow_openai_batch.engine.requests.source import Source as Source
from airflow_openai_batch.engine.requests.tables import from_arrow, from_python, shown
from airflow_openai_batch.engine.store.parquet import read_parquet

if TYPE_CHECKING:
    import pyarrow as pa


_READ_BYTES = 256 * 1024

_COLUMN_BYTES = 1024 * 1024

_MOST_PLACES = 100


def source_of(rows: Any, *, endpoint: str, ready: bool = False) -> Source:
    """Return the source for the ``rows`` parameter.

    Args:
        rows: A list of dicts, anything that exports an Arrow stream (pandas, polars, pyarrow), an iterator, a callable
            that returns or yields such, a path object, a path or URI as a string, or a list of these; a path may be
            a pattern or a directory. A `CsvFile` names such files and how they are written, `Chunks` are parts of any
            of these. Or a source.
        endpoint: The endpoint, which ready-made request lines must name.
        ready: Whether rows are ready-made request lines.

    Raises:
        InputError: It is something else, or a file that does not exist or has an unknown ending.
    """
    dialect: CsvFile | None = None
    if isinstance(rows, CsvFile):
        rows, dialect = rows.path, rows
        if not isinstance(rows, str | Path | list) and not hasattr(rows, "open"):
            raise InputError(f"CsvFile: path must be a path, a URI, or a list of these, not {type(rows).__name__}.")
    if isinstance(rows, str | Path):
        from upath import UPath

        rows = UPath(rows)
    open_file = functools.partial(FileSource, endpoint=endpoint, ready=ready, dialect=dialect)
    # A table first: a data frame has its columns as attributes, which may be called `open` and `name`.
    if hasattr(rows, "__arrow_c_stream__"):
        return MemorySource(rows, endpoint=endpoint, ready=ready)
    if names_files(rows):
        return FilesSource(rows, open_file, dialect)
    if hasattr(rows, "open") and hasattr(rows, "name"):
        return open_file(rows)
    if isinstance(rows, Chunks) or hasattr(rows, "is_repeatable"):
        return _own_source(rows, endpoint, ready)
    return _source_of_python(rows, endpoint, ready)


def _own_source(rows: Any, endpoint: str, ready: bool) -> Source:
    if ready:
        raise InputError(
            "Ready-made request lines (body=None) are dicts or a .jsonl file, not rows of a query or chunks."
        )
    if isinstance(rows, Chunks):
        return ChunkSource(source_of(rows.rows, endpoint=endpoint), rows)
    return rows  # type: ignore[no-any-return] # a source, as it says


def _source_of_python(rows: Any, endpoint: str, ready: bool) -> Source:
    if isinstance(rows, Iterator):
        return CallableSource(lambda: rows, endpoint=endpoint, ready=ready)
    if callable(rows):
        return CallableSource(rows, endpoint=endpoint, ready=ready)
    if isinstance(rows, Mapping) or not isinstance(rows, Sequence):
        raise InputError(f"rows must be a list of dicts, a DataFrame, a path or a callable, not {type(rows).__name__}.")
    return MemorySource(rows, endpoint=endpoint, ready=ready)


def places_of(rows: Any) -> tuple[str, ...]:
    """Return the first 100 paths or URIs in the ``rows`` parameter; none if it holds the rows themselves."""
    rows = rows.rows if isinstance(rows, Chunks) else rows
    rows = rows.path if isinstance(rows, CsvFile) else rows
    entries = rows if isinstance(rows, list | tuple) else [rows]
    # A list of paths holds nothing else.
    return tuple(str(entry) for entry in entries[:_MOST_PLACES]) if entries and _is_place(entries[0]) else ()


def _is_place(entry: Any) -> bool:
    if isinstance(entry, str | Path):
        return True
    return hasattr(entry, "open") and hasattr(entry, "name") and not hasattr(entry, "__arrow_c_stream__")


class MemorySource:
    """Rows in memory.

    Args:
        rows: A list of dicts, or a table that exports an Arrow stream.
        endpoint: The endpoint, which ready-made request lines must name.
        ready: Whether rows are ready-made request lines.

    Raises:
        InputError: The rows are invalid.
    """

    is_repeatable = True

    def __init__(self, rows: Any, *, endpoint: str, ready: bool) -> None:
        import pyarrow as pa

        if not hasattr(rows, "__arrow_c_stream__"):
            # One batch: a column that is empty in the first thousand rows still gets the type of the later ones.
            batches = list(shown([python_batch(rows, 0, endpoint, ready)])) if len(rows) else []
        else:
            batches = list(from_arrow(rows, ready))
        self._table = pa.Table.from_batches(batches) if batches else pa.table({})

    @property
    def version(self) -> str:
        """The hash of the rows."""
        import pyarrow as pa

        hasher = _HashFile()
        with pa.ipc.new_stream(pa.PythonFile(hasher, mode="w"), self._table.schema) as writer:
            writer.write_table(self._table.combine_chunks(), max_chunksize=BATCH_ROWS)
        return f"content:{hasher.hexdigest()}"

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows."""
        yield from self._table.to_batches(max_chunksize=BATCH_ROWS) or [empty_batch(self._table.schema)]


class CallableSource:
    """Rows from the user's function, which is called once for each submission. They have no version.

    Args:
        function: Returns or yields the rows.
        endpoint: The endpoint, which ready-made request lines must name.
        ready: Whether rows are ready-made request lines.
    """

    version = None
    is_repeatable = False

    def __init__(self, function: Callable[[], Any], *, endpoint: str, ready: bool) -> None:
        self._function = function
        self._endpoint = endpoint
        self._ready = ready

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Call the function and yield its rows.

        Raises:
            InputError: It returned something else than rows.
        """
        rows = self._function()
        if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
            raise InputError(f"The rows function must return or yield dicts, it returned {type(rows).__name__}.")
        yield from from_python(rows, endpoint=self._endpoint, ready=self._ready)


class FileSource:
    """Rows of a ``.parquet``, ``.csv`` or ``.jsonl`` file behind a path object, read as a stream.

    A CSV file has no types, so its columns stay strings: a postal code keeps its leading zero. Folders such as
    ``day=1`` are columns too, unless the file has a column of that name.

    Args:
        path: The path object.
        endpoint: The endpoint, which ready-made request lines must name.
        ready: Whether rows are ready-made request lines, which only JSONL files hold.
        dialect: How a CSV file is written; None for a plain one, or another format.

    Raises:
        InputError: The ending is unknown, or does not fit to `ready`.
    """

    is_repeatable = True

    def __init__(self, path: Any, *, endpoint: str, ready: bool, dialect: CsvFile | None = None) -> None:
        self._path = path
        self._endpoint = endpoint
        self._ready = ready
        self._dialect = dialect
        suffix = ".csv" if dialect else f".{path.name.rpartition('.')[2].lower()}"
        readers = {".parquet": self._parquet, ".csv": self._csv, ".jsonl": self._jsonl, ".ndjson": self._jsonl}
        if suffix not in readers:
            raise InputError(f"rows={str(path)!r}: the name must end in .parquet, .csv or .jsonl.")
        if ready and suffix not in (".jsonl", ".ndjson"):
            raise InputError(f"rows={str(path)!r}: ready-made request lines (body=None) come in a .jsonl file.")
        self._suffix = suffix
        self._read = readers[suffix]
        self._partitions = {} if ready else partition_columns(path)

    @property
    def version(self) -> str:
        """Path, size, and the storage's own mark of a change (ETag or modification time)."""
        return self._file().version + (self._dialect.version if self._dialect else "")

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the file.

        Raises:
            InputError: The file cannot be read.
        """
        self._file()
        import pyarrow as pa

        try:
            for batch in prefetch(self._read()):
                yield with_columns(batch, self._partitions) if self._partitions else batch
        except InputError as error:
            raise InputError(f"rows={str(self._path)!r}: {error}") from None
        except (pa.ArrowException, UnicodeDecodeError, ValueError, LookupError) as error:
            raise InputError(f"rows={str(self._path)!r} cannot be read: {error}") from error

    def _file(self) -> SourceFile:
        files = find_files(self._path)
        if [file.path for file in files] != [self._path]:
            raise InputError(
                f"rows={str(self._path)!r} is a directory. Name its files with a pattern: "
                f"{str(self._path).rstrip('/')}/*{self._suffix}"
            )
        return files[0]

    def _parquet(self) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        with self._path.open("rb") as file:
            # With a buffer size, because pandas writes a million rows into one row group.
            n_rows = 0
            for batch in shown(read_parquet(file, buffer_size=_COLUMN_BYTES)):
                n_rows += batch.num_rows
                yield batch
            if not n_rows:
                yield from shown([empty_batch(pq.read_schema(file))])

    def _csv(self) -> Iterator[pa.RecordBatch]:
        with self._path.open("rb") as file:
            yield from read_csv(file, self._dialect or CsvFile(self._path))

    def _jsonl(self) -> Iterator[pa.RecordBatch]:
        with self._path.open("rb") as file:
            rows = (json_row(line, number) for number, line in enumerate(_lines(file)) if line.strip())
            yield from from_python(rows, endpoint=self._endpoint, ready=self._ready)


def _lines(file: Any) -> Iterator[bytes]:
    r"""Yield the lines, split at ``\n`` only: other line separators are legal inside JSON strings."""
    rest = file.read(3).removeprefix(b"\xef\xbb\xbf")  # the byte order mark that some editors write
    while block := file.read(_READ_BYTES):
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
    if rest:
        yield rest


class _HashFile:
    """A file object that hashes what is written to it."""

    closed = False

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
