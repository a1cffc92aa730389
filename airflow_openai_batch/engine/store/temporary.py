"""Files under temporary names: how they are made, and how those that killed processes left behind go away."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
import uuid
from typing import Any

TABLE, DEAD_LETTER = "table", "dead"
"""The files in a work folder."""

KEEP_S = 24 * 3600.0
"""How long what has a temporary name may be in use, in seconds."""

_NEW_FILE, _WORK = ".new-", ".openai-batch-"
# What follows is 8 characters of `tempfile` or the hexadecimal digits of a UUID.
_NAME = re.compile(rf"(?:{re.escape(_NEW_FILE)}|{re.escape(_WORK)})[a-z0-9_]{{8,32}}")


def new_file(folder: str) -> Any:
    """Open a new file to write to, in the folder where it will get its name.

    Other users may read it as the umask says (unlike those of `tempfile`): tasks of one job can run as several users.
    """
    return open(os.path.join(folder, f"{_NEW_FILE}{uuid.uuid4().hex}"), "xb")


def spool_file() -> Any:
    """Open a new file to write to, on this machine's disk, that is removed by whoever asked for it."""
    return tempfile.NamedTemporaryFile(prefix=_WORK, delete=False)


def work_folder(parent: str | None = None) -> tempfile.TemporaryDirectory[str]:
    """Make a folder for `TABLE` and `DEAD_LETTER`: in ``parent``, or among this machine's temporary files."""
    return tempfile.TemporaryDirectory(prefix=_WORK, dir=parent)


def is_temporary(name: str) -> bool:
    """Return whether a file's name, without its folder, is one that is only written to until it gets its own."""
    return _NAME.fullmatch(name) is not None


def remove_leftovers(folder: str | None = None, *, is_dry_run: bool = False) -> tuple[int, int]:
    """Remove what processes that were killed left in a folder, if nothing of it has changed for a day.

    Never raises: what cannot be removed stays.

    Args:
        folder: The folder, without those below it; None for this machine's temporary files.
        is_dry_run: Whether only to count.

    Returns:
        How many files and folders are gone, and their bytes.
    """
    n = n_bytes = 0
    with contextlib.suppress(OSError), os.scandir(folder or tempfile.gettempdir()) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    size = _remove(entry, is_dry_run=is_dry_run)
                    n, n_bytes = (n, n_bytes) if size is None else (n + 1, n_bytes + size)
    return n, n_bytes


def _remove(entry: os.DirEntry[str], *, is_dry_run: bool) -> int | None:
    """Remove a leftover. Returns its bytes; None if it may be in use."""
    inside: list[os.DirEntry[str]] = []
    if is_folder := entry.is_dir(follow_symlinks=False):
        with os.scandir(entry) as found:
            inside = list(found)
    changed_at = max(one.stat(follow_symlinks=False).st_mtime for one in (entry, *inside))
    if time.time() - changed_at < KEEP_S or not {one.name for one in inside} <= {TABLE, DEAD_LETTER}:
        return None
    size = sum(one.stat(follow_symlinks=False).st_size for one in (inside if is_folder else [entry]))
    if is_dry_run:
        return size
    if is_folder:
        shutil.rmtree(entry)
    else:
        os.unlink(entry)
    return size
