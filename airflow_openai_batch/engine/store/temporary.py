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

_KEEP_S = 24 * 3600.0
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


def remove_leftovers(folder: str | None = None) -> None:
    """Remove what processes that were killed left in a folder, if nothing of it has changed for a day.

    Never raises: what cannot be removed stays.

    Args:
        folder: The folder, without those below it; None for this machine's temporary files.
    """
    with contextlib.suppress(OSError), os.scandir(folder or tempfile.gettempdir()) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _remove(entry)


def _remove(entry: os.DirEntry[str]) -> None:
    inside: list[os.DirEntry[str]] = []
    if is_folder := entry.is_dir(follow_symlinks=False):
        with os.scandir(entry) as found:
            inside = list(found)
    changed_at = max(one.stat(follow_symlinks=False).st_mtime for one in (entry, *inside))
    if time.time() - changed_at < _KEEP_S or not {one.name for one in inside} <= {TABLE, DEAD_LETTER}:
        return
    if is_folder:
        shutil.rmtree(entry)
    else:
        os.unlink(entry)
