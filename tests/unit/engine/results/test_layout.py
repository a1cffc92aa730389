from __future__ import annotations

import enum
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from builders import World, answer, line, responses_body, strict
from pydantic import BaseModel
from upath import UPath

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.column_types import ColumnTypes
from airflow_openai_batch.engine.results.sinks import FileSink, ListSink
from airflow_openai_batch.engine.results.writer import write_results


def rows_of(world: World, data: Any, texts: dict[str, str], **request: Any) -> list[dict[str, Any]]:
    """Result rows of a job whose answers are these texts by custom_id; the job runs to its end."""
    world.submit(data, **request)
    world.waits()
    world.api.finish("batch_0", lambda i: answer(i, texts[i]))
    world.done()
    sink = ListSink()
    write_results(world.store, world.job, sink)
    return sink.rows


class Kind(enum.StrEnum):
    BUG = "bug"
    WISH = "wish"


class Part(BaseModel):
    name: str


class Label(BaseModel):
    kind: Kind
    score: float
    n: int | None
    urgent: bool
    tags: list[str]
    part: Part
    parts: list[Part]
    text: str
    status: str
    either: int | str
    grid: list[list[int]]


ANSWER: dict[str, Any] = {
    "kind": "bug",
    "score": 1,
    "n": None,
    "urgent": True,
    "tags": ["a", "b"],
    "part": {"name": "p"},
    "parts": [{"name": "q"}],
    "text": "of the answer",
    "status": "open",
    "either": 5,
    "grid": [[1], [2, 3]],
}


def test_the_fields_of_a_structured_answer_are_columns(world: World) -> None:
    [found] = rows_of(world, 1, {"t0": json.dumps(ANSWER)}, response_model=Label, column_prefix="its_")
    assert json.loads(found["output"]) == ANSWER
    expected = {**ANSWER, "score": 1.0, "part": '{"name":"p"}', "parts": ['{"name":"q"}'], "either": "5"}
    assert {name: found[f"its_{name}"] for name in expected} == expected
    assert list(found)[-len(expected) :] == [f"its_{name}" for name in expected]
    assert (found["text"], found["status"]) == ("ticket 0", "succeeded")  # an input column and a fixed one keep theirs


def test_field_columns_have_types_and_are_null_where_there_is_no_answer(world: World, tmp_path: Path) -> None:
    rows_of(
        world, 2, {"t0": json.dumps({**ANSWER, "n": 3}), "t1": "no json"}, response_model=Label, column_prefix="its_"
    )
    write_results(world.store, world.job, FileSink(UPath(tmp_path / "x.parquet")))
    import pyarrow.parquet as pq

    types = {field.name: str(field.type) for field in pq.read_schema(tmp_path / "x.parquet")}
    assert {name: types[f"its_{name}"] for name in ("kind", "score", "n", "urgent", "tags", "grid")} == {
        "kind": "large_string",
        "score": "double",
        "n": "int64",
        "urgent": "bool",
        "tags": "list<element: large_string>",
        "grid": "list<element: list<element: int64>>",
    }
    second = pd.read_parquet(tmp_path / "x.parquet").iloc[1]
    assert second["status"] == "invalid" and second["output"] == "no json"
    assert all(pd.isna(second[name]) for name in ("its_kind", "its_score", "its_n", "its_urgent", "its_status"))
    assert second["its_tags"] is None


@pytest.mark.parametrize("value", [10**25, 2**63, -(10**30)])
def test_a_number_too_large_for_its_column_stays_in_the_output(world: World, value: int) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    [found] = rows_of(world, 1, {"t0": f'{{"n":{value}}}'}, response_model=schema)
    assert (found["n"], found["output"]) == (None, f'{{"n":{value}}}')


def test_input_columns_that_would_hide_fixed_ones_are_renamed(world: World) -> None:
    data = [{"id": "t0", "text": "x", "status": "new", "output": 5}]
    [found] = rows_of(world, data, {"t0": "y"})
    assert (found["status"], found["output"]) == ("succeeded", "y")
    assert (found["input_status"], found["input_output"]) == ("new", 5)


def test_a_job_of_earlier_code_whose_columns_clash_is_read_as_it_was_then(world: World) -> None:
    data = [{"id": "t0", "text": "x", "truth": "bug", "status": "new", "input_status": "other"}]
    names = ("truth", "status", "input_status")
    schema = strict(**{name: {"type": "string"} for name in names})
    with pytest.MonkeyPatch.context() as patch:  # earlier code did not check
        patch.setattr("airflow_openai_batch.engine.job.submit.check_column_names", lambda columns, spec: None)
        text = json.dumps({name: f"its {name}" for name in names})
        [found] = rows_of(world, data, {"t0": text}, response_model=schema)
    assert (found["truth"], found["output_truth"]) == ("bug", "its truth")
    assert (found["input_status"], found["input_input_status"], found["status"]) == ("other", "new", "succeeded")
    assert (found["output_status"], found["output_input_status"]) == ("its status", "its input_status")


def test_a_recursive_schema_has_columns(world: World) -> None:
    text = '{"name":"a","children":[{"name":"b","children":[]}]}'
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"root": {"$ref": "#/$defs/Node"}, "all": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
        "required": ["root", "all"],
        "additionalProperties": False,
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
                },
                "required": ["name", "children"],
                "additionalProperties": False,
            }
        },
    }
    [found] = rows_of(world, 1, {"t0": f'{{"root":{text},"all":[{text}]}}'}, response_model=schema)
    assert (found["root"], found["all"]) == (text, [text])


NUMBERS = (9007199254740993, 10**30, -(10**30), 2**64, 0.5, 7)


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_huge_integers_in_a_number_field_can_be_written(world: World, tmp_path: Path, ending: str) -> None:
    def told(custom_id: str) -> bytes:
        n = NUMBERS[int(custom_id[1:])]
        return line(custom_id, responses_body(json.dumps({"many": [n, 1, n], "n": n})))

    schema = strict(n={"type": "number"}, many={"type": "array", "items": {"type": "number"}})
    world.ended(told, len(NUMBERS), response_model=schema)
    path = tmp_path / f"x.{ending}"
    written = write_results(world.store, world.job, FileSink(UPath(path)))
    assert written.n_rows == len(NUMBERS)
    read: Any = {
        "parquet": pd.read_parquet,
        "jsonl": lambda p: pd.DataFrame(map(json.loads, p.read_text().splitlines())),
        "csv": pd.read_csv,
    }
    table = read[ending](path)
    assert list(table["status"]) == ["succeeded"] * len(NUMBERS)
    for wanted, value, many in zip(NUMBERS, table["n"], table["many"], strict=True):
        many = json.loads(many) if isinstance(many, str) else list(many)
        assert len(many) == 3 and many[1] == 1
        for found in (value, many[0], many[2]):
            assert found is None or math.isnan(found) or float(found) == float(wanted)


def test_huge_integers_go_through_xcom(world: World) -> None:
    told = json.dumps({"n": 10**30})
    world.ended(lambda i: line(i, responses_body(told)), 3, response_model=strict(n={"type": "number"}))
    sink = ListSink()
    write_results(world.store, world.job, sink)
    assert [row["n"] for row in sink.rows] in ([1e30] * 3, [None] * 3)


def test_rows_that_an_older_version_took_come_back_though_no_type_holds_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = 2**60 + 1
    tables = [pa.table({"id": ["t0"], "v": [big]}), pa.table({"id": ["t1"], "v": [0.5]}), pa.table({"id": ["t2"]})]
    with monkeypatch.context() as patched:
        patched.setattr(ColumnTypes, "add", lambda *_: None)
        world.submit(lambda: iter(tables), body={"model": "m", "input": "{id}"})
    world.ends_well(3)
    sink = ListSink()
    write_results(world.store, world.job, sink)
    assert [row["v"] for row in sink.rows] == [str(big), "0.5", None]


CUT_SCHEMA = strict(topic={"type": "string"})


def labelled(world: World) -> None:
    data = [{"id": f"t{i}", "text": "long", "status": "open"} for i in range(2)]
    rows_of(world, data, {f"t{i}": json.dumps({"topic": f"about {i}"}) for i in range(2)}, response_model=CUT_SCHEMA)


def test_columns_can_be_dropped_by_their_names_in_the_results(world: World) -> None:
    labelled(world)
    sink = ListSink()
    found = write_results(world.store, world.job, sink, ["text", "output", "input_status", "batch_id"])
    assert list(sink.rows[1])[:3] == ["id", "custom_id", "status"]
    assert not {"text", "output", "input_status", "batch_id"} & set(sink.rows[1])
    assert found.columns == tuple(sink.rows[1])
    assert [(row["id"], row["status"], row["topic"]) for row in sink.rows] == [
        ("t0", "succeeded", "about 0"),
        ("t1", "succeeded", "about 1"),
    ]


@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        (["txt", "id"], r"drop_columns: the results have no column 'txt'\. Columns: id, text, input_status, custom_id"),
        (["status"], "'status' stays"),
    ],
)
def test_columns_that_cannot_be_dropped_are_named(world: World, dropped: list[str], message: str) -> None:
    labelled(world)
    with pytest.raises(InputError, match=message):
        write_results(world.store, world.job, ListSink(), dropped)
