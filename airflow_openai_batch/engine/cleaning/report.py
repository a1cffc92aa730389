"""What cleaning has removed, or would remove, and what it left and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from airflow_openai_batch.engine.model import JobKey
from airflow_openai_batch.engine.store.files import StoredFile

_MAX_NAMED = 5

JOBS, REQUESTS, GARBAGE = "files of old jobs", "request files that no round needs", "files that no snapshot names"
SNAPSHOTS, LEFTOVERS = "contents of old snapshots", "leftovers of killed workers"
LEDGER, AT_OPENAI = "ledger segments", "files at OpenAI"


@dataclass
class Amount:
    """How many things, and how many bytes."""

    n: int = 0
    n_bytes: int = 0


@dataclass
class CleaningReport:
    """What became of a cleaning.

    Args:
        is_dry_run: Whether nothing was removed, and this is what would have been.
        freed: What was removed, by what it is.
        jobs: The jobs that were removed as a whole.
        kept: The jobs that were left, or what else was, by the reason.
        problems: What went wrong. The next cleaning tries again.
    """

    is_dry_run: bool
    freed: dict[str, Amount] = field(default_factory=dict)
    jobs: list[str] = field(default_factory=list)
    kept: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def count(self, what: str, n: int, n_bytes: int) -> None:
        """Add what was removed.

        Args:
            what: What it is, for a person.
            n: How many of them.
            n_bytes: Their bytes together.
        """
        if n:
            amount = self.freed.setdefault(what, Amount())
            amount.n += n
            amount.n_bytes += n_bytes

    def count_files(self, what: str, files: Iterable[StoredFile]) -> None:
        """Add files that were removed."""
        for file in files:
            self.count(what, 1, file.n_bytes)

    def keep(self, reason: str, name: str) -> None:
        """Add what was left."""
        self.kept.setdefault(reason, []).append(name)

    @property
    def n_bytes(self) -> int:
        """The bytes that were freed in the storage; not those at OpenAI."""
        return sum(amount.n_bytes for what, amount in self.freed.items() if what != AT_OPENAI)

    def text(self) -> str:
        """Return the report for a person."""
        verb, verbs = ("would be", "would be") if self.is_dry_run else ("was", "were")
        lines = []
        if n := len(self.jobs):
            lines.append(f"{_jobs(n)} {verbs if n > 1 else verb} removed: {_some(self.jobs)}")
        lines += [f"{amount.n:,} {what} ({_size(amount.n_bytes)})" for what, amount in self.freed.items()]
        lines.append(f"{_size(self.n_bytes)} of the storage {verb} freed." if lines else f"Nothing {verb} removed.")
        lines += [f"Left, as {reason}: {_some(names)}" for reason, names in self.kept.items()]
        return "\n".join(lines)

    def to_json(self, max_named: int | None = None) -> dict[str, Any]:
        """Return the report for a script.

        Args:
            max_named: How many jobs are named at most for each reason; None for all.
        """
        return {
            "dry_run": self.is_dry_run,
            "bytes": self.n_bytes,
            "n_jobs": len(self.jobs),
            "jobs": self.jobs[:max_named],
            "freed": {what: {"n": amount.n, "bytes": amount.n_bytes} for what, amount in self.freed.items()},
            "kept": {reason: names[:max_named] for reason, names in self.kept.items()},
            "problems": self.problems[:max_named],
        }


def name_of(key: JobKey) -> str:
    """Return how a job is named for a person, as on the command line."""
    mapped = "" if key.map_index < 0 else f" --map-index {key.map_index}"
    return f"{key.dag_id} {key.run_id} {key.task_id}{mapped}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def _jobs(n: int) -> str:
    return "1 job" if n == 1 else f"{n:,} jobs"


def _size(n_bytes: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} bytes"
