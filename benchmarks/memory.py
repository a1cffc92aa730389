"""Memory of a job: does it grow with the number of rows?

    python benchmarks/memory.py [--rows 2000000]

The same job with two million rows and with a tenth of them; each phase is a process of its own. `submit` plans the job
from Parquet (build.py), `harvest` takes it to its end (`advance()`: uploads are read and thrown away, downloads are
copies of local files, in which the lines of every other batch are in random order), `results` writes one Parquet table
of the input columns, the outcomes and four fields. Base is what the process holds when it has imported everything; the
peak is the kernel's (VmHWM).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import answers
import workload
from measure import Benchmark, Group
from sample import Case
from summary import Goal, over_base

PHASES = ("submit", "harvest", "results")


def _growth(phase: str) -> Goal:
    return Goal(
        f"Memory of {phase}: growth of the peak with ten times the rows",
        lambda m: (m("large", phase, "peak_mb") / m("small", phase, "peak_mb") - 1) * 100,
        15,
        unit="%",
    )


GOALS: tuple[Goal, ...] = (
    *(over_base(f"Memory of {phase}: over base", "large", phase, 150) for phase in PHASES),
    *(_growth(phase) for phase in PHASES),
)

bench = Benchmark(__file__, __doc__, GOALS)


def declare(group: Group) -> None:
    """Declare the phases; each takes the job up where the one before left it."""
    group.prepare = prepare
    group.method("submit", "submit")(submit)
    group.method("harvest", "harvest")(harvest)
    group.method("results", "results")(results)


def prepare(case: Case) -> None:
    """Make the rows. The answers are made when their batch is; see `harvest`."""
    workload.rows_file(case.data, case.rows)
    for first in range(0, case.rows, workload.BLOCK_ROWS):
        _answers(case)(first, min(workload.BLOCK_ROWS, case.rows - first))


def _answers(case: Case) -> Callable[[int, int], tuple[Path, Path]]:
    def answered(first: int, n: int) -> tuple[Path, Path]:
        return answers.files(case.data, first, n, is_shuffled=bool(first // workload.BLOCK_ROWS % 2))

    return answered


def _engine(case: Case) -> Any:
    from local_openai import LocalOpenAI, begin_task, engine_in

    begin_task()

    import airflow_openai_batch.engine.job.advance
    import airflow_openai_batch.engine.job.submit  # noqa: F401

    api = LocalOpenAI(_answers(case))
    return engine_in(case.shared / "store", api)


def submit(case: Case) -> None:
    """Plan the job."""
    from local_openai import plan

    engine, rows = _engine(case), workload.rows_file(case.data, case.rows)
    body = {key: value for key, value in workload.BODY.items() if key != "text"}
    with case.timed():
        job = plan(engine, rows, body, response_model=workload.SCHEMA)
    case.check(rows=job.n_rows)


def harvest(case: Case) -> None:
    """Take the job to its end."""
    from local_openai import finish

    engine = _engine(case)
    with case.timed():
        job = finish(engine)
    case.check(rows=sum(sum(shard.tally.values()) for shard in job.shards))


def results(case: Case) -> None:
    """Write the results."""
    from upath import UPath

    from airflow_openai_batch.engine.job.advance import load
    from airflow_openai_batch.engine.results.sinks import FileSink
    from airflow_openai_batch.engine.results.writer import write_results

    engine = _engine(case)
    job = load(engine)[1]
    with case.timed():
        written = write_results(engine.store, job, FileSink(UPath(case.work / "results.parquet")))
    case.check(rows=written.n_rows)


declare(bench.group("large", "{rows} rows", rows=2_000_000, quick_rows=2_000, chained=True, is_compared=False))
declare(bench.group("small", "{rows} rows", rows=200_000, quick_rows=500, chained=True, is_compared=False))


if __name__ == "__main__":
    sys.exit(bench.main())
