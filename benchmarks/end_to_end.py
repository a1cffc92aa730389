"""A whole job: plan, upload, download, parse, results, against an emulator of OpenAI.

    python benchmarks/end_to_end.py [--rows 1000000]

The emulator of this package is a process of its own and answers over HTTP; the time spent waiting for its batches is
left out. What is left is compared with the least that such a job must do, measured on the same files and against the
same emulator: copy the request files, upload them and download the answers with curl, parse each line with simdjson,
write the outcomes and the table of results to Parquet. The emulator is Python, so the uploads of both are slow. To
harvest is to download and to parse; ours does both for two batches at a time. A million rows take six minutes a sample,
most of it the emulator's answering, and 15 GB of disk.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import workload
from measure import Benchmark
from sample import Case
from summary import Goal, over_base, ratio

if TYPE_CHECKING:
    from airflow_openai_batch.engine.job.context import Engine

PHASES = ("build", "upload", "harvest", "results")
_SECONDS = 30  # of a batch, so that the emulator begins to answer after the last upload

GOALS: tuple[Goal, ...] = (
    ratio("Whole job: time of the least that it must do", "end_to_end", "ours", "limits", 1.5),
    over_base("Whole job: memory over base", "end_to_end", "ours", 150),
)

bench = Benchmark(__file__, __doc__, GOALS)
group = bench.group("end_to_end", "{rows} rows from Parquet to results", rows=200_000, quick_rows=200, chained=True)


@contextlib.contextmanager
def emulator(shared: Path) -> Iterator[None]:
    """Run an emulator and leave its URL."""
    (shared / "emulator").mkdir()
    command = [sys.executable, "-m", "airflow_openai_batch.emulator", "--seed", "7", "--data-dir", shared / "emulator"]
    is_quick = "--quick" in sys.argv
    command += ["--duration", str(0.5 if is_quick else _SECONDS), "--validating", str(0.1 if is_quick else 25)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            (shared / "url").write_text(process.stdout.readline().strip())
            yield
        finally:
            process.terminate()


def prepare(case: Case) -> None:
    """Make the rows."""
    workload.rows_file(case.data, case.rows)


group.around = emulator
group.prepare = prepare


class Phases:
    """Where the time goes.

    Args:
        case: The sample, whose clock stands still while somebody else works.
    """

    def __init__(self, case: Case) -> None:
        self._case = case
        self.seconds = dict.fromkeys(PHASES, 0.0)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what is done here to a phase."""
        at = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - at

    def report(self) -> None:
        """Tell the seconds of each phase."""
        self._case.note(**{f"{name}_s": seconds for name, seconds in self.seconds.items()})


@group.method("ours", "this package")
def ours(case: Case) -> None:
    from local_openai import begin_task, engine_in, plan

    begin_task()
    from openai import OpenAI
    from upath import UPath

    from airflow_openai_batch.engine.api.client import Api
    from airflow_openai_batch.engine.job.advance import advance, load
    from airflow_openai_batch.engine.results.sinks import FileSink
    from airflow_openai_batch.engine.results.writer import write_results

    phases = Phases(case)

    api = Api(OpenAI(base_url=(case.shared / "url").read_text(), api_key="sk-not-a-key"))
    engine = engine_in(case.shared / "store", api)
    rows, target = workload.rows_file(case.data, case.rows), case.shared / "results.parquet"
    with case.timed():
        with phases.phase("build"):
            plan(engine, rows, response_model=workload.SCHEMA, body=_BODY)
        with phases.phase("upload"):
            advance(engine)
        with case.paused():
            _wait(engine)
        with phases.phase("harvest"):
            advance(engine)
        with phases.phase("results"):
            written = write_results(engine.store, load(engine)[1], FileSink(UPath(target)))
    phases.report()
    case.check(rows=written.n_rows, characters=_characters(target))


_BODY = {key: value for key, value in workload.BODY.items() if key != "text"}  # the schema is given as such


def _wait(engine: Engine) -> None:
    """Wait until every batch has ended, without the engine."""
    from airflow_openai_batch.engine.job.advance import load
    from airflow_openai_batch.engine.model import ENDED_STATUSES

    for shard in load(engine)[1].shards:
        assert shard.batch is not None, shard.problem
        while engine.api.retrieve(shard.batch.id).status not in ENDED_STATUSES:
            time.sleep(0.5)


def _characters(path: Path) -> int:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    column = pq.read_table(path, columns=["output"]).column("output")
    return int(pc.sum(pc.utf8_length(column)).as_py() or 0)


@group.method("limits", "the least: copy, curl, simdjson, Parquet")
def limits(case: Case) -> None:
    import pyarrow.parquet as pq
    import simdjson
    from local_openai import engine_in

    from airflow_openai_batch.engine.answers.outcome_files import REPEATING
    from airflow_openai_batch.engine.job.advance import load

    url = (case.shared / "url").read_text()
    engine = engine_in(case.shared / "store")
    shards = load(engine)[1].shards
    requests, parts = [], []
    for shard in shards:
        with engine.store.open(shard.requests) as file:
            requests.append(Path(str(file.name)))
        assert shard.outcomes is not None
        with engine.store.open(shard.outcomes.name) as file:
            parts.append(pq.read_table(file))
    results = pq.ParquetFile(case.shared / "results.parquet", pre_buffer=False)
    answers = [case.work / f"{i}.answers" for i in range(len(shards))]
    phases = Phases(case)
    with case.timed():
        with phases.phase("build"):
            _copy(requests, case.work)
        with phases.phase("upload"):
            for path in requests:
                _curl(f"{url}/files", "-F", "purpose=batch", "-F", f"file=@{path};filename=requests.jsonl")
        with phases.phase("harvest"):
            for shard, path in zip(shards, answers, strict=True):
                _curl(f"{url}/files/{shard.batch.output_file_id}/content", "-o", str(path))  # type: ignore[union-attr]
            n_lines = _parse(simdjson.Parser(), answers)
            for i, table in enumerate(parts):
                pq.write_table(table, case.work / f"{i}.parquet", use_dictionary=REPEATING)
        with phases.phase("results"), pq.ParquetWriter(case.work / "results", results.schema_arrow) as writer:
            for batch in results.iter_batches(batch_size=16_384):
                writer.write_batch(batch)
    phases.report()
    case.check(rows=n_lines, characters=_characters(case.work / "results"))


def _copy(paths: list[Path], folder: Path) -> None:
    for path in paths:
        with path.open("rb", buffering=0) as source, open(folder / path.name, "wb", buffering=0) as target:
            while block := source.read(1 << 20):
                target.write(block)


def _parse(parser: Any, paths: list[Path]) -> int:
    n = 0
    for path in paths:
        with path.open("rb") as file:
            for line in file:
                parser.parse(line)
                n += 1
    return n


def _curl(url: str, *arguments: str) -> None:
    key = ["-H", "Authorization: Bearer sk-not-a-key"]
    done = subprocess.run(["curl", "-sS", "--fail", *key, url, *arguments], check=True, capture_output=True)
    if "-o" not in arguments:
        json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(bench.main())
