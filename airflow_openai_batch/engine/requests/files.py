"""A source of rows in several files: a list of paths, a glob pattern, or a directory.

Files are read one after another, those of a pattern or directory sorted by name, so that the order of rows is the same
at every reading. Names that begin with ``_`` or ``.`` are ignored, as in Spark and Hive: ``_SUCCESS``, manifests,
checksums.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from airflow_openai_batch.engine.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_openai_batch.engine.requests.csv_files import CsvFile


ENDINGS = ("parquet", "csv", "jsonl", "ndjson")

_LOOSE = ("jsonl", "ndjson")
"""Formats in which a row may leave out columns."""

_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"

# Compiled at first use, so that a Dag file that imports the operators does not pay for it.
_MAGIC = r"[*?\[]"

_SCHEME = r"[a-z][a-z0-9+.-]*://\S+\Z"

_MARKS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")


class SourceFile(msgspec.Struct, frozen=True):
    """A file with the metadata that its storage reports."""

    path: Any
    info: Mapping[str, Any]

    @property
    def version(self) -> str:
        """Path, size, and the storage's own mark of a change (ETag or modification time)."""
        mark = next((str(self.info[key]) for key in _MARKS if self.info.get(key)), "")
        return f"file:{self.path}|{self.info.get('size')}|{mark}"


def lists_files(rows: Any) -> bool:
    """Return whether rows are a list of paths.

    A string with neither a known ending nor a scheme is not a path but a row of a wrong type, and must not be quoted
    in an error message.
    """
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        return False
    return bool(rows) and all(is_path(e) and (not isinstance(e, str) or _looks_like_path(e)) for e in rows)


def names_files(rows: Any) -> bool:
    """Return whether the ``rows`` parameter is for ``FilesSource``: a list of paths, a pattern or a directory."""
    if not is_path(rows):
        return lists_files(rows)
    return _has_magic(rows) or (_ending(str(rows)) not in ENDINGS and _is_directory(_path(rows)))


class FilesSource:
    """Rows of several files, one after another.

    Args:
        rows: A path object, a path or URI as a string, or a list of these. Each may contain ``*``, ``?``, ``[…]`` and
            ``**``, or be a directory, which stands for all files below it.
        open_file: Returns the source of one file.
        dialect: How the files are written; its version is part of theirs.
    """

    is_repeatable = True

    def __init__(self, rows: Any, open_file: Callable[[Any], Any], dialect: CsvFile | None = None) -> None:
        self._dialect = dialect
        named = rows if isinstance(rows, Sequence) and not isinstance(rows, str) else [rows]
        self._named = [_path(entry) for entry in named]
        self._open_file = open_file
        self._files: list[SourceFile] | None = None

    @property
    def files(self) -> list[SourceFile]:
        """The files, in the order of reading. Listed once.

        Raises:
            InputError: There is none, or one is named twice: its rows would be paid for twice.
        """
        if self._files is None:
            files = [file for path in self._named for file in find_files(path)]
            names = [str(file.path) for file in files]
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise InputError(f"rows names {twice!r} twice; its rows would be asked, and paid for, twice.")
            self._files = files
        return self._files

    @property
    def version(self) -> str:
        """The number of files and the hash of their versions."""
        hasher = hashlib.blake2b("\n".join(file.version for file in self.files).encode(), digest_size=16)
        return f"files:{len(self.files)}|{hasher.hexdigest()}" + (self._dialect.version if self._dialect else "")

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the files in order.

        Raises:
            InputError: A file cannot be read, or its columns do not fit to those of the files before it.
        """
        from airflow_openai_batch.engine.requests.column_types import ColumnTypes  # a Dag file imports this module

        types = ColumnTypes()
        first: SourceFile | None = None
        n_rows = 0
        for file in self.files:
            is_begun = False
            for batch in self._open_file(file.path).batches():
                if not is_begun and batch.num_rows:
                    is_begun = True
                    if first is not None and _ending(file.path.name) not in _LOOSE:
                        _check_columns(batch.schema.names, types.schema.names, file, first)
                    first = first or file
                try:
                    types.add(batch, n_rows)
                except InputError as error:
                    raise InputError(
                        f"rows: {str(file.path)!r} has other column types than the files before it. {error}"
                    ) from None
                yield batch
                n_rows += batch.num_rows


def find_files(path: Any) -> list[SourceFile]:
    """Return the files of a path object: of a file, a directory, or a glob pattern.

    Raises:
        InputError: There are none, or the storage cannot be reached.
    """
    try:
        if not _has_magic(path) or path.fs.exists(path.path):
            info = dict(path.fs.info(path.path))
            if info.get("type") != "directory":
                return [SourceFile(path, info)]
            return _directory(path)
        return _matching(path)
    except FileNotFoundError:
        raise InputError(f"rows={str(path)!r}: there is no such file. Nothing was uploaded.") from None
    except InputError:
        raise
    except Exception as error:  # every storage library has its own errors
        raise InputError(f"rows={str(path)!r} cannot be reached: {error!r}") from error


def _directory(path: Any) -> list[SourceFile]:
    path.fs.invalidate_cache()  # a cached listing would hide the newest files
    files = _visible(path, path.fs.find(path.path, detail=True))
    endings = sorted({_ending(file.path.name) for file in files})
    if not files:
        raise InputError(f"rows={str(path)!r}: there is no file in this directory. Nothing was uploaded.")
    if len(endings) > 1:
        raise InputError(
            f"rows={str(path)!r}: the directory holds files of several kinds ({', '.join(endings)}). Say which you "
            f"mean with a pattern, for example {str(path).rstrip('/')}/**/*.{endings[-1]}"
        )
    return files


def _matching(pattern: Any) -> list[SourceFile]:
    base = pattern
    while _has_magic(base):
        base = base.parent
    base.fs.invalidate_cache()
    files = _visible(base, base.fs.glob(pattern.path, detail=True))
    if not files:
        raise InputError(f"rows={str(pattern)!r}: no file has a name like this. Nothing was uploaded.")
    return files


def _visible(base: Any, listing: Mapping[str, Mapping[str, Any]]) -> list[SourceFile]:
    """Return the files of a listing sorted by name, as path objects made from ``base``, which knows the connection."""
    top = str(base.path).rstrip("/") + "/"
    files = []
    for name in sorted(listing):
        steps = [step for step in name.removeprefix(top).split("/") if step]
        # Some storages list a directory as an object whose name ends in a slash.
        is_file = listing[name].get("type") == "file" and not name.endswith("/")
        if is_file and not any(step.startswith(("_", ".")) for step in steps):
            files.append(SourceFile(base.joinpath(*steps), listing[name]))
    return files


def _check_columns(names: list[str], wanted: list[str], file: SourceFile, first: SourceFile) -> None:
    """Reject a file that lacks columns of those before, which would leave prompts empty."""
    missing = [name for name in wanted if name not in names]
    if missing:
        raise InputError(
            f"rows: {str(file.path)!r} lacks {', '.join(map(repr, missing))}, which the files before it have, from "
            f"{str(first.path)!r} on. Nothing was uploaded."
        )


def partition_columns(path: Any) -> dict[str, str | None]:
    """Return the columns that a file's folders say, as Hive and Spark name them: ``day=2026-01-01/part-0.parquet``.

    Values are texts. Hive writes special characters as ``%3A``, and ``__HIVE_DEFAULT_PARTITION__`` for null.
    """
    columns: dict[str, str | None] = {}
    for folder in str(path.path if hasattr(path, "path") else path).split("/")[:-1]:
        name, is_partition, value = folder.partition("=")
        if is_partition and name:
            columns[unquote(name)] = None if value == _NULL_PARTITION else unquote(value)
    return columns


def is_path(value: Any) -> bool:
    """Return whether a value is a path: a text, or an object like those of pathlib and universal_pathlib."""
    return isinstance(value, str | Path) or (
        hasattr(value, "open") and hasattr(value, "name") and not hasattr(value, "__arrow_c_stream__")
    )


def _looks_like_path(text: str) -> bool:
    return bool(re.match(_SCHEME, text)) or (_ending(text) in ENDINGS and "\n" not in text)


def _is_directory(path: Any) -> bool:
    try:
        return bool(path.fs.isdir(path.path))
    except Exception:  # every storage library has its own errors; `find_files` will raise it with a message
        return True


def _path(value: Any) -> Any:
    if value == "":
        raise InputError("rows is an empty text, or names a file by one.")  # as a path, it is the current directory
    if isinstance(value, str | Path):
        from upath import UPath

        return UPath(value)
    return value


def _has_magic(path: Any) -> bool:
    return bool(re.search(_MAGIC, str(path)))


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower()
