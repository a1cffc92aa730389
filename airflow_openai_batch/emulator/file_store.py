"""Storage of files: contents on disk, file objects in memory."""

from __future__ import annotations

import threading
from pathlib import Path

from airflow_openai_batch.emulator.api_error import ApiError
from airflow_openai_batch.emulator.clock import Clock
from airflow_openai_batch.emulator.file_faults import FileFault
from airflow_openai_batch.emulator.model import IdGenerator, StoredFile


class FileStore:
    """The uploaded and generated files. Safe to use from any thread.

    Args:
        directory: Where the contents are kept.
        clock: Decides which files have expired.
        ids: Makes the files' ids.
    """

    def __init__(self, directory: Path, clock: Clock, ids: IdGenerator) -> None:
        self._directory = directory
        self._clock = clock
        self._ids = ids
        self._files: dict[str, StoredFile] = {}
        self._n_paths = 0
        self._lock = threading.Lock()

    def new_path(self) -> Path:
        """Return an unused path for new content."""
        with self._lock:
            self._n_paths += 1
            return self._directory / f"{self._n_paths:08d}"

    def new_id(self) -> str:
        """Return the id of a file that is never written."""
        return self._ids.file()

    def add(
        self,
        path: Path,
        filename: str,
        purpose: str,
        lifetime_s: float | None,
        faults: tuple[FileFault, ...] = (),
        faults_begin_at: float = 0.0,
        created_at: float | None = None,
        pending_s: float = 0.0,
    ) -> StoredFile:
        """Return a new file object for content that is on disk already.

        Args:
            path: The content, at a path that `new_path` returned.
            filename: The name that the API shows.
            purpose: The purpose that the API shows.
            lifetime_s: Seconds until the file expires; None is never.
            faults: What is wrong with the content that is shown.
            faults_begin_at: Since when, in epoch seconds.
            created_at: When it was created, in epoch seconds; None is now.
            pending_s: Seconds from then until it is processed.
        """
        created_at = self._clock.now() if created_at is None else created_at
        expires_at = None if lifetime_s is None else created_at + lifetime_s
        with self._lock:
            size = path.stat().st_size
            stored = StoredFile(
                self._ids.file(),
                path,
                size,
                created_at,
                expires_at,
                filename,
                purpose,
                faults,
                faults_begin_at,
                created_at + pending_s,
            )
            self._files[stored.id] = stored
        return stored

    def find(self, file_id: str, at: float | None = None) -> StoredFile | None:
        """Return a file, None if it does not exist or has expired.

        Args:
            file_id: The file.
            at: The time at which it must not have expired, in epoch seconds; None is now.
        """
        with self._lock:
            return self._unexpired(self._files.get(file_id), at)

    def get(self, file_id: str) -> StoredFile:
        """Return a file.

        Raises:
            ApiError: 404, it does not exist or has expired.
        """
        stored = self.find(file_id)
        if stored is None:
            raise ApiError(404, f"No such File object: {file_id}", param="id")
        return stored

    def all(self) -> list[StoredFile]:
        """Return the files that have not expired, oldest first."""
        with self._lock:
            return [stored for stored in self._files.values() if self._unexpired(stored)]

    def delete(self, file_id: str, *, keep_bytes: bool) -> None:
        """Delete a file.

        Args:
            file_id: The file.
            keep_bytes: Whether its content stays on disk, for a batch that reads it.

        Raises:
            ApiError: 404, it does not exist or has expired.
        """
        stored = self.get(file_id)
        with self._lock:
            self._files.pop(file_id, None)
        if not keep_bytes:
            stored.path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete every file."""
        with self._lock:
            for stored in self._files.values():
                stored.path.unlink(missing_ok=True)
            self._files.clear()

    def _unexpired(self, stored: StoredFile | None, at: float | None = None) -> StoredFile | None:
        at = self._clock.now() if at is None else at
        if stored is None or (stored.expires_at is not None and at >= stored.expires_at):
            return None
        return stored
