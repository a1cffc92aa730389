"""The job store: one directory a job, readable with ``ls`` and ``cat``. The only code that names its files.

``state/000017.json`` is a full snapshot; the highest number is the truth. A snapshot is made by exclusive create,
so of two processes that want to move the job one wins. Everything else is write-once under a unique name; what no
snapshot names is garbage. Nothing is renamed, overwritten or locked.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import msgspec

from airflow_openai_batch.engine.errors import CommitRefused, StoreError, UnknownFormat
from airflow_openai_batch.engine.identity import job_path
from airflow_openai_batch.engine.model import FORMAT_VERSION, Commands, Job, JobKey
from airflow_openai_batch.engine.store.migrations import OLD_COMMANDS_FOLDER, upgraded

FileKind = Literal["rows", "index", "requests", "outcomes", "unmatched"]
"""What a write-once file holds; also the name of its folder."""

_SUFFIXES: dict[FileKind, str] = {
    "rows": ".parquet",
    "index": ".parquet",
    "requests": ".jsonl",
    "outcomes": ".parquet",
    "unmatched": ".jsonl",
}
_SNAPSHOT = re.compile(r"(\d{6})\.json\Z")

_COMMAND = re.compile(r"(cancel|start_over|accept_missing|ask_missing)-[0-9a-f]+\.json\Z")
_ACCEPTED: dict[str, Literal["missing", "ask_again"]] = {"accept_missing": "missing", "ask_missing": "ask_again"}

_COPY_BYTES = 256 * 1024

_ADVICE = "Check the option [openai_batch] storage (or the parameter `storage`)."


class Snapshot(NamedTuple):
    """A job's whole state, and its place in the row of all its states."""

    number: int
    job: Job


class JobStore:
    """The directory of one job.

    Args:
        root: The storage root: any path object with universal-pathlib's interface.
        key: The job.

    Raises:
        StoreError: From every method, when the storage cannot be reached, with the setting to check.
    """

    def __init__(self, root: Any, key: JobKey) -> None:
        self.key = key
        self._path = root.joinpath(*job_path(key))
        self._fs = self._path.fs
        protocol = self._fs.protocol
        self.is_local = "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def __str__(self) -> str:
        return str(self._path)

    # -- snapshots ---------------------------------------------------------------------------------------------

    def load(self) -> Snapshot | None:
        """Return the newest snapshot, or None for a job that does not exist.

        Raises:
            UnknownFormat: A newer version of this package wrote it.
        """
        numbers = [int(match[1]) for name in self._list("state") if (match := _SNAPSHOT.match(name))]
        if not numbers:
            return None
        number = max(numbers)
        version, job = decode_snapshot(self.read(_snapshot(number)))
        if version < FORMAT_VERSION:
            self._copy_old_commands()
        return Snapshot(number, job)

    def commit(self, number: int, job: Job, now: float) -> Snapshot:
        """Make a snapshot.

        Args:
            number: Its number: one more than that of the snapshot that the change was made from.
            job: The job's whole state.
            now: Epoch seconds.

        Returns:
            The snapshot as it is stored.

        Raises:
            CommitRefused: Another process has made this snapshot: load again and go on from there.
        """
        job = msgspec.structs.replace(job, format_version=FORMAT_VERSION, writer=uuid.uuid4().hex, committed_at=now)
        data = msgspec.json.format(msgspec.json.encode(job), indent=1)
        # Refused with our own file there: the storage client repeated a request whose answer was lost.
        if not self.create(_snapshot(number), data) and decode_job(self.read(_snapshot(number))).writer != job.writer:
            raise CommitRefused(f"Snapshot {number} of {self} was made by another process.")
        return Snapshot(number, job)

    def check(self) -> None:
        """Prove, before anything is paid for, that the store refuses to create a file twice.

        Raises:
            StoreError: It does not: two workers could both submit.
        """
        name = f"probe-{uuid.uuid4().hex}"
        try:
            first, second = self.create(name, b"1"), self.create(name, b"2")
            with self._guard("read from"):
                content = self.read(name)
        finally:
            with contextlib.suppress(Exception):
                self._fs.rm_file(self._at(name))
        if not first or second or content != b"1":
            raise StoreError(
                f"The storage {self._path} lets a file be created twice, so it cannot protect a job from being "
                f"submitted twice. Nothing was sent to OpenAI. Use local disk, S3, GCS or Azure. {_ADVICE}"
            )

    # -- commands ----------------------------------------------------------------------------------------------

    def command(
        self, what: Literal["cancel", "start_over", "accept_missing", "ask_missing"], at: float | None = None
    ) -> None:
        """Leave a person's command for whoever advances the job.

        Args:
            what: To cancel everything; to ask everything again; to accept rows that cannot be proven to have no answer
                as missing, or to ask those again.
            at: When it was given, in epoch seconds; by default now.
        """
        name = f"{what}-{uuid.uuid4().hex}.json"
        if not _COMMAND.match(name):
            raise ValueError(f"Unknown command {what!r}.")
        self.create(f"commands/{name}", msgspec.json.encode({"at": time.time() if at is None else at}))

    def commands(self, acknowledged: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return the names of the commands that were not acknowledged yet."""
        return tuple(n for n in sorted(self._list("commands")) if _COMMAND.match(n) and n not in acknowledged)

    def standing_commands(self, job: Job) -> Commands:
        """Return what was commanded and is not acknowledged."""
        names = self.commands(job.acknowledged)
        accepted = [(self._given_at(name), what) for name in names if (what := _ACCEPTED.get(name.partition("-")[0]))]
        return Commands(cancel=any(name.startswith("cancel-") for name in names), accepted=tuple(accepted))

    def _given_at(self, command: str) -> float:
        return float(msgspec.json.decode(self.read(f"commands/{command}")).get("at", 0.0))

    def _copy_old_commands(self) -> None:
        """Bring commands to where they are looked for, of a job stored in an older format."""
        for name in self._list(OLD_COMMANDS_FOLDER):
            if _COMMAND.match(name):
                self.create(f"commands/{name}", b"{}")

    def record_end(self, epoch: int, status: str) -> bool:
        """Record that a job ended, or is held. Returns whether this is the first to say so of this epoch."""
        return self.create(f"told/e{epoch}-{status}.json", b"{}")

    # -- files -------------------------------------------------------------------------------------------------

    def new_name(self, kind: FileKind, shard: str, label: str = "") -> str:
        """Return a name that no other file has, relative to the job.

        Args:
            kind: What the file will hold.
            shard: The id of the shard it belongs to; its epoch is the top folder.
            label: What tells it from others of the shard, for a person.
        """
        stem = f"{shard}-{label}" if label else shard
        return f"e{shard.partition('-')[0]}/{kind}/{stem}-{uuid.uuid4().hex[:12]}{_SUFFIXES[kind]}"

    def create(self, name: str, data: bytes) -> bool:
        """Create a small file if it does not exist. Returns False, and changes nothing, if it does."""
        with self._guard("write to"):
            if self.is_local:
                return self._link(name, data)
            try:
                with self._fs.open(self._at(name), "xb") as file:
                    file.write(data)
            except FileExistsError:
                return False
        return True

    def read(self, name: str) -> bytes:
        """Return the whole of a small file."""
        with self._guard("read from"):
            return bytes(self._fs.cat_file(self._at(name)))

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
        spool = self._spool(name)
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

    # -- inside ------------------------------------------------------------------------------------------------

    def _at(self, name: str) -> str:
        return str(self._path.joinpath(*name.split("/")).path)

    def _list(self, folder: str) -> list[str]:
        path = self._at(folder)
        with self._guard("read from"):
            self._fs.invalidate_cache()  # a listing from a cache would hide the newest snapshot
            try:
                return [entry.rstrip("/").rpartition("/")[2] for entry in self._fs.ls(path, detail=False)]
            except FileNotFoundError:
                return []

    def _link(self, name: str, data: bytes) -> bool:
        """Create a local file by hard link from a temporary one: exclusive, and never half-written."""
        target = Path(self._at(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, target)
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        return True

    def _spool(self, name: str) -> Any:
        """Open a file of this machine to write to: beside its place, where that is on this machine too."""
        folder = None
        if self.is_local:
            folder = Path(self._at(name)).parent
            with self._guard("write to"):
                folder.mkdir(parents=True, exist_ok=True)
        return tempfile.NamedTemporaryFile(prefix=".new-", dir=folder, delete=False)

    def _publish(self, source: str, name: str) -> None:
        if not self.is_local:
            self._fs.put_file(source, self._at(name))
            return
        os.link(source, self._at(name))

    @contextlib.contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Turn whatever a storage library raises into one error that names the setting."""
        try:
            yield
        except (StoreError, FileExistsError):
            raise
        except Exception as error:  # fsspec back ends raise botocore, aiohttp, google and OS errors alike
            raise StoreError(f"Cannot {what} the job store {self._path}: {error!r}. {_ADVICE}") from error


def decode_job(data: bytes) -> Job:
    """Read a snapshot of this version's format or an older one; see ``decode_snapshot``."""
    return decode_snapshot(data)[1]


def decode_snapshot(data: bytes) -> tuple[int, Job]:
    """Read a snapshot. Returns the version of the format it was stored in, and the job.

    Raises:
        UnknownFormat: It has a newer format, or one that nobody knows.
        StoreError: It is no snapshot.
    """
    try:
        version = _decode_version(data).format_version
    except msgspec.MsgspecError as error:
        raise StoreError(f"A snapshot of the job cannot be read: {error}. {_ADVICE}") from error
    if not 1 <= version <= FORMAT_VERSION:
        raise UnknownFormat(
            f"The job was written in state format {version}, this version reads up to {FORMAT_VERSION}. Nothing is "
            "lost: finish it with the version of airflow-openai-batch that began it, or a newer one."
        )
    try:
        return version, _decode_job(data) if version == FORMAT_VERSION else _convert_job(upgraded(data))
    except (msgspec.ValidationError, KeyError, TypeError) as error:
        raise UnknownFormat(
            f"The job was written by another version of airflow-openai-batch: {error}. Nothing is lost: finish it with "
            "the version that began it."
        ) from error


class _Versioned(msgspec.Struct):
    format_version: int


# Made here and not at the first use: msgspec 0.22 crashes the process if two threads decode a type for the first time.
_decode_version = msgspec.json.Decoder(_Versioned).decode
_decode_job = msgspec.json.Decoder(Job).decode


def _convert_job(state: dict[str, Any]) -> Job:
    return msgspec.convert(state, Job)


def _snapshot(number: int) -> str:
    return f"state/{number:06d}.json"
