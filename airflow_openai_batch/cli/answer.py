"""What a command answers: for a person, for a script, and as an exit status."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NamedTuple


class Exit(IntEnum):
    """Exit statuses. 2 is that of wrong arguments, as ``argparse`` has it."""

    DONE = 0
    """As asked."""
    NOTHING = 1
    """There is no such job, or nothing to do; nothing was changed."""
    USAGE = 2
    NOT_TOLD = 3
    """A command is noted and will be obeyed, but OpenAI could not be told, or could not be asked for all."""
    RUNNING = 4
    """``show --exit-code``: the job is not finished."""
    BAD = 5
    """``show --exit-code``: it is finished, and worse than its thresholds allow."""


class Answer(NamedTuple):
    """What a command answers."""

    text: str = ""
    """For a person; to standard output."""
    data: Mapping[str, Any] = {}
    """For a script, with ``--json``; also to standard output."""
    problem: str = ""
    """What went wrong; to standard error, and with ``--json`` in the value as ``problem``."""
    exit: Exit = Exit.DONE


class NoJob(Exception):
    """There is no such job. The message says where it was looked for, and what there is."""
