"""Rows become batch input files: Parquet to shards of request lines.

    python benchmarks/build.py [--rows 1000000] [--peers FOLDER]

A request line has about 2.3 KB: a constant prompt and a strict JSON Schema of 1.1 KB, and a text of 1 KB on average
with quotes, line breaks and letters beyond ASCII. "Ours" is `submit()` whole: it also writes the input columns, an
index with a digest of each request, checks custom_ids and limits, and makes every file durable (fsync), which the
others do not. `copy` reads and writes the bytes of the finished request files in blocks of 1 MiB: no program that
reads and writes as much can do less. `copy, durable` also makes them durable. `copy of all` is what no program can do
without that stores as much as ours: decode the rows, write them to Parquet again, copy the request files, all durable.

Files made by the others: pandas and itertuples cut after 50,000 lines, as ours does here.
The peers (see build_peers.py) build 50,000 of the same requests; each needs an environment of its own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import build_peers
import workload
from measure import Benchmark, Group
from sample import Case
from summary import Goal, over_base, ratio

SHARD_ROWS = 50_000

GOALS: tuple[Goal, ...] = (
    ratio("Build: time of copying the request files", "build", "ours", "copy", 1.25),
    ratio("Build: time of copying all that is stored, durable", "build", "ours", "copy_all", 1.25),
    Goal(
        "Build: times as fast as pandas iterrows",
        lambda m: m("build", "iterrows", "seconds") / m("build", "ours", "seconds"),
        12,
        at_least=True,
    ),
    Goal(
        "Build with a Python function: times as fast as iterrows",
        lambda m: m("build", "iterrows", "seconds") / m("build", "callable", "seconds"),
        7,
        at_least=True,
    ),
    over_base("Build: memory over base", "build", "ours", 150),
    *build_peers.GOALS,
)

bench = Benchmark(__file__, __doc__, GOALS)
bench.parser.add_argument("--peers", type=Path, metavar="FOLDER", help="where build_peers.py install has put the peers")


@dataclass(frozen=True)
class Ask:
    """What is asked of each row: the template, the function that does the same, and how requests are compared."""

    endpoint: str
    template: dict[str, Any]
    function: Callable[[Any], dict[str, Any]]
    fingerprint: Callable[[Iterable[bytes]], dict[str, Any]]


LABELS = Ask(workload.RESPONSES, workload.BODY, workload.body_of, workload.fingerprint_of_requests)
CHATS = Ask(workload.CHAT, workload.CHAT_BODY, workload.chat_body_of, workload.fingerprint_of_chats)


def declare(group: Group, ask: Ask) -> None:
    """Declare the methods that both groups have."""

    @group.method("ours", "this package, template")
    def ours(case: Case) -> None:
        _ours(case, ask, ask.template)

    @group.method("callable", "this package, Python function")
    def callable_body(case: Case) -> None:
        _ours(case, ask, ask.function)

    @group.method("itertuples", "pandas itertuples, json.dumps, streamed", most=3)
    def itertuples(case: Case) -> None:
        import pandas as pd

        path = workload.rows_file(case.data, case.rows)
        with case.timed():
            rows = pd.read_parquet(path).itertuples()
            for i, first in enumerate(range(0, case.rows, SHARD_ROWS)):
                with open(case.work / f"{i}.jsonl", "w", encoding="utf-8") as file:
                    for _, row in zip(range(first, min(first + SHARD_ROWS, case.rows)), rows, strict=False):
                        file.write(_line(ask, row.id, {"category": row.category, "text": row.text}) + "\n")
        case.check(**ask.fingerprint(_written(case.work)))

    @group.method("iterrows", "pandas iterrows, json.dumps, list and join")
    def iterrows(case: Case) -> None:
        import pandas as pd

        path = workload.rows_file(case.data, case.rows)
        with case.timed():
            frame = pd.read_parquet(path)
            lines = [_line(ask, row["id"], row) for _, row in frame.iterrows()]
            for i, first in enumerate(range(0, len(lines), SHARD_ROWS)):
                text = "\n".join(lines[first : first + SHARD_ROWS]) + "\n"
                (case.work / f"{i}.jsonl").write_text(text, encoding="utf-8")
        case.check(**ask.fingerprint(_written(case.work)))


def _line(ask: Ask, custom_id: str, row: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": ask.endpoint, "body": ask.function(row)})


def _ours(case: Case, ask: Ask, body: Any) -> None:
    from local_openai import begin_task, engine_in, plan

    begin_task()

    import airflow_openai_batch.engine.submit  # noqa: F401

    rows = workload.rows_file(case.data, case.rows)
    engine = engine_in(case.work)
    with case.timed():
        job = plan(engine, rows, body, endpoint=ask.endpoint)
    case.check(**ask.fingerprint(_requests(engine.store, job)))
    stored = sum(path.stat().st_size for path in case.work.rglob("*") if path.is_file())
    case.note(request_mb=sum(shard.n_bytes for shard in job.shards) / 1e6, written_mb=stored / 1e6)


def _requests(store: Any, job: Any) -> Iterator[bytes]:
    for shard in job.shards:
        with store.open(shard.requests) as file:
            yield from file


def _written(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob("*.jsonl"), key=lambda path: int(path.stem)):
        with path.open("rb") as file:
            yield from file


def prepare(case: Case) -> None:
    """Make the rows, and leave our request files for who copies them."""
    from local_openai import engine_in, plan

    engine = engine_in(case.work)
    job = plan(engine, workload.rows_file(case.data, case.rows))
    for i, shard in enumerate(job.shards):
        with engine.store.open(shard.requests) as source:
            os.link(str(source.name), case.shared / f"{i}.jsonl")


def _copy(case: Case, *, is_durable: bool) -> None:
    for path in sorted(case.shared.glob("*.jsonl"), key=lambda path: int(path.stem)):
        with path.open("rb", buffering=0) as source, open(case.work / path.name, "wb", buffering=0) as target:
            while block := source.read(1 << 20):
                target.write(block)
            if is_durable:
                os.fsync(target.fileno())


large = bench.group("build", "{rows} rows in Parquet to request files", rows=1_000_000, quick_rows=5_000)
large.prepare = prepare
declare(large, LABELS)


def _check(case: Case) -> None:
    case.check(**LABELS.fingerprint(_written(case.work)))
    case.note(request_mb=sum(path.stat().st_size for path in case.work.glob("*.jsonl")) / 1e6)


@large.method("copy", "limit: copy the request files")
def copy(case: Case) -> None:
    with case.timed():
        _copy(case, is_durable=False)
    _check(case)


@large.method("copy_durable", "limit: copy, durable")
def copy_durable(case: Case) -> None:
    with case.timed():
        _copy(case, is_durable=True)
    _check(case)


@large.method("copy_all", "limit: copy of all that is stored, durable")
def copy_all(case: Case) -> None:
    import pyarrow.parquet as pq

    with case.timed():
        source = pq.ParquetFile(workload.rows_file(case.data, case.rows), pre_buffer=False)
        batches = source.iter_batches(batch_size=16_384)
        with (case.work / "rows").open("wb") as file, pq.ParquetWriter(file, source.schema_arrow) as writer:
            for batch in batches:
                writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        _copy(case, is_durable=True)
    _check(case)


small = bench.group("peers", "{rows} rows: libraries for the Batch API", rows=50_000, quick_rows=500)


def prepare_rows(case: Case) -> None:
    """Make the rows."""
    workload.rows_file(case.data, case.rows)


small.prepare = prepare_rows
declare(small, CHATS)
build_peers.declare(small)


if __name__ == "__main__":
    sys.exit(bench.main())
