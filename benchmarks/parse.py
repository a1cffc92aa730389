"""Output and error files become outcomes: JSONL to Parquet.

    python benchmarks/parse.py [--rows 200000]

A batch of 50,000 requests each, about 1.1 KB per line: answers of /v1/responses with a structured output of four
fields; 0.5 % of the lines are errors of three kinds, 0.2 % of the answers are cut off, lines are slightly out of
order (but for `shuffled`). "Ours" is `harvest()`: it finds each row's line, reads it, judges it, writes one outcome for
each row in row order with tokens, ids, the fields of the answer as columns and the raw lines of what went wrong, and
waits until the file is on the disk. The download is a copy of a local file and left out here; transfer.py measures it.

`pandas` reads the lines with read_json, flattens the answers with json_normalize, reads their fields and writes
Parquet. `limit` parses each line with simdjson without taking anything out of it, and writes the finished outcome table
to Parquet, with the options that ours has.

Reading is Python's work, so two threads of one process take as long as one: `cores` shows what a second process
gives, its start included.

`unchecked` is the base of what a check adds: it reads the same four fields into the same columns by the same library,
and cares for their types alone: any text is a topic, any number a confidence, further fields are let pass. `plain`
leaves the answers as texts.
"""

from __future__ import annotations

import json
import resource
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import answers
import workload
from measure import Benchmark
from sample import Case
from summary import Goal, over_base

if TYPE_CHECKING:
    from airflow_openai_batch.engine.model import Shard

Outcomes = list[tuple[str, str | None, int, int]]

GOALS = (
    Goal(
        "Parse: times as fast as pandas.read_json",
        lambda m: m("parse", "pandas", "seconds") / m("parse", "schema", "seconds"),
        14,
        at_least=True,
    ),
    Goal(
        "Parse: time of parsing with simdjson and writing Parquet",
        lambda m: m("parse", "schema", "seconds") / m("parse", "limit", "seconds"),
        1.6,
    ),
    Goal(
        "Parse: what a check by JSON Schema adds",
        lambda m: (m("parse", "schema", "seconds") / m("parse", "unchecked", "seconds") - 1) * 100,
        5,
        unit="%",
    ),
    Goal(
        "Parse: what a check by a Pydantic class adds",
        lambda m: (m("parse", "pydantic", "seconds") / m("parse", "unchecked", "seconds") - 1) * 100,
        25,
        unit="%",
    ),
    over_base("Parse: memory over base", "parse", "schema", 150),
    Goal(
        "Parse: two processes are so many times as fast as one",
        lambda m: m("cores", "one", "seconds") / m("cores", "two", "seconds"),
        1.6,
        at_least=True,
    ),
    over_base("Parse: memory of the task's own process over base, with another", "cores", "two", 150),
)

bench = Benchmark(__file__, __doc__, GOALS)
bench.parser.add_argument("--endpoint", choices=(workload.RESPONSES, workload.CHAT), default=workload.RESPONSES)
group = bench.group("parse", "{rows} output lines to Parquet", rows=200_000, quick_rows=2_000, unit="lines")
cores = bench.group("cores", "{rows} output lines, two batches at once", rows=500_000, quick_rows=2_000, unit="lines")


def answers_of(case: Case, *, is_shuffled: bool = False) -> Callable[[int, int], tuple[Path, Path]]:
    """Return where the files of a batch are."""
    return lambda first, n: answers.files(case.data, first, n, case.options.endpoint, is_shuffled=is_shuffled)


def prepare(case: Case) -> None:
    """Plan a job in four shards or more, make its answers, and the outcome parts that the limit writes again."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from local_openai import LocalOpenAI, answered, engine_in, plan

    from airflow_openai_batch.engine.answers.harvest import harvest
    from airflow_openai_batch.engine.answers.parser import LineParser
    from airflow_openai_batch.engine.endpoints import Limits
    from airflow_openai_batch.engine.schema.validation import ResponseSchema

    table = pa.table({"id": [workload.row_id(i) for i in range(case.rows)]})
    pq.write_table(table, case.shared / "rows.parquet")
    engine = engine_in(case.shared / "store")
    limits = Limits(max_requests=min(50_000, -(-case.rows // 4)))
    body: dict[str, Any] = {"model": workload.MODEL}
    body |= {"input": "{id}"} if case.options.endpoint == workload.RESPONSES else {"messages": [{"content": "{id}"}]}
    job = plan(
        engine,
        case.shared / "rows.parquet",
        body,
        endpoint=case.options.endpoint,
        response_model=workload.SCHEMA,
        limits=limits,
    )
    api: Any = LocalOpenAI(answers_of(case))
    parser = LineParser(job.spec.endpoint, ResponseSchema(workload.SCHEMA, ""))
    for shard in answered(job, api):
        for path in answers_of(case, is_shuffled=True)(shard.first_row, shard.n_requests):
            path.stat()
        got = harvest(engine.store, api, job, shard, parser)
        with engine.store.open(got.outcomes) as file:
            pq.write_table(pq.read_table(file), case.shared / f"outcomes-{shard.id}.parquet")


group.prepare = prepare
cores.prepare = prepare


class Unchecked:
    """Stands in for a schema: reads the fields of an answer, and looks at nothing but their types."""

    def __init__(self, schema: dict[str, Any], name: str) -> None:
        import msgspec

        kinds = {"string": str, "boolean": bool, "number": float}
        fields = [(name, kinds[entry["type"]]) for name, entry in schema["properties"].items()]
        self._decode = msgspec.json.Decoder(msgspec.defstruct("Answer", fields, gc=False)).decode
        self._astuple = msgspec.structs.astuple

    def fields(self, text: str) -> tuple[Any, ...]:
        """Return the values of the fields."""
        return self._astuple(self._decode(text))

    def read(self, text: str) -> tuple[tuple[Any, ...], None]:
        """Return the values of the fields, and that nothing is wrong."""
        return self.fields(text), None


def ours(
    case: Case,
    *,
    is_checked: bool = True,
    has_schema: bool = True,
    check: Any = None,
    is_shuffled: bool = False,
    n_at_once: int = 1,
    n_processes: int = 1,
) -> None:
    """Harvest all shards, one after another or a few at once, as a task does."""
    from concurrent.futures import ThreadPoolExecutor

    import msgspec
    from local_openai import LocalOpenAI, answered, begin_task, linked, store_in

    begin_task()
    import pyarrow.parquet as pq

    from airflow_openai_batch.engine.answers.harvest import harvest
    from airflow_openai_batch.engine.answers.parser import LineParser
    from airflow_openai_batch.engine.answers.readers import Readers
    from airflow_openai_batch.engine.schema.validation import ResponseSchema

    store = store_in(linked(case.shared / "store", case.work / "store"))
    found = store.load()
    assert found is not None
    job = found[1]
    if not has_schema:
        job = msgspec.structs.replace(job, spec=msgspec.structs.replace(job.spec, schema=None))
    make: Any = ResponseSchema if is_checked else Unchecked
    schema = make(job.spec.schema, job.spec.schema_name or "") if job.spec.schema is not None else None
    api: Any = LocalOpenAI(answers_of(case, is_shuffled=is_shuffled), case)
    shards = answered(job, api)
    with case.timed(), Readers(n_processes) as readers:
        parser = LineParser(job.spec.endpoint, schema, check)

        def harvested(shard: Shard) -> str:
            return harvest(store, api, job, shard, parser, readers=readers).outcomes

        if n_at_once == 1:
            parts = [harvested(shard) for shard in shards]
        else:
            with ThreadPoolExecutor(n_at_once) as pool:
                parts = list(pool.map(harvested, shards))
    case.note(other_process_mb=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 if n_processes > 1 else 0)
    outcomes: Outcomes = []
    for name in parts:
        with store.open(name) as file:
            # Without threads: one that still lets go of the file when the interpreter ends would abort it.
            columns = ["status", "output", "error_code", "input_tokens", "output_tokens"]
            table = pq.read_table(file, columns=columns, use_threads=False, pre_buffer=False)
        for status, output, code, spent, earned in zip(*(c.to_pylist() for c in table.columns), strict=True):
            is_good = status == "succeeded"
            outcomes.append((code or status, output if is_good else None, spent or 0, earned or 0))
    report(case, outcomes)


def report(case: Case, outcomes: Outcomes) -> None:
    """Say what came out: errors and cut answers by kind, tokens, and the characters of the good answers."""
    case.check(
        rows=len(outcomes),
        kinds=dict(sorted(Counter(kind for kind, *_ in outcomes).items())),
        characters=sum(len(text or "") for _, text, *_ in outcomes),
        tokens=[sum(o[2] for o in outcomes), sum(o[3] for o in outcomes)],
    )


@group.method("plain", "this package, no schema")
def plain(case: Case) -> None:
    ours(case, has_schema=False)


@group.method("unchecked", "this package, fields read but not checked")
def unchecked(case: Case) -> None:
    ours(case, is_checked=False)


@group.method("schema", "this package, JSON Schema")
def with_schema(case: Case) -> None:
    ours(case)


@group.method("shuffled", "this package, JSON Schema, lines in random order")
def shuffled(case: Case) -> None:
    ours(case, is_shuffled=True)


@group.method("pydantic", "this package, Pydantic class")
def with_pydantic(case: Case) -> None:
    from typing import Literal

    from pydantic import BaseModel

    from airflow_openai_batch.engine.schema.validation import class_check

    class Label(BaseModel):
        topic: Literal[workload.TOPICS]  # type: ignore[valid-type]
        is_urgent: bool
        confidence: float
        summary: str

    ours(case, check=class_check(Label))


@cores.method("sequential", "this package, JSON Schema, one batch after another")
def sequential(case: Case) -> None:
    ours(case)


@cores.method("one", "the same, two batches at once in one process")
def in_one(case: Case) -> None:
    ours(case, n_at_once=2)


@cores.method("two", "the same, two batches at once in two processes")
def in_two(case: Case) -> None:
    ours(case, n_at_once=2, n_processes=2)


@group.method("pandas", "pandas.read_json, json_normalize")
def pandas_way(case: Case) -> None:
    import pandas as pd

    files = _files(case)
    with case.timed():
        frame = pd.concat([pd.read_json(path, lines=True) for path in files], ignore_index=True)
        response = pd.json_normalize(frame.pop("response")).add_prefix("response.")
        error = pd.json_normalize(frame.pop("error")).add_prefix("error.")
        frame = pd.concat([frame, response, error], axis=1)
        is_responses = case.options.endpoint == workload.RESPONSES
        items = frame.pop("response.body.output" if is_responses else "response.body.choices")
        if is_responses:
            frame["text"] = [entry[0]["content"][0]["text"] if isinstance(entry, list) else None for entry in items]
            is_good = frame["response.body.status"] == "completed"
        else:
            frame["text"] = [entry[0]["message"]["content"] if isinstance(entry, list) else None for entry in items]
            is_good = pd.Series([isinstance(e, list) and e[0]["finish_reason"] == "stop" for e in items])
        labels = pd.json_normalize(frame.loc[is_good, "text"].map(json.loads).tolist())
        labels.index = frame.index[is_good]
        frame = frame.join(labels)
        frame = frame.drop(columns=["response.body.tools"], errors="ignore")  # Parquet has no type for empty lists
        frame.to_parquet(case.work / "outcomes.parquet")
    case.check(rows=len(frame), characters=int(frame.loc[is_good, "text"].str.len().sum()))
    names = ("input_tokens", "output_tokens") if is_responses else ("prompt_tokens", "completion_tokens")
    case.check(tokens=[int(frame[f"response.body.usage.{name}"].sum()) for name in names])


@group.method("limit", "limit: simdjson parses, Parquet is written")
def limit(case: Case) -> None:
    import pyarrow.parquet as pq
    import simdjson

    from airflow_openai_batch.engine.answers.outcome_files import REPEATING

    tables = [pq.read_table(path) for path in sorted(case.shared.glob("outcomes-*.parquet"))]
    files = _files(case)
    n = 0
    with case.timed():
        parser = simdjson.Parser()
        for path in files:
            with path.open("rb") as file:
                for line in file:
                    parser.parse(line)
                    n += 1
        for i, table in enumerate(tables):
            pq.write_table(table, case.work / f"{i}.parquet", use_dictionary=REPEATING)
    case.check(rows=n)


def _files(case: Case) -> list[Path]:
    from local_openai import store_in

    found = store_in(case.shared / "store").load()
    assert found is not None
    files = answers_of(case)
    return [path for shard in found[1].shards for path in files(shard.first_row, shard.n_requests)]


if __name__ == "__main__":
    sys.exit(bench.main())
