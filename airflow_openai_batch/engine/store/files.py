"""Files below one folder of the storage, local or remote: write-once, and there whole or not at all."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from airflow_openai_batch.engine.errors import StoreError
from airflow_openai_batch.engine.store.temporary import new_file, spool_file

ADVICE = "Check the option [openai_batch] storage (or the parameter `storage`)."


class StoredFile(NamedTuple):
    """A file below a folder of the storage."""

    name: str
    """Relative to the folder."""
    n_bytes: int
    modified_at: float | None
    """When it was written, in epoch seconds; None if the storage does not tell."""


class Files:
    """The files below a folder. Names are relative to it, with ``/`` between their parts.

    Args:
        path: The folder: any path object with universal-pathlib's interface.

    Raises:
        StoreError: From every method, when the storage cannot be reached, with the setting to check.
    """

    def __init__(self, path: Any) -> None:
        self._path = path
        self._fs = path.fs
        protocol = self._fs.protocol
        self.is_local = "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def __str__(self) -> str:
        return str(self._path)

    def create(self, name: str, data: bytes) -> bool:
        """Create a small file if it does not exist.

        What the storage did decides, not what its client says. Seen: SeaweedFS refuses with a 412 that s3fs does not
        take for a file that exists; and a client repeats a request whose answer was lost, and finds its own file.

        Args:
            name: Its name.
            data: Its content, which no other writer has, where the answer matters.

        Returns:
            Whether the file is there with this content. False: it has another, which was not changed.
        """
        with self._guard("write to"):
            try:
                if self.is_local:
                    self._link(name, data)
                else:
                    with self._fs.open(self._at(name), "xb") as file:
                        file.write(data)
            except Exception as error:
                try:
                    return bytes(self._fs.cat_file(self._at(name))) == data
                except Exception:  # not there, or out of reach
                    raise error from None
        return True

    def read(self, name: str) -> bytes:
        """Return the whole of a small file."""
        with self._guard("read from"):
            return bytes(self._fs.cat_file(self._at(name)))

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Return a part of a file.

        Args:
            name: Its name.
            start: The first byte, counted from 0.
            stop: The byte after the last.
        """
        with self._guard("read from"):
            return bytes(self._fs.cat_file(self._at(name), start=start, end=stop))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file of the job for reading, seekable."""
        with self._guard("read from"):
            file = self._fs.open(self._at(name), "rb")
        with file:
            yield file

    @contextlib.contextmanager
    def writing(self, name: str, *, is_checked: bool = False) -> Iterator[IO[bytes]]:
        """Write a large file as a stream. It appears under its name whole, or not at all.

        It is written to local disk first, so the disk needs room for one file, whatever the storage.

        Args:
            name: Its name.
            is_checked: Whether the size is checked before the file is used. Then a disk need not be waited for.
        """
        with self._guard("write to"):
            spool = new_file(self._folder(name)) if self.is_local else spool_file()
        try:
            with spool:
                yield spool
                spool.flush()
                if not is_checked:
                    os.fsync(spool.fileno())  # a snapshot may name it from now on, and survives a power cut
            with self._guard("write to"):
                self._publish(spool.name, name)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(spool.name)

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        with self._guard("read from"):
            return int(self._fs.info(self._at(name))["size"])

    def exists(self, name: str) -> bool:
        """Return whether a file is there."""
        with self._guard("read from"):
            self._fs.invalidate_cache()  # a listing from a cache has files that are gone
            return bool(self._fs.exists(self._at(name)))

    def names_in(self, folder: str = "") -> list[str]:
        """Return the names of what is in a folder, in no order; none if there is no such folder."""
        path = self._at(folder)
        with self._guard("read from"):
            self._fs.invalidate_cache()  # a listing from a cache would hide the newest files
            try:
                return [entry.rstrip("/").rpartition("/")[2] for entry in self._fs.ls(path, detail=False)]
            except FileNotFoundError:
                return []

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with self._guard("remove from"), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._at(name))

    def empty(self, name: str) -> None:
        """Take a file's content away and leave its name, which is there at every moment.

        Raises:
            Exception: Whatever the storage raises: some let nothing be overwritten.
        """
        if not self.is_local:
            self._fs.pipe_file(self._at(name), b"")
            return
        with new_file(self._folder(name)) as file:
            try:
                os.replace(file.name, self._at(name))
            except OSError:
                os.unlink(file.name)
                raise

    def walk(self) -> list[StoredFile]:
        """Return all files below the folder, in no order; none if there is no such folder."""
        top = self._at("").rstrip("/")
        with self._guard("read from"):
            self._fs.invalidate_cache()
            try:
                entries = self._fs.find(top, detail=True)
            except FileNotFoundError:
                return []
        return [
            StoredFile(name=name[len(top) + 1 :], n_bytes=int(info.get("size") or 0), modified_at=_modified_at(info))
            for name, info in entries.items()
            if name.startswith(f"{top}/") and info.get("type") != "directory"
        ]

    def remove_empty_folders(self, name: str = "") -> None:
        """Remove a folder and those below it as far as they are empty; only a local store has such."""
        if self.is_local:
            for folder, _, _ in os.walk(self._at(name), topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    # -- inside ------------------------------------------------------------------------------------------------

    def _at(self, name: str) -> str:
        return str(self._path.joinpath(*filter(None, name.split("/"))).path)

    def _folder(self, name: str) -> str:
        """Return the folder of a local file, made if need be."""
        folder = Path(self._at(name)).parent
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    def _link(self, name: str, data: bytes) -> None:
        """Create a local file by hard link from a temporary one: exclusive, and never half-written."""
        with new_file(self._folder(name)) as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.link(file.name, self._at(name))
            finally:
                os.unlink(file.name)

    def _publish(self, source: str, name: str) -> None:
        if not self.is_local:
            self._fs.put_file(source, self._at(name))
            return
        try:
            os.link(source, self._at(name))
        except FileExistsError:
            if not os.path.samefile(source, self._at(name)):  # NFS repeats a request whose answer was lost
                raise

    @contextlib.contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Turn whatever a storage library raises into one error that names the setting."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # fsspec back ends raise botocore, aiohttp, google and OS errors alike
            raise StoreError(f"Cannot {what} the job store {self}: {error!r}. {ADVICE}") from error


_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
"""How the file systems of local disk, S3, Azure, GCS and memory name the time of a file."""


def _modified_at(info: Mapping[str, Any]) -> float | None:
    value = next((info[name] for name in _TIMES if info.get(name) is not None), None)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return datetime.datetime.fromisoformat(value).timestamp()
    if isinstance(value, datetime.datetime):
        return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()
    return float(value) if isinstance(value, int | float) else None
