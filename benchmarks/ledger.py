"""A job is planned against a ledger: which rows were answered before, and their answers.

    python benchmarks/ledger.py [--rows 1000000]

The ledger has ten entries for each row, as a year of nights leaves them when small segments are merged. Of the rows,
19 in 20 are known, each twentieth is new. `none` is `submit()` without a ledger. `lookup` is the same, and then the
digests of all requests are looked up. `last` and `spread` are `submit()` with a ledger and what is done before
anything is sent: known answers are brought into the job, and the request files are written anew without those rows. For
`last` all known answers lie in the job of the night before, for `spread` evenly over the outcome files of 200 nights,
so that no two neighbours lie together.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import answers
import workload
from measure import Benchmark
from sample import Case
from summary import Goal, over_base, ratio

GOALS: tuple[Goal, ...] = (
    ratio("Ledger: time of planning without one, lookup only", "ledger", "lookup", "none", 1.2),
    ratio("Ledger: time of planning without one, all answers in the last job", "ledger", "last", "none", 2.5),
    ratio("Ledger: time of planning without one, answers spread over 200 jobs", "ledger", "spread", "none", 2.5),
    over_base("Ledger: memory over base, lookup only", "ledger", "lookup", 150),
    over_base("Ledger: memory over base, with the answers", "ledger", "spread", 150),
)
ENTRIES_A_ROW = 10
NEW_EVERY = 20
NIGHTS = 200
NAME = "labels"
DAY_S = 24 * 3600

bench = Benchmark(__file__, __doc__, GOALS)
group = bench.group("ledger", "{rows} rows against ten times as many entries", rows=1_000_000, quick_rows=20_000)


def prepare(case: Case) -> None:
    """Answer the rows, and make two ledgers of most answers."""
    from local_openai import LocalOpenAI, engine_in, finish, plan

    root = case.shared / "last"
    engine = engine_in(root, LocalOpenAI(lambda first, n: answers.files(case.data, first, n)))
    plan(engine, workload.rows_file(case.data, case.rows))
    job = finish(engine)
    parts = [shard.outcomes.name for shard in job.shards if shard.outcomes is not None]
    store = engine.store
    _fill(root, [(store, f"benchmark/manual__2026-01-01/ask/{name}") for name in parts], NEW_EVERY)
    _spread(case, store, parts)


group.prepare = prepare


def _fill(root: Path, parts: list[tuple[Any, str]], new_every: int | None = None) -> None:
    """Make a ledger of answers, and of entries that nothing asks for, in segments as compaction leaves them."""
    import numpy as np
    from upath import UPath

    from airflow_openai_batch.engine.ledger import segments as s

    ledger = s.Ledger(UPath(root), NAME)
    for _, part in parts:
        ledger.record(part, 1_800_000_000, 1_800_000_000)
    entries = [s.decode_segment(ledger.files.read(segment.name)) for segment in ledger.segments()]
    for segment in ledger.segments():
        ledger.files.remove(segment.name)
    own = s.joined(entries)
    if new_every is not None:
        own = s.taken(own, own.row % new_every != 0)
    n_other = max(0, len(own.row) * ENTRIES_A_ROW * NEW_EVERY // (NEW_EVERY - 1) - len(own.row))
    rng = np.random.default_rng(7)
    other = s.Pointers(
        s.Digests(rng.integers(0, 2**64, n_other, np.uint64), rng.integers(0, 2**64, n_other, np.uint64)),
        np.full(n_other, 1_800_000_000, np.int64),
        rng.integers(0, NIGHTS, n_other),
        rng.integers(0, 50_000, n_other),
        tuple(f"benchmark/night-{i}/ask/e0/outcomes/0-00000-000000000000.parquet" for i in range(NIGHTS)),
    )
    every = s.joined([own, other])
    order = rng.permutation(len(every.row))
    n = s.SEGMENT_ENTRIES
    for number, start in enumerate(range(0, len(order), n)):
        at = 1_800_000_000 - number * DAY_S
        ledger.add(s.taken(every, order[start : start + n]), at, at, of=str(number))


def _spread(case: Case, store: Any, parts: list[str]) -> None:
    """Write the answers once more, the i-th in file i modulo 200, and make a ledger of them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from local_openai import store_in

    root = case.shared / "spread"
    tables = [pq.read_table(Path(str(store)) / name) for name in parts]
    tables = [table.filter(np.arange(table.num_rows) % NEW_EVERY != 0) for table in tables]
    table = pa.concat_tables(tables).combine_chunks()
    named: list[tuple[Any, str]] = []
    for night in range(NIGHTS):
        name = f"benchmark/night-{night}/known/e0/outcomes/0-00000-000000000000.parquet"
        path = root / name
        path.parent.mkdir(parents=True)
        places = pa.array(range(night, table.num_rows, NIGHTS))
        pq.write_table(table.take(places), path, row_group_size=4096)
        named.append((store_in(root), name))
    _fill(root, named)


def _planned(case: Case, root: Path, *, reuse: bool) -> Any:
    """Plan the job of a new night in a storage root, up to where something would be sent."""
    from local_openai import LocalOpenAI, begin_task

    begin_task()
    from upath import UPath

    from airflow_openai_batch.engine.job.actions import execute
    from airflow_openai_batch.engine.job.context import Engine, Learned
    from airflow_openai_batch.engine.job.state_machine import learn
    from airflow_openai_batch.engine.job.submit import Request, submit
    from airflow_openai_batch.engine.model import JobKey, Policy, State
    from airflow_openai_batch.engine.store.job_store import JobStore

    rows = workload.rows_file(case.data, case.rows)
    key = JobKey(dag_id="benchmark", run_id=case.work.name, task_id="ask")
    api: Any = LocalOpenAI(lambda first, n: answers.files(case.data, first, n))  # of which nothing is asked
    engine = Engine(JobStore(UPath(root), key), api, clock=lambda: 1_800_086_400.0)
    with case.timed():
        request = Request(rows, endpoint=workload.RESPONSES, body=workload.BODY, custom_id="{id}")
        job = submit(engine, request, Policy(reuse=NAME if reuse else None))
        shards = list(job.shards)
        for i, shard in enumerate(shards):
            if shard.state is State.DRAFTED:
                result = execute(engine, job, shard, "carry")
                assert isinstance(result, Learned)
                shards[i] = learn(shard, result.fact, result.update)
        if not reuse and root.name == "lookup":
            case.check(known=_looked_up(engine, job))
    case.check(rows=sum(shard.n_rows for shard in shards))
    if reuse:
        case.check(known=sum(shard.n_carried for shard in shards), asked=sum(shard.n_requests for shard in shards))
    _forget(engine.store)


def _looked_up(engine: Any, job: Any) -> int:
    """Look up the digests of all requests. Returns how many are known."""
    from airflow_openai_batch.engine.ledger.lookup import look_up
    from airflow_openai_batch.engine.ledger.segments import Ledger, digests_of, joined_digests
    from airflow_openai_batch.engine.store.index import read_index_table

    tables = (read_index_table(engine.store, shard.index, ["digest"]) for shard in job.shards)
    digests = joined_digests([digests_of(table.column("digest")) for table in tables])
    digests = digests[digests.order()]
    hits = look_up(Ledger(engine.store.root, NAME), digests, 0.0)
    return int((hits.part >= 0).sum())


def _forget(store: Any) -> None:
    import shutil

    shutil.rmtree(str(store))


@group.method("none", "without a ledger")
def none(case: Case) -> None:
    _planned(case, case.shared / "last", reuse=False)


@group.method("lookup", "with the lookup, without the answers")
def lookup(case: Case) -> None:
    root = case.shared / "lookup"
    if not root.exists():
        root.symlink_to(case.shared / "last", target_is_directory=True)
    _planned(case, root, reuse=False)


@group.method("last", "with the answers, all of the last job")
def last(case: Case) -> None:
    _planned(case, case.shared / "last", reuse=True)


@group.method("spread", "with the answers, over 200 jobs")
def spread(case: Case) -> None:
    _planned(case, case.shared / "spread", reuse=True)


if __name__ == "__main__":
    sys.exit(bench.main())
