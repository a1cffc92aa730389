"""Rows become batch input files: Parquet to shards of request lines.

    python benchmarks/build.py [--rows 1000000] [--peers FOLDER]

A request line has about 2.3 KB: a constant prompt and a strict JSON Schema of 1.1 KB, and a text of 1 KB on average
with quotes, line breaks and letters beyond ASCII. "Ours" is `submit()` whole: it also writes the input columns, an
index with a digest of each request, checks custom_ids and limits, and waits until rows and index are on the disk, which
the others do not. `copy` reads and writes the bytes of all that ours has stored, in blocks of 1 MiB, and waits for the
disk where ours does. `rewrite` also makes the row parts as ours does: it decodes the rows and writes them to Parquet.

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
    ratio(
        "Build: time of decoding rows, writing them as Parquet and copying the rest", "build", "ours", "rewrite", 1.25
    ),
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

    @group.method("itertuples", "pandas itertuples, json.dumps, streamed", most=2)
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

    @group.method("iterrows", "pandas iterrows, json.dumps, list and join", most=3)
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

    import airflow_openai_batch.engine.job.submit  # noqa: F401

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
    """Make the rows, and leave what we store for who copies it."""
    from local_openai import engine_in, linked, plan

    plan(engine_in(case.work), workload.rows_file(case.data, case.rows))
    linked(case.work, case.shared / "stored")


def _copy(case: Case, pattern: str) -> None:
    for path in sorted(case.shared.joinpath("stored").rglob(pattern)):
        target = case.work / path.relative_to(case.shared)
        target.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb", buffering=0) as source, target.open("wb", buffering=0) as file:
            while block := source.read(1 << 20):
                file.write(block)
            if path.suffix != ".jsonl":
                os.fsync(file.fileno())


large = bench.group("build", "{rows} rows in Parquet to request files", rows=1_000_000, quick_rows=5_000)
large.prepare = prepare
declare(large, LABELS)


def _check(case: Case) -> None:
    paths = sorted(case.work.rglob("*.jsonl"))
    case.check(**LABELS.fingerprint(line for path in paths for line in path.open("rb")))
    stored = sum(path.stat().st_size for path in case.work.rglob("*") if path.is_file())
    case.note(request_mb=sum(path.stat().st_size for path in paths) / 1e6, written_mb=stored / 1e6)


@large.method("copy", "limit: copy all that is stored")
def copy(case: Case) -> None:
    with case.timed():
        _copy(case, "*.*")
    _check(case)


@large.method("rewrite", "limit: decode rows, write them as Parquet, copy the rest")
def rewrite(case: Case) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with case.timed():
        source = pq.ParquetFile(workload.rows_file(case.data, case.rows), pre_buffer=False)
        path = str(case.work / "rows.parquet")
        with (
            pa.OSFile(path, "wb") as target,
            pq.ParquetWriter(target, source.schema_arrow, use_dictionary=False) as writer,
        ):
            for batch in source.iter_batches(batch_size=16_384):
                writer.write_batch(batch)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        _copy(case, "requests/*")
        _copy(case, "index/*")
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
