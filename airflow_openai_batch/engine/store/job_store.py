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
from typing import Any, Literal, NamedTuple

import msgspec

from airflow_openai_batch.engine.errors import CommitRefused, ForeignJob, JobCleaned, StoreError
from airflow_openai_batch.engine.identity import job_path
from airflow_openai_batch.engine.model import FORMAT_VERSION, Commands, Job, JobKey, Tombstone
from airflow_openai_batch.engine.store.files import ADVICE, Files
from airflow_openai_batch.engine.store.migrations import OLD_COMMANDS_FOLDER
from airflow_openai_batch.engine.store.snapshots import decode_job as decode_job
from airflow_openai_batch.engine.store.snapshots import decode_snapshot, snapshot_name, snapshot_number
from airflow_openai_batch.engine.store.temporary import remove_leftovers

FileKind = Literal["rows", "index", "requests", "outcomes", "unmatched", "answers"]
"""What a write-once file holds; also the name of its folder."""

_SUFFIXES: dict[FileKind, str] = {
    "rows": ".parquet",
    "index": ".parquet",
    "requests": ".jsonl",
    "outcomes": ".parquet",
    "unmatched": ".jsonl",
    "answers": ".jsonl",
}

FULL_SNAPSHOTS = 20
"""How many of the newest snapshots keep their content: for a person to read, and for a reader that is slow."""

_COMMAND = re.compile(r"(cancel|start_over|accept_missing|ask_missing|replay)-[0-9a-f]+\.json\Z")
_ACCEPTED: dict[str, Literal["missing", "ask_again"]] = {"accept_missing": "missing", "ask_missing": "ask_again"}


class Snapshot(NamedTuple):
    """A job's whole state, and its place in the row of all its states."""

    number: int
    job: Job


class JobStore(Files):
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
        self.root = root
        self._is_cleaned = False
        super().__init__(root.joinpath(*job_path(key)))

    # -- snapshots ---------------------------------------------------------------------------------------------

    def load(self) -> Snapshot | None:
        """Return the newest snapshot, or None for a job that does not exist.

        Raises:
            UnknownFormat: A newer version of this package wrote it.
            ForeignJob: It is the job of another deployment, or another job.
            JobCleaned: It was removed, and a tombstone stands in its place.
            StoreError: It cannot be read, and there is no newer one.
        """
        number = self._newest()
        if number is None:
            return None
        while True:
            try:
                version, job = decode_snapshot(self.read(snapshot_name(number)))
                break
            except JobCleaned as cleaned:
                self._check_owner(cleaned.tombstone)
                cleaned.number = number
                raise
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
        return max((n for name in self.names_in("state") if (n := snapshot_number(name)) is not None), default=None)

    def _check_owner(self, job: Job | Tombstone) -> None:
        """Refuse a job that is not the one that was asked for: its batches are not ours to cancel or to fetch."""
        if job.key is not None and job.key != self.key:
            raise ForeignJob(
                f"{self} holds the job of {_told(job.key)}, and {_told(self.key)} was asked for. The folder was "
                "copied, or the storage takes upper and lower case for the same. Nothing was sent, cancelled or "
                "written. Move the folder away, or use another storage ([openai_batch] storage)."
            )
        if job.owner and self.owner and job.owner != self.owner:
            raise ForeignJob(
                f"The job in {self} belongs to the deployment {job.owner!r}, and this is {self.owner!r}. Nothing was "
                f"sent, cancelled or written. Two deployments must not share the storage {self.root}: set "
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
        if not self.create(snapshot_name(number), msgspec.json.format(msgspec.json.encode(job), indent=1)):
            raise CommitRefused(f"Snapshot {number} of {self} was made by another process.")
        if number >= FULL_SNAPSHOTS:
            with contextlib.suppress(Exception):  # a bucket that lets nothing be overwritten keeps them all
                self.empty(snapshot_name(number - FULL_SNAPSHOTS))
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
                f"submitted twice. Nothing was sent to OpenAI. Use local disk, S3, GCS or Azure. {ADVICE}"
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
        return tuple(n for n in sorted(self.names_in("commands")) if _COMMAND.match(n) and n not in acknowledged)

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
        for name in self.names_in(OLD_COMMANDS_FOLDER):
            if _COMMAND.match(name):
                self.create(f"commands/{name}", b"{}")

    def record_end(self, epoch: int, status: str) -> bool:
        """Record that a job ended, or is held. Returns whether this is the first to say so of this epoch."""
        return self.create(f"told/e{epoch}-{status}.json", b'{"writer":"%s"}' % uuid.uuid4().hex.encode())

    def was_held(self, epoch: int) -> bool:
        """Return whether the job was held in this epoch: a person had to act before it went on."""
        return f"e{epoch}-held.json" in self.names_in("told")

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

    def answer_files(self, shard: str) -> list[str]:
        """Return the names of the files with answers to synchronous requests of a shard, whoever wrote them.

        Args:
            shard: The shard's id.
        """
        folder = f"e{shard.partition('-')[0]}/answers"
        return [f"{folder}/{name}" for name in sorted(self.names_in(folder)) if name.startswith(f"{shard}-")]

    @staticmethod
    def plan_name(epoch: int, content: str) -> str:
        """Return the name of the file with the first requests of a plan, relative to the job.

        Args:
            epoch: The job's epoch.
            content: A digest of the file: a plan that is made again leaves no other file.
        """
        return f"e{epoch}/plan/first-requests-{content}.json"

    def remove_all(self) -> None:
        """Remove the whole job: only for one that was made to be thrown away, and of which nothing was ever sent."""
        with self._guard("remove"):
            self._fs.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm(str(self._path.path), recursive=True)
            for folder in list(self._path.parents)[:2] if self.is_local else ():  # of its run and Dag, if empty now
                with contextlib.suppress(OSError):
                    self._fs.rmdir(str(folder.path))

    # -- inside ------------------------------------------------------------------------------------------------

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


def _told(key: JobKey) -> str:
    mapped = "" if key.map_index < 0 else f" {key.map_index}"
    return f"{key.dag_id} {key.run_id} {key.task_id}{mapped}"
