"""Dicts and lines of JSON become columns that hold each value exactly, or are refused by row and column."""

from __future__ import annotations

import datetime
import decimal
import fractions
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from builders import CHAT, World, answer, line, rows
from values_kit import returned, sent, sent_as_json, written

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import is_json
from airflow_openai_batch.engine.requests.python_rows import column_of

PLAIN = [{"role": "user", "content": "Is this a cat?"}]
PARTS = [
    {"role": "system", "content": None, "name": "n"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": None}},
        ],
    },
]
TOOL = [{"role": "tool", "content": "{}", "args": {}, "n": [1, 1.5, 2**70, True, None]}]
CHATS = [PLAIN, PARTS, TOOL]
NESTED = [{"a": None, "b": {}}, {"c": [1, {"d": "x"}]}, [], [1, "x", None], "text", 1, True, None]


def jsonl(folder: Path, values: list[Any]) -> str:
    (folder / "in.jsonl").write_text("".join(json.dumps({"v": value}) + "\n" for value in values))
    return str(folder / "in.jsonl")


@pytest.mark.parametrize("values", [CHATS, NESTED], ids=["messages", "nested"])
@pytest.mark.parametrize("kind", ["dicts", "jsonl", "frame", "callable"])
def test_nested_values_are_sent_and_come_back_as_they_are(
    world: World, tmp_path: Path, kind: str, values: list[Any]
) -> None:
    as_dicts = [{"v": value} for value in values]
    data: Any = {
        "dicts": as_dicts,
        "jsonl": jsonl(tmp_path, values),
        "frame": pd.DataFrame({"v": pd.Series(values, dtype=object)}),
        "callable": lambda: iter(as_dicts),
    }[kind]
    assert sent_as_json(data) == values
    found = returned(world, data)
    assert json.dumps(found) == json.dumps(values)  # 1 is not 1.0, and true not 1


def test_chats_of_all_shapes_run_as_openai_documents_them(world: World) -> None:
    data = [{"id": f"t{i}", "messages": messages} for i, messages in enumerate(CHATS)]
    world.ended(
        lambda i: line(i, {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}),
        data,
        endpoint=CHAT,
        body={"model": "m", "messages": "{messages!json}"},
    )
    asked = [request["body"]["messages"] for name in world.api.made for request in world.api.requests(name)]
    assert json.dumps(asked, sort_keys=True) == json.dumps(CHATS, sort_keys=True)


def test_results_in_files_hold_nested_values_as_json(world: World, tmp_path: Path) -> None:
    returned(world, [{"v": value} for value in CHATS])
    texts = [json.dumps(value, separators=(",", ":")) for value in CHATS]
    assert pd.read_parquet(written(world, tmp_path / "out.parquet"))["v"].tolist() == texts
    assert pd.read_csv(written(world, tmp_path / "out.csv"))["v"].tolist() == texts
    lines = written(world, tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(text)["v"] for text in lines] == CHATS


def test_a_body_function_gets_nested_values_as_they_are(world: World) -> None:
    seen = []

    def body(row: dict[str, Any]) -> dict[str, Any]:
        seen.append(row["v"])
        return {"model": "m", "input": "i"}

    world.submit([{"v": value} for value in NESTED], body=body, custom_id=None)
    assert json.dumps(seen) == json.dumps(NESTED)


@pytest.mark.parametrize("late", [{"k": "v"}, [{"k": 1}], "text"])
def test_jsonl_may_change_its_shape_late(world: World, tmp_path: Path, late: Any) -> None:
    values = [{} for _ in range(4200)] + [late, {"k": None}]
    assert returned(world, jsonl(tmp_path, values)) == values


@pytest.mark.parametrize("extra", [{}, {"k": {}}, [{}], [[], {}]], ids=str)
def test_an_empty_object_in_a_column_nobody_uses_is_no_obstacle(world: World, extra: Any) -> None:
    data = [row | {"extra": extra} for row in rows(2)]
    world.ended(answer, data)
    assert returned(world, [{"v": extra}, {"v": extra}]) == [extra, extra]


@pytest.mark.parametrize(
    ("values", "arrow_type"),
    [
        ([["a", "b"], [], None, float("nan")], pa.list_(pa.string())),
        ([[1, None], (2,)], pa.list_(pa.int64())),
        ([np.array([0.5, 1.5]), None], pa.list_(pa.float64())),
    ],
    ids=["texts", "numbers", "vectors"],
)
def test_lists_of_plain_values_of_one_type_stay_lists(values: list[Any], arrow_type: Any) -> None:
    column = column_of("v", values, 0)
    assert column.type == arrow_type
    expected = [list(value) if isinstance(value, list | tuple | np.ndarray) else None for value in values]
    assert column.to_pylist() == expected


@pytest.mark.parametrize("values", [[[1, 1.5]], [[True, 1]], [[2**70]], [np.zeros((2, 2))], [{"s"}]], ids=str)
def test_other_lists_are_json(values: list[Any]) -> None:
    assert is_json(column_of("v", values, 0).type)


UTC = datetime.UTC
EAST = datetime.timezone(datetime.timedelta(hours=2))
NOON = datetime.datetime(2026, 1, 2, 12)  # noqa: DTZ001


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("x", "y\udc00", "the text holds half of a surrogate pair .* at character 1"),
        (NOON.replace(tzinfo=UTC), NOON.replace(tzinfo=EAST), "this datetime would be changed"),
        (NOON, NOON.replace(tzinfo=UTC), "this datetime would be changed"),
        (NOON.date(), NOON, "this datetime would be changed"),
        (b"x", "y", "this str would be changed"),
        (0.5, True, "this bool would be changed"),
        (1, 2**64, "a whole number of 20 digits is too large"),
        (1, fractions.Fraction(1, 2), "a value of the type Fraction cannot be stored"),
        ({"a": 1}, {"a": math.inf}, "an infinite number"),
        ({"a": 1}, {"a": object()}, "object is nothing that JSON can say"),
        ({"a": 1}, {"a": "\ud800"}, "surrogates not allowed"),
    ],
)
def test_a_value_that_would_be_changed_is_refused_by_row_and_column(good: Any, bad: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"row 12, column 'v': .*{message}"):
        column_of("v", [good, None, bad], 10)


def test_a_whole_number_that_no_column_of_fractions_holds_is_named_by_its_row() -> None:
    with pytest.raises(
        InputError, match=r"row 12, column 'v': a column with decimal fractions .* of 16 digits exactly"
    ):
        column_of("v", [1.5, 3, 2**53 + 1], 10)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (pd.Timestamp(2026, 1, 2, nanosecond=5), "2026-01-02T00:00:00.000000005"),
        (pd.Timestamp("2026-01-02 03:04", tz="Europe/Berlin"), "2026-01-02T03:04:00+01:00"),
        (pd.Timedelta(5, "ns"), "PT0.000000005S"),
        (-datetime.timedelta(seconds=90), "-PT90S"),
        (pd.Period("2026-01", "M"), "2026-01"),
        (pd.Interval(0, 1), "(0, 1]"),
        (decimal.Decimal("1.20"), "1.20"),
        (2**63 + 5, "9223372036854775813"),
        (np.float64(0.1), "0.1"),
        (pd.NaT, ""),
        (pd.NA, ""),
    ],
    ids=str,
)
def test_single_values_are_sent_as_people_see_them(value: Any, text: str) -> None:
    assert sent([{"v": value}, {"v": None}]) == [text, ""]
