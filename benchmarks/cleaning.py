"""Does cleaning keep the storage of nightly jobs within bounds, and what does it take by number of jobs?

    python benchmarks/cleaning.py                      # 365 nights, cleaned each week of what is older than 90 days
    python benchmarks/cleaning.py --nights 60 --every 5 --older-than 20

Each night is a whole job: planned, uploaded, looked at, harvested. OpenAI is a dict here, and time is a number. The
table has what is in the storage, with cleaning and without. Then what cleaning takes for so many jobs: the first time,
when all are removed, and the second time, when nothing is left to do; and what listing the jobs takes before and after.
Exits with 1 if the storage still grows after the first jobs were removed, by more than the small files that stay.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import workload
from store_growth import Waiting

DAY_S = 24 * 3600.0
LOOKS = 10
ROWS = 200
TOMBSTONE_BYTES = 1500
"""The most that may stay of a job which was removed."""


def one_night(root: Path, night: int) -> None:
    """Run the job of a night."""
    from upath import UPath

    from airflow_openai_batch.engine.job.advance import advance
    from airflow_openai_batch.engine.job.context import Engine
    from airflow_openai_batch.engine.job.status import Done
    from airflow_openai_batch.engine.job.submit import Request, submit
    from airflow_openai_batch.engine.model import JobKey, Policy
    from airflow_openai_batch.engine.store.job_store import JobStore

    api, now = Waiting(), night * DAY_S
    log = logging.getLogger("cleaning")
    log.setLevel(logging.ERROR)
    store = JobStore(UPath(root), JobKey(dag_id="labels", run_id=f"night-{night:04d}", task_id="ask"), "benchmark")
    engine = Engine(store=store, api=api, clock=lambda: now, log=log)  # type: ignore[arg-type]
    rows = [{"id": f"t{i}", "text": f"ticket {i} of night {night}"} for i in range(ROWS)]
    body = {"model": "m", "input": "{text}"}
    submit(engine, Request(rows, endpoint=workload.RESPONSES, body=body, custom_id="{id}"), Policy())
    for look in range(LOOKS + 1):
        api.has_ended = look == LOOKS
        reached = advance(engine)
        now += 600.0
    if not isinstance(reached, Done):
        raise TypeError(f"Night {night}: {reached}")


def clean_up(root: Path, night: int, older_than_days: float) -> Any:
    """Clean the storage as on a night."""
    from upath import UPath

    from airflow_openai_batch.engine.cleaning.clean import clean

    return clean(
        UPath(root), "benchmark", night * DAY_S, older_than_s=older_than_days * DAY_S, api_of=None, is_dry_run=False
    )


def kept(root: Path) -> tuple[int, int]:
    """Return the files in the storage, and their bytes."""
    sizes = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def a_year(root: Path, nights: int, every: int, older_than: int) -> bool:
    """Run the nights, clean now and then, and print what is kept. Returns whether that stays within bounds."""
    print("| nights | jobs removed | in the storage | files | without cleaning |")
    print("| --: | --: | --: | --: | --: |")
    removed = whole = 0
    for night in range(nights):
        before = kept(root)[1] if night < 2 else 0
        one_night(root, night)
        whole = kept(root)[1] - before if night < 2 else whole
        if night % every == every - 1:
            removed += len(clean_up(root, night, older_than).jobs)
        if night % max(1, nights // 8) == 0 or night == nights - 1:
            n_files, n_bytes = kept(root)
            megabytes, without = n_bytes / 1e6, (night + 1) * whole / 1e6
            print(f"| {night + 1} | {removed} | {megabytes:.2f} MB | {n_files:,} | {without:.2f} MB |", flush=True)
    n_full = older_than + every
    most = n_full * whole + removed * TOMBSTONE_BYTES
    print(f"\nAt most {most / 1e6:.2f} MB may be left: {n_full} whole jobs, and what stays of {removed} others.\n")
    return kept(root)[1] <= most


def seconds(act: Callable[[], Any]) -> float:
    """Return how long something takes."""
    began_at = time.perf_counter()
    act()
    return time.perf_counter() - began_at


def by_jobs(folder: Path, numbers: list[int]) -> None:
    """Print what cleaning and listing take for so many jobs."""
    from upath import UPath

    from airflow_openai_batch.cli.jobs import keys_in

    print("| jobs | removing all | once more | listing before | listing after |")
    print("| --: | --: | --: | --: | --: |")
    for n in numbers:
        root = folder / str(n)
        for night in range(n):
            one_night(root, night)
        before = seconds(lambda r=root: list(keys_in(UPath(r))))  # type: ignore[misc]
        first = seconds(lambda r=root, k=n: clean_up(r, k + 100, 1))  # type: ignore[misc]
        again = seconds(lambda r=root, k=n: clean_up(r, k + 100, 1))  # type: ignore[misc]
        after = seconds(lambda r=root: list(keys_in(UPath(r), cleaned=[])))  # type: ignore[misc]
        print(f"| {n:,} | {first:.2f} s | {again:.2f} s | {before:.2f} s | {after:.2f} s |", flush=True)
        shutil.rmtree(root)


def main() -> int:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=365, help="default 365")
    parser.add_argument("--every", type=int, default=7, metavar="DAYS", help="between two cleanings, default 7")
    parser.add_argument("--older-than", type=int, default=90, metavar="DAYS", help="default 90")
    parser.add_argument("--jobs", type=int, nargs="+", default=[50, 200, 800], help="default 50 200 800")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cleaning-") as folder:
        is_bounded = a_year(Path(folder, "year"), options.nights, options.every, options.older_than)
        by_jobs(Path(folder), options.jobs)
    return int(not is_bounded)


if __name__ == "__main__":
    sys.exit(main())
