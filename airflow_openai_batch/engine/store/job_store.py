"""The job store: one directory a job, readable with ``ls`` and ``cat``. The only code that names its files.

``state/000017.json`` is a full snapshot; the highest number is the truth. A snapshot is made by exclusive create,
so of two processes that want to move the job one wins. Snapshots that many others have followed are emptied, so that
the store does not grow with every look. Their names stay for ever: a process that was frozen and wakes with an old
number must find it taken, and never commit into a gap. Everything else is write-once under a unique name; what no
snapshot names is garbage. Nothing is locked.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import msgspec

from airflow_openai_batch.engine.errors import CommitRefused, ForeignJob, StoreError, UnknownFormat
from airflow_openai_batch.engine.identity import job_path
from airflow_openai_batch.engine.model import FORMAT_VERSION, Commands, Job, JobKey
from airflow_openai_batch.engine.store.migrations import OLD_COMMANDS_FOLDER, upgraded
from airflow_openai_batch.engine.store.temporary import new_file, remove_leftovers, spool_file

FileKind = Literal["rows", "index", "requests", "outcomes", "unmatched"]
"""What a write-once file holds; also the name of its folder."""

_SUFFIXES: dict[FileKind, str] = {
    "rows": ".parquet",
    "index": ".parquet",
    "requests": ".jsonl",
    "outcomes": ".parquet",
    "unmatched": ".jsonl",
}
_SNAPSHOT = re.compile(r"(\d{6,})\.json\Z")

FULL_SNAPSHOTS = 20
"""How many of the newest snapshots keep their content: for a person to read, and for a reader that is slow."""

_COMMAND = re.compile(r"(cancel|start_over|accept_missing|ask_missing|replay)-[0-9a-f]+\.json\Z")
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
        owner: The deployment that asks, which gets no job of another one; empty if it is not known. Whoever does not
            know asks as the owner of the job that is loaded.

    Raises:
        StoreError: From every method, when the storage cannot be reached, with the setting to check.
    """

    def __init__(self, root: Any, key: JobKey, owner: str = "") -> None:
        self.key = key
        self.owner = owner
        self._root = root
        self._is_cleaned = False
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
            ForeignJob: It is the job of another deployment, or another job.
            StoreError: It cannot be read, and there is no newer one.
        """
        number = self._newest()
        if number is None:
            return None
        while True:
            try:
                version, job = decode_snapshot(self.read(_snapshot(number)))
                break
            except StoreError:
                newer = self._newest()
                if newer is None or newer <= number:
                    raise
                number = newer  # others have committed so often since the listing that it was emptied
        self._check_owner(job)
        if version < FORMAT_VERSION:
            self._copy_old_commands()
        return Snapshot(number, job)

    def _newest(self) -> int | None:
        return max((int(match[1]) for name in self._list("state") if (match := _SNAPSHOT.match(name))), default=None)

    def _check_owner(self, job: Job) -> None:
        """Refuse a job that is not the one that was asked for: its batches are not ours to cancel or to fetch."""
        if job.key != self.key:
            raise ForeignJob(
                f"{self} holds the job of {_told(job.key)}, and {_told(self.key)} was asked for. The folder was "
                "copied, or the storage takes upper and lower case for the same. Nothing was sent, cancelled or "
                "written. Move the folder away, or use another storage ([openai_batch] storage)."
            )
        if job.owner and self.owner and job.owner != self.owner:
            raise ForeignJob(
                f"The job in {self} belongs to the deployment {job.owner!r}, and this is {self.owner!r}. Nothing was "
                f"sent, cancelled or written. Two deployments must not share the storage {self._root}: set "
                "[openai_batch] storage to a place of its own for each. If it is one deployment, which was moved or "
                f"restored or has a new URL, set [openai_batch] deployment = {job.owner} and clear this task."
            )
        self.owner = self.owner or job.owner

    def commit(self, number: int, job: Job, now: float) -> Snapshot:
        """Make a snapshot, and empty the one that is now `FULL_SNAPSHOTS` behind it, if the storage allows that.

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
        if not self.create(_snapshot(number), msgspec.json.format(msgspec.json.encode(job), indent=1)):
            raise CommitRefused(f"Snapshot {number} of {self} was made by another process.")
        if number >= FULL_SNAPSHOTS:
            with contextlib.suppress(Exception):  # a bucket that lets nothing be overwritten keeps them all
                self._empty(_snapshot(number - FULL_SNAPSHOTS))
        self._clean()
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
        self, what: Literal["cancel", "start_over", "accept_missing", "ask_missing", "replay"], at: float | None = None
    ) -> None:
        """Leave a person's command for whoever advances the job.

        Args:
            what: To cancel everything; to ask everything again; to accept rows that cannot be proven to have no answer
                as missing, or to ask those again; to ask all rows without a good answer once more.
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
        return Commands(
            cancel=any(name.startswith("cancel-") for name in names),
            accepted=tuple(accepted),
            replays=tuple(name for name in names if name.startswith("replay-")),
        )

    def _given_at(self, command: str) -> float:
        return float(msgspec.json.decode(self.read(f"commands/{command}")).get("at", 0.0))

    def _copy_old_commands(self) -> None:
        """Bring commands to where they are looked for, of a job stored in an older format."""
        for name in self._list(OLD_COMMANDS_FOLDER):
            if _COMMAND.match(name):
                self.create(f"commands/{name}", b"{}")

    def record_end(self, epoch: int, status: str) -> bool:
        """Record that a job ended, or is held. Returns whether this is the first to say so of this epoch."""
        return self.create(f"told/e{epoch}-{status}.json", b'{"writer":"%s"}' % uuid.uuid4().hex.encode())

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

    def _empty(self, name: str) -> None:
        """Take a file's content away and leave its name, which is there at every moment."""
        if not self.is_local:
            self._fs.pipe_file(self._at(name), b"")
            return
        with new_file(self._folder(name)) as file:
            try:
                os.replace(file.name, self._at(name))
            except OSError:
                os.unlink(file.name)
                raise

    def _clean(self) -> None:
        """Remove, once a process, what others left here, or on this machine's disk, when they were killed."""
        if self._is_cleaned:
            return
        self._is_cleaned = True
        if not self.is_local:
            remove_leftovers()
            return
        for folder, _, _ in os.walk(str(self._path.path)):
            remove_leftovers(folder)

    @contextlib.contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Turn whatever a storage library raises into one error that names the setting."""
        try:
            yield
        except StoreError:
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


def _told(key: JobKey) -> str:
    mapped = "" if key.map_index < 0 else f" {key.map_index}"
    return f"{key.dag_id} {key.run_id} {key.task_id}{mapped}"


def _snapshot(number: int) -> str:
    return f"state/{number:06d}.json"
