"""Cleaning ledgers: entries of removed jobs go, and segments that are too old for everybody who reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_openai_batch.engine.cleaning.report import LEDGER, CleaningReport
from airflow_openai_batch.engine.identity import folder_name
from airflow_openai_batch.engine.ledger.compaction import compact, drop_entries
from airflow_openai_batch.engine.ledger.segments import Ledger, ledger_folders
from airflow_openai_batch.engine.model import LEDGER_DAYS

_LONGEST_S = LEDGER_DAYS * 24 * 3600.0


def clean_ledgers(
    root: Any, removed: Mapping[str, int], max_ages_s: Mapping[str, float], now: float, report: CleaningReport
) -> None:
    """Clean all ledgers of a storage.

    Args:
        root: The storage root.
        removed: The last epochs of the jobs that were removed, by their folders.
        max_ages_s: The longest age of an answer that a job in the store uses again, in seconds, by the ledger's name.
            A ledger that no job uses is kept as long as any.
        now: Epoch seconds.
        report: Where it is told.

    Raises:
        StoreError: The storage cannot be read or written.
    """
    ages_s = {folder_name(name): age_s for name, age_s in max_ages_s.items()}
    for folder in ledger_folders(root):
        ledger = Ledger(root, folder, folder)
        keep_s = min(ages_s.get(folder, _LONGEST_S), _LONGEST_S)
        before = {file.name: file.n_bytes for file in ledger.files.walk() if file.name.endswith(".parquet")}
        if report.is_dry_run:
            old = [segment.name for segment in ledger.segments() if segment.newest < now - keep_s]
            report.count(LEDGER, len(old), sum(before.get(name, 0) for name in old))
            continue
        n_dropped = drop_entries(ledger, removed, now) if removed else 0
        if n_dropped is None:
            report.problems.append(
                f"The ledger {folder} is being compacted by another process: entries of removed jobs stay in it, and "
                "count for nothing."
            )
        compact(ledger, now, keep_s, is_claimed=bool(n_dropped))
        after = {file.name: file.n_bytes for file in ledger.files.walk() if file.name.endswith(".parquet")}
        n_bytes = sum(before.values()) - sum(after.values())
        report.count(LEDGER, len(before.keys() - after.keys()), max(0, n_bytes))
